"""The optimizer's step fused into the backward pass: the plain step's numbers, and what happens when they go wrong."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import train_child as child
from memory_parts import KINDS, batch, go, losses, model, settings
from model_cases import CONFIGS, tokens
from train_faults import Faulty, Memory, stop_at

from wren import checkpoint
from wren.batch import Batch
from wren.errors import ConfigError, DivergedError
from wren.loss import cross_entropy
from wren.optim import muon
from wren.optim.optimizer import OptimizerConfig
from wren.run import Run
from wren.train import Interrupted


@pytest.mark.parametrize("kind", KINDS)
def test_the_curve_is_that_of_the_plain_step(kind: Any, tmp_path: Path) -> None:
    config = settings(steps=50, grad_clip=0.0, save_every=0)
    for fused in (False, True):
        go(tmp_path / str(fused), OptimizerConfig(kind=kind, lr=3e-3, normalise=True, in_backward=fused), config)
    plain, fused = losses(tmp_path / "False"), losses(tmp_path / "True")
    assert fused == pytest.approx(plain, rel=1e-5)
    assert plain[-1] < 0.8 * plain[0]
    norms = [[row["grad_norm"] for row in child.curve(tmp_path / name)] for name in ("False", "True")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


@pytest.mark.parametrize("name", [name for name in CONFIGS if "+" not in name or name.startswith("attention+")])
def test_no_weight_is_changed_before_it_was_needed_last(name: str) -> None:
    tokens_BT = tokens(2, 21)
    rows, weights = Batch(tokens_BT[:, :-1], tokens_BT[:, 1:]), []
    for fused in (False, True):
        torch.manual_seed(0)
        each = CONFIGS[name].build().double().train()
        optimizer = OptimizerConfig(kind="muon", lr=0.01, in_backward=fused).build(each)
        for _ in range(2):
            optimizer.zero_grad()
            loss = cross_entropy(each, rows) / 40
            if optimizer.in_backward is None:
                loss.backward()
                for part in optimizer.parts:
                    part.step()
            else:
                with optimizer.in_backward.armed(math.inf):
                    loss.backward()
        weights.append(dict(each.state_dict()))
    for key, expected in weights[0].items():
        torch.testing.assert_close(weights[1][key], expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("waiting", [1, 3 * 64 * 64, 2**22])
def test_gradients_are_dropped_as_soon_as_matrices_of_a_shape_are_enough(waiting: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(muon, "WAITING", waiting)
    made = model()
    optimizer = OptimizerConfig(kind="muon", in_backward=True).build(made)
    alive: list[int] = []
    squares = [p for p in optimizer.params() if p.shape == (64, 64)]
    for p in made.parameters():
        p.register_post_accumulate_grad_hook(lambda _: alive.append(sum(x.grad is not None for x in squares)))
    assert optimizer.in_backward is not None
    with optimizer.in_backward.armed(math.inf):
        cross_entropy(made, batch()).backward()
    assert max(alive) == {1: 0, 3 * 64 * 64: 2, 2**22: len(squares)}[waiting]
    assert all(p.grad is None for p in made.parameters())


def test_in_a_first_step_every_tensor_is_clipped_to_its_part_of_the_bound() -> None:
    limit, moved = 1e-3, []
    for clip in (math.inf, limit):
        made = model(dropout=0.0)
        optimizer = OptimizerConfig(lr=1e-3, weight_decay=0.0, in_backward=True).build(made)
        assert optimizer.in_backward is not None
        with optimizer.in_backward.armed(clip):
            cross_entropy(made, batch()).backward()
        moved.append({name: x for name, x in optimizer.tensors().items() if name.endswith("/exp_avg")})
        assert optimizer.in_backward.norm() > limit
    total = sum(moment.numel() for moment in moved[0].values())
    for name, moment in moved[0].items():
        gradient, own = moment / 0.1, limit * math.sqrt(moment.numel() / total)
        assert gradient.norm() > own, name
        torch.testing.assert_close(moved[1][name] / 0.1, gradient * (own / gradient.norm()), rtol=1e-3, atol=1e-9)
    squares = sum(float((moment / 0.1).square().sum()) for moment in moved[1].values())
    assert math.sqrt(squares) == pytest.approx(limit, rel=1e-2)  # all together the bound of a plain step


def test_later_steps_are_clipped_as_a_step_that_waits_for_the_whole_norm() -> None:
    limit, found = 1e-3, {}
    for clip in (math.inf, limit):
        made = model(dropout=0.0)
        optimizer = OptimizerConfig(lr=1e-12, weight_decay=0.0, betas=(0.0, 0.95), in_backward=True).build(made)
        fused = optimizer.in_backward
        assert fused is not None
        for _ in range(20):  # the parts come from those of the sizes to those of the norms
            with fused.armed(clip):
                cross_entropy(made, batch()).backward()
            fused.norm()
        with fused.armed(clip):  # a larger gradient, whose norm no step before has told
            (30 * cross_entropy(made, batch())).backward()
        found[clip] = {name: float(x.norm()) for name, x in optimizer.tensors().items() if name.endswith("/exp_avg")}
        found[clip]["whole"] = fused.norm()
        assert math.fsum(fused.parts) == pytest.approx(1)
    assert found[limit]["whole"] == pytest.approx(found[math.inf]["whole"], rel=1e-4)  # what is said is not clipped
    for name, norm in found[limit].items():
        if name != "whole":
            assert norm == pytest.approx(found[math.inf][name] * limit / found[math.inf]["whole"], rel=1e-3), name


def test_outside_of_armed_gradients_are_what_they_are() -> None:
    made = model()
    optimizer = OptimizerConfig(kind="muon", in_backward=True).build(made)
    before = [p.detach().clone() for p in made.parameters()]
    cross_entropy(made, batch()).backward()
    assert all(p.grad is not None for p in made.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, made.parameters(), strict=True))
    assert optimizer.in_backward is not None
    with pytest.raises(RuntimeError, match="broke off"), optimizer.in_backward.armed(1.0):
        raise RuntimeError("broke off")
    optimizer.zero_grad()
    cross_entropy(made, batch()).backward()
    assert all(torch.equal(a, b) for a, b in zip(before, made.parameters(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_that_is_not_finite_goes_back_to_the_checkpoint_and_passes_over_the_step(
    kind: Any, tmp_path: Path
) -> None:
    said: list[str] = []
    optimizer = OptimizerConfig(kind=kind, in_backward=True)
    # call 7 is step 8; step 6 has the checkpoint, so steps 7 to 12 but the eighth come again
    progress = go(tmp_path, optimizer, settings(keep=20), loss=Faulty("gradient", {7}), say=said.append)
    assert (progress.step, progress.skipped, progress.bad_in_a_row) == (12, 1, 0)
    assert len(said) == 1
    assert "gradient of step 8 was not finite" in said[0]
    assert "step_000006" in said[0]
    rows = [row for row in child.curve(tmp_path) if row["kind"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert [row["skipped"] for row in rows] == [0] * 7 + [1] * 5
    assert rows[7]["grad_norm"] is None
    saved = child.newest(tmp_path)
    assert all(
        bool(x.isfinite().all()) for x in (*saved.model.values(), *saved.optimizer.values()) if x.is_floating_point()
    )


def test_before_the_first_checkpoint_it_goes_back_to_the_beginning(tmp_path: Path) -> None:
    said: list[str] = []
    progress = go(tmp_path, OptimizerConfig(in_backward=True), loss=Faulty("gradient", {1}), say=said.append)
    assert (progress.step, progress.skipped) == (12, 1)
    assert "step_000000" in said[0]


def test_a_loss_that_is_not_finite_costs_a_step_and_no_weight(tmp_path: Path) -> None:
    said: list[str] = []
    progress = go(tmp_path, OptimizerConfig(in_backward=True), loss=Faulty("nan", {4, 5}), say=said.append)
    assert (progress.step, progress.skipped) == (12, 2)
    assert said == []
    with pytest.raises(DivergedError, match="5 steps in a row"):
        go(tmp_path / "b", OptimizerConfig(in_backward=True), loss=Faulty("nan", set(range(3, 40))))


def test_gradients_that_stay_bad_end_the_run(tmp_path: Path) -> None:
    class Bad(Faulty):
        """Every step's gradient from the fifth batch on, however often it comes."""

        def __call__(self, trained: Any, rows: Batch) -> torch.Tensor:
            self.call = 0 if any(torch.equal(rows.tokens_BT, x) for x in late) else 10**6
            self.call -= 1
            return super().__call__(trained, rows)

    batches = child.FakeBatches()
    late = [batches.next_batch().tokens_BT for _ in range(30)][4:]
    with pytest.raises(DivergedError, match="3 steps in a row"):
        go(tmp_path, OptimizerConfig(in_backward=True), settings(max_bad_steps=3), loss=Bad("gradient", {0}))


def test_out_of_memory_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"in_backward takes the whole batch at once; set a smaller train\.batch_size"
    ):
        go(tmp_path, OptimizerConfig(in_backward=True), loss=Memory(2))


def test_a_run_that_went_back_resumes_as_one_that_did_not_stop(tmp_path: Path) -> None:
    class Once(Faulty):
        def __call__(self, trained: Any, rows: Batch) -> torch.Tensor:
            self.call = 0 if torch.equal(rows.tokens_BT, bad) else 10**6
            self.call -= 1
            return super().__call__(trained, rows)

    batches = child.FakeBatches()
    bad = [batches.next_batch().tokens_BT for _ in range(8)][7]
    optimizer = OptimizerConfig(kind="muon", in_backward=True)
    go(tmp_path / "whole", optimizer, loss=Once("gradient", {0}))
    with pytest.raises(Interrupted):
        go(tmp_path / "parts", optimizer, loss=Once("gradient", {0}), watch=stop_at(7))
    go(tmp_path / "parts", optimizer, loss=Once("gradient", {0}))
    a, b = (checkpoint.newest_good(Run(tmp_path / name).checkpoints_path)[0] for name in ("whole", "parts"))
    assert a is not None
    assert b is not None
    child.assert_same_run(tmp_path / "whole", tmp_path / "parts")
