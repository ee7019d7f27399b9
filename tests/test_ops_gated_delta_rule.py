"""The chunked gated delta rule and fla's kernel against the naive form."""

import ops_parts as parts
import pytest
import torch

from wren.ops.gated_delta_rule import (
    chunked_gated_delta_rule,
    gated_delta_rule,
    kernel_fits,
    kernel_gated_delta_rule,
    naive_gated_delta_rule,
)
from wren.ops.norm import l2_normalised

RULES = (chunked_gated_delta_rule, naive_gated_delta_rule)


def _inputs(
    length: int, *, decay: float = 1.0, dtype: torch.dtype = torch.float64, dim: int = 8, value_dim: int = 6
) -> parts.Inputs:
    """beta lies in (0, 2)."""
    generator = parts.drawn(length)
    q, k = (l2_normalised(parts.normal(generator, 2, length, 2, dim)) for _ in range(2))
    log_decay = -decay * torch.rand(2, length, 2, generator=generator, dtype=torch.float64)
    given = {
        "q_BTHK": q,
        "k_BNHK": k,
        "v_BNHV": parts.normal(generator, 2, length, 2, value_dim),
        "log_decay_BTH": log_decay,
        "beta_BNH": 2 * torch.rand(2, length, 2, generator=generator, dtype=torch.float64),
        "memory_BHKV": parts.normal(generator, 2, 2, dim, value_dim),
    }
    return parts.leaves(given, dtype)


@pytest.mark.parametrize("length", parts.LENGTHS)
@pytest.mark.parametrize("chunk_size", [16, 64])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("decay", [0.1, 100.0])
def test_chunked_is_naive(length: int, chunk_size: int, packed: bool, decay: float):
    """With a decay of 100 a chunk's total passes exp's range in fp64: differences may never be taken by quotients."""
    parts.check_same(*RULES, _inputs(length, decay=decay), packed=packed, chunk_size=chunk_size)


@pytest.mark.parametrize("decay", [0.01, 1.0, 100.0])
def test_fp32_stays_near_fp64_over_a_long_row(decay: float):
    """Values and gradients over 1000 tokens."""
    parts.check_fp32_is_near(chunked_gated_delta_rule, _inputs(1000, decay=decay))


def test_a_key_that_is_written_again_is_overwritten():
    """With beta 1 and no decay the memory is a table: a key answers with the last value that it was given."""
    keys = torch.eye(4, dtype=torch.float64)[[0, 1, 0, 0, 1]].view(1, 5, 1, 4)
    values = torch.arange(5, dtype=torch.float64).view(1, 5, 1, 1) + 1
    nothing, one = torch.zeros(1, 5, 1, dtype=torch.float64), torch.ones(1, 5, 1, dtype=torch.float64)
    for rule in RULES:
        _, memory = rule(keys, keys, values, nothing, one)
        assert memory[0, 0, :, 0].tolist() == [4.0, 5.0, 0.0, 0.0]


def test_tokens_without_decay_and_beta_change_nothing():
    parts.check_idle_tokens(RULES, _inputs(70), "log_decay_BTH", "beta_BNH")


def test_operations_grow_by_the_chunk_and_not_by_the_token():
    parts.check_operations(*RULES, _inputs, inside=(32, 64))


def test_kept_memory_grows_linearly():
    parts.check_kept_memory(chunked_gated_delta_rule, _inputs)


def test_runs_in_fp32_under_autocast():
    parts.check_autocast(gated_delta_rule, lambda length: _inputs(length, dtype=torch.float32))


def test_the_kernel_is_for_half_precision_on_a_gpu():
    v = torch.zeros(1, 4, 1, 8)
    assert not kernel_fits(v, None, None)
    assert not kernel_fits(v.bfloat16(), None, None)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", [*parts.LENGTHS, 500])
def test_kernel_is_naive(length: int, packed: bool):
    """Values and gradients of fla's kernel in bf16 against the truth in fp32."""
    given = _inputs(length, dtype=torch.float32, dim=32, value_dim=64)
    rules = (kernel_gated_delta_rule, naive_gated_delta_rule)
    parts.check_kernel(*rules, kernel_fits, given, "log_decay_BTH", "beta_BNH", packed=packed)
