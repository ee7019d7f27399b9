"""Forgetting attention by blocks, over a cache and by fla's kernel against the naive form."""

import costs
import ops_parts as parts
import pytest
import torch
from torch import Tensor

from wren.ops.attention import naive_attention
from wren.ops.forgetting_attention import (
    cached_forgetting_attention,
    chunked_forgetting_attention,
    kernel_fits,
    kernel_forgetting_attention,
    naive_forgetting_attention,
)


def _inputs(length: int, *, decay: float = 1.0, dtype: torch.dtype = torch.float64, dim: int = 6) -> list[Tensor]:
    """q, k, v with 4 query and 2 key heads, and log forgets between -decay and 0."""
    generator = torch.Generator().manual_seed(length)
    shapes = [(2, length, 4, dim), (2, length, 2, dim), (2, length, 2, dim)]
    given = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    given.append(-decay * torch.rand(2, length, 4, generator=generator, dtype=torch.float64))
    return [x.to(dtype).requires_grad_() for x in given]


@pytest.mark.parametrize("length", parts.LENGTHS)
@pytest.mark.parametrize("block_size", [1, 16, 64, 128])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1, 100.0])
def test_chunked_is_naive(length: int, block_size: int, packed: bool, decay: float):
    inputs = _inputs(length, decay=decay)
    documents_BT = parts.documents(length) if packed else None
    expected = parts.output_and_gradients(naive_forgetting_attention, inputs, documents_BT=documents_BT)
    found = parts.output_and_gradients(
        chunked_forgetting_attention, inputs, documents_BT=documents_BT, block_size=block_size
    )
    for ours, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, truth, atol=1e-9, rtol=1e-8)


def test_without_forgetting_it_is_attention():
    q, k, v, log_forget = _inputs(70, decay=0.0)
    for rule in (naive_forgetting_attention, chunked_forgetting_attention):
        torch.testing.assert_close(rule(q, k, v, log_forget), naive_attention(q, k, v))


def test_a_token_that_forgets_all_sees_itself_alone():
    q, k, v, log_forget = (x.detach() for x in _inputs(70))
    log_forget[:, 40] = -1e4
    o = chunked_forgetting_attention(q, k, v, log_forget, block_size=16)
    torch.testing.assert_close(o[:, 40], v[:, 40].repeat_interleave(2, dim=1))
    torch.testing.assert_close(o[:, 40:], naive_forgetting_attention(*(x[:, 40:] for x in (q, k, v, log_forget))))


@pytest.mark.parametrize("block_size", [16, 128])
def test_fp32_keeps_its_digits_after_strong_forgetting(block_size: int):
    """1000 tokens at up to -100 a token, every eighth followed by seven weak ones whose differences count."""
    inputs = [x.detach() for x in _inputs(1000, decay=0.1, dtype=torch.float32)]
    inputs[3][:, ::8] *= 1000
    inputs = [x.requires_grad_() for x in inputs]
    exact = parts.output_and_gradients(
        naive_forgetting_attention, [x.detach().double().requires_grad_() for x in inputs]
    )
    rough = parts.output_and_gradients(chunked_forgetting_attention, inputs, block_size=block_size)
    for ours, truth in zip(rough, exact, strict=True):
        assert ours.isfinite().all()
        assert ((ours.double() - truth).norm() / truth.norm()).item() < 1e-4


def test_cached_queries_read_as_in_the_whole_row():
    """At places of their own, in blocks, past slots that hold garbage; values and gradients."""
    inputs = _inputs(80)
    q, k, v, log_forget = inputs
    expected = naive_forgetting_attention(q, k, v, log_forget)[:, 50:]
    garbage = [torch.full_like(x[:, :5], 1e3) for x in (k, v, log_forget)]
    cache = [torch.cat((x, y), dim=1) for x, y in zip((k, v, log_forget), garbage, strict=True)]
    places_BT = torch.arange(50, 80).expand(2, -1)
    found = cached_forgetting_attention(q[:, 50:], cache[0], cache[1], cache[2], places_BT, block_size=7)
    torch.testing.assert_close(found, expected)
    grads = [torch.autograd.grad(o.square().sum(), inputs, retain_graph=True) for o in (found, expected)]
    for ours, truth in zip(*grads, strict=True):
        torch.testing.assert_close(ours, truth)


def _kept(rule, length: int) -> int:
    inputs = _inputs(length)
    return costs.kept_bytes(lambda: rule(*inputs))


def test_kept_memory_grows_linearly():
    assert _kept(chunked_forgetting_attention, 1024) < 2.1 * _kept(chunked_forgetting_attention, 512)
    assert _kept(naive_forgetting_attention, 512) > 3 * _kept(naive_forgetting_attention, 256)


def _watched(length: int, block_size: int) -> costs.Watch:
    inputs = _inputs(length, dtype=torch.float32)
    with costs.Watch() as watch:
        chunked_forgetting_attention(*inputs, block_size=block_size).sum().backward()
    return watch


def test_neither_pass_makes_a_full_score_matrix():
    assert _watched(1024, 32).largest < 2.1 * _watched(512, 32).largest


def test_operations_grow_by_the_block():
    counts = [_watched(length, 64).operations for length in (256, 512, 1024)]
    assert counts[2] - counts[1] == 2 * (counts[1] - counts[0])
    assert _watched(1024, 512).operations < 1024
    assert _watched(64, 64).operations == _watched(32, 64).operations


def test_autocast_changes_nothing_for_fp32():
    inputs = _inputs(70, dtype=torch.float32)
    expected = parts.output_and_gradients(chunked_forgetting_attention, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = parts.output_and_gradients(chunked_forgetting_attention, inputs)
    for ours, truth in zip(found, expected, strict=True):
        assert torch.equal(ours, truth)


def test_the_kernel_is_for_half_precision_on_a_gpu():
    q = torch.zeros(1, 4, 1, 8)
    assert not kernel_fits(q)
    assert not kernel_fits(q.bfloat16())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", [*parts.LENGTHS, 500])
def test_kernel_is_naive(length: int, packed: bool):
    """Values and gradients of fla's kernel in bf16 against the truth in fp32."""
    if not torch.cuda.is_available():
        pytest.skip("fla's kernel needs a CUDA GPU, and this machine has none")
    pytest.importorskip("fla", reason="flash-linear-attention is not installed")
    inputs = [x.detach().cuda().requires_grad_() for x in _inputs(length, dtype=torch.float32, dim=32)]
    documents_BT = parts.documents(length).cuda() if packed else None
    half = [x.detach().bfloat16().requires_grad_() if i < 3 else x for i, x in enumerate(inputs)]
    if not kernel_fits(half[0]):
        pytest.skip("this GPU is older than capability 8.0, which fla's kernel needs")
    expected = naive_forgetting_attention(*inputs, documents_BT=documents_BT)
    found = kernel_forgetting_attention(*half, documents_BT=documents_BT)
    pairs = [(found, expected)]
    grads = (torch.autograd.grad(o.float().square().sum(), given) for o, given in ((found, half), (expected, inputs)))
    pairs += list(zip(*grads, strict=True))
    for ours, truth in pairs:
        assert ((ours.float() - truth).norm() / truth.norm().clamp(min=1e-3)).item() < 0.02
