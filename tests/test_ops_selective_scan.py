"""The chunked selective scan against the naive form."""

import itertools

import costs
import ops_parts as parts
import pytest
import torch
from torch import Tensor

from wren.ops.selective_scan import chunked_selective_scan, naive_selective_scan


def _inputs(length: int, *, decay: float = 1.0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """x, dt, A, b, c and a first memory: 5 channels of 3 states."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    dt = torch.rand(2, length, 5, generator=generator, dtype=torch.float64)
    A = -decay * (0.1 + torch.rand(3, 5, generator=generator, dtype=torch.float64))
    given = [normal(2, length, 5), dt, A, normal(2, length, 3), normal(2, length, 3), normal(2, 3, 5)]
    return [x.to(dtype).requires_grad_() for x in given]


def _values_and_gradients(scan, inputs: list[Tensor], documents_BT: Tensor | None, **settings) -> list[Tensor]:
    y, memory = scan(*inputs[:5], memory_BNE=inputs[5], documents_BT=documents_BT, **settings)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).cos().view_as(y)
    return [y, memory, *torch.autograd.grad((y * weights).sum() + memory.square().sum(), inputs)]


@pytest.mark.parametrize("length", parts.LENGTHS)
@pytest.mark.parametrize("chunk_size", [1, 16, 50, 64])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("decay", [0.01, 1.0, 100.0])
def test_chunked_is_naive(length: int, chunk_size: int, packed: bool, decay: float):
    """With a decay of 100 a chunk's total passes exp's range in fp64: nothing may be divided by a decay."""
    inputs = _inputs(length, decay=decay)
    documents_BT = parts.documents(length) if packed else None
    expected = _values_and_gradients(naive_selective_scan, inputs, documents_BT)
    found = _values_and_gradients(chunked_selective_scan, inputs, documents_BT, chunk_size=chunk_size)
    for ours, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, truth, atol=1e-10, rtol=1e-10)


def test_gradients_are_those_of_finite_differences():
    inputs = _inputs(11)
    documents_BT = torch.tensor([[0] * 5 + [1] * 6, [0] * 11])

    def scan(x: Tensor, dt: Tensor, A: Tensor, b: Tensor, c: Tensor, memory: Tensor) -> tuple[Tensor, ...]:
        return chunked_selective_scan(x, dt, A, b, c, memory_BNE=memory, documents_BT=documents_BT, chunk_size=9)

    assert torch.autograd.gradcheck(scan, inputs)


def test_no_gradient_crosses_into_another_document():
    inputs = _inputs(40)
    documents_BT = (torch.arange(40) >= 13).long().expand(2, -1)
    y, _ = chunked_selective_scan(*inputs[:5], memory_BNE=inputs[5], documents_BT=documents_BT, chunk_size=16)
    grads = torch.autograd.grad(y[:, 13:].square().sum(), inputs)
    assert all(grads[i][:, :13].abs().max() == 0 for i in (0, 1, 3, 4))
    assert grads[5].abs().max() == 0
    assert all(grads[i][:, 13:].abs().max() > 0 for i in (0, 1, 3, 4))


@pytest.mark.parametrize("decay", [1e-3, 1.0, 1e3])
def test_fp32_stays_near_fp64_over_a_long_row(decay: float):
    inputs = _inputs(1000, decay=decay)
    exact = _values_and_gradients(naive_selective_scan, inputs, None)
    rough = _values_and_gradients(chunked_selective_scan, [x.detach().float().requires_grad_() for x in inputs], None)
    for found, truth in zip(rough, exact, strict=True):
        assert found.isfinite().all()
        # what has decayed below fp32's range may be lost
        assert (found.double() - truth).norm() <= 1e-4 * truth.norm() + 1e-30


def test_without_decay_the_memory_is_a_running_sum():
    x = torch.arange(1.0, 21).double().view(1, 20, 1)
    one, nothing = torch.ones(1, 20, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    for scan in (naive_selective_scan, chunked_selective_scan):
        y, memory = scan(x, one, nothing, one, one)
        assert y.flatten().tolist() == x.flatten().cumsum(0).tolist()
        assert memory.item() == 210


def test_tokens_of_no_time_change_nothing():
    inputs = [x.detach() for x in _inputs(70)]
    inputs[1][:, 40:] = 0
    for scan in (naive_selective_scan, chunked_selective_scan):
        _, memory = scan(*inputs[:5], memory_BNE=inputs[5])
        cut = [x if i == 2 else x[:, :40] for i, x in enumerate(inputs[:5])]
        torch.testing.assert_close(memory, scan(*cut, memory_BNE=inputs[5])[1])


def test_inputs_are_left_as_they_were():
    inputs = _inputs(70)
    before = [x.detach().clone() for x in inputs]
    _values_and_gradients(chunked_selective_scan, inputs, parts.documents(70))
    assert all(torch.equal(x, kept) for x, kept in zip(inputs, before, strict=True))


def _operations(scan, length: int, **settings) -> int:
    inputs = _inputs(length)
    with costs.Watch() as count:
        y, memory = scan(*inputs[:5], **settings)
        (y.sum() + memory.sum()).backward()
    return count.operations


def test_operations_grow_by_the_chunk_and_not_by_the_token():
    """Forward and backward: as many more for each chunk more, and with larger chunks ever fewer a token."""
    at = {length: _operations(chunked_selective_scan, length, chunk_size=64) for length in (256, 512, 1024)}
    per_chunk = (at[512] - at[256]) / 4
    assert (at[1024] - at[512]) / 8 == pytest.approx(per_chunk, rel=0.05)
    sizes = (64, 256, 1024, 4096)
    a_token = [_operations(chunked_selective_scan, 4096, chunk_size=size) / 4096 for size in sizes]
    assert all(large < 0.6 * small for small, large in itertools.pairwise(a_token)), a_token
    assert a_token[2] < 1
    assert _operations(naive_selective_scan, 64) > 64 * 10, "the count does not see a loop over tokens"


def test_kept_memory_grows_linearly_and_holds_no_states():
    def kept(length: int, scan) -> int:
        generator = torch.Generator().manual_seed(0)
        shapes = ((1, length, 8), (1, length, 8), (64, 8), (1, length, 64), (1, length, 64))
        x, dt, A, b, c = (torch.rand(shape, generator=generator).requires_grad_() for shape in shapes)
        return costs.kept_bytes(lambda: scan(x, dt, -A, b, c))

    assert kept(1024, chunked_selective_scan) < 2.1 * kept(512, chunked_selective_scan)
    all_states = 1024 * 8 * 64 * 4
    assert kept(1024, chunked_selective_scan) < 0.6 * all_states
    assert kept(1024, naive_selective_scan) > all_states


def test_runs_in_fp32_under_autocast():
    inputs = _inputs(70, dtype=torch.float32)
    for scan in (chunked_selective_scan, naive_selective_scan):
        expected, _ = scan(*inputs[:5])
        expected_grads = torch.autograd.grad(expected.square().sum(), inputs[:5])
        with torch.autocast("cpu", torch.bfloat16):
            found, memory = scan(*inputs[:5])
            found_grads = torch.autograd.grad(found.square().sum(), inputs[:5])
        assert memory.dtype == torch.float32
        assert torch.equal(found, expected)
        assert scan is naive_selective_scan or all(map(torch.equal, found_grads, expected_grads))
    assert chunked_selective_scan(*(x.bfloat16() for x in inputs[:5]))[0].dtype == torch.float32
