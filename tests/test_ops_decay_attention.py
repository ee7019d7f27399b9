"""Chunked linear attention with a decay for each head, and fla's kernel, against the naive form."""

import ops_parts as parts
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from wren.ops.decay_attention import (
    chunked_decay_attention,
    chunked_flops_per_token,
    decay_attention,
    kernel_decay_attention,
    kernel_fits,
    naive_decay_attention,
)

RULES = (chunked_decay_attention, naive_decay_attention)


def _inputs(
    length: int,
    *,
    groups: int = 2,
    heads: int = 4,
    decay: float | None = 1.0,
    rows: int = 2,
    dtype: torch.dtype = torch.float64,
    dim: int = 8,
    value_dim: int = 6,
) -> parts.Inputs:
    """rows: batch of the decays; decay None = none."""
    generator = parts.drawn(length)
    given = {
        "q_BTGK": parts.normal(generator, 2, length, groups, dim),
        "k_BTGK": parts.normal(generator, 2, length, groups, dim),
        "v_BTHV": parts.normal(generator, 2, length, heads, value_dim),
        "memory_BHKV": parts.normal(generator, 2, heads, dim, value_dim),
        "log_decay_BTH": None,
    }
    if decay is not None:
        given["log_decay_BTH"] = -decay * torch.rand(rows, length, heads, generator=generator, dtype=torch.float64) ** 3
    return parts.leaves(given, dtype)


@pytest.mark.parametrize("length", parts.LENGTHS)
@pytest.mark.parametrize("chunk_size", [16, 64])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("decay", "rows"), [(None, 2), (0.1, 2), (100.0, 2), (1.0, 1)])
def test_chunked_is_naive(length: int, chunk_size: int, packed: bool, decay: float | None, rows: int):
    """With a decay of 100 a chunk's total passes exp's range in fp64: differences may never be taken by quotients."""
    inputs = _inputs(length, decay=decay, rows=rows)
    parts.check_same(*RULES, inputs, packed=packed, chunk_size=chunk_size)


@pytest.mark.parametrize(("groups", "heads"), [(1, 1), (1, 3), (3, 3)])
def test_heads_share_the_keys_of_their_group(groups: int, heads: int):
    inputs = _inputs(70, groups=groups, heads=heads)
    parts.check_same(*RULES, inputs)
    apart = dict(inputs)
    for name in ("q_BTGK", "k_BTGK"):
        apart[name] = inputs[name].repeat_interleave(heads // groups, dim=2)
    torch.testing.assert_close(naive_decay_attention(**apart), naive_decay_attention(**inputs))


def test_without_decay_it_is_masked_attention_without_softmax():
    inputs = _inputs(70, groups=4, decay=None)
    q, k, v = (inputs[name].transpose(1, 2) for name in ("q_BTGK", "k_BTGK", "v_BTHV"))
    expected = ((q @ k.mT).tril() @ v).transpose(1, 2)
    inputs["memory_BHKV"] = None
    for rule in RULES:
        torch.testing.assert_close(rule(**inputs)[0], expected)


@pytest.mark.parametrize("decay", [0.01, 1.0, 100.0])
def test_fp32_stays_near_fp64_over_a_long_row(decay: float):
    """Values and gradients over 1000 tokens."""
    parts.check_fp32_is_near(chunked_decay_attention, _inputs(1000, decay=decay))


def test_tokens_without_decay_and_value_change_nothing():
    parts.check_idle_tokens(RULES, _inputs(70), "log_decay_BTH", "v_BTHV")


def test_operations_grow_by_the_chunk_and_not_by_the_token():
    parts.check_operations(*RULES, _inputs, inside=(32, 64))


def test_kept_memory_grows_linearly():
    parts.check_kept_memory(chunked_decay_attention, _inputs)


@pytest.mark.parametrize("length", [10, 64, 130])
def test_the_count_of_operations_is_right(length: int):
    inputs = _inputs(length)
    with FlopCounterMode(display=False) as counter:
        chunked_decay_attention(**inputs, chunk_size=32)
    batch = 2
    claimed = batch * length * chunked_flops_per_token(length, 32, 2, 4, 8, 6)
    assert claimed == pytest.approx(counter.get_total_flops())


def test_runs_in_fp32_under_autocast():
    parts.check_autocast(decay_attention, lambda length: _inputs(length, dtype=torch.float32))


def test_the_kernel_is_for_half_precision_on_a_gpu():
    v = torch.zeros(1, 4, 1, 8)
    assert not kernel_fits(v, None, None)
    assert not kernel_fits(v.bfloat16(), None, None)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("decay", [None, 1.0])
@pytest.mark.parametrize("length", [*parts.LENGTHS, 500])
def test_kernel_is_naive(length: int, decay: float | None, packed: bool):
    """Values and gradients of fla's kernel in bf16 against the truth in fp32."""
    given = _inputs(length, decay=decay, dtype=torch.float32, dim=32, value_dim=64)
    parts.check_kernel(
        kernel_decay_attention, naive_decay_attention, kernel_fits, given, "log_decay_BTH", packed=packed
    )
