"""Chunked linear attention with a decay for each head, and fla's kernel, against the naive form."""

from typing import Any

import costs
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from wren.ops.decay_attention import (
    chunked_decay_attention,
    chunked_flops_per_token,
    decay_attention,
    kernel_decay_attention,
    kernel_fits,
    naive_decay_attention,
)

LENGTHS = [1, 2, 63, 64, 65, 130]
RULES = (naive_decay_attention, chunked_decay_attention)


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
) -> dict[str, Any]:
    """rows: batch of the decays; decay None = none."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    given = {
        "q_BTGK": normal(2, length, groups, dim),
        "k_BTGK": normal(2, length, groups, dim),
        "v_BTHV": normal(2, length, heads, value_dim),
        "memory_BHKV": normal(2, heads, dim, value_dim),
    }
    if decay is not None:
        drawn = torch.rand(rows, length, heads, generator=generator, dtype=torch.float64)
        given["log_decay_BTH"] = -decay * drawn**3
    inputs: dict[str, Any] = {name: x.to(dtype).requires_grad_() for name, x in given.items()}
    return inputs if decay is not None else inputs | {"log_decay_BTH": None}


def _documents(length: int) -> Tensor:
    return (torch.rand(2, length, generator=torch.Generator().manual_seed(1)) < 0.1).long().cumsum(1)


def _values_and_gradients(rule: Any, inputs: dict[str, Any], **settings: Any) -> list[Tensor]:
    o, memory = rule(**inputs, **settings)
    weights = torch.linspace(-1, 1, o.numel(), dtype=o.dtype).cos().view_as(o)
    given = [x for x in inputs.values() if x is not None]
    return [o, memory, *torch.autograd.grad((o * weights).sum() + memory.square().sum(), given)]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("chunk_size", [16, 64])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("decay", "rows"), [(None, 2), (0.1, 2), (100.0, 2), (1.0, 1)])
def test_chunked_is_naive(length: int, chunk_size: int, packed: bool, decay: float | None, rows: int):
    """With a decay of 100 a chunk's total passes exp's range in fp64: differences may never be taken by quotients."""
    inputs = _inputs(length, decay=decay, rows=rows)
    documents_BT = _documents(length) if packed else None
    expected = _values_and_gradients(naive_decay_attention, inputs, documents_BT=documents_BT)
    found = _values_and_gradients(chunked_decay_attention, inputs, documents_BT=documents_BT, chunk_size=chunk_size)
    for ours, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, truth, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize(("groups", "heads"), [(1, 1), (1, 3), (3, 3)])
def test_heads_share_the_keys_of_their_group(groups: int, heads: int):
    inputs = _inputs(70, groups=groups, heads=heads)
    expected = _values_and_gradients(naive_decay_attention, inputs)
    for ours, truth in zip(_values_and_gradients(chunked_decay_attention, inputs), expected, strict=True):
        torch.testing.assert_close(ours, truth, atol=1e-8, rtol=1e-8)
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
    inputs = _inputs(1000, decay=decay)
    exact = _values_and_gradients(chunked_decay_attention, inputs)
    narrow = {name: x.detach().float().requires_grad_() for name, x in inputs.items()}
    for ours, truth in zip(_values_and_gradients(chunked_decay_attention, narrow), exact, strict=True):
        assert ((ours.double() - truth).norm() / truth.norm()).item() < 1e-4


def test_tokens_without_decay_and_value_change_nothing():
    inputs = {name: x.detach() for name, x in _inputs(70).items()}
    inputs["log_decay_BTH"][:, 40:], inputs["v_BTHV"][:, 40:] = 0, 0
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
    at = {length: _operations(chunked_decay_attention, length, chunk_size=64) for length in (256, 512, 1024)}
    per_chunk = (at[512] - at[256]) / 4
    assert (at[1024] - at[512]) / 8 == pytest.approx(per_chunk, rel=0.05)
    assert _operations(chunked_decay_attention, 1024, chunk_size=256) < 1024
    inside = {_operations(chunked_decay_attention, length, chunk_size=64) for length in (32, 64)}
    assert len(inside) == 1, "the work inside a chunk depends on its tokens"
    assert _operations(naive_decay_attention, 64) > 64 * 10, "the count does not see a loop over tokens"


def test_kept_memory_grows_linearly():
    def kept(length: int) -> int:
        inputs = _inputs(length)
        return costs.kept_bytes(lambda: chunked_decay_attention(**inputs))

    assert kept(1024) < 2.1 * kept(512)


@pytest.mark.parametrize("length", [10, 64, 130])
def test_the_count_of_operations_is_right(length: int):
    inputs = _inputs(length)
    with FlopCounterMode(display=False) as counter:
        chunked_decay_attention(**inputs, chunk_size=32)
    batch = 2
    claimed = batch * length * chunked_flops_per_token(length, 32, 2, 4, 8, 6)
    assert claimed == pytest.approx(counter.get_total_flops())


def test_runs_in_fp32_under_autocast():
    for length in (1, 70):
        inputs = _inputs(length, dtype=torch.float32)
        expected, _ = decay_attention(**inputs)
        with torch.autocast("cpu", torch.bfloat16):
            found, memory = decay_attention(**inputs)
        assert memory is not None
        assert memory.dtype == torch.float32
        assert torch.equal(found, expected)


def test_the_kernel_is_for_half_precision_on_a_gpu():
    v = torch.zeros(1, 4, 1, 8)
    assert not kernel_fits(v, None, None)
    assert not kernel_fits(v.bfloat16(), None, None)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("decay", [None, 1.0])
@pytest.mark.parametrize("length", [*LENGTHS, 500])
def test_kernel_is_naive(length: int, decay: float | None, packed: bool):
    """Values and gradients of fla's kernel in bf16 against the truth in fp32."""
    if not torch.cuda.is_available():
        pytest.skip("fla's kernel needs a CUDA GPU, and this machine has none")
    pytest.importorskip("fla", reason="flash-linear-attention is not installed")
    drawn = _inputs(length, decay=decay, dtype=torch.float32, dim=32, value_dim=64)
    inputs: dict[str, Any] = {
        name: None if x is None else x.detach().cuda().requires_grad_()
        for name, x in drawn.items()
        if name != "memory_BHKV"
    }
    half: dict[str, Any] = {
        name: x if x is None or name == "log_decay_BTH" else x.detach().bfloat16().requires_grad_()
        for name, x in inputs.items()
    }
    documents_BT = _documents(length).cuda() if packed else None
    if not kernel_fits(half["v_BTHV"], None, documents_BT):
        pytest.skip("this GPU is older than capability 8.0, which fla's kernel needs")
    results = []
    for rule, given in ((kernel_decay_attention, half), (naive_decay_attention, inputs)):
        o, _ = rule(**given, documents_BT=documents_BT)
        tensors = [x for x in given.values() if x is not None]
        results.append([o, *torch.autograd.grad(o.float().square().sum(), tensors)])
    for ours, truth in zip(*results, strict=True):
        assert ((ours.float() - truth).norm() / truth.norm().clamp(min=1e-6)).item() < 0.02
