"""The loop: micro-batches, clipping, skipped steps, memory, precision, signals, resuming, full disks."""

import contextlib
import functools
import math
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import train_child as child
from torch import Tensor

from wren import checkpoint, recipes
from wren.batch import Batch
from wren.data.loader import TokenLoader, TokenStream
from wren.errors import CheckpointError, ConfigError, DiskError, DivergedError
from wren.loss import cross_entropy
from wren.model import LM
from wren.optim.optimizer import OptimizerConfig
from wren.precision import Precision
from wren.resume import TrainState
from wren.run import Run
from wren.step import Step
from wren.train import Interrupted, Progress, TrainConfig, measure_step_seconds

FP16 = Precision(device=torch.device("cpu"), autocast=torch.float16, why="tests")
BF16 = Precision(device=torch.device("cpu"), autocast=torch.bfloat16, why="tests")


def one_step(model: LM, *, micro: int, clip: float = 0.0, loss=cross_entropy, precision=child.FP32) -> Any:
    """The row of one step that leaves the weights alone, and the gradients it made."""
    scaler = torch.amp.GradScaler("cpu", enabled=precision.scaler)
    optimizer = OptimizerConfig(kind="adamw").build(model)
    progress = Progress(micro_batch_size=micro)
    state = TrainState(model, optimizer, child.FakeBatches(), scaler, precision.device, progress)
    row = Step(state, loss, precision, clip, print)(0.0)
    return row, {name: p.grad.clone() for name, p in model.named_parameters()}  # type: ignore[union-attr]


@pytest.mark.parametrize("micro", [1, 2, 3, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_micro_batches_change_neither_loss_nor_gradient(micro: int, dtype: torch.dtype, tolerance: float) -> None:
    batch = child.FakeBatches().next_batch()
    assert len({row.num_targets() for row in (batch.rows(i, i + 1) for i in range(child.ROWS))}) > 1
    whole, gradients = one_step(child.small_model(dropout=0.0).to(dtype), micro=child.ROWS)
    parts, same = one_step(child.small_model(dropout=0.0).to(dtype), micro=micro)
    assert parts["loss"] == pytest.approx(whole["loss"], rel=tolerance)
    assert parts["grad_norm"] == pytest.approx(whole["grad_norm"], rel=tolerance)
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[name], gradient, rtol=tolerance, atol=tolerance)


def test_the_loss_is_the_mean_over_learned_targets() -> None:
    model, batch = child.small_model(dropout=0.0), child.FakeBatches().next_batch()
    expected = cross_entropy(model, batch).item() / batch.num_targets()
    row, _ = one_step(model, micro=2, loss=cross_entropy)
    assert row["loss"] == pytest.approx(expected, rel=1e-6)
    assert row["tokens"] == batch.num_targets()


def test_clipping_scales_the_gradient_of_the_whole_batch() -> None:
    row, gradients = one_step(child.small_model(dropout=0.0), micro=2)
    clipped_row, clipped = one_step(child.small_model(dropout=0.0), micro=2, clip=0.01)
    assert clipped_row["grad_norm"] == row["grad_norm"] > 0.01
    assert torch.cat([g.flatten() for g in clipped.values()]).norm() == pytest.approx(0.01, rel=1e-4)
    for name, gradient in gradients.items():
        torch.testing.assert_close(clipped[name], gradient * (0.01 / row["grad_norm"]), rtol=1e-4, atol=1e-9)


class Faulty:
    """cross_entropy that goes wrong in the given calls (one per step where the micro-batch is the batch)."""

    def __init__(self, kind: str, calls: set[int]):
        self.kind, self.calls, self.call = kind, calls, -1

    def __call__(self, model: LM, batch: Batch) -> Tensor:
        self.call += 1
        loss = cross_entropy(model, batch)
        if self.call not in self.calls:
            return loss
        if self.kind == "gradient":  # the derivative of a root at 0 is infinite, the loss stays what it is
            return loss + (model.head.weight[0, :1] * 0).sqrt().sum()
        return loss * {"nan": math.nan, "inf": math.inf, "overflow": 1e35}[self.kind]


class Snapshots:
    """A `watch` that keeps weights and optimizer state after every step."""

    def __init__(self, model: LM, optimizer_kind: str = "muon"):
        self.model, self.after = model, {}

    def __call__(self, progress: Progress, row: dict[str, Any]) -> None:
        self.after[progress.step] = {name: p.detach().clone() for name, p in self.model.named_parameters()}


@pytest.mark.parametrize("kind", ["nan", "inf", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(kind: str, tmp_path: Path) -> None:
    model = child.small_model()
    watch = Snapshots(model)
    config = child.settings(micro_batch_size=None, save_every=1, keep=12)
    progress = child.go(tmp_path, config, model=model, loss=Faulty(kind, {4, 5, 9}), watch=watch)
    assert (progress.step, progress.skipped, progress.bad_in_a_row) == (12, 3, 0)
    folder = Run(tmp_path).checkpoints_path
    for step in range(2, 13):
        before, after = (checkpoint.load(folder / f"step_{s:06d}") for s in (step - 1, step))
        skipped = step in (5, 6, 10)
        assert all(torch.equal(before.model[name], after.model[name]) for name in after.model) == skipped
        moments = [name for name in after.optimizer if not name.startswith("rng/")]
        assert all(torch.equal(before.optimizer[name], after.optimizer[name]) for name in moments) == skipped
    assert [row["skipped"] for row in child.curve(tmp_path)] == [0, 0, 0, 0, 1, 2, 2, 2, 2, 3, 3, 3]
    assert all(watch.after[5][name].equal(value) for name, value in watch.after[4].items())


def test_several_bad_steps_in_a_row_stop_with_the_last_good_checkpoint_named(tmp_path: Path) -> None:
    config = child.settings(micro_batch_size=None, max_bad_steps=4)
    with pytest.raises(DivergedError, match=r"4 steps in a row \(to step 9\).*step_000006.*learning rate"):
        child.go(tmp_path, config, loss=Faulty("nan", {1, 2, 5, 6, 7, 8}))
    assert len(child.curve(tmp_path)) == 9
    assert child.curve(tmp_path)[-1]["loss"] is None


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    def watch(progress: Progress, row: dict[str, Any]) -> None:
        if progress.step == 6:
            model.blocks[0].mlp_norm.weight.data[0] = math.inf  # type: ignore[union-attr]

    model = child.small_model()
    with pytest.raises(DivergedError, match=r"'blocks.0.mlp_norm.weight'.* step 6; .*step_000003"):
        child.go(tmp_path, model=model, watch=watch)
    assert child.newest(tmp_path).step == 3


class Memory:
    """cross_entropy on a device with room for `rows` rows."""

    def __init__(self, rows: int, error: Exception | None = None):
        self.rows, self.error, self.calls = rows, error or torch.OutOfMemoryError("CUDA out of memory."), 0

    def __call__(self, model: LM, batch: Batch) -> Tensor:
        self.calls += 1
        loss = cross_entropy(model, batch)  # the dropout is drawn before the memory ends
        if len(batch.tokens_BT) > self.rows:
            raise self.error
        return loss


def test_out_of_memory_halves_the_micro_batch_and_gives_the_run_of_the_smaller_one(tmp_path: Path) -> None:
    said: list[str] = []
    child.go(tmp_path / "a", child.settings(micro_batch_size=None), loss=Memory(1), say=said.append)
    child.go(tmp_path / "b", child.settings(micro_batch_size=1))
    child.assert_same_run(tmp_path / "a", tmp_path / "b")
    assert said == [
        "Out of memory: the micro-batch is now 2 rows instead of 5; the batch is the same.",
        "Out of memory: the micro-batch is now 1 rows instead of 2; the batch is the same.",
    ]
    assert child.newest(tmp_path / "a").state["progress"]["micro_batch_size"] == 1


def test_the_micro_batch_stays_halved_after_resuming(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        child.go(tmp_path, child.settings(micro_batch_size=4), loss=Memory(2), watch=stop_at(5))
    memory = Memory(2)
    child.go(tmp_path, child.settings(micro_batch_size=4), loss=memory)
    assert memory.calls == 7 * 3


def test_no_memory_for_one_row_is_a_sentence_and_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Out of memory even with one row at a time .*smaller model"):
        child.go(tmp_path / "a", loss=Memory(0))
    with pytest.raises(RuntimeError, match="a bug"):
        child.go(tmp_path / "b", loss=Memory(0, RuntimeError("a bug")))


def test_fp16_with_a_scaler_learns_and_skips_overflows(tmp_path: Path) -> None:
    config = child.settings(steps=40, micro_batch_size=None, save_every=1, keep=40, max_bad_steps=2)
    progress = child.go(tmp_path, config, precision=FP16, loss=Faulty("overflow", {6, 7, 8}))
    assert (progress.skipped, progress.bad_in_a_row) == (3, 0)
    folder = Run(tmp_path).checkpoints_path
    six, nine, last = (checkpoint.load(folder / f"step_{step:06d}") for step in (6, 9, 40))
    assert all(torch.equal(six.model[name], nine.model[name]) for name in six.model)
    assert (six.state["scaler"]["scale"], last.state["scaler"]["scale"]) == (65536.0, 65536.0 / 8)
    losses = [row["loss"] for row in child.curve(tmp_path) if row["kind"] == "train"]
    assert losses[-1] < 0.7 * losses[0]


def test_fp16_gives_the_gradient_of_fp32() -> None:
    exact_row, exact = one_step(child.small_model(dropout=0.0), micro=2)
    row, half = one_step(child.small_model(dropout=0.0), micro=2, precision=FP16)
    assert row["loss"] == pytest.approx(exact_row["loss"], rel=2e-3)
    for name, gradient in exact.items():
        assert (half[name] - gradient).norm() < 0.02 * gradient.norm()


def test_fp16_whose_scale_cannot_fall_further_counts_as_diverged(tmp_path: Path) -> None:
    config = child.settings(steps=60, micro_batch_size=None, max_bad_steps=3)
    with pytest.raises(DivergedError, match="3 steps in a row"):
        child.go(tmp_path, config, precision=FP16, loss=Faulty("gradient", set(range(2, 60))))
    assert 2 + 16 + 3 <= len(child.curve(tmp_path)) < 25


def stop_at(step: int, number: int = signal.SIGINT) -> Any:
    """A `watch` that presses Ctrl-C (or sends SIGTERM) when it sees the row of that step."""

    def watch(progress: Progress, row: dict[str, Any]) -> None:
        if progress.step == step and row["kind"] == "train":
            signal.raise_signal(number)

    return watch


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


@contextlib.contextmanager
def file_size_limit(size: int):
    """Every file may grow to `size` bytes only: what writers meet on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


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


quiet_compiler = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it traces


@quiet_compiler
def test_compile_changes_neither_names_nor_numbers(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    child.go(tmp_path / "a", child.settings(steps=4, compile=True))
    child.go(tmp_path / "b", child.settings(steps=4))
    child.assert_same_run(tmp_path / "a", tmp_path / "b")
    torch.compiler.reset()


@quiet_compiler
@pytest.mark.slow
def test_a_run_through_the_real_compiler(tmp_path: Path) -> None:
    model = child.small_model(dropout=0.0)
    child.go(tmp_path / "a", child.settings(compile=True, micro_batch_size=None), model=model, kind="adamw")
    model = child.small_model(dropout=0.0)
    child.go(tmp_path / "b", child.settings(micro_batch_size=None), model=model, kind="adamw")
    a, b = child.newest(tmp_path / "a"), child.newest(tmp_path / "b")
    assert a.model.keys() == b.model.keys()
    losses = [[row["loss"] for row in child.curve(tmp_path / name)] for name in "ab"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    torch.compiler.reset()


@quiet_compiler
def test_a_compiler_that_does_not_work_is_a_sentence(tmp_path: Path, monkeypatch: Any) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
    with pytest.raises(ConfigError, match=r"torch.compile does not work here .*no C\+\+ compiler.*--compile"):
        child.go(tmp_path, child.settings(compile=True))
    torch.compiler.reset()


@pytest.mark.parametrize("trained", [False, True])
def test_measuring_a_step_leaves_no_trace(trained: bool, tmp_path: Path) -> None:
    model, batches = child.small_model(), child.FakeBatches()
    optimizer = OptimizerConfig(kind="muon").build(model)
    if trained:
        state = TrainState(model, optimizer, batches, torch.amp.GradScaler("cpu", enabled=False), torch.device("cpu"))
        state.progress.micro_batch_size = 2
        Step(state, cross_entropy, child.FP32, 1.0, print)(1.0)
        optimizer.zero_grad()
    model.eval()
    weights = {name: x.clone() for name, x in checkpoint.weights(model).items()}
    moments = {name: x.clone() for name, x in optimizer.tensors().items()}
    rates = [group["lr"] for part in optimizer.parts for group in part.param_groups]
    rng = torch.get_rng_state()
    place = batches.state()
    seconds = measure_step_seconds(
        model, optimizer, batches, Memory(3), child.settings(micro_batch_size=None), child.FP32, warmup=1, steps=2
    )
    assert 0 < seconds < 60
    assert all(torch.equal(x, weights[name]) for name, x in checkpoint.weights(model).items())
    assert optimizer.tensors().keys() == moments.keys()
    assert all(torch.equal(x, moments[name]) for name, x in optimizer.tensors().items())
    assert bool(moments) == trained
    assert [group["lr"] for part in optimizer.parts for group in part.param_groups] == rates
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), rng)
    assert batches.state() == place
    assert not model.training


@pytest.mark.parametrize("name", ["steps", "batch_size", "context_len", "micro_batch_size", "keep", "max_bad_steps"])
def test_settings_out_of_range_are_named(name: str) -> None:
    good: dict[str, Any] = {"steps": 1, "batch_size": 1, "context_len": 1}
    with pytest.raises(ConfigError, match=f"train.{name} is 0; it must be at least 1"):
        TrainConfig(**{**good, name: 0})
    for every in ("save_every", "eval_every", "sample_every", "grad_clip"):
        with pytest.raises(ConfigError, match=f"train.{every} is -1; it must be at least 0"):
            TrainConfig(**good, **{every: -1})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="grad_clip is nan"):
        TrainConfig(**good, grad_clip=math.nan)


def test_training_outside_the_main_thread_works_without_signals(tmp_path: Path) -> None:
    import threading

    result: list[Progress] = []
    thread = threading.Thread(target=lambda: result.append(child.go(tmp_path)))
    thread.start()
    thread.join()
    assert result[0].step == 12
