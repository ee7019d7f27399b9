"""Chunked gated linear attention and fla's kernel against the naive form."""

from typing import Any

import costs
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

LENGTHS = [1, 2, 63, 64, 65, 130]
RULES = (naive_gated_linear_attention, chunked_gated_linear_attention)
Inputs = dict[str, Any]  # tensors by argument name


def _inputs(
    length: int, *, decay: float = 1.0, dtype: torch.dtype = torch.float64, dim: int = 8, value_dim: int = 6
) -> Inputs:
    """Some channels decay hardly at all and some by `decay` a step."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    given = {
        "q_BTHK": normal(2, length, 2, dim),
        "k_BTHK": normal(2, length, 2, dim),
        "v_BTHV": normal(2, length, 2, value_dim),
        "log_decay_BTHK": -decay * torch.rand(2, length, 2, dim, generator=generator, dtype=torch.float64) ** 3,
        "memory_BHKV": normal(2, 2, dim, value_dim),
    }
    return {name: x.to(dtype).requires_grad_() for name, x in given.items()}


def _documents(length: int) -> Tensor:
    return (torch.rand(2, length, generator=torch.Generator().manual_seed(1)) < 0.1).long().cumsum(1)


def _values_and_gradients(rule: Any, inputs: Inputs, **settings: Any) -> list[Tensor]:
    o, memory = rule(**inputs, **settings)
    weights = torch.linspace(-1, 1, o.numel(), dtype=o.dtype).cos().view_as(o)
    return [o, memory, *torch.autograd.grad((o * weights).sum() + memory.square().sum(), list(inputs.values()))]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("chunk_size", [2, 16, 64])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("decay", [0.1, 100.0])
def test_chunked_is_naive(length: int, chunk_size: int, packed: bool, decay: float):
    """With a decay of 100 a chunk's total passes exp's range in fp64, in some channels and not in others."""
    inputs = _inputs(length, decay=decay)
    documents_BT = _documents(length) if packed else None
    expected = _values_and_gradients(naive_gated_linear_attention, inputs, documents_BT=documents_BT)
    settings = {"documents_BT": documents_BT, "chunk_size": chunk_size}
    found = _values_and_gradients(chunked_gated_linear_attention, inputs, **settings)
    for ours, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, truth, atol=1e-8, rtol=1e-8)


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
    inputs = _inputs(1000, decay=decay)
    exact = _values_and_gradients(chunked_gated_linear_attention, inputs)
    narrow = {name: x.detach().float().requires_grad_() for name, x in inputs.items()}
    for ours, truth in zip(_values_and_gradients(chunked_gated_linear_attention, narrow), exact, strict=True):
        assert ((ours.double() - truth).norm() / truth.norm()).item() < 1e-4


def test_a_channel_that_forgets_at_once_leaves_the_others_alone():
    """In fp32, with log decays of -1e4 in one channel: what it held is gone, nothing overflows."""
    inputs = {name: x.detach() for name, x in _inputs(130, decay=0.1, dtype=torch.float32).items()}
    inputs["log_decay_BTHK"][..., 0] = -1e4
    expected = naive_gated_linear_attention(**{name: x.double() for name, x in inputs.items()})
    for ours, truth in zip(chunked_gated_linear_attention(**inputs), expected, strict=True):
        torch.testing.assert_close(ours.double(), truth, atol=1e-4, rtol=1e-4)


def test_tokens_without_decay_and_key_change_nothing():
    inputs = {name: x.detach() for name, x in _inputs(70).items()}
    inputs["log_decay_BTHK"][:, 40:], inputs["k_BTHK"][:, 40:] = 0, 0
    first = {name: x if name == "memory_BHKV" else x[:, :40] for name, x in inputs.items()}
    for rule in RULES:
        torch.testing.assert_close(rule(**inputs)[1], rule(**first)[1])


def _operations(rule: Any, length: int, **settings: Any) -> int:
    inputs = _inputs(length)
    with costs.Watch() as count:
        o, memory = rule(**inputs, **settings)
        (o.sum() + memory.sum()).backward()
    return count.operations


def test_operations_grow_by_the_chunk_and_not_by_the_token():
    """Forward and backward: as many more operations for each chunk more, and far fewer than one a token."""
    rule = chunked_gated_linear_attention
    at = {length: _operations(rule, length, chunk_size=64) for length in (256, 512, 1024)}
    per_chunk = (at[512] - at[256]) / 4
    assert (at[1024] - at[512]) / 8 == pytest.approx(per_chunk, rel=0.05)
    assert _operations(rule, 1024, chunk_size=256) < 1024
    inside = {_operations(rule, length, chunk_size=64) for length in (33, 63)}  # both padded to 64
    assert len(inside) == 1, "the work inside a chunk depends on its tokens"
    assert _operations(naive_gated_linear_attention, 64) > 64 * 10, "the count does not see a loop over tokens"


def test_kept_memory_grows_linearly():
    def kept(length: int) -> int:
        inputs = _inputs(length)
        return costs.kept_bytes(lambda: chunked_gated_linear_attention(**inputs))

    assert kept(1024) < 2.1 * kept(512)


@pytest.mark.parametrize("length", [10, 64, 130])
def test_the_count_of_operations_is_right(length: int):
    inputs = _inputs(length)
    with FlopCounterMode(display=False) as counter:
        chunked_gated_linear_attention(**inputs, chunk_size=32)
    batch, heads = 2, 2
    claimed = batch * heads * length * chunked_flops_per_token(length, 32, 8, 6)
    assert claimed == pytest.approx(counter.get_total_flops())


def test_runs_in_fp32_under_autocast():
    for length in (1, 70):
        inputs = _inputs(length, dtype=torch.float32)
        expected, _ = gated_linear_attention(**inputs)
        with torch.autocast("cpu", torch.bfloat16):
            found, memory = gated_linear_attention(**inputs)
            found.sum().backward()
        assert memory is not None
        assert memory.dtype == torch.float32
        assert torch.equal(found, expected)


def test_the_kernel_is_for_half_precision_on_a_gpu():
    v = torch.zeros(1, 4, 1, 8)
    assert not kernel_fits(v, None, None)
    assert not kernel_fits(v.bfloat16(), None, None)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", [*LENGTHS, 500])
def test_kernel_is_naive(length: int, packed: bool):
    """Values and gradients of fla's kernel in bf16 against the truth in fp32."""
    if not torch.cuda.is_available():
        pytest.skip("fla's kernel needs a CUDA GPU, and this machine has none")
    pytest.importorskip("fla", reason="flash-linear-attention is not installed")
    drawn = _inputs(length, dtype=torch.float32, dim=32, value_dim=64)
    inputs = {name: x.detach().cuda().requires_grad_() for name, x in drawn.items() if name != "memory_BHKV"}
    half = {
        name: x if name == "log_decay_BTHK" else x.detach().bfloat16().requires_grad_() for name, x in inputs.items()
    }
    documents_BT = _documents(length).cuda() if packed else None
    if not kernel_fits(half["v_BTHV"], None, documents_BT):
        pytest.skip("this GPU is older than capability 8.0, which fla's kernel needs")
    results = []
    for rule, given in ((kernel_gated_linear_attention, half), (naive_gated_linear_attention, inputs)):
        o, _ = rule(**given, documents_BT=documents_BT)
        results.append([o, *torch.autograd.grad(o.float().square().sum(), list(given.values()))])
    for ours, truth in zip(*results, strict=True):
        assert ((ours.float() - truth).norm() / truth.norm().clamp(min=1e-6)).item() < 0.02
