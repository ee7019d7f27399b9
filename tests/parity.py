"""A mixer beside one that others wrote, from the same weights."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wren.mixer import Context, Mixer

Weights = dict[str, Tensor]
LENGTHS = (1, 2, 63, 64, 65, 130)


def randomise(module: nn.Module) -> None:
    """Adds random numbers to every weight, so that none is at its even start; for evaluation, without dropout."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    module.eval()


def inputs(length: int, dim: int) -> Tensor:
    """(2, length, dim), the same for every call."""
    return torch.randn(2, length, dim, generator=torch.Generator().manual_seed(length))


def causal_mask(length: int) -> Tensor:
    """What transformers' eager attention adds to its scores (1, 1, length, length)."""
    return torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]


def assert_same(
    mixer: Mixer,
    theirs: nn.Module,
    as_ours: Callable[[Weights], Weights],
    length: int,
    dim: int,
    close: float = 1e-4,
    call: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Outputs, and gradients of inputs and weights; `as_ours` lays their weights, or gradients, out as the mixer's.

    call: their outputs, where they need more than the inputs.
    """
    own, other = dict(mixer.named_parameters()), dict(theirs.named_parameters())
    given = as_ours({name: value.detach() for name, value in other.items()})
    assert own.keys() == given.keys()
    for name, value in given.items():
        own[name].data.copy_(value)
    x_BTD = inputs(length, dim).requires_grad_()
    found, expected = mixer(x_BTD, Context()), (call or theirs)(x_BTD)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, atol=close, rtol=close)
    weights = torch.linspace(-1, 1, found.numel()).cos().view_as(found)
    found_grads = torch.autograd.grad((found * weights).sum(), (x_BTD, *own.values()))
    x_grad, *grads = torch.autograd.grad((expected * weights).sum(), (x_BTD, *other.values()))
    assert_near(found_grads[0], x_grad, close)
    expected_grads = as_ours(dict(zip(other, grads, strict=True)))
    for name, grad in zip(own, found_grads[1:], strict=True):
        # of one position the queries' gradient is 0: what stands there are rests of sums, which differ from run to run
        assert_near(grad, expected_grads[name], 3 * close)


def assert_near(found: Tensor, expected: Tensor, close: float = 1e-4) -> None:
    """Relative to the largest number, or to 1: of a loss summed over a row that is little, and sums may cancel."""
    scale = expected.abs().max().clamp(min=1.0)
    torch.testing.assert_close(found / scale, expected / scale, atol=close, rtol=close)
