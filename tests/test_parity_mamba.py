"""The mamba mixer beside transformers' own, from the same weights, in fp32 on the CPU."""

import logging
import warnings

import pytest
import torch
from torch import Tensor

from wren.mixer import Context
from wren.mixers import mamba

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # transformers' own, while it loads
    pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

Weights = dict[str, Tensor]
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
logging.getLogger("transformers").setLevel(logging.ERROR)  # it says at length that its kernels are not installed


@pytest.mark.parametrize(("expand", "states", "rank"), [(2, 16, None), (1, 3, 5)])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 130])
def test_mamba_is_transformers(length: int, expand: int, states: int, rank: int | None):
    """Outputs, and gradients of the inputs and of every weight."""
    theirs = _theirs(expand, states, rank)
    mixer = mamba.Config(expand=expand, num_states=states, dt_rank=rank).build(32)
    own, other = dict(mixer.named_parameters()), dict(theirs.named_parameters())
    given = _as_ours({name: value.detach() for name, value in other.items()})
    assert own.keys() == given.keys()
    for name, value in given.items():
        own[name].data.copy_(value)
    x_BTD = torch.randn(2, length, 32, generator=torch.Generator().manual_seed(length)).requires_grad_()
    found, expected = mixer(x_BTD, Context()), theirs(x_BTD)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, **CLOSE)
    weights = torch.linspace(-1, 1, found.numel()).view_as(found) / found.numel()
    found_grads = torch.autograd.grad((found * weights).sum(), (x_BTD, *own.values()))
    x_grad, *grads = torch.autograd.grad((expected * weights).sum(), (x_BTD, *other.values()))
    _assert_near(found_grads[0], x_grad)
    expected_grads = _as_ours(dict(zip(other, grads, strict=True)))
    for name, grad in zip(own, found_grads[1:], strict=True):
        _assert_near(grad, expected_grads[name])


def _assert_near(found: Tensor, expected: Tensor) -> None:
    """Relative to the largest number: these gradients are small, and an absolute bound would pass anything."""
    scale = expected.abs().max().clamp(min=1e-9)  # in a row of one token no decay acts, and A has no gradient
    torch.testing.assert_close(found / scale, expected / scale, **CLOSE)


def _theirs(expand: int, states: int, rank: int | None) -> MambaMixer:
    """With random numbers added to every weight, so that none is at its even start."""
    config = MambaConfig(hidden_size=32, expand=expand, state_size=states, time_step_rank=rank or "auto")
    torch.manual_seed(0)
    theirs = MambaMixer(config, layer_idx=0)
    for parameter in theirs.parameters():
        parameter.data.add_(torch.randn(parameter.shape), alpha=0.1)
    return theirs.eval()


def _as_ours(theirs: Weights) -> Weights:
    """It keeps u and the gate in one matrix, and A with the channels first."""
    u, gate = theirs["in_proj.weight"].chunk(2)
    return {
        "u.weight": u,
        "gate.weight": gate,
        "conv": theirs["conv1d.weight"].squeeze(1),
        "conv_bias": theirs["conv1d.bias"],
        "select.weight": theirs["x_proj.weight"],
        "dt_up": theirs["dt_proj.weight"],
        "dt_bias": theirs["dt_proj.bias"],
        "A_log": theirs["A_log"].T.flatten(),
        "D": theirs["D"],
        "out.weight": theirs["out_proj.weight"],
    }
