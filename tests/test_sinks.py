"""Sinks and the progress display: what arrives, what is said, and packages that are not there."""

import io
import json
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from wren.errors import ConfigError
from wren.progress import TrainingProgress
from wren.resume import Progress
from wren.run import Run
from wren.sinks import numbers, open_sinks

ROW = {"step": 3, "kind": "train", "loss": 2.5, "skipped": 0, "grad_norm": math.nan}


def test_only_finite_numbers_are_sent() -> None:
    assert numbers(ROW) == {"train/loss": 2.5, "train/skipped": 0.0}
    assert numbers({"step": 1, "kind": "sample", "sample": "text"}) == {}


def test_an_unknown_sink_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Sink 'tensorbord' is unknown; did you mean 'tensorboard'\?"):
        open_sinks(["tensorbord"], Run(tmp_path), {})


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_package_that_is_not_there_is_a_sentence(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(
        ConfigError, match=rf"{name} is not installed; `pip install -e '\.\[track\]'` in Wren's folder brings it"
    ):
        open_sinks([name], Run(tmp_path), {})
    assert list(tmp_path.iterdir()) == []


def test_no_sink_imports_nothing(tmp_path: Path) -> None:
    assert open_sinks([], Run(tmp_path), {}) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's own
def test_tensorboard_gets_every_number_and_goes_on_after_resuming(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for rows in ([1, 2], [3]):
        (sink,) = open_sinks(["tensorboard"], Run(tmp_path), {"recipe": "tiny"})
        for step in rows:
            sink.log({"step": step, "kind": "train", "loss": 1 / step})
        sink.log({"step": rows[-1], "kind": "sample", "sample": "A wren."})
        sink.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert "sample/text_summary" in events.Tags()["tensors"]


class FakeTracker(ModuleType):
    """What wandb and trackio share: init, log, finish."""

    def __init__(self, name: str):
        super().__init__(name)
        self.started: list[dict[str, Any]] = []
        self.logged: list[dict[str, Any]] = []
        self.finished = 0

    def init(self, **arguments: Any) -> Any:
        self.started.append(arguments)
        return SimpleNamespace(log=self.log, finish=self.finish)

    def log(self, row: dict[str, Any]) -> None:
        self.logged.append(row)

    def finish(self) -> None:
        self.finished += 1


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_trackers_get_the_rows_and_know_a_resumed_run_again(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    fake = FakeTracker(name)
    monkeypatch.setitem(sys.modules, name, fake)
    for path in ("a", "a", "b"):
        run = Run(tmp_path / path)
        if not run.exists():
            run.create({})
            (run.path / "env.json").write_text(json.dumps({"started": path}))
        (sink,) = open_sinks([name], run, {"recipe": "tiny"})
        sink.log(ROW)
        sink.close()
    assert fake.logged == [{"train/loss": 2.5, "train/skipped": 0.0, "step": 3}] * 3
    assert fake.finished == 3
    key = "id" if name == "wandb" else "name"
    first, again, other = (arguments[key] for arguments in fake.started)
    assert first == again != other
    assert fake.started[0]["config"] == {"recipe": "tiny"}
    assert fake.started[0]["resume"] == "allow"


def rows(steps: int, seconds: float = 2.0) -> Any:
    for step in range(1, steps + 1):
        progress = Progress(step=step, tokens=100 * step, seconds=seconds * step)
        row = {"step": step, "kind": "train", "loss": 3.0, "tokens_per_second": 50.0, "seconds": seconds * step}
        yield progress, row


def test_without_a_terminal_plain_lines_come_every_few_seconds() -> None:
    now, said = [0.0], []
    with TrainingProgress(20, say=said.append, every=5.0, clock=lambda: now[0]) as display:
        for progress, row in rows(20):
            now[0] += 2.0
            display.watch(progress, row)
            if progress.step == 10:
                display.watch(progress, {"step": 10, "kind": "eval", "val_bits_per_byte": 1.25})
        display.watch(progress, {"step": 20, "kind": "eval", "val_bits_per_byte": 1.0})
    assert said[0] == "step 3/20  loss 3.000  50 tokens/s  34s left"
    assert said[3] == "step 10/20  loss 3.000  50 tokens/s  20s left  val 1.2500 bits/byte"
    assert said[-1] == "step 20/20  loss 3.000  50 tokens/s  val 1.0000 bits/byte"
    assert sum("20/20" in line for line in said) == 1  # once, with its evaluation
    assert len(said) == 8


def test_lines_survive_losses_that_are_not_finite_and_count_skipped_steps() -> None:
    said: list[str] = []
    with TrainingProgress(3, say=said.append, every=0.0) as display:
        row = {"step": 1, "kind": "train", "loss": math.nan, "tokens_per_second": 9.0, "seconds": 1.0}
        display.watch(Progress(step=1, skipped=1), row)
    assert said == ["step 1/3  9 tokens/s  1 skipped"]


def test_on_a_terminal_one_line_is_redrawn_and_says_the_same() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with TrainingProgress(20, say=pytest.fail, console=console) as display:
        for progress, row in rows(20):
            display.watch(progress, row)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "20/20" in text
    assert "loss 3.000  50 tokens/s" in text
