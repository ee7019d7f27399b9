"""The delta rule of several steps a token, and without decay: chunks and fla's kernels against the naive form."""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import costs
import ops_parts as parts
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from wren.ops.gated_delta_rule import (
    chunked_flops_per_token,
    chunked_gated_delta_rule,
    gated_delta_rule,
    kernel_fits,
    kernel_gated_delta_rule,
    naive_gated_delta_rule,
)
from wren.ops.norm import l2_normalised

RULES = [(1, None), (2, None), (2, 0.1), (3, 100.0)]  # steps and decay; 100 a token passes exp's range in a chunk


def _inputs(
    length: int,
    num_steps: int,
    decay: float | None,
    *,
    dtype: torch.dtype = torch.float64,
    dim: int = 8,
    value_dim: int = 6,
) -> list[Any]:
    """q, k, v, log_decay or None, beta in (0, 2) and a first memory."""
    generator = torch.Generator().manual_seed(length)
    steps = length * num_steps

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k = l2_normalised(normal(2, length, 2, dim)), l2_normalised(normal(2, steps, 2, dim))
    log_decay = torch.rand(2, length, 2, generator=generator, dtype=torch.float64)
    beta = 2 * torch.rand(2, steps, 2, generator=generator, dtype=torch.float64)
    given = [q, k, normal(2, steps, 2, value_dim), -(decay or 0) * log_decay, beta, normal(2, 2, dim, value_dim)]
    leaves: list[Any] = [x.to(dtype).requires_grad_() for x in given]
    if decay is None:
        leaves[3] = None
    return leaves


def _values_and_gradients(rule, inputs: list[Any], documents_BT: Tensor | None, **settings) -> list[Tensor]:
    o, memory = rule(*inputs[:5], memory_BHKV=inputs[5], documents_BT=documents_BT, **settings)
    weights = torch.linspace(-1, 1, o.numel(), dtype=o.dtype).cos().view_as(o)
    given = [x for x in inputs if x is not None]
    return [o, memory, *torch.autograd.grad((o * weights).sum() + memory.square().sum(), given)]


def _assert_same(found: Sequence[Tensor | None], expected: Sequence[Tensor]) -> None:
    for ours, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, truth, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("length", parts.LENGTHS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("num_steps", "decay"), RULES)
def test_chunked_is_naive(length: int, packed: bool, num_steps: int, decay: float | None):
    inputs = _inputs(length, num_steps, decay)
    documents_BT = parts.documents(length) if packed else None
    expected = _values_and_gradients(naive_gated_delta_rule, inputs, documents_BT)
    for chunk_size in (16, 64):
        found = _values_and_gradients(chunked_gated_delta_rule, inputs, documents_BT, chunk_size=chunk_size)
        _assert_same(found, expected)


@pytest.mark.parametrize(("num_steps", "decay"), RULES)
def test_steps_are_tokens_of_a_longer_row(num_steps: int, decay: float | None):
    """The decay stands at a token's first step, its query at its last one, and the other outputs are thrown away."""
    inputs = _inputs(21, num_steps, decay)
    documents_BT = parts.documents(21)
    placed = list(inputs)
    log_decay = torch.zeros_like(inputs[0][..., 0]) if inputs[3] is None else inputs[3]
    placed[0], placed[3] = _placed(inputs[0], num_steps, -1), _placed(log_decay, num_steps, 0)
    longer_BN = documents_BT.repeat_interleave(num_steps, dim=1)
    o, memory = naive_gated_delta_rule(*placed[:5], memory_BHKV=inputs[5], documents_BT=longer_BN)
    found, last = naive_gated_delta_rule(*inputs[:5], memory_BHKV=inputs[5], documents_BT=documents_BT)
    _assert_same([found, last], [o[:, num_steps - 1 :: num_steps], memory])


def _placed(x: Tensor, num_steps: int, step: int) -> Tensor:
    steps = [torch.zeros_like(x)] * num_steps
    steps[step] = x
    return torch.stack(steps, dim=2).flatten(1, 2)


def test_no_decay_is_a_decay_of_one():
    inputs = _inputs(130, 2, None)
    with_ones = [*inputs[:3], torch.zeros(2, 130, 2, dtype=torch.float64), *inputs[4:]]
    for rule in (naive_gated_delta_rule, chunked_gated_delta_rule):
        _assert_same(list(rule(*inputs[:5])), list(rule(*with_ones[:5])))


@pytest.mark.parametrize("num_steps", [1, 2])
def test_fp32_stays_near_fp64_over_a_long_row(num_steps: int):
    """Without decay no error is forgotten."""
    inputs = _inputs(1000, num_steps, None)
    exact, _ = naive_gated_delta_rule(*inputs[:5])
    single: list[Any] = [None if x is None else x.float() for x in inputs[:5]]
    rough, _ = chunked_gated_delta_rule(*single)
    assert ((rough.double() - exact).norm() / exact.norm()).item() < 1e-4


def test_operations_grow_by_the_chunk_and_not_by_the_step():
    def operations(length: int, num_steps: int) -> int:
        inputs = _inputs(length, num_steps, 1.0)
        with costs.Watch() as count:
            o, memory = chunked_gated_delta_rule(*inputs[:5], chunk_size=32)
            (o.sum() + memory.sum()).backward()
        return count.operations

    at = {length: operations(length, 2) for length in (256, 512, 1024)}
    assert (at[1024] - at[512]) / 16 == pytest.approx((at[512] - at[256]) / 8, rel=0.05)
    assert operations(512, 4) == at[512]


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_only_a_tokens_last_step_is_read(num_steps: int):
    """The products counted are those claimed; reading every step would cost more by a good part."""
    solve = torch.ops.aten.linalg_solve_triangular
    flops = {solve: lambda a, b, *_, out_shape=None, **__: b[-2] * torch.Size(b).numel()}
    inputs: list[Any] = [None if x is None else x.detach() for x in _inputs(130, num_steps, 1.0)]
    with FlopCounterMode(display=False, custom_mapping=flops) as counter:
        chunked_gated_delta_rule(*inputs[:5], chunk_size=32)
    claimed = 2 * 2 * 130 * chunked_flops_per_token(130, 32, 8, 6, num_steps)
    assert counter.get_total_flops() == pytest.approx(claimed)
    every_step_read = 2 * 2 * 130 * num_steps * chunked_flops_per_token(130 * num_steps, 32 * num_steps, 8, 6)
    assert num_steps == 1 or claimed < 0.8 * every_step_read


def test_kept_memory_grows_linearly():
    def kept(length: int) -> int:
        inputs = _inputs(length, 2, None)
        return costs.kept_bytes(lambda: chunked_gated_delta_rule(*inputs[:5]))

    assert kept(1024) < 2.1 * kept(512)


def test_runs_in_fp32_under_autocast():
    inputs = _inputs(70, 2, None, dtype=torch.float32)
    expected, _ = chunked_gated_delta_rule(*inputs[:5])
    with torch.autocast("cpu", torch.bfloat16):
        found, memory = chunked_gated_delta_rule(*inputs[:5])
    assert memory.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("length", [1, 9])
def test_the_fitting_form_on_a_cpu(length: int):
    inputs = _inputs(length, 2, 1.0)
    found = gated_delta_rule(*inputs[:5], memory_BHKV=inputs[5], chunk_size=4)
    _assert_same(list(found), list(naive_gated_delta_rule(*inputs[:5], memory_BHKV=inputs[5])))


class _FakeKernels:
    """fla's entry points with its own argument names and its demands on shapes, computed by the naive form."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.called: list[str] = []
        for package, names in {
            "fla.ops.gated_delta_product": ("chunk_gated_delta_product",),
            "fla.ops.delta_rule": ("chunk_delta_rule",),
            "fla.ops.gated_delta_rule": ("chunk_gated_delta_rule",),
        }.items():
            module = ModuleType(package)
            for name in names:
                setattr(module, name, getattr(self, name))
            monkeypatch.setitem(sys.modules, package, module)

    def chunk_gated_delta_product(self, q, k, v, g, beta, num_householder, **settings):
        assert k.shape == v.shape[:3] + k.shape[3:] == (len(q), q.shape[1] * num_householder, *q.shape[2:])
        assert beta.shape == k.shape[:3]
        return self._run("chunk_gated_delta_product", q, k, v, g, beta, **settings)

    def chunk_delta_rule(self, q, k, v, beta, **settings):
        return self._run("chunk_delta_rule", q, k, v, None, beta, **settings)

    def chunk_gated_delta_rule(self, q, k, v, g, beta, **settings):
        return self._run("chunk_gated_delta_rule", q, k, v, g, beta, **settings)

    def _run(self, name, q, k, v, g, beta, initial_state=None, output_final_state=False, cu_seqlens=None):
        assert q.dtype == k.dtype == v.dtype
        self.called.append(name)
        documents = None
        if cu_seqlens is not None:
            assert len(q) == 1
            assert cu_seqlens[-1] == q.shape[1]
            documents = torch.repeat_interleave(torch.arange(len(cu_seqlens) - 1), cu_seqlens.diff())[None]
        o, last = naive_gated_delta_rule(q, k, v, g, beta, memory_BHKV=initial_state, documents_BT=documents)
        return o, last if output_final_state else None


@pytest.mark.parametrize(
    ("num_steps", "decay", "name"),
    [
        (1, 1.0, "chunk_gated_delta_rule"),
        (1, None, "chunk_delta_rule"),
        (2, None, "chunk_gated_delta_product"),
        (3, 1.0, "chunk_gated_delta_product"),
    ],
)
def test_each_rule_goes_to_its_kernel(num_steps: int, decay: float | None, name: str, monkeypatch: pytest.MonkeyPatch):
    fakes = _FakeKernels(monkeypatch)
    inputs = _inputs(65, num_steps, decay)
    expected = naive_gated_delta_rule(*inputs[:5], memory_BHKV=inputs[5])
    _assert_same(list(kernel_gated_delta_rule(*inputs[:5], memory_BHKV=inputs[5])), list(expected))
    packed, last = kernel_gated_delta_rule(*inputs[:5], documents_BT=parts.documents(65))
    _assert_same([packed], [naive_gated_delta_rule(*inputs[:5], documents_BT=parts.documents(65))[0]])
    assert last is None
    assert fakes.called == [name, name]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", [*parts.LENGTHS, 500])
@pytest.mark.parametrize(("num_steps", "decay"), [(1, None), (2, None), (2, 0.1), (3, 0.1)])
def test_kernel_is_naive(length: int, packed: bool, num_steps: int, decay: float | None):
    """Values and gradients of fla's kernels in bf16 against the truth in fp32."""
    if not torch.cuda.is_available():
        pytest.skip("fla's kernels need a CUDA GPU, and this machine has none")
    pytest.importorskip("fla", reason="flash-linear-attention is not installed")
    given = _inputs(length, num_steps, decay, dtype=torch.float32, dim=32, value_dim=64)[:5]
    inputs: list[Any] = [None if x is None else x.detach().cuda().requires_grad_() for x in given]
    documents_BT = parts.documents(length).cuda() if packed else None
    half: list[Any] = [
        x if i > 2 or x is None else x.detach().bfloat16().requires_grad_() for i, x in enumerate(inputs)
    ]
    if not kernel_fits(half[2], None, documents_BT):
        pytest.skip("this GPU is older than capability 8.0, which fla's kernels need")
    expected, _ = naive_gated_delta_rule(*inputs, documents_BT=documents_BT)
    found, _ = kernel_gated_delta_rule(*half, documents_BT=documents_BT)
    grads = [
        torch.autograd.grad(o.float().square().sum(), [x for x in leaves if x is not None])
        for o, leaves in ((found, half), (expected, inputs))
    ]
    for ours, truth in [(found, expected), *zip(*grads, strict=True)]:
        assert ((ours.float() - truth).norm() / truth.norm()).item() < 0.02
