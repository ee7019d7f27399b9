"""The file cut out of wren's modules: whole, without what is not needed, and with names told apart."""

import ast
import importlib
import pkgutil
import types
from pathlib import Path

import pytest

import wren.export
from wren import mixers, mlps
from wren.export.modelling import modelling_file, settings_json
from wren.export.source import Bundle, Item
from wren.mixers import attention, gated_delta_net, short_conv
from wren.mlps import relu2
from wren.model import ModelConfig
from wren.recipes import build

TINY = build("tiny", vocab_size=64).model


def config_with(mixer: object, mlp: object = None) -> ModelConfig:
    return ModelConfig(vocab_size=64, dim=16, depth=1, mixers=(mixer,), mlp=mlp or relu2.Config())  # type: ignore


def undefined(text: str) -> set[str]:
    """Global names that are read and never bound."""
    tree = ast.parse(text)
    bound = {
        alias.asname or alias.name.split(".")[0]
        for n in ast.walk(tree)
        if isinstance(n, ast.Import | ast.ImportFrom)
        for alias in n.names
    }
    bound |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    bound |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    bound |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    bound |= {n.name for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler) and n.name}
    read = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return read - bound - set(dir(__import__("builtins")))


def every_config() -> list[ModelConfig]:
    """The first example of each mixer, and each MLP."""
    found = [config_with(module.EXAMPLES[0]) for module in modules(mixers)]
    attends = attention.Config(num_heads=2)
    return found + [config_with(attends, module.Config()) for module in modules(mlps)]


def modules(package: types.ModuleType) -> list[types.ModuleType]:
    names = [module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg]
    return [importlib.import_module(f"{package.__name__}.{name}") for name in names]


@pytest.mark.parametrize(
    "config", every_config(), ids=lambda c: f"{type(c.mixers[0]).__module__}-{type(c.mlp).__module__}"
)
def test_every_mixer_and_mlp_can_be_cut_out(config: ModelConfig):
    text = modelling_file(config)
    assert undefined(text) == set()
    imported = {
        str(n.module) if isinstance(n, ast.ImportFrom) else n.names[0].name
        for n in ast.walk(ast.parse(text))
        if isinstance(n, ast.Import | ast.ImportFrom)
    }
    assert not any(name.split(".")[0] in ("wren", "fla", "triton") for name in imported)


def test_what_is_not_used_stays_behind():
    text = modelling_file(TINY)
    assert "class GatedDeltaNet(" in text
    for absent in (
        "class ShortConv(",
        "def flops_per_token",
        "def state_bytes",
        "EXAMPLES",
        "class Kda",
        "import wren",
    ):
        assert absent not in text
    assert "def new_state(" in text
    other = modelling_file(config_with(short_conv.Config()))
    assert "class ShortConv(" in other
    assert "class GatedDeltaNet(" not in other


def test_names_that_two_modules_share_are_told_apart():
    bundle = Bundle([Item(m.__name__, "Config") for m in (attention, gated_delta_net)], "x.build(1)")
    _, text = bundle.text()
    assert "class AttentionConfig:" in text
    assert "class GatedDeltaNetConfig:" in text
    assert "def __init__(self, dim: int, config: AttentionConfig)" in text
    assert "class Config:" not in text


def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    """Modules of a package named as wren's are, for the corners of the cutting."""
    folder = tmp_path / "cut"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.setattr(wren.export, "__path__", [*wren.export.__path__, str(tmp_path)])


def test_local_names_are_never_taken_for_global_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one = (
        'LIMIT = 2\n\n\ndef size(x):\n    """Not LIMIT."""\n    return LIMIT * x  # LIMIT\n\n\n'
        "def unused():\n    return 0\n"
    )
    two = (
        "from wren.export.cut import one\nfrom wren.export.cut.one import size as measure\n\nLIMIT = 3\n\n\n"
        "class Box:\n    size: int = 5\n\n    def grow(self, size):\n        return size + one.size(LIMIT) + "
        "[measure(LIMIT) for LIMIT in (1,)][0] + self.twice()\n\n    def twice(self) -> 'Box':\n        return 2\n\n"
        "    def never(self):\n        return 'never'\n"
    )
    module(tmp_path, monkeypatch, one=one, two=two)
    imports, text = Bundle([Item("wren.export.cut.two", "Box")], "x.grow(1)").text()
    space: dict = {"__name__": "cut_out"}
    exec(compile(f"{imports}\n{text}", "cut", "exec"), space)
    assert space["Box"]().grow(10) == 10 + 6 + 2 + 2
    assert "never" not in text
    assert "unused" not in text
    assert '"""Not LIMIT."""' in text


def test_modules_of_one_last_name_are_told_apart_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for folder in ("left", "right"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("")
        (tmp_path / folder / "part.py").write_text(f"def _same():\n    return '{folder}'\n")
    (tmp_path / "top.py").write_text(
        "from wren.export.left import part as one\nfrom wren.export.right import part as two\n\n\n"
        "def both():\n    return one._same(), two._same()\n"
    )
    monkeypatch.setattr(wren.export, "__path__", [*wren.export.__path__, str(tmp_path)])
    bundle = Bundle([Item("wren.export.top", "both")])
    assert len(set(bundle.flat.values())) == len(bundle.flat) == 3
    space: dict = {}
    exec(compile("\n".join(bundle.text()), "cut", "exec"), space)
    assert space["both"]() == ("left", "right")


def test_settings_name_their_classes():
    value = settings_json(TINY)
    assert value["type"] == "model.ModelConfig"
    assert value["mixers"][0]["type"] == "mixers.gated_delta_net"
    assert value["near"]["type"] == "block.NearConfig"
