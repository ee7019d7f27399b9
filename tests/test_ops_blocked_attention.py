"""Attention in blocks against the naive form: values and gradients, windows, groups, documents, odd lengths."""

import itertools

import pytest
import torch
from torch import Tensor

from wren.ops.attention import blocked, naive_attention
from wren.ops.attention.blocked import blocked_attention
from wren.ops.attention.fused import causal_attention


def made(T: int, heads: tuple[int, int], dtype: torch.dtype, head_dim: int = 8, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    wide = (heads[0], heads[1], heads[1])
    return [torch.randn(2, T, h, head_dim, generator=generator, dtype=dtype).requires_grad_() for h in wide]


def documents(T: int) -> Tensor:
    return torch.stack((torch.arange(T) // 37, (torch.arange(T) >= T // 2).long()))


@pytest.mark.parametrize("T", [1, 2, 63, 64, 65, 130, 300])
@pytest.mark.parametrize("window", [None, 1, 5, 64, 100])
@pytest.mark.parametrize(("heads", "packed"), [((2, 2), False), ((4, 2), True), ((3, 1), False)])
def test_blocks_equal_the_naive_form_in_values_and_gradients(T, window, heads, packed):
    inputs = made(T, heads, torch.float64)
    documents_BT = documents(T) if packed else None
    upstream = torch.randn(2, T, heads[0], 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, wanted = (
        form(*inputs, documents_BT=documents_BT, window=window) for form in (blocked_attention, naive_attention)
    )
    torch.testing.assert_close(found, wanted)
    pairs = zip(*(torch.autograd.grad(o, inputs, upstream) for o in (found, wanted)), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs)


def test_rows_of_one_document_need_no_mask():
    inputs = made(65, (2, 2), torch.float64)
    alone_BT = torch.tensor([3, 4])[:, None].expand(2, 65)
    assert torch.equal(blocked_attention(*inputs, documents_BT=alone_BT), blocked_attention(*inputs))


@pytest.mark.parametrize(("T", "window"), [(100, None), (300, 128), (700, 64)])
def test_bf16_is_about_as_close_to_the_truth_as_the_fused_form(monkeypatch, T, window):
    inputs = made(T, (4, 2), torch.float32, head_dim=64)
    upstream = torch.randn(2, T, 4, 64, generator=torch.Generator().manual_seed(1))
    truth = naive_attention(*inputs, window=window)
    wanted = (truth, *torch.autograd.grad(truth, inputs, upstream))
    errors = []
    for on in (True, False):
        monkeypatch.setattr("wren.ops.attention.fused.serves", lambda *args, on=on: on)
        narrow = [x.detach().bfloat16().requires_grad_() for x in inputs]
        o = causal_attention(*narrow, window=window)
        found = (o, *torch.autograd.grad(o, narrow, upstream.bfloat16()))
        errors.append([float((a - b).detach().square().mean().sqrt()) for a, b in zip(found, wanted, strict=True)])
    for mine, theirs in zip(*errors, strict=True):
        assert mine < 2 * theirs


def test_where_it_serves():
    q = torch.zeros(1, 512, 1, 8, dtype=torch.bfloat16)
    assert blocked.serves(q, None, 0.0)
    assert not blocked.serves(q, None, 0.1)
    assert not blocked.serves(q.float(), None, 0.0)
    longer = torch.zeros(1, 513, 1, 8, dtype=torch.bfloat16)
    assert not blocked.serves(longer, None, 0.0)
    assert blocked.serves(longer, 256, 0.0)
    assert not blocked.serves(longer, 257, 0.0)


def test_blocks_cover_the_row_once_without_a_small_rest():
    for T, window in itertools.product([1, 64, 65, 257, 700], [None, 1, 100, 256]):
        blocks = blocked._blocks(T, window)
        assert [t for block in blocks for t in range(block.start, block.end)] == list(range(T))
        sizes = [block.end - block.start for block in blocks]
        assert max(sizes) - min(sizes) <= len(sizes)
