"""The loop: signals, resuming, callbacks, damaged and foreign checkpoints, full disks."""

import contextlib
import functools
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import train_child as child
from train_faults import file_size_limit, stop_at

from wren import checkpoint, recipes
from wren.data.loader import TokenLoader, TokenStream
from wren.errors import CheckpointError, DiskError
from wren.precision import Precision
from wren.run import Run
from wren.train import Interrupted, Progress

FP16 = Precision(device=torch.device("cpu"), autocast=torch.float16, why="tests")
BF16 = Precision(device=torch.device("cpu"), autocast=torch.bfloat16, why="tests")


@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("micro", [2, None])
@pytest.mark.parametrize("precision", [child.FP32, FP16, BF16], ids=lambda precision: precision.name)
def test_an_interrupted_run_equals_an_uninterrupted_one(
    kind: str, micro: int | None, precision: Precision, tmp_path: Path
) -> None:
    config = child.settings(micro_batch_size=micro)
    go = functools.partial(child.go, kind=kind, precision=precision, evaluate=child.drawing_evaluation)
    go(tmp_path / "whole", config)
    for step, number in ((2, signal.SIGTERM), (3, signal.SIGINT), (8, signal.SIGINT), (11, signal.SIGTERM)):
        handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
        with pytest.raises(Interrupted, match=f"saved at step {step}") as stop:
            go(tmp_path / "parts", config, watch=stop_at(step, number))
        assert (stop.value.step, stop.value.signal_number) == (step, number)
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
        assert child.newest(tmp_path / "parts").step == step
    go(tmp_path / "parts", config)
    child.assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_hybrid_recipe_on_real_shards_resumes_exactly(tmp_path: Path) -> None:
    settings = ("steps=9", "train.micro_batch_size=3", "train.save_every=2", "model.dropout=0.1")
    config = recipes.build("tiny", vocab_size=child.VOCAB, settings=settings)
    tokens = np.random.default_rng(0).integers(child.VOCAB, size=1500).astype(np.uint16)

    def go(path: Path, **arguments: Any) -> None:
        torch.manual_seed(0)
        stream = TokenStream([tokens[:700], tokens[700:]], 0, config.train.context_len)
        loader = TokenLoader(stream, batch_size=config.train.batch_size, seed=3)
        child.go(path, config.train, model=config.model.build(), batches=loader, **arguments)

    go(tmp_path / "whole")
    for step in (1, 5, 6):
        with pytest.raises(Interrupted):
            go(tmp_path / "parts", watch=stop_at(step))
    go(tmp_path / "parts")
    child.assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_finished_run_does_nothing_again(tmp_path: Path) -> None:
    child.go(tmp_path, evaluate=child.drawing_evaluation)
    before = child.curve(tmp_path)
    assert child.go(tmp_path, evaluate=pytest.fail).step == 12
    assert child.curve(tmp_path) == before


def test_a_signal_cuts_an_evaluation_short_and_resuming_evaluates(tmp_path: Path) -> None:
    calls = []

    def evaluate(step: int) -> dict[str, Any]:
        calls.append(step)
        if calls == [4, 8]:
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("the signal was not acted on")
        return child.drawing_evaluation(step)

    with pytest.raises(Interrupted, match="saved at step 8"):
        child.go(tmp_path / "parts", evaluate=evaluate)
    child.go(tmp_path / "parts", evaluate=evaluate)
    assert calls == [4, 8, 8, 12]
    child.go(tmp_path / "whole", evaluate=child.drawing_evaluation)
    child.assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_signal_in_the_last_evaluation_still_ends_the_program(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="saved at step 12"):
        child.go(tmp_path, evaluate=lambda step: {} if step < 12 else signal.raise_signal(signal.SIGINT))


def test_a_second_signal_in_mid_save_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: Any) -> None:
    child.go(tmp_path / "whole", evaluate=child.drawing_evaluation)
    with monkeypatch.context() as patch:

        def impatient(path: Path) -> str:
            signal.raise_signal(signal.SIGINT)
            return "unreachable"

        def watch(progress: Progress, row: dict[str, Any]) -> None:
            if progress.step == 5:
                patch.setattr(checkpoint, "sha256_file", impatient)
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            child.go(tmp_path / "parts", evaluate=child.drawing_evaluation, watch=watch)
    assert sorted(p.name for p in Run(tmp_path / "parts").checkpoints_path.iterdir()) == ["step_000003", "step_000004"]
    child.go(tmp_path / "parts", evaluate=child.drawing_evaluation)
    child.assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_crash_between_saving_and_calling_back_repeats_only_what_is_missing(tmp_path: Path) -> None:
    config = child.settings(sample_every=6, eval_every=6, save_every=0)
    sampled = []

    def sample(step: int) -> dict[str, Any]:
        sampled.append(step)
        if sampled == [6]:
            raise RuntimeError("power cut")
        return {"sample": "text"}

    with pytest.raises(RuntimeError, match="power cut"):
        child.go(tmp_path, config, evaluate=child.drawing_evaluation, sample=sample)
    child.go(tmp_path, config, evaluate=child.drawing_evaluation, sample=sample)
    kinds = [(row["kind"], row["step"]) for row in child.curve(tmp_path) if row["kind"] != "train"]
    assert kinds == [("eval", 6), ("sample", 6), ("eval", 12), ("sample", 12)]


def test_what_callbacks_draw_does_not_touch_training(tmp_path: Path) -> None:
    child.go(tmp_path / "a", evaluate=child.drawing_evaluation, sample=lambda step: {"drawn": len(torch.rand(3))})
    child.go(tmp_path / "b")
    assert [row for row in child.curve(tmp_path / "a") if row["kind"] == "train"] == child.curve(tmp_path / "b")


def test_a_checkpoint_comes_before_every_evaluation(tmp_path: Path) -> None:
    def evaluate(step: int) -> dict[str, Any]:
        assert child.newest(tmp_path).step == step
        return {}

    child.go(tmp_path, child.settings(save_every=0, eval_every=5), evaluate=evaluate)


def test_a_damaged_checkpoint_is_passed_over_with_a_sentence(tmp_path: Path) -> None:
    child.go(tmp_path / "a", evaluate=child.drawing_evaluation)
    child.go(tmp_path / "b", child.settings(), evaluate=child.drawing_evaluation)
    (Run(tmp_path / "b").checkpoints_path / "step_000012" / "model.safetensors").write_bytes(b"")
    said: list[str] = []
    child.go(tmp_path / "b", evaluate=child.drawing_evaluation, say=said.append)
    assert "step_000012 is damaged (model.safetensors does not match its checksum)" in said[0]
    assert said[1] == f"Resuming from {Run(tmp_path / 'b').checkpoints_path / 'step_000009'}."
    child.assert_same_run(tmp_path / "a", tmp_path / "b")


def test_without_any_good_checkpoint_training_begins_anew_and_says_so(tmp_path: Path) -> None:
    child.go(tmp_path / "a")
    child.go(tmp_path / "b", child.settings(keep=1))
    (Run(tmp_path / "b").checkpoints_path / "step_000012" / "state.json").write_text("{}")
    said: list[str] = []
    child.go(tmp_path / "b", child.settings(), say=said.append)
    assert said[-1] == "Warning: no good checkpoint is left; training begins anew."
    child.assert_same_run(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (
            {"model": "wide"},
            r"step_000012 is a checkpoint of another model: '.*' is \[16, 16\] there and \[24, 24\] here",
        ),
        ({"batches": child.FakeBatches(seed=1)}, "trained on other data"),
        ({"kind": "adamw"}, "trained with another optimizer.kind"),
        ({"precision": FP16}, "trained without fp16"),
    ],
)
def test_a_checkpoint_that_does_not_belong_here_is_a_sentence(other: dict, sentence: str, tmp_path: Path) -> None:
    child.go(tmp_path)
    if "model" in other:
        other = {"model": child.small_model(dim=24)}
    with pytest.raises(CheckpointError, match=sentence):
        child.go(tmp_path, **other)


def test_a_checkpoint_of_something_else_is_a_sentence(tmp_path: Path) -> None:
    checkpoint.save(Run(tmp_path).checkpoints_path, 3, checkpoint.weights(child.small_model()), {}, {})
    with pytest.raises(CheckpointError, match="not written by this version"):
        child.go(tmp_path)


def test_a_full_disk_in_mid_run_is_a_warning_and_changes_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    with contextlib.ExitStack() as stack:

        def watch(progress: Progress, row: dict[str, Any]) -> None:
            if progress.step == 5:
                stack.enter_context(file_size_limit(900))
            if progress.step == 8:
                assert child.newest(tmp_path / "a").step == 4
            if progress.step == 11:
                stack.close()

        child.go(tmp_path / "a", say=said.append, watch=watch, evaluate=child.drawing_evaluation)
    assert [text.startswith("Warning: Cannot write") for text in said] == [True] * 4
    assert sum("without writing metrics" in text for text in said) == 1
    assert sum("checkpoint before it is kept" in text for text in said) == 3  # steps 6, 8 and 9
    child.go(tmp_path / "b")
    a, b = child.newest(tmp_path / "a"), child.newest(tmp_path / "b")
    assert all(torch.equal(a.model[name], b.model[name]) for name in b.model)
    steps = [row["step"] for row in child.curve(tmp_path / "a")]
    assert steps[:4] == [1, 2, 3, 4]
    assert steps[-1] == 12


def test_a_full_disk_at_the_end_is_an_error_and_the_checkpoint_before_survives(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:

        def watch(progress: Progress, row: dict[str, Any]) -> None:
            if progress.step == 10:
                stack.enter_context(file_size_limit(900))

        with pytest.raises(DiskError, match=r"Cannot write .*step_000012.*choose another folder"):
            child.go(tmp_path, watch=watch)
    assert child.newest(tmp_path).step == 9
    assert child.go(tmp_path).step == 12


def test_a_callback_that_cannot_write_does_not_stop_training(tmp_path: Path) -> None:
    def sample(step: int) -> dict[str, Any]:
        raise DiskError("Cannot write samples: the disk is full.")

    said: list[str] = []
    assert child.go(tmp_path, child.settings(sample_every=6), sample=sample, say=said.append).step == 12
    assert said == ["Warning: Cannot write samples: the disk is full. Training goes on."] * 2
