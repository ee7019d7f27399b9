"""Block sparse attention in tiles and over a cache against the naive form."""

import costs
import ops_parts as parts
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from wren.ops.attention import naive_attention
from wren.ops.block_sparse_attention import (
    cached_block_sparse_attention,
    chunked_block_sparse_attention,
    naive_block_sparse_attention,
)

SIZES = [(1, 1), (4, 2), (16, 3), (64, 1), (200, 4)]  # block_size, top_k


def _inputs(length: int, *, dtype: torch.dtype = torch.float64, batch: int = 2, dim: int = 6) -> list[Tensor]:
    """q, k, v with 4 query and 2 key heads."""
    generator = torch.Generator().manual_seed(length)
    shapes = [(batch, length, 4, dim), (batch, length, 2, dim), (batch, length, 2, dim)]
    given = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [x.to(dtype).requires_grad_() for x in given]


@pytest.mark.parametrize("length", parts.LENGTHS)
@pytest.mark.parametrize(("block_size", "top_k"), SIZES)
@pytest.mark.parametrize("packed", [False, True])
def test_chunked_is_naive(length: int, block_size: int, top_k: int, packed: bool):
    inputs = _inputs(length)
    settings = {"block_size": block_size, "top_k": top_k, "documents_BT": parts.documents(length) if packed else None}
    expected = parts.output_and_gradients(naive_block_sparse_attention, inputs, **settings)
    found = parts.output_and_gradients(chunked_block_sparse_attention, inputs, **settings)
    for ours, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, truth, atol=1e-9, rtol=1e-8)


def test_where_all_blocks_are_chosen_it_is_attention():
    inputs = _inputs(70)
    for rule in (naive_block_sparse_attention, chunked_block_sparse_attention):
        torch.testing.assert_close(rule(*inputs, block_size=8, top_k=8), naive_attention(*inputs))


def test_reads_its_own_block_and_those_that_answer_best():
    """One query asks for the first key's direction: it reads block 0, and of the others nothing."""
    k = torch.zeros(1, 16, 1, 4, dtype=torch.float64)
    k[:, :4, :, 0] = 1.0
    q, v = torch.zeros_like(k), torch.zeros_like(k)
    q[:, 13, :, 0] = 1000.0
    v[:, :, 0, 0] = torch.arange(16)
    for rule in (naive_block_sparse_attention, chunked_block_sparse_attention):
        o = rule(q, k, v, block_size=4, top_k=1)
        assert o[0, 13, 0, 0] == pytest.approx(1.5)  # the mean of 0 to 3
        assert o[0, 12, 0, 0] == pytest.approx((0 + 1 + 2 + 3 + 12) / 5)  # ties: block 0, the first; its own token


def test_ties_are_broken_alike_by_every_form():
    """Equal keys in every block: all blocks answer alike, and all forms read the first ones."""
    q, k, v = (x.detach() for x in _inputs(48))
    k = k[:, :1].expand_as(k)
    expected = naive_block_sparse_attention(q, k, v, block_size=8, top_k=2)
    torch.testing.assert_close(chunked_block_sparse_attention(q, k, v, block_size=8, top_k=2), expected)
    sums = k.unflatten(1, (6, 8)).sum(2)
    sums = sums[:, :1].expand_as(sums)
    places_BT = torch.arange(30, 48).expand(2, -1)
    found = cached_block_sparse_attention(q[:, 30:], k, v, sums, places_BT, block_size=8, top_k=2)
    torch.testing.assert_close(found, expected[:, 30:])


@pytest.mark.parametrize(("block_size", "top_k"), SIZES)
def test_cached_queries_read_as_in_the_whole_row(block_size: int, top_k: int):
    """In pieces, past slots that hold garbage, with a last block that is cut off; values and gradients."""
    inputs = _inputs(80)
    q, k, v = inputs
    expected = naive_block_sparse_attention(*inputs, block_size=block_size, top_k=top_k)[:, 50:]
    garbage = torch.full_like(k[:, :5], 1e3)
    keys, values = (torch.cat((x, garbage), dim=1) for x in (k, v))
    blocks = -(-80 // block_size)
    padded = torch.nn.functional.pad(k.detach(), (0, 0, 0, 0, 0, blocks * block_size - 80))
    sums = padded.unflatten(1, (blocks, block_size)).sum(2)
    sums = torch.cat((sums, torch.full_like(sums, 1e3)), dim=1)
    places_BT = torch.arange(50, 80).expand(2, -1)
    sizes = {"block_size": block_size, "top_k": top_k}
    found = cached_block_sparse_attention(q[:, 50:], keys, values, sums, places_BT, **sizes, piece=7)
    torch.testing.assert_close(found, expected)
    grads = [torch.autograd.grad(o.square().sum(), inputs, retain_graph=True) for o in (found, expected)]
    for ours, truth in zip(*grads, strict=True):
        torch.testing.assert_close(ours, truth)


def test_huge_scores_stay_finite():
    q, k, v = (x.detach().float() for x in _inputs(130))
    inputs = [x.requires_grad_() for x in (1e4 * q, k, v)]
    for found in parts.output_and_gradients(chunked_block_sparse_attention, inputs, block_size=16, top_k=3):
        assert found.isfinite().all()


def _kept(rule, length: int) -> int:
    inputs = _inputs(length)
    return costs.kept_bytes(lambda: rule(*inputs, block_size=16, top_k=2))


def test_kept_memory_grows_linearly():
    assert _kept(chunked_block_sparse_attention, 1024) < 2.1 * _kept(chunked_block_sparse_attention, 512)
    assert _kept(naive_block_sparse_attention, 512) > 3 * _kept(naive_block_sparse_attention, 256)


def _watched(length: int) -> costs.Watch:
    with costs.Watch() as watch:
        chunked_block_sparse_attention(*_inputs(length), block_size=16, top_k=2).sum().backward()
    return watch


def test_no_tensor_grows_as_the_square_of_the_length():
    assert _watched(4096).largest < 2.1 * _watched(2048).largest


def test_operations_do_not_grow_with_the_length():
    assert _watched(256).operations == _watched(512).operations < 400


def test_work_grows_linearly_but_for_the_choice():
    def flops(length: int) -> int:
        inputs = [x.detach() for x in _inputs(length)]
        with FlopCounterMode(display=False) as counter:
            chunked_block_sparse_attention(*inputs, block_size=16, top_k=2)
        choice = 2 * 2 * 4 * 6 * length * (length // 16)  # 2 rows, 4 heads, width 6
        return counter.get_total_flops() - choice

    assert flops(2048) < 2.1 * flops(1024)
    pairs = 2 * 4 * 1024 * 3 * 16  # rows, heads, tokens, blocks, block_size
    assert flops(1024) < 1.8 * 4 * 6 * pairs  # tiles that are not full, and the joining


@pytest.mark.parametrize("length", [1, 65])
def test_autocast_changes_nothing_for_fp32(length: int):
    inputs = _inputs(length, dtype=torch.float32)
    outputs = [chunked_block_sparse_attention(*inputs, block_size=16, top_k=2)]
    with torch.autocast("cpu", torch.bfloat16):
        outputs.append(chunked_block_sparse_attention(*inputs, block_size=16, top_k=2))
    assert torch.equal(*outputs)
    for pair in zip(*(torch.autograd.grad(o.square().sum(), inputs) for o in outputs), strict=True):
        assert torch.equal(*pair)
