"""The chunked generalised delta rule and fla's kernels against the naive form."""

from typing import Any

import ops_parts as parts
import pytest
import torch
from torch import Tensor

from wren.ops.generalised_delta_rule import (
    chunked_flops_per_token,
    chunked_generalised_delta_rule,
    kernel_fits,
    kernel_generalised_delta_rule,
    kernel_kimi_delta_rule,
    naive_generalised_delta_rule,
)
from wren.ops.generalised_delta_rule.pairs import DecayedPairs
from wren.ops.norm import l2_normalised

RULES = (chunked_generalised_delta_rule, naive_generalised_delta_rule)


def _inputs(
    length: int,
    *,
    erases: bool,
    decay: float = 1.0,
    dtype: torch.dtype = torch.float64,
    dim: int = 8,
    value_dim: int = 6,
) -> parts.Inputs:
    """Some channels decay hardly at all and some by `decay` a step; with `erases` k and what is erased differ."""
    generator = parts.drawn(length)
    q, k, read = (l2_normalised(parts.normal(generator, 2, length, 2, dim)) for _ in range(3))
    beta = 2 * torch.rand(2, length, 2, 1, generator=generator, dtype=torch.float64)
    given = {
        "q_BTHK": q,
        "k_BTHK": k if erases else beta * read,
        "v_BTHV": parts.normal(generator, 2, length, 2, value_dim),
        "log_decay_BTHK": -decay * torch.rand(2, length, 2, dim, generator=generator, dtype=torch.float64) ** 3,
        "read_BTHK": read,
        "memory_BHKV": parts.normal(generator, 2, 2, dim, value_dim),
    }
    if erases:
        given["erase_BTHK"] = beta * read
    return parts.leaves(given, dtype)


@pytest.mark.parametrize("length", parts.LENGTHS)
@pytest.mark.parametrize("chunk_size", [16, 64])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("decay", [0.1, 100.0])
@pytest.mark.parametrize("erases", [False, True])
def test_chunked_is_naive(length: int, chunk_size: int, packed: bool, decay: float, erases: bool):
    """With a decay of 100 a chunk's total passes exp's range in fp64, in some channels and not in others."""
    inputs = _inputs(length, decay=decay, erases=erases)
    parts.check_same(*RULES, inputs, packed=packed, chunk_size=chunk_size)


@pytest.mark.parametrize("kinds", [1, 2])
def test_the_gradient_of_decayed_pairs_is_their_slope(kinds: int):
    generator = torch.Generator().manual_seed(0)
    rows, keys = (torch.randn(2, n, 8, 3, generator=generator, dtype=torch.float64) for n in (2, kinds))
    log_decay = -torch.rand(2, 8, 3, generator=generator, dtype=torch.float64)
    given = [x.requires_grad_() for x in (rows, keys, log_decay)]
    assert torch.autograd.gradcheck(DecayedPairs.apply, given)


def test_many_chunks_are_worked_on_in_groups_that_change_nothing():
    """More chunks than the cache is taken to hold, and the same chunks a few at a time."""
    generator = torch.Generator().manual_seed(0)
    rows, keys = (torch.randn(100, n, 64, 64, generator=generator) for n in (2, 1))
    given = [rows, keys, -torch.rand(100, 64, 64, generator=generator)]

    def values_and_gradients(piece: slice) -> list[Tensor]:
        inputs = [x[piece].clone().requires_grad_() for x in given]
        results = DecayedPairs.apply(*inputs)
        return [*results, *torch.autograd.grad([x.square().sum() for x in results], inputs)]

    whole, pieces = (
        values_and_gradients(slice(100)),
        [values_and_gradients(slice(i, i + 30)) for i in range(0, 100, 30)],
    )
    for found, expected in zip(whole, zip(*pieces, strict=True), strict=True):
        torch.testing.assert_close(found, torch.cat(expected))


@pytest.mark.parametrize("decay", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("erases", [False, True])
def test_fp32_stays_near_fp64_over_a_long_row(decay: float, erases: bool):
    """Values and gradients over 1000 tokens."""
    parts.check_fp32_is_near(chunked_generalised_delta_rule, _inputs(1000, decay=decay, erases=erases))


def test_channels_forget_each_at_its_own_rate():
    """A memory that is only read: after n tokens channel i has kept exp(n log_decay_i) of it."""
    log_decay = torch.tensor([0.0, -0.5, -30.0], dtype=torch.float64)
    nothing = torch.zeros(1, 20, 1, 3, dtype=torch.float64)
    memory = torch.ones(1, 1, 3, 2, dtype=torch.float64)
    for rule in RULES:
        _, last = rule(nothing, nothing, nothing[..., :2], log_decay.expand(1, 20, 1, 3), nothing, memory_BHKV=memory)
        torch.testing.assert_close(last[0, 0, :, 1], (20 * log_decay).exp(), atol=0, rtol=1e-12)


def test_a_key_that_is_written_again_is_overwritten():
    """Without decay, reading along what is written, the memory is a table: a key answers with its last value."""
    keys = torch.eye(4, dtype=torch.float64)[[0, 1, 0, 0, 1]].view(1, 5, 1, 4)
    values = torch.arange(5, dtype=torch.float64).view(1, 5, 1, 1) + 1
    for rule in RULES:
        for erase in (None, keys):
            _, memory = rule(keys, keys, values, torch.zeros_like(keys), keys, erase_BTHK=erase)
            assert memory[0, 0, :, 0].tolist() == [4.0, 5.0, 0.0, 0.0]


@pytest.mark.parametrize("erases", [False, True])
def test_tokens_that_decay_write_and_erase_nothing_change_nothing(erases: bool):
    inputs = _inputs(70, erases=erases)
    idle = [name for name in ("k_BTHK", "log_decay_BTHK", "erase_BTHK") if name in inputs]
    parts.check_idle_tokens(RULES, inputs, *idle)


def _operations(rule: parts.Rule, length: int, **settings: int) -> int:
    return parts.operations(rule, _inputs(length, erases=True), **settings)


def test_operations_grow_by_the_chunk_and_not_by_the_token():
    """Forward and backward: as many more operations for each chunk more, and far fewer than one a token."""
    at = {length: _operations(chunked_generalised_delta_rule, length, chunk_size=64) for length in (256, 512, 1024)}
    per_chunk = (at[512] - at[256]) / 4
    assert (at[1024] - at[512]) / 8 == pytest.approx(per_chunk, rel=0.05)
    wide = _operations(chunked_generalised_delta_rule, 4096, chunk_size=256) / 4096
    assert wide < 1, f"{wide} operations a token with chunks of 256"
    inside = [_operations(chunked_generalised_delta_rule, length, chunk_size=length) for length in (32, 64, 128)]
    assert inside[2] - inside[1] == inside[1] - inside[0], "a chunk of twice the tokens costs more than one level more"
    assert _operations(naive_generalised_delta_rule, 64) > 64 * 10, "the count does not see a loop over tokens"


def test_kept_memory_grows_linearly():
    parts.check_kept_memory(chunked_generalised_delta_rule, lambda length: _inputs(length, erases=True))


@pytest.mark.parametrize("rule", RULES)
def test_runs_in_fp32_under_autocast(rule: parts.Rule):
    parts.check_autocast(rule, lambda length: _inputs(length, erases=True, dtype=torch.float32))


def test_decayed_pairs_go_backward_in_fp32_under_autocast():
    generator = torch.Generator().manual_seed(0)
    rows, keys = (torch.randn(2, 2, 32, 8, generator=generator, requires_grad=True) for _ in range(2))
    given = (rows, keys, (-torch.rand(2, 32, 8, generator=generator)).requires_grad_())
    gradients = []
    for enabled in (False, True):
        totals = [x.square().sum() for x in DecayedPairs.apply(*given)]
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            gradients.append(torch.autograd.grad(totals, given))
    for found, expected in zip(*gradients, strict=True):
        assert torch.equal(found, expected)


def test_padding_of_a_row_is_counted_in_its_operations():
    whole = chunked_flops_per_token(64, 16, 8, 6, erases=True)
    assert chunked_flops_per_token(65, 16, 8, 6, erases=True) == pytest.approx(whole * 80 / 65)
    assert chunked_flops_per_token(16, 64, 8, 6, erases=True) == whole  # a short row is one chunk of its own length


def test_the_kernels_are_for_half_precision_on_a_gpu():
    k, v = torch.zeros(1, 4, 1, 8), torch.zeros(1, 4, 1, 8)
    assert not kernel_fits(k, v, None, None)
    assert not kernel_fits(k, v.bfloat16(), None, None)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", [*parts.LENGTHS, 500])
@pytest.mark.parametrize("name", ["kimi", "general", "general-bounded"])
def test_kernel_is_naive(length: int, packed: bool, name: str):
    """Values and gradients of fla's kernels in bf16 against the truth in fp32."""
    if not torch.cuda.is_available():
        pytest.skip("fla's kernels need a CUDA GPU, and this machine has none")
    pytest.importorskip("fla", reason="flash-linear-attention is not installed")
    drawn = _inputs(length, erases=name != "kimi", decay=0.6, dtype=torch.float32, dim=64, value_dim=64)
    inputs = {name: x.detach().cuda().requires_grad_() for name, x in drawn.items() if name != "memory_BHKV"}
    documents_BT = parts.documents(length).cuda() if packed else None
    beta = torch.rand(2, length, 2, generator=torch.Generator().manual_seed(2)).cuda()
    if not kernel_fits(inputs["k_BTHK"], inputs["v_BTHV"].bfloat16(), None, documents_BT):
        pytest.skip("this GPU is older than capability 8.0, which fla's kernels need")

    def truth(**given: Tensor) -> Tensor:
        if name == "kimi":
            given["k_BTHK"], given["read_BTHK"] = beta[..., None] * given["k_BTHK"], given["k_BTHK"]
        return naive_generalised_delta_rule(**given, documents_BT=documents_BT)[0]

    def fast(**given: Any) -> Tensor:
        if name == "kimi":
            q, k, v, log_decay = (given[x] for x in ("q_BTHK", "k_BTHK", "v_BTHV", "log_decay_BTHK"))
            return kernel_kimi_delta_rule(q, k, v, log_decay, beta, documents_BT=documents_BT)[0]
        lowest = -0.6 if name == "general-bounded" else None
        return kernel_generalised_delta_rule(**given, documents_BT=documents_BT, lowest=lowest)[0]

    if name == "kimi":
        inputs["k_BTHK"] = inputs.pop("read_BTHK")
    fp32 = ("log_decay_BTHK",)
    half = {name: x if name in fp32 else x.detach().bfloat16().requires_grad_() for name, x in inputs.items()}
    pairs = []
    for rule, given in ((fast, half), (truth, inputs)):
        o = rule(**given)
        pairs.append([o, *torch.autograd.grad(o.float().square().sum(), list(given.values()))])
    for ours, expected in zip(*pairs, strict=True):
        assert ((ours.float() - expected).norm() / expected.norm()).item() < 0.03
