"""Who may import whom: each room of wren only from those before it; and importing does nothing."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# One line a level, lowest first. Rooms of one level do not know each other.
ORDER = """
errors
arithmetic
files units interrupt intervals
config exits flags shapes gpus
run parts
checkpoint plot sinks page
batch layout
stories
tokenizer
probe
probe_parts
groups
data probes
ops
mixer mlp
cache recurrent
mixers mlps
tables block
skips state ahead
model
adapters
loss policy
precision
utilisation
optim
memory
distributed
resume
step progress
train
generate
chat replies
tasks games
think adapt
evals
recipes
dial
build
budget planning
report doctor
pretrain
tune
rl
quickstart_chat
quickstart lab
export serve
verbs
cli
__main__
"""
LEVELS = {room: level for level, line in enumerate(ORDER.split("\n")) for room in line.split()}
STRANGERS = ("mixers", "mlps", "probes")  # rooms whose files do not know each other
WITHOUT_TORCH = (
    "errors",
    "files",
    "units",
    "config",
    "stories",
    "tokenizer",
    "data",
    "tasks",
    "games",
    "flags",
    "verbs",
    "cli",
)
TORCH_ALLOWED = {"wren.data.loader"}


def modules() -> dict[str, Path]:
    """Every module of wren by its dotted name."""
    names = {}
    for path in sorted((ROOT / "wren").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules()


def imported(name: str, text: str, *, is_package: bool) -> Iterator[str]:
    """The dotted names that a module's text imports, at its top or inside its functions."""
    package = name.split(".") if is_package else name.split(".")[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield inner if inner in MODULES else source


def faults(name: str, text: str, *, is_package: bool = False) -> list[str]:
    """A sentence for every import of module `name` that the order forbids."""
    found = []
    room = room_of(name)
    if room and room not in LEVELS:
        return [f"{name}: the room '{room}' has no place in ORDER"]
    for other in imported(name, text, is_package=is_package):
        target = room_of(other)
        if other.split(".")[0] == "torch" and room in WITHOUT_TORCH and name not in TORCH_ALLOWED:
            found.append(f"{name} imports torch")
        if other.split(".")[0] != "wren" or not target:
            continue
        if target not in LEVELS:
            found.append(f"{name} imports {other}, which has no place in ORDER")
        elif room == target:
            if room in STRANGERS and other not in (name, f"wren.{room}"):
                found.append(f"{name} imports {other}: no file of {room} imports another one")
            elif room in WITHOUT_TORCH and other in TORCH_ALLOWED:
                found.append(f"{name} imports torch through {other}")
        elif not room or LEVELS[target] >= LEVELS[room]:
            found.append(f"{name} imports {other}, which does not come before it")
        elif room in WITHOUT_TORCH and name not in TORCH_ALLOWED and target in ("batch", "checkpoint"):
            found.append(f"{name} imports torch through {other}")
    return found


def room_of(name: str) -> str:
    """ "mixers" for wren.mixers.attention; "" for wren itself and for what is not wren."""
    parts = name.split(".")
    return parts[1] if parts[0] == "wren" and len(parts) > 1 else ""


@pytest.mark.parametrize("name", MODULES)
def test_imports_only_what_comes_before(name: str):
    path = MODULES[name]
    assert faults(name, path.read_text(encoding="utf-8"), is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("wren.model", "from wren.train import train"),
        ("wren.model", "import wren.train"),
        ("wren.model", "from wren import train"),
        ("wren.model", "from . import train"),
        ("wren.model", "from .train import train"),
        ("wren.model", "def f():\n    from wren.train import train"),
        ("wren.model", "if True:\n    import wren.cli as x"),
        ("wren.mixers.attention", "from wren.mixers import gated_delta_net"),
        ("wren.mixers.attention", "from wren.mixers.gated_delta_net import Config"),
        ("wren.mixers.attention", "from .gated_delta_net import Config"),
        ("wren.mixers.attention", "from wren.mlps import gelu"),
        ("wren.mlps.gelu", "from wren.mlps.swiglu import Config"),
        ("wren.ops.rope", "from wren.mixer import Mixer"),
        ("wren.stories.story", "import torch"),
        ("wren.stories.story", "from wren.batch import Batch"),
        ("wren.tokenizer.bpe", "def f():\n    from torch import Tensor"),
        ("wren.tasks.sums", "import torch.nn as nn"),
        ("wren.data.prepare", "import torch"),
        ("wren.data.prepare", "from wren.data.loader import TokenStream"),
        ("wren.errors", "import wren.files"),
        ("wren", "from wren.run import Run"),
        ("wren.newroom.thing", "import os"),
        ("wren.model", "import wren.newroom"),
    ],
)
def test_a_wrong_import_is_found(name: str, text: str):
    assert faults(name, text) != []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("wren.model", "from wren.mixer import Mixer\nimport torch"),
        ("wren.model", "from wren import batch, __version__"),
        ("wren.mixers.attention", "from wren.ops.rope import rotate"),
        ("wren.recipes.tiny", "from wren.recipes import RunConfig"),
        ("wren.data.loader", "import torch\nfrom wren.batch import Batch"),
        ("wren.data.prepare", "from .shards import Manifest"),
        ("wren.cli", "from wren.train import train"),
    ],
)
def test_a_right_import_is_left_alone(name: str, text: str):
    assert faults(name, text) == []


def test_package_texts_resolve_their_own_level():
    assert faults("wren.mixers", "from . import attention", is_package=True) != []
    assert faults("wren.data", "from . import shards", is_package=True) == []


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{code}"],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
        check=True,
    )


def test_importing_prints_nothing_and_starts_nothing(tmp_path: Path):
    code = f"""
import importlib, multiprocessing, signal, threading
import torch
before = torch.get_rng_state(), torch.get_num_threads(), signal.getsignal(signal.SIGINT), list(sys.argv)
for name in {sorted(MODULES)!r}:
    importlib.import_module(name)
assert threading.active_count() == 1, threading.enumerate()
assert not multiprocessing.active_children()
after = torch.get_rng_state(), torch.get_num_threads(), signal.getsignal(signal.SIGINT), list(sys.argv)
assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
"""
    done = python(code, tmp_path)
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_plain_rooms_load_without_torch(tmp_path: Path):
    plain = [name for name in MODULES if room_of(name) in WITHOUT_TORCH and name not in TORCH_ALLOWED]
    assert {"wren.stories.world", "wren.tokenizer.bpe", "wren.data.prepare"} <= set(plain)
    code = f"import importlib\nfor name in {plain!r}:\n    importlib.import_module(name)\nprint('torch' in sys.modules)"
    assert python(code, tmp_path).stdout.split() == ["False"]
