"""The chunked gated delta rule and fla's kernel against the naive form."""

import costs
import pytest
import torch
from torch import Tensor

from wren.ops.gated_delta_rule import (
    chunked_gated_delta_rule,
    kernel_fits,
    kernel_gated_delta_rule,
    naive_gated_delta_rule,
)
from wren.ops.norm import l2_normalised

LENGTHS = [1, 2, 63, 64, 65, 130]


def _inputs(
    length: int, *, decay: float = 1.0, dtype: torch.dtype = torch.float64, dim: int = 8, value_dim: int = 6
) -> list[Tensor]:
    """q, k, v, log_decay, beta in (0, 2) and a first memory."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k = l2_normalised(normal(2, length, 2, dim)), l2_normalised(normal(2, length, 2, dim))
    log_decay = -decay * torch.rand(2, length, 2, generator=generator, dtype=torch.float64)
    beta = 2 * torch.rand(2, length, 2, generator=generator, dtype=torch.float64)
    given = [q, k, normal(2, length, 2, value_dim), log_decay, beta, normal(2, 2, dim, value_dim)]
    return [x.to(dtype).requires_grad_() for x in given]


def _documents(length: int) -> Tensor:
    return (torch.rand(2, length, generator=torch.Generator().manual_seed(1)) < 0.1).long().cumsum(1)


def _values_and_gradients(rule, inputs: list[Tensor], documents_BT: Tensor | None, **settings) -> list[Tensor]:
    o, memory = rule(*inputs[:5], memory_BHKV=inputs[5], documents_BT=documents_BT, **settings)
    weights = torch.linspace(-1, 1, o.numel(), dtype=o.dtype).cos().view_as(o)
    return [o, memory, *torch.autograd.grad((o * weights).sum() + memory.square().sum(), inputs)]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("chunk_size", [16, 64])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("decay", [0.1, 100.0])
def test_chunked_is_naive(length: int, chunk_size: int, packed: bool, decay: float):
    """With a decay of 100 a chunk's total passes exp's range in fp64: differences may never be taken by quotients."""
    inputs = _inputs(length, decay=decay)
    documents_BT = _documents(length) if packed else None
    expected = _values_and_gradients(naive_gated_delta_rule, inputs, documents_BT)
    found = _values_and_gradients(chunked_gated_delta_rule, inputs, documents_BT, chunk_size=chunk_size)
    for ours, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, truth, atol=1e-8, rtol=1e-8)


def test_fp32_stays_near_fp64_over_a_long_row():
    inputs = _inputs(1000, decay=0.01)
    exact, _ = naive_gated_delta_rule(*inputs[:5])
    rough, _ = chunked_gated_delta_rule(*(x.float() for x in inputs[:5]))
    assert ((rough.double() - exact).norm() / exact.norm()).item() < 1e-4


def test_a_key_that_is_written_again_is_overwritten():
    """With beta 1 and no decay the memory is a table: a key answers with the last value that it was given."""
    keys = torch.eye(4, dtype=torch.float64)[[0, 1, 0, 0, 1]].view(1, 5, 1, 4)
    values = torch.arange(5, dtype=torch.float64).view(1, 5, 1, 1) + 1
    nothing, one = torch.zeros(1, 5, 1, dtype=torch.float64), torch.ones(1, 5, 1, dtype=torch.float64)
    for rule in (naive_gated_delta_rule, chunked_gated_delta_rule):
        _, memory = rule(keys, keys, values, nothing, one)
        assert memory[0, 0, :, 0].tolist() == [4.0, 5.0, 0.0, 0.0]


def test_tokens_without_decay_and_beta_change_nothing():
    inputs = [x.detach() for x in _inputs(70)]
    inputs[3][:, 40:], inputs[4][:, 40:] = 0, 0
    for rule in (naive_gated_delta_rule, chunked_gated_delta_rule):
        _, memory = rule(*inputs[:5], memory_BHKV=inputs[5])
        _, cut = rule(*(x[:, :40] for x in inputs[:5]), memory_BHKV=inputs[5])
        torch.testing.assert_close(memory, cut)


def _operations(rule, length: int, **settings) -> int:
    inputs = _inputs(length)
    with costs.Watch() as count:
        o, memory = rule(*inputs[:5], **settings)
        (o.sum() + memory.sum()).backward()
    return count.operations


def test_operations_grow_by_the_chunk_and_not_by_the_token():
    """Forward and backward: as many more operations for each chunk more, and far fewer than one a token."""
    at = {length: _operations(chunked_gated_delta_rule, length, chunk_size=64) for length in (256, 512, 1024)}
    per_chunk = (at[512] - at[256]) / 4
    assert (at[1024] - at[512]) / 8 == pytest.approx(per_chunk, rel=0.05)
    wide = _operations(chunked_gated_delta_rule, 1024, chunk_size=256) / 1024
    assert wide < 1, f"{wide} operations a token with chunks of 256"
    inside = _operations(chunked_gated_delta_rule, 64, chunk_size=64), _operations(chunked_gated_delta_rule, 32)
    assert inside[0] == inside[1], "the work inside a chunk depends on its tokens"
    assert _operations(naive_gated_delta_rule, 64) > 64 * 10, "the count does not see a loop over tokens"


def test_kept_memory_grows_linearly():
    def kept(length: int) -> int:
        inputs = _inputs(length)
        return costs.kept_bytes(lambda: chunked_gated_delta_rule(*inputs[:5]))

    assert kept(1024) < 2.1 * kept(512)


def test_runs_in_fp32_under_autocast():
    inputs = _inputs(70, dtype=torch.float32)
    expected, _ = chunked_gated_delta_rule(*inputs[:5])
    with torch.autocast("cpu", torch.bfloat16):
        found, memory = chunked_gated_delta_rule(*inputs[:5])
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
    inputs = [
        x.detach().cuda().requires_grad_() for x in _inputs(length, dtype=torch.float32, dim=32, value_dim=64)[:5]
    ]
    documents_BT = _documents(length).cuda() if packed else None
    half = [x.detach().bfloat16().requires_grad_() if i < 3 else x for i, x in enumerate(inputs)]
    if not kernel_fits(half[2], None, documents_BT):
        pytest.skip("this GPU is older than capability 8.0, which fla's kernel needs")
    expected, _ = naive_gated_delta_rule(*inputs, documents_BT=documents_BT)
    found, _ = kernel_gated_delta_rule(*half, documents_BT=documents_BT)
    pairs = [(found, expected)]
    grads = (torch.autograd.grad(o.float().square().sum(), given) for o, given in ((found, half), (expected, inputs)))
    pairs += list(zip(*grads, strict=True))
    for ours, truth in pairs:
        assert ((ours.float() - truth).norm() / truth.norm()).item() < 0.02
