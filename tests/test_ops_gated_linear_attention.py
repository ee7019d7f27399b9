"""Chunked gated linear attention and fla's kernel against the naive form."""

import ops_parts as parts
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from wren.ops.gated_linear_attention import (
    chunked_flops_per_token,
    chunked_gated_linear_attention,
    gated_linear_attention,
    kernel_fits,
    kernel_gated_linear_attention,
    naive_gated_linear_attention,
)
from wren.ops.gated_linear_attention.pairs import ChannelDecay

RULES = (chunked_gated_linear_attention, naive_gated_linear_attention)


def _inputs(
    length: int, *, decay: float = 1.0, dtype: torch.dtype = torch.float64, dim: int = 8, value_dim: int = 6
) -> parts.Inputs:
    """Some channels decay hardly at all and some by `decay` a step."""
    generator = parts.drawn(length)
    given = {
        "q_BTHK": parts.normal(generator, 2, length, 2, dim),
        "k_BTHK": parts.normal(generator, 2, length, 2, dim),
        "v_BTHV": parts.normal(generator, 2, length, 2, value_dim),
        "log_decay_BTHK": -decay * torch.rand(2, length, 2, dim, generator=generator, dtype=torch.float64) ** 3,
        "memory_BHKV": parts.normal(generator, 2, 2, dim, value_dim),
    }
    return parts.leaves(given, dtype)


@pytest.mark.parametrize("length", parts.LENGTHS)
@pytest.mark.parametrize("chunk_size", [2, 16, 64])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("decay", [0.1, 100.0])
def test_chunked_is_naive(length: int, chunk_size: int, packed: bool, decay: float):
    """With a decay of 100 a chunk's total passes exp's range in fp64, in some channels and not in others."""
    parts.check_same(*RULES, _inputs(length, decay=decay), packed=packed, chunk_size=chunk_size)


@pytest.mark.parametrize("chunk_len", [2, 16])
def test_the_gradient_of_decayed_pairs_is_their_slope(chunk_len: int):
    generator = torch.Generator().manual_seed(0)
    q, k, decay = (torch.randn(2, chunk_len, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    given = [x.requires_grad_() for x in (q, k, -decay.square())]
    assert torch.autograd.gradcheck(ChannelDecay.apply, given)


def test_many_chunks_are_worked_on_in_groups_that_change_nothing():
    """More chunks than the cache is taken to hold, and the same chunks a few at a time."""
    generator = torch.Generator().manual_seed(0)
    q, k, decay = (torch.randn(150, 32, 64, generator=generator) for _ in range(3))
    given = [q, k, -decay.square()]

    def values_and_gradients(piece: slice) -> list[Tensor]:
        inputs = [x[piece].clone().requires_grad_() for x in given]
        results = ChannelDecay.apply(*inputs)
        return [*results, *torch.autograd.grad([x.square().sum() for x in results], inputs)]

    whole = values_and_gradients(slice(150))
    pieces = [values_and_gradients(slice(i, i + 20)) for i in range(0, 150, 20)]
    for found, expected in zip(whole, zip(*pieces, strict=True), strict=True):
        torch.testing.assert_close(found, torch.cat(expected))


@pytest.mark.parametrize("decay", [0.01, 1.0, 100.0])
def test_fp32_stays_near_fp64_over_a_long_row(decay: float):
    """Values and gradients over 1000 tokens."""
    parts.check_fp32_is_near(chunked_gated_linear_attention, _inputs(1000, decay=decay))


def test_a_channel_that_forgets_at_once_leaves_the_others_alone():
    """In fp32, with log decays of -1e4 in one channel: what it held is gone, nothing overflows."""
    inputs = {name: x.detach() for name, x in _inputs(130, decay=0.1, dtype=torch.float32).items()}
    inputs["log_decay_BTHK"][..., 0] = -1e4
    expected = naive_gated_linear_attention(**{name: x.double() for name, x in inputs.items()})
    for ours, truth in zip(chunked_gated_linear_attention(**inputs), expected, strict=True):
        torch.testing.assert_close(ours.double(), truth, atol=1e-4, rtol=1e-4)


def test_tokens_without_decay_and_key_change_nothing():
    parts.check_idle_tokens(RULES, _inputs(70), "log_decay_BTHK", "k_BTHK")


def test_operations_grow_by_the_chunk_and_not_by_the_token():
    parts.check_operations(*RULES, _inputs, inside=(33, 63))  # both padded to 64


def test_kept_memory_grows_linearly():
    parts.check_kept_memory(chunked_gated_linear_attention, _inputs)


@pytest.mark.parametrize("length", [10, 64, 130])
def test_the_count_of_operations_is_right(length: int):
    inputs = _inputs(length)
    with FlopCounterMode(display=False) as counter:
        chunked_gated_linear_attention(**inputs, chunk_size=32)
    batch, heads = 2, 2
    claimed = batch * heads * length * chunked_flops_per_token(length, 32, 8, 6)
    assert claimed == pytest.approx(counter.get_total_flops())


def test_runs_in_fp32_under_autocast():
    parts.check_autocast(gated_linear_attention, lambda length: _inputs(length, dtype=torch.float32))


def test_the_kernel_is_for_half_precision_on_a_gpu():
    v = torch.zeros(1, 4, 1, 8)
    assert not kernel_fits(v, None, None)
    assert not kernel_fits(v.bfloat16(), None, None)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", [*parts.LENGTHS, 500])
def test_kernel_is_naive(length: int, packed: bool):
    """Values and gradients of fla's kernel in bf16 against the truth in fp32."""
    given = _inputs(length, dtype=torch.float32, dim=32, value_dim=64)
    rules = (kernel_gated_linear_attention, naive_gated_linear_attention)
    parts.check_kernel(*rules, kernel_fits, given, "log_decay_BTHK", packed=packed)
