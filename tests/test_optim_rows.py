"""wren/optim/rows.py: tables stepped row by row, with sparse gradients and with dense ones."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wren.batch import Batch
from wren.errors import ConfigError
from wren.loss import cross_entropy
from wren.model import LM
from wren.optim.optimizer import OptimizerConfig
from wren.optim.rows import Rows, clip_gradients
from wren.recipes import build
from wren.tables import Table, gathered

SETTINGS = ["depth=1", "dim=32", "context_len=8", "steps=4", "bigrams=64"]


def tables(count: int = 2, rows: int = 12, dim: int = 4) -> list[Table]:
    found = []
    for i in range(count):
        torch.manual_seed(0)
        table = Table(rows, dim).double()
        nn.init.normal_(table.weight)
        table.sparse_gradient = i > 0
        found.append(table)
    return found


def read(table: Table, index: Tensor, factor: Tensor) -> None:
    (table(index) * factor).sum().backward()


def test_sparse_and_dense_gradients_give_the_same_steps():
    made = tables()
    steppers = [Rows([table.weight], lr=0.1) for table in made]
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        for _ in range(2):  # micro-batches add up
            index = torch.randint(12, (3, 2), generator=generator)
            factor = torch.randn(3, 2, 4, generator=generator, dtype=torch.float64)
            factor[0] = 0  # read, and without a gradient
            for table in made:
                read(table, index, factor)
        assert made[1].weight.grad is not None
        assert made[1].weight.grad.is_sparse
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        dense, sparse = (stepper.state[table.weight] for stepper, table in zip(steppers, made, strict=True))
        torch.testing.assert_close(made[0].weight, made[1].weight, rtol=1e-12, atol=0)
        assert torch.equal(dense["visits"], sparse["visits"])
        torch.testing.assert_close(dense["row_square"], sparse["row_square"], rtol=1e-12, atol=0)
    assert 0 < dense["visits"].max() <= 5


@pytest.mark.parametrize("number", [0, 1])
def test_a_row_moves_by_its_rate_at_first_and_the_others_stay(number: int):
    table = tables()[number]
    before = table.weight.detach().clone()
    stepper = Rows([table.weight], lr=0.1)
    read(table, torch.tensor([7]), torch.tensor([3.0, 0, 4.0, 0], dtype=torch.float64))
    stepper.step()
    moved = before - table.weight.detach()
    torch.testing.assert_close(moved[7], 0.1 * torch.tensor([3.0, 0, 4.0, 0], dtype=torch.float64) / 2.5)
    moved[7] = 0
    assert not moved.any()
    assert stepper.state[table.weight]["visits"].sum() == 1


def test_a_second_visit_is_scaled_by_the_running_mean_of_both():
    (table,) = tables(1)
    stepper = Rows([table.weight], lr=1.0, beta=0.5)
    for size in (1.0, 3.0):
        before = table.weight.detach().clone()
        stepper.zero_grad()
        read(table, torch.tensor([2]), torch.full((4,), size, dtype=torch.float64))
        stepper.step()
    mean = (0.25 * 1 + 0.5 * 9) / 0.75
    torch.testing.assert_close(before[2] - table.weight.detach()[2], torch.full((4,), 3 / mean**0.5).double())


@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_clipping_is_torch_s_with_sparse_gradients_too(limit: float):
    made, factor = tables(), torch.randn(4, 4, dtype=torch.float64)
    others = [nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in made]
    index = torch.tensor([1, 5, 1, 3])
    norms = []
    for table, other in zip(made, others, strict=True):
        read(table, index, factor)
        other.grad = torch.arange(3.0, dtype=torch.float64)
        norms.append(clip_gradients([table.weight, other], limit))
    torch.testing.assert_close(norms[0], norms[1])
    torch.testing.assert_close(others[0].grad, others[1].grad)
    dense, sparse = (table.weight.grad for table in made)
    assert dense is not None
    assert sparse is not None
    torch.testing.assert_close(dense, sparse.to_dense())


def test_rows_in_main_memory_give_the_same_gradient_either_way():
    weight = torch.randn(9, 4, requires_grad=True)
    index = torch.tensor([[1, 2, 1], [8, 8, 8]])
    factor = torch.randn(2, 3, 4)
    grads = []
    for sparse in (False, True):
        weight.grad = None
        (gathered(weight, index, sparse=sparse) * factor).sum().backward()
        assert weight.grad is not None
        grads.append(weight.grad)
    assert grads[1].is_sparse
    torch.testing.assert_close(grads[0], grads[1].to_dense())


def built(**changes: Any) -> tuple[LM, Any]:
    config = build("wren", vocab_size=40, settings=[*SETTINGS, *(f"optimizer.{k}={v}" for k, v in changes.items())])
    torch.manual_seed(0)
    model = config.model.build()
    return model, config.optimizer.build(model)


def train(model: LM, optimizer: Any, steps: int, start: int = 0) -> list[float]:
    losses = []
    for step in range(start, start + steps):
        tokens = torch.randint(40, (2, 9), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=optimizer.config.weight_dtype == "bf16"):
            loss = cross_entropy(model, Batch(tokens[:, :-1], tokens[:, 1:])) / 16
        loss.backward()
        clip_gradients(optimizer.params(), 1.0)
        for part in optimizer.parts:
            part.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("way", [{}, {"in_backward": True}, {"state_dtype": "8bit"}, {"weight_dtype": "bf16"}])
def test_the_recipe_trains_its_bigrams_by_rows_whatever_else_saves_memory(way: dict[str, Any]):
    model, optimizer = built(**way)
    assert [type(part) for part in optimizer.parts].count(Rows) == 1
    table = model.get_parameter("ngrams.tables.bigrams.weight")
    if way.get("in_backward"):
        tokens = torch.randint(40, (2, 9))
        with optimizer.in_backward.armed(1.0):
            cross_entropy(model, Batch(tokens[:, :-1], tokens[:, 1:])).backward()
    else:
        train(model, optimizer, 2)
    moved = (table != 0).any(1).sum()
    assert 0 < moved <= 32
    fields = {name: x for name, x in optimizer.tensors().items() if name.startswith("ngrams.")}
    assert {name.rpartition("/")[2]: tuple(x.shape) for name, x in fields.items()} == {
        "row_square": (64, 1), "visits": (64, 1),
    }  # fmt: skip
    state = {key: x for key, x in optimizer.tensors().items() if not key.startswith(("draws/", "clipping/"))}
    kept = sum(x.numel() * x.element_size() for x in state.values())
    assert optimizer.state_bytes() == (kept, 0)


def test_sparse_and_dense_train_alike_and_a_saved_state_goes_on():
    losses = []
    for wanted in (False, True):
        model, optimizer = built()
        optimizer.sparse_gradients(wanted)
        losses.append(train(model, optimizer, 4))
        assert any(table.sparse_gradient for table in model.modules() if isinstance(table, Table)) == wanted
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    model, optimizer = built()
    train(model, optimizer, 2)
    again, fresh = built()
    again.load_state_dict(model.state_dict())
    fresh.load_tensors(optimizer.tensors())
    assert train(again, fresh, 2, start=2) == train(model, optimizer, 2, start=2)


def test_sparse_gradients_are_refused_where_they_would_not_serve():
    model, optimizer = built(state_dtype="bf16")
    optimizer.sparse_gradients(True)
    assert not any(table.sparse_gradient for table in model.modules() if isinstance(table, Table))
    with pytest.raises(ConfigError, match="ngram_lr is 0"):
        OptimizerConfig(ngram_lr=0.0)
