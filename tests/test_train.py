"""The loop: micro-batches, clipping, skipped steps, memory, precision, compiling, measuring, settings."""

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import train_child as child
from train_faults import Faulty, Memory, stop_at

from wren import checkpoint
from wren.errors import ConfigError, DivergedError
from wren.loss import cross_entropy
from wren.model import LM
from wren.optim.optimizer import OptimizerConfig
from wren.precision import Precision
from wren.resume import TrainState
from wren.run import Run
from wren.step import Step
from wren.train import Interrupted, Progress, TrainConfig, measure_step_seconds

FP16 = Precision(device=torch.device("cpu"), autocast=torch.float16, why="tests")


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


quiet_compiler = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it traces


@quiet_compiler
@pytest.mark.compiles
def test_compile_changes_neither_names_nor_numbers(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    child.go(tmp_path / "a", child.settings(steps=4, compile=True))
    child.go(tmp_path / "b", child.settings(steps=4))
    child.assert_same_run(tmp_path / "a", tmp_path / "b")
    torch.compiler.reset()


@quiet_compiler
@pytest.mark.compiles
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
@pytest.mark.compiles
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
