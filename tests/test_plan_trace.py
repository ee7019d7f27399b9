"""What a step is foretold to need, beside what is counted of a real one: all recipes, two sizes, all ways of saving."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from wren.batch import Batch, positions_in_documents
from wren.errors import ConfigError
from wren.loss import cross_entropy
from wren.memory.activations import Checkpointing, checkpoint_activations
from wren.memory.count import Allocations, count_step
from wren.memory.job import Job
from wren.memory.stand_in import as_on
from wren.memory.trace import Tracer
from wren.optim.optimizer import OptimizerConfig, ngram_tables
from wren.precision import Precision, has_native_bf16
from wren.recipes import RunConfig, build

CPU, CONTEXT, ROWS = torch.device("cpu"), 64, 2
BF16 = torch.bfloat16
SIZES = {
    "gpt2": ("depth=1 dim=64 num_heads=2", "depth=2 dim=128 num_heads=4"),
    "llama": ("depth=1 dim=64 num_heads=2", "depth=2 dim=128 num_heads=4"),
    "small": ("depth=1 dim=64", "depth=2 dim=128"),
    "wren": ("depth=2 dim=64", "depth=4 dim=96"),
    "tiny": ("depth=2 dim=32", "depth=2 dim=64"),
    "tiny, experts": ("depth=2 dim=32", "depth=2 dim=64"),
    "llama, experts": ("depth=1 dim=64 num_heads=2", "depth=1 dim=128 num_heads=4"),
    "small, ttt_linear": ("depth=1 dim=64", "depth=2 dim=128"),
}
PARTS = {
    "": [],
    "experts": ['model.mlp={"type":"mlps.moe","num_experts":8,"active":2,"shared":32}'],
    "ttt_linear": ['model.mixers=[{"type":"mixers.ttt_linear","num_heads":2}]'],
}
WAYS: dict[str, tuple[dict[str, Any], Checkpointing]] = {
    "plain": ({}, "none"),
    "selective": ({}, "selective"),
    "full": ({}, "full"),
    "8bit": ({"state_dtype": "8bit"}, "none"),
    "in_backward": ({"in_backward": True}, "none"),
    "bf16 weights": ({"weight_dtype": "bf16"}, "none"),
    "all": ({"in_backward": True, "state_dtype": "8bit", "weight_dtype": "bf16"}, "full"),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tracer() -> Tracer:
    return Tracer()


def config(recipe: str, size: str) -> RunConfig:
    recipe, _, part = recipe.partition(", ")
    return build(recipe, vocab_size=256, settings=[*size.split(), f"context_len={CONTEXT}", *PARTS[part]])


def batch(rows: int = ROWS) -> Batch:
    tokens_BT = torch.randint(256, (rows, CONTEXT + 1), generator=torch.Generator().manual_seed(0))
    documents_BT = (torch.arange(CONTEXT) // 24).expand(rows, -1).contiguous()
    places_BT = positions_in_documents(documents_BT)
    tokens_BT, targets_BT = tokens_BT[:, :-1].contiguous(), tokens_BT[:, 1:].contiguous()
    return Batch(tokens_BT, targets_BT, documents_BT=documents_BT, positions_BT=places_BT)


def autocast(optimizer: OptimizerConfig) -> torch.dtype | None:
    return BF16 if optimizer.weight_dtype == "bf16" else None


def job(config: RunConfig, optimizer: OptimizerConfig, checkpointing: Checkpointing = "none", **changes: Any) -> Job:
    options: dict[str, Any] = {"rows": ROWS, "context_len": CONTEXT, "autocast": autocast(optimizer)}
    options |= {"checkpointing": checkpointing, "narrow_muon": has_native_bf16(CPU), **changes}
    return Job(model=config.model, optimizer=optimizer, **options)


def foretold(tracer: Tracer, asked: Job) -> int:
    traced = tracer(asked)
    return traced.standing.total() + traced.log.peak()[0]


def real_model(config: RunConfig, optimizer: OptimizerConfig, checkpointing: Checkpointing = "none"):
    torch.manual_seed(0)
    model = config.model.build()
    built = optimizer.build(model)
    checkpoint_activations(model, checkpointing)
    return model, built


def gradient_bytes(grad: torch.Tensor) -> int:
    if not grad.is_sparse:
        return 4 * grad.numel()
    return 4 * grad._values().numel() + 8 * grad._indices().numel()


def measured(config: RunConfig, optimizer: OptimizerConfig, checkpointing: Checkpointing) -> int:
    model, built = real_model(config, optimizer, checkpointing)
    precision = Precision(device=CPU, autocast=autocast(optimizer), why="tests")
    return count_step(model, built, cross_entropy, batch(), precision).peak


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("recipe", "size"), [(recipe, size) for recipe, sizes in SIZES.items() for size in sizes])
def test_the_peak_is_foretold(tracer: Tracer, recipe: str, size: str, way: str):
    changes, checkpointing = WAYS[way]
    built = config(recipe, size)
    optimizer = replace(built.optimizer, **changes)
    real = measured(built, optimizer, checkpointing)
    assert foretold(tracer, job(built, optimizer, checkpointing)) == pytest.approx(real, rel=0.08)


@pytest.mark.parametrize("recipe", SIZES)
def test_a_later_micro_batch_is_foretold(tracer: Tracer, recipe: str):
    built = config(recipe, SIZES[recipe][1])
    model, optimizer = real_model(built, built.optimizer)
    optimizer.begin()
    optimizer.sparse_gradients(True)
    for part in optimizer.parts:
        assert part.state
    real = 0
    for _ in range(2):
        counted = Allocations()
        counted.ignore((*model.parameters(), *model.buffers(), *(x for x in batch() if x is not None)))
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        counted.ignore(grads)
        held = sum(gradient_bytes(x) for x in grads)
        del grads
        with counted:
            (cross_entropy(model, batch()) / 1).backward()
        real = held + counted.peak
    traced = tracer(job(built, built.optimizer, earlier_rows=ROWS))
    passes = [number for number, phase in enumerate(traced.log.phases) if phase != "the optimizer's step"]
    held = replace(traced.log, events=[event for event in traced.log.events if max(event, ~event) <= passes[-1]])
    assert held.peak()[0] == pytest.approx(real, rel=0.08)


@pytest.mark.parametrize("recipe", ["llama", "wren"])
def test_memory_is_a_line_in_the_rows(tracer: Tracer, recipe: str):
    built = config(recipe, SIZES[recipe][0])
    passes = [tracer(job(built, built.optimizer, rows=rows, loss_chunk=16)).log.peak()[0] for rows in (4, 8, 12)]
    first, second = passes[1] - passes[0], passes[2] - passes[1]
    assert first == pytest.approx(second, rel=0.02)


@pytest.mark.parametrize("recipe", ["llama", "wren"])
def test_parts_make_up_the_peak_and_gradients_are_known(tracer: Tracer, recipe: str):
    built = config(recipe, SIZES[recipe][1])
    traced = tracer(job(built, built.optimizer))
    peak, when, parts = traced.log.peak()
    assert sum(parts.values()) == peak
    assert when in ("the loss", "the backward pass", "the optimizer's step")
    model, optimizer = real_model(built, built.optimizer)
    standing = traced.standing
    assert sum(standing.weights) + sum(standing.tables) == sum(4 * p.numel() for p in model.parameters())
    assert sum(standing.moments) == optimizer.state_bytes()[0]
    assert standing == tracer.standing(job(built, built.optimizer))


def test_on_a_gpu_what_is_moved_away_does_not_count(tracer: Tracer):
    built = config("wren", SIZES["wren"][1])
    tables = replace(built.model, tables=replace(built.model.tables, on_cpu=True))
    options: dict[str, Any] = {"device_type": "cuda", "autocast": BF16, "narrow_muon": True}
    plain = tracer(job(built, built.optimizer, **options))
    offloaded = tracer(job(built, replace(built.optimizer, offload=True), **options))
    on_cpu = tracer(job(replace(built, model=tables), built.optimizer, **options))
    assert plain.standing.away == 0
    assert offloaded.standing.away + sum(offloaded.standing.moments) == sum(plain.standing.moments)
    assert sum(offloaded.standing.moments) < 0.2 * sum(plain.standing.moments)  # small ones stay
    assert sum(on_cpu.standing.tables) < sum(plain.standing.tables)
    assert on_cpu.standing.total() + on_cpu.log.peak()[0] < plain.standing.total() + plain.log.peak()[0]


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_gpu_widens_what_its_autocast_widens(kind: str):
    built, x = config("small", SIZES["small"][1]), torch.ones(4, dtype=BF16)
    with as_on(job(built, built.optimizer, device_type=kind)), torch.autocast("cpu", dtype=BF16):
        found = [x.exp(), F.rms_norm(x, (4,), weight=x), x.softmax(-1), x.sum(), x.relu(), x[None] @ x[:, None]]
    wide = torch.float32 if kind == "cuda" else BF16
    assert [y.dtype for y in found] == [wide] * 4 + [BF16] * 2


def test_tracing_leaves_nothing_behind(tracer: Tracer):
    before = torch.get_rng_state()
    built = config("tiny", SIZES["tiny"][0])
    optimizer = replace(built.optimizer, state_dtype="8bit")
    Tracer()(job(built, optimizer))
    assert torch.equal(before, torch.get_rng_state())
    assert measured(built, optimizer, "none") > 0  # no fake tensor stays in what is made once


@dataclass(frozen=True, kw_only=True)
class _Odd:
    """An MLP that leaves tokens out by their values."""

    def build(self, dim: int) -> torch.nn.Module:
        class Odd(torch.nn.Linear):
            def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
                return super().forward(x_BTD * (x_BTD[x_BTD > 0].numel() > 0))

        return Odd(dim, dim)


def test_shapes_that_depend_on_tokens_are_a_sentence(tracer: Tracer):
    built = config("tiny", SIZES["tiny"][0])
    odd = replace(built, model=replace(built.model, mlp=_Odd()))
    with pytest.raises(ConfigError, match="cannot be planned: shapes inside it depend on the tokens"):
        tracer(job(odd, built.optimizer))


def test_a_gradient_of_rows_takes_what_the_batch_reads(tracer: Tracer):
    """The n-gram tables of 65,536 rows are far larger than what a batch reads of them."""
    built = config("wren", SIZES["wren"][0])
    sparse, dense = (tracer(job(built, built.optimizer, sparse_tables=wanted)) for wanted in (True, False))
    model, _ = real_model(built, built.optimizer)
    tables = sum(4 * table.weight.numel() for table in ngram_tables(model))
    assert sparse.standing.sparse == tables
    assert dense.standing.sparse == 0
    assert sparse.standing.total() == dense.standing.total()
    assert dense.log.peak()[0] - sparse.log.peak()[0] > 0.9 * tables
    for rows in (1, 4):  # more rows before this micro-batch: so many more are held
        more = tracer(job(built, built.optimizer, earlier_rows=rows)).log.peak()[0]
        assert sparse.log.peak()[0] < more < dense.log.peak()[0]


@pytest.mark.parametrize(
    ("kind", "changes"), [("cuda", {}), ("cpu", {"state_dtype": "8bit"}), ("cpu", {"ngram_lr": None})]
)
def test_where_training_has_dense_gradients_the_plan_has(tracer: Tracer, kind: str, changes: dict[str, Any]):
    built = config("wren", SIZES["wren"][0])
    assert not job(built, replace(built.optimizer, **changes), device_type=kind).sparse
    assert job(built, built.optimizer).sparse
