"""A frozen model in four bits: NF4 in groups of 64, made whole again at every use (QLoRA, 2305.14314).

A group keeps its largest magnitude (float32) and for each weight the nearest of 16 levels, the quantiles of a normal
distribution with a zero among them: 4.5 bits a weight. Linear layers of the blocks are held so; embeddings, head and
norms stay as they are.

I inputs, O outputs, G groups.
"""

from statistics import NormalDist
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from wren.adapters.adapter import adaptable
from wren.model import LM

GROUP = 64
_EDGE = 0.9677083  # the largest quantile that is a level, 1 - (1/30 + 1/32) / 2


def levels() -> Tensor:
    """The 16 levels from -1 to 1, rising."""
    normal = NormalDist()
    upper = [normal.inv_cdf(_EDGE + (0.5 - _EDGE) * i / 8) for i in range(8)]
    lower = [-normal.inv_cdf(_EDGE + (0.5 - _EDGE) * i / 7) for i in range(7)]
    return torch.tensor(sorted([*upper, 0.0, *lower])) / upper[0]


def quantise(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """(G, 32) uint8 with two weights a byte, and the scales (G,), float32."""
    flat = weight_OI.detach().float().flatten()
    groups = F.pad(flat, (0, -len(flat) % GROUP)).view(-1, GROUP)
    scales = groups.abs().amax(dim=1)
    known = levels().to(groups.device)
    middles = (known[1:] + known[:-1]) / 2
    codes = torch.bucketize(groups / scales.clamp(min=1e-30)[:, None], middles).to(torch.uint8)
    return codes[:, ::2] << 4 | codes[:, 1::2], scales


def dequantise(packed: Tensor, scales: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """The weight (O, I) that quantise gave away."""
    codes = torch.stack((packed >> 4, packed & 15), dim=-1).flatten(1)
    values = levels().to(packed.device)[codes.int()] * scales[:, None]
    return values.flatten()[: shape[0] * shape[1]].view(shape).to(dtype)


class _Product(torch.autograd.Function):
    """x W^T; the backward pass makes W whole a second time instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, scales: Tensor, shape: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(packed, scales)
        ctx.shape = shape
        return x @ dequantise(packed, scales, shape, x.dtype).T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (grad,), (packed, scales) = grad_outputs, ctx.saved_tensors
        return grad @ dequantise(packed, scales, ctx.shape, grad.dtype), None, None, None


class Linear4(nn.Linear):
    """A frozen linear layer in four bits. Reading `weight` makes it whole."""

    packed: Tensor
    scales: Tensor

    def __init__(self, linear: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        packed, scales = quantise(linear.weight)
        self.register_buffer("packed", packed)
        self.register_buffer("scales", scales)
        self.bias = linear.bias

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return dequantise(self.packed, self.scales, (self.out_features, self.in_features), torch.float32)

    def forward(self, input: Tensor) -> Tensor:
        kind = input.device.type
        if torch.is_autocast_enabled(kind):
            input = input.to(torch.get_autocast_dtype(kind))
        shape = self.out_features, self.in_features
        y: Tensor = _Product.apply(input, self.packed, self.scales, shape)  # type: ignore[assignment]
        return y if self.bias is None else y + self.bias.to(y.dtype)


def to_four_bits(model: LM) -> None:
    """Puts four bits in the place of the blocks' linear layers. Before adapters are put on the model."""
    for name, layer in adaptable(model).items():
        if not isinstance(layer, Linear4):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, Linear4(layer))


@torch.no_grad()
def rounded_to_four_bits(model: LM) -> None:
    """Leaves the weights what four bits keep of them, in their own format: what an adapter was trained on."""
    for layer in adaptable(model).values():
        shape = layer.out_features, layer.in_features
        layer.weight.copy_(dequantise(*quantise(layer.weight), shape, layer.weight.dtype))
