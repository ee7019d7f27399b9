"""The depthwise short convolution against its naive form and torch's conv1d."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wren.ops.norm import l2_normalised, rms_norm
from wren.ops.short_convolution import naive_short_convolution, next_tail, short_convolution


def _inputs(length: int, width: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    shapes = ((2, length, 6), (6, width), (2, width - 1, 6))
    x, weight, tail = (torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes)
    return x, weight, tail


@pytest.mark.parametrize("length", [1, 2, 3, 4, 63, 64, 65, 130])
@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("past", ["none", "tail", "documents"])
def test_fused_is_naive(length: int, width: int, past: str):
    x, weight, tail = _inputs(length, width)
    settings = {}
    if past == "documents":
        starts = torch.rand(2, length, generator=torch.Generator().manual_seed(0)) < 0.3
        settings = {"documents_BT": starts.long().cumsum(1)}
    if past == "tail":
        settings = {"tail_BUC": tail}
    given = [x, weight, tail] if past == "tail" else [x, weight]
    found, expected = short_convolution(x, weight, **settings), naive_short_convolution(x, weight, **settings)
    torch.testing.assert_close(found, expected)
    ours, truth = (torch.autograd.grad(y.cos().sum(), given) for y in (found, expected))
    for one, other in zip(ours, truth, strict=True):
        torch.testing.assert_close(one, other)


def test_naive_is_conv1d():
    x, weight, _ = _inputs(20)
    expected = F.conv1d(x.mT, weight[:, None], padding=3, groups=6)[..., :20].mT
    torch.testing.assert_close(naive_short_convolution(x, weight), expected)


def test_bf16_gradients_of_the_weight_are_summed_in_fp32():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 256, 6, generator=generator).bfloat16()
    exact, rough = (torch.zeros(6, 4, dtype=d).requires_grad_() for d in (torch.float64, torch.bfloat16))
    short_convolution(x.double(), exact).square().add(short_convolution(x.double(), exact)).sum().backward()
    short_convolution(x, rough).square().add(short_convolution(x, rough)).sum().backward()
    assert exact.grad is not None
    assert rough.grad is not None
    assert ((rough.grad - exact.grad).norm() / exact.grad.norm()).item() < 0.01


def test_the_tail_is_what_the_next_call_needs():
    x, weight, tail = (y.detach() for y in _inputs(12))
    whole = naive_short_convolution(x, weight, tail_BUC=tail)
    valid_B = torch.tensor([1, 7])
    first = next_tail(x[:, :7], 4, tail, valid_B)
    for row, count in enumerate(valid_B.tolist()):
        rest = naive_short_convolution(x[row : row + 1, count:], weight, tail_BUC=first[row : row + 1])
        torch.testing.assert_close(rest, whole[row : row + 1, count:])
    torch.testing.assert_close(next_tail(x, 4, tail, None), x[:, -3:])


def test_norms():
    x = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    torch.testing.assert_close(l2_normalised(x, 0.0), torch.tensor([[0.6, 0.8]], dtype=torch.float64))
    torch.testing.assert_close(
        rms_norm(x, torch.tensor([1.0, 2.0]).double(), 0.0), x * torch.tensor([[1, 2]]) / 12.5**0.5
    )
    assert l2_normalised(torch.zeros(1, 2)).isfinite().all()
