"""Machines that are not this one: without Triton, bf16 and torch.compile as a P100, and without POSIX as Windows."""

import ctypes
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import train_child as child
from test_imports import MODULES

from wren import run as runs
from wren.errors import ConfigError
from wren.precision import choose_precision
from wren.run import Run

TESTS = Path(__file__).parent
OLD = TESTS / "old_machine"
# What such a machine does otherwise: it chooses fp32, trains, resumes, and answers --compile with a sentence.
REPRESENTATIVE = (
    "test_machines.py::test_what_is_masked",
    "test_machines.py::test_training_compiled_is_a_sentence",
    "test_precision.py",
    "test_train.py::test_fp16_with_a_scaler_learns_and_skips_overflows",
    "test_cli.py::test_a_trained_run_is_complete_and_self_contained",
    "test_cli.py::test_sample_is_repeatable_and_writes_json",
)


def process(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, *command], env=settings, capture_output=True, text=True, timeout=280)


def needs_mask(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--old-machine"):
        pytest.skip("for --old-machine")


def test_what_is_masked(request: pytest.FixtureRequest) -> None:
    needs_mask(request)
    assert not torch.cuda.is_bf16_supported()
    assert importlib.util.find_spec("triton") is None
    assert importlib.util.find_spec("fla") is None
    with pytest.raises(ImportError):
        import triton  # noqa: F401  # type: ignore[import-not-found]
    with pytest.raises(RuntimeError, match="masked away"):
        torch.compile(torch.relu)
    assert choose_precision(torch.device("cpu")).name == "fp32"
    assert choose_precision(torch.device("cuda")).name == "fp16"
    code = "import torch; from wren.precision import choose_precision as c; print(c(torch.device('cpu')).name)"
    assert process("-c", code).stdout.split() == ["fp32"]  # the mask reaches what a test starts


def test_training_compiled_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*arguments: Any, **options: Any) -> None:  # as on systems that it does not know
        raise RuntimeError("Windows not yet supported for torch.compile")

    monkeypatch.setattr(torch, "compile", unsupported)
    with pytest.raises(ConfigError, match=r"torch.compile does not work here \(Windows not yet .*\); .* --compile"):
        child.go(tmp_path, child.settings(compile=True))


def test_an_old_machine_runs_what_this_one_runs(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--old-machine"):
        pytest.skip("it is one")
    command = [
        "-m",
        "pytest",
        "--old-machine",
        "-p",
        "no:cacheprovider",
        *(str(TESTS / name) for name in REPRESENTATIVE),
    ]
    done = process(*command)
    assert done.returncode == 0, done.stdout


def modules() -> str:
    return ",".join(name for name in MODULES if not name.endswith("__main__"))


@pytest.mark.skipif(os.name != "posix", reason="this is Windows itself")
def test_windows_imports_everything_and_trains(tmp_path: Path) -> None:
    text, data, run = tmp_path / "text.txt", tmp_path / "data", tmp_path / "run"
    text.write_text("A small bird sat on a wall and sang to the moon.\n\n" * 400, encoding="utf-8")
    prepare = ["data", "--source", str(text), "--out", str(data), "--vocab-size", "280"]
    train = ["train", "--recipe", "tiny", "--data", str(data), "--run", str(run), "--steps", "2"]
    done = process(str(TESTS / "foreign_machine.py"), modules(), "--", *prepare, "--", *train)
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in Run(run).metrics() if row["kind"] == "train"] == [1, 2]


def test_main_memory_on_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def status(pointer: Any) -> int:
        pointer._obj.total = 8 * 2**30
        return 1

    kernel = SimpleNamespace(GlobalMemoryStatusEx=status)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    assert (runs.memory_bytes() or 0) > 2**28
    monkeypatch.setattr(sys, "platform", "win32")
    assert runs.memory_bytes() == 8 * 2**30
    kernel.GlobalMemoryStatusEx = lambda pointer: 0
    assert runs.memory_bytes() is None
    monkeypatch.setattr(sys, "platform", "emscripten")
    assert runs.memory_bytes() is None
