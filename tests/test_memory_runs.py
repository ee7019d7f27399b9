"""Runs with what saves memory: they resume exactly, learn as the plain run, and refuse what does not go together."""

import functools
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import train_child as child
from memory_parts import BF16, KINDS, go, losses, model, settings
from train_faults import stop_at

from wren import checkpoint
from wren.batch import Batch
from wren.errors import ConfigError
from wren.loss import cross_entropy
from wren.memory.count import Allocations, count_step, weight_bytes
from wren.optim.optimizer import OptimizerConfig
from wren.precision import Precision
from wren.train import Interrupted, measure_step_seconds

FP16 = Precision(device=torch.device("cpu"), autocast=torch.float16, why="tests")
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # of the optimizer, of train
    "selective": ({}, {"activation_checkpointing": "selective", "micro_batch_size": 2}),
    "full": ({}, {"activation_checkpointing": "full", "micro_batch_size": 2}),
    "in_backward": ({"in_backward": True}, {}),
    "bf16 states": ({"state_dtype": "bf16"}, {}),
    "8bit states": ({"state_dtype": "8bit"}, {}),
    "bf16 weights": ({"weight_dtype": "bf16"}, {}),
    "offload": ({"offload": True}, {}),
    "all": (
        {"in_backward": True, "state_dtype": "8bit", "weight_dtype": "bf16", "offload": True},
        {"activation_checkpointing": "full"},
    ),
}


def way(name: str, kind: Any, **train: Any) -> dict[str, Any]:
    """Arguments of go()."""
    optimizer, changes = WAYS[name]
    precision = BF16 if optimizer.get("weight_dtype") == "bf16" else child.FP32
    config = OptimizerConfig(kind=kind, lr=3e-3, normalise=True, **optimizer)
    return {"optimizer": config, "config": settings(**{**changes, **train}), "precision": precision}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WAYS)
def test_an_interrupted_run_equals_an_uninterrupted_one(name: str, kind: Any, tmp_path: Path) -> None:
    run = functools.partial(go, **way(name, kind), evaluate=child.drawing_evaluation)
    run(tmp_path / "whole")
    for step in (2, 7):
        with pytest.raises(Interrupted):
            run(tmp_path / "parts", watch=stop_at(step))
    run(tmp_path / "parts")
    child.assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["selective", "full", "offload"])
def test_what_only_saves_memory_changes_no_bit(name: str, kind: Any, tmp_path: Path) -> None:
    go(tmp_path / "a", **way(name, kind, micro_batch_size=2))
    go(tmp_path / "b", OptimizerConfig(kind=kind, lr=3e-3, normalise=True), settings(micro_batch_size=2))
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


LONG = {"steps": 80, "save_every": 0, "grad_clip": 0.0, "micro_batch_size": None}


def height(path: Path) -> float:
    """The mean loss after the first tenth of the run."""
    return sum(losses(path)[8:]) / 72


@pytest.fixture(scope="module", params=KINDS)
def plain(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[float]]:
    """A kind of optimizer, and how high the curves of its plain run lie with three seeds."""
    config = OptimizerConfig(kind=request.param, lr=3e-3, normalise=True)
    heights = []
    for seed in range(3):
        path = tmp_path_factory.mktemp("plain")
        go(path, config, settings(**LONG), trained=model(seed=seed))
        assert losses(path)[0] > 2.5 > 2.5 * losses(path)[-1]
        heights.append(height(path))
    return request.param, heights


@pytest.mark.parametrize("name", [name for name in WAYS if name not in ("selective", "full", "offload")])
def test_the_curve_stays_within_the_noise_of_the_plain_run(name: str, plain: Any, tmp_path: Path) -> None:
    kind, heights = plain
    go(tmp_path, **way(name, kind, **LONG))
    spread = max(abs(a - b) for a, b in itertools.combinations(heights, 2))
    assert abs(height(tmp_path) - heights[0]) <= max(spread, 0.03 * heights[0])


def test_measuring_a_step_leaves_no_trace_in_what_rounding_draws() -> None:
    made, config = model(), OptimizerConfig(kind="muon", state_dtype="bf16", weight_dtype="bf16")
    optimizer = config.build(made)
    before = {name: x.clone() for name, x in checkpoint.weights(made).items()}
    arguments = (made, optimizer, child.FakeBatches(), cross_entropy, settings(), BF16)
    assert measure_step_seconds(*arguments, warmup=1, steps=2) > 0
    assert optimizer.store is not None
    assert optimizer.store.draws.count == 0
    assert all(torch.equal(x, before[name]) for name, x in checkpoint.weights(made).items())


@pytest.mark.parametrize(
    ("optimizer", "train", "precision", "ranks", "sentence"),
    [
        ({"in_backward": True}, {"micro_batch_size": 2}, child.FP32, 1, r"micro_batch_size of 2 must be .*batch of 5"),
        ({"in_backward": True}, {}, FP16, 1, r"does not go with fp16.* --dtype bf16 or fp32"),
        ({"in_backward": True}, {"compile": True}, child.FP32, 1, r"saves nothing with --compile"),
        ({"in_backward": True}, {}, child.FP32, 2, r"before other processes have sent.*train in one process"),
        ({"weight_dtype": "bf16"}, {}, child.FP32, 1, r"weight_dtype is bf16, but .* in fp32; use --dtype bf16"),
        ({"weight_dtype": "bf16"}, {}, FP16, 1, r"weight_dtype is bf16, but .* in fp16; use --dtype bf16"),
    ],
)
def test_settings_that_exclude_each_other_are_a_sentence(
    optimizer: Any, train: Any, precision: Precision, ranks: int, sentence: str, tmp_path: Path
) -> None:
    config, checked = OptimizerConfig(**optimizer), settings(**train)
    with pytest.raises(ConfigError, match=sentence):
        checked.check(config, precision, ranks)
    if ranks == 1:
        with pytest.raises(ConfigError, match=sentence):
            go(tmp_path, config, checked, precision=precision)
    settings(micro_batch_size=1).check(OptimizerConfig(state_dtype="8bit", offload=True), FP16, 2)


def test_every_storage_is_counted_from_its_first_tensor_to_its_last() -> None:
    with Allocations() as counted:
        x = torch.zeros(100)
        view = x.view(10, 10).T
        assert (counted.alive, counted.peak) == (400, 400)
        y = view + 1
        x.mul_(2)
        assert (counted.alive, counted.peak) == (800, 800)
        del x
        assert counted.alive == 800
        del view
        assert counted.alive == 400
        z = y.new_empty(25)
        assert (counted.alive, counted.peak) == (500, 800)
    del y
    assert counted.alive == 100
    assert z.nbytes == 100


def test_what_was_there_before_is_not_counted() -> None:
    weight = torch.zeros(10, 10, requires_grad=True)
    counted = Allocations()
    counted.ignore([weight])
    with counted:
        weight.view(100).detach()
        assert counted.alive == 0
        (weight * 2).sum().backward()
    assert weight.grad is not None
    assert counted.alive == weight.grad.nbytes


def counted(kind: Any, rows: Batch, **changes: Any) -> Any:
    made = model(dropout=0.0)
    optimizer = OptimizerConfig(kind=kind, **changes).build(made)
    precision = BF16 if changes.get("weight_dtype") else child.FP32
    return count_step(made, optimizer, cross_entropy, rows, precision), made, optimizer


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_counted_by_part(kind: Any) -> None:
    rows = child.FakeBatches().next_batch()
    plain, made, optimizer = counted(kind, rows)
    params = sum(p.nbytes for p in made.parameters())
    assert (plain.weights, plain.tables) == (params - made.embedding.weight.nbytes, made.embedding.weight.nbytes)
    assert (plain.gradients, plain.moments) == (params, optimizer.state_bytes()[0])
    assert plain.peak >= params + plain.moments + max(plain.activations, plain.gradients)
    fused, _, optimizer = counted(kind, rows, in_backward=True)
    assert fused.gradients <= optimizer.gradient_bytes()
    assert fused.gradients < params or kind == "muon"
    small, made, optimizer = counted(kind, rows, weight_dtype="bf16", state_dtype="8bit")
    assert sum(weight_bytes(made)) == small.weights + small.tables < 0.6 * params
    assert small.moments == optimizer.state_bytes()[0] < 0.4 * plain.moments
    assert small.gradients == sum(weight_bytes(made))


def test_bytes_are_known_without_memory() -> None:
    with torch.device("meta"):
        made = model()
    for kind, number in (("adamw", 8), ("muon", 4)):
        optimizer = OptimizerConfig(kind=kind).build(made)  # type: ignore[arg-type]
        here, away = optimizer.state_bytes()
        assert away == 0
        assert here >= number * sum(p.numel() for p in made.parameters() if p.dim() == 2)
        assert math.isclose(optimizer.gradient_bytes(), 4 * made.num_params())
