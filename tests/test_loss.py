"""The losses: sums over learned targets, equal in their readable and their chunked form, in values and gradients.

N tokens, D model width, V vocabulary; B batch, T time.
"""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cases import build, tokens
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from wren.batch import IGNORE, Batch
from wren.loss import cross_entropy, token_losses
from wren.ops import linear_cross_entropy
from wren.ops.linear_cross_entropy import chunked_linear_cross_entropy, naive_linear_cross_entropy


def example(num_tokens: int, vocab: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden_ND = torch.randn(num_tokens, 7, generator=generator, dtype=torch.float64).to(dtype)
    weight_VD = torch.randn(vocab, 7, generator=generator, dtype=torch.float64).to(dtype)
    targets_N = torch.randint(vocab, (num_tokens,), generator=generator)
    targets_N[torch.rand(num_tokens, generator=generator) < 0.3] = IGNORE
    weights_N = torch.randn(num_tokens, generator=generator)
    return hidden_ND, weight_VD, targets_N, weights_N


def results(function, hidden_ND: Tensor, weight_VD: Tensor, *rest, **options) -> list[Tensor]:
    leaves = [hidden_ND.clone().requires_grad_(), weight_VD.clone().requires_grad_()]
    loss = function(*leaves, *rest, **options)
    return [loss.detach(), *torch.autograd.grad(3.0 * loss, leaves)]


@settings(max_examples=50, deadline=None)
@given(
    num_tokens=st.integers(0, 30),
    vocab=st.integers(1, 20),
    chunk=st.integers(1, 40),
    weighted=st.booleans(),
    cap=st.sampled_from([None, 1.5]),
)
def test_chunked_equals_naive(num_tokens: int, vocab: int, chunk: int, weighted: bool, cap: float | None):
    hidden_ND, weight_VD, targets_N, weights_N = example(num_tokens, vocab, torch.float64)
    arguments = (hidden_ND, weight_VD, targets_N, weights_N if weighted else None, cap)
    expected = results(naive_linear_cross_entropy, *arguments)
    for found, wanted in zip(results(chunked_linear_cross_entropy, *arguments, chunk=chunk), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_chunked_equals_naive_in_narrow_formats(dtype: torch.dtype):
    arguments = example(300, 50, dtype)[:3]
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 0.003}[dtype]
    exact = results(naive_linear_cross_entropy, *(x.double() if x.is_floating_point() else x for x in arguments))
    found = results(chunked_linear_cross_entropy, *arguments)
    assert found[0].dtype == torch.float32
    assert [x.dtype for x in found[1:]] == [dtype, dtype]
    for x, wanted in zip(found, exact, strict=True):
        assert float((x.double() - wanted).norm() / wanted.norm()) < tolerance


def test_chunked_follows_autocast():
    arguments = example(300, 50, torch.float32)[:3]
    exact = results(naive_linear_cross_entropy, *arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = results(chunked_linear_cross_entropy, *arguments)
    for x, wanted in zip(found, exact, strict=True):
        assert x.dtype == torch.float32
        assert 1e-6 < float((x - wanted).norm() / wanted.norm()) < 0.02


def test_the_chunked_gradient_is_the_slope():
    hidden_ND, weight_VD, targets_N, weights_N = example(9, 5, torch.float64)
    leaves = (hidden_ND.requires_grad_(), weight_VD.requires_grad_())
    for cap in (None, 2.0):
        assert torch.autograd.gradcheck(
            lambda h, w, cap=cap: chunked_linear_cross_entropy(h, w, targets_N, weights_N.double(), cap, chunk=4),
            leaves,
        )


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_side_gets_no_gradient(frozen: int):
    leaves = list(example(9, 5, torch.float64)[:2])
    leaves[1 - frozen].requires_grad_()
    targets_N = example(9, 5, torch.float64)[2]
    chunked_linear_cross_entropy(leaves[0], leaves[1], targets_N).backward()
    assert leaves[frozen].grad is None
    assert leaves[1 - frozen].grad is not None


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            self.numel = max(self.numel, x.numel() if isinstance(x, Tensor) else 0)
        return out


def test_chunked_never_holds_all_logits():
    hidden_ND, weight_VD, targets_N, _ = example(600, 400, torch.float32)
    sizes = []
    for function, options in ((naive_linear_cross_entropy, {}), (chunked_linear_cross_entropy, {"chunk": 20})):
        with Largest() as largest:
            results(function, hidden_ND, weight_VD, targets_N, **options)
        sizes.append(largest.numel)
    assert sizes == [600 * 400, 20 * 400]


def test_a_scaled_loss_scales_its_gradient_in_fp16():
    """A GradScaler's factor of 65536 must not overflow what a chunk computed."""
    arguments = example(64, 50, torch.float32)[:3]
    plain = results(naive_linear_cross_entropy, *arguments)
    leaves = [x.clone().requires_grad_() for x in arguments[:2]]
    with torch.autocast("cpu", dtype=torch.float16):
        loss = chunked_linear_cross_entropy(leaves[0], leaves[1], arguments[2])
    (65536 * loss).backward()
    for leaf, wanted in zip(leaves, plain[1:], strict=True):
        assert leaf.grad is not None
        assert float((leaf.grad / 65536 - wanted / 3).norm() / (wanted / 3).norm()) < 0.003


def test_the_ignored_target_is_the_same_everywhere():
    assert linear_cross_entropy.IGNORE == IGNORE == F.cross_entropy.__defaults__[2]  # type: ignore[index]


def batches() -> Batch:
    tokens_BT = tokens(3, 12)
    targets_BT = tokens_BT[:, 1:].clone()
    targets_BT[0, :5] = IGNORE
    return Batch(tokens_BT[:, :-1], targets_BT)


@pytest.mark.parametrize("cap", [None, 2.0])
def test_cross_entropy_sums_the_losses_of_the_learned_tokens(cap: float | None):
    model, batch = build("tiny"), batches()
    model.config = replace(model.config, logit_softcap=cap)
    losses_BT = token_losses(model, batch)
    logp_BTV = model(batch.tokens_BT).log_softmax(-1)
    for row in range(3):
        for t in range(11):
            target = int(batch.targets_BT[row, t])
            expected = 0.0 if target == IGNORE else -logp_BTV[row, t, target].detach()
            assert float(losses_BT[row, t].detach()) == pytest.approx(float(expected), abs=1e-12)
    torch.testing.assert_close(cross_entropy(model, batch), losses_BT.sum())
    weights_BT = torch.linspace(-2, 1, 33).view(3, 11)
    weighted = cross_entropy(model, batch._replace(weights_BT=weights_BT))
    torch.testing.assert_close(weighted, (losses_BT * weights_BT).sum())


def test_micro_batches_add_up():
    model, batch = build("tiny"), batches()
    whole = cross_entropy(model, batch)
    parts = [cross_entropy(model, batch.rows(i, i + 1)) for i in range(3)]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)


def test_weights_of_ignored_places_do_nothing():
    model, batch = build("tiny"), batches()
    weights_BT = torch.where(batch.targets_BT == IGNORE, math.nan, 1.0)
    torch.testing.assert_close(cross_entropy(model, batch._replace(weights_BT=weights_BT)), cross_entropy(model, batch))


def test_a_batch_with_nothing_to_learn_has_no_loss_and_no_gradient():
    model, batch = build("tiny"), batches()
    loss = cross_entropy(model, batch._replace(targets_BT=torch.full_like(batch.targets_BT, IGNORE)))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("loss", [cross_entropy, lambda model, batch: token_losses(model, batch).sum()])
def test_losses_are_float32_under_autocast(loss):
    model = build("tiny", torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(model, batches())
    assert value.dtype == torch.float32
    assert float(value.detach()) == pytest.approx(float(loss(model, batches()).detach()), rel=0.02)
