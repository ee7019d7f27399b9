"""RWKV-7 time mixing beside its published step, written out for one head and one token with the memory as V x K rows.

transformers has no RWKV-7, so the reference is the paper's own recurrence (2503.14456, section 4 and appendix):
    S <- S diag(w) - (S kappa) (kappa * a)^T + v k^T,   y = S r.
"""

import math
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wren.mixer import Context
from wren.mixers import rwkv7

DIM, HEADS, WIDTH = 16, 2, 8


def _published(weights: Mapping[str, Tensor], x_TD: Tensor, eps: float) -> Tensor:
    """(T, D) -> (T, D), one token and one head after another."""
    memories = [torch.zeros(WIDTH, WIDTH, dtype=x_TD.dtype) for _ in range(HEADS)]
    before_D, outputs = torch.zeros_like(x_TD[0]), []

    def mixed(name: str) -> Tensor:
        return x_D * (1 - weights[f"mix_{name}"]) + before_D * weights[f"mix_{name}"]

    def linear(name: str, y: Tensor) -> Tensor:
        return weights[f"{name}.weight"] @ y

    for x_D in x_TD:
        r, k, v = linear("r", mixed("r")), linear("k", mixed("k")), linear("v", mixed("v"))
        d = weights["decay_bias"] + linear("decay_up", torch.tanh(linear("decay_down", mixed("w"))))
        w = torch.exp(-torch.sigmoid(d) / math.sqrt(math.e))
        a = torch.sigmoid(weights["rate_bias"] + linear("rate_up", linear("rate_down", mixed("a"))))
        g = linear("gate_up", torch.sigmoid(linear("gate_down", mixed("g"))))
        kappa = k * weights["key_scale"]
        k = k * (1 - weights["key_rate"]) + k * a * weights["key_rate"]
        heads = []
        for h in range(HEADS):
            mine = slice(h * WIDTH, (h + 1) * WIDTH)
            unit = kappa[mine] / (kappa[mine].square().sum() + 1e-6).sqrt()
            S = memories[h]
            S = S @ torch.diag(w[mine]) - torch.outer(S @ unit, unit * a[mine]) + torch.outer(v[mine], k[mine])
            memories[h] = S
            y = S @ r[mine]
            y = (y - y.mean()) / (y.var(correction=0) + WIDTH * eps).sqrt()
            y = y * weights["norm_weight"][mine] + weights["norm_bias"][mine]
            heads.append(y + (r[mine] * k[mine] * weights["bonus"][mine]).sum() * v[mine])
        outputs.append(linear("out", torch.cat(heads) * g))
        before_D = x_D
    return torch.stack(outputs)


@pytest.mark.parametrize("length", [1, 2, 31, 33, 64, 65])
def test_time_mixing_is_the_published_step(length: int):
    """Outputs, and gradients of inputs and weights, in fp64."""
    torch.manual_seed(0)
    config = rwkv7.Config(num_heads=HEADS)
    mixer = config.build(DIM).double()
    for parameter in mixer.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    weights = dict(mixer.named_parameters())
    x_TD = torch.randn(length, DIM, dtype=torch.float64).requires_grad_()
    found, expected = mixer(x_TD[None], Context())[0], _published(weights, x_TD, config.norm_eps)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    slopes = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view_as(found)
    given = [x_TD, *weights.values()]
    grads = [torch.autograd.grad((y * slopes).sum(), given) for y in (found, expected)]
    for ours, truth in zip(*grads, strict=True):
        torch.testing.assert_close(ours, truth, atol=1e-8, rtol=1e-8)


def test_values_from_the_block_are_added():
    mixer = rwkv7.Config(num_heads=HEADS).build(DIM).double()
    x_BTD = torch.randn(1, 5, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    extra = F.linear(x_BTD, torch.eye(DIM, dtype=torch.float64))
    mixer.get_parameter("mix_v").data.zero_()  # the values read the token itself
    found = mixer(x_BTD, Context(values_BTD=extra))
    mixer.v.weight.data += torch.eye(DIM)
    torch.testing.assert_close(found, mixer(x_BTD, Context()))
