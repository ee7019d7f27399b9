"""Linear layers as decoding wants them: in the number format of the products, packed for the CPU, in 8 or in 4 bits.

    8 bits: W_oi ~ s_o q_oi,  q in -127 .. 127;     4 bits: W_oi ~ s_og (q_oi - 8) + z_og,  q in 0 .. 15, groups g of 32

with scales kept in bfloat16. torch's kernels for few rows serve where they are there (on a CPU); everything else makes
the weight whole and multiplies, a plain form that runs anywhere.

I inputs, O outputs, G groups, M rows of a product.
"""

from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUP = 32
_FEW_ROWS = {8: 12, 4: 32}  # up to here torch's kernels beat a product with the whole weight
_PACKED_ROWS = 16  # what the packed form is laid out for; it serves any number
_SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8)  # ranges tried for a group of 4 bits: cutting an outlier may cost less


class Held(nn.Linear):
    """A frozen linear layer that holds its weight in another form; reading `weight` makes it whole."""

    def __init__(self, layer: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)

    @abstractmethod
    def whole(self, dtype: torch.dtype) -> Tensor:
        """The weight (O, I)."""

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return self.whole(torch.float32)

    def forward(self, input: Tensor) -> Tensor:
        x = _narrowed(input)
        x_MI = x.reshape(-1, self.in_features)
        y_MO = self.few(x_MI) if len(x_MI) else None  # an expert may be without tokens
        if y_MO is None:
            y_MO = F.linear(x_MI, self.whole(x.dtype))
        y_MO = y_MO.to(x.dtype)
        if self.bias is not None:
            y_MO = y_MO + self.bias.to(y_MO.dtype)
        return y_MO.view(*x.shape[:-1], self.out_features)

    def few(self, x_MI: Tensor) -> Tensor | None:
        """The product by a kernel for few rows; None where there is none."""
        return None


class PlainLinear(nn.Linear):
    """The weight in the format of the products, so that autocast need not cast it."""

    def __init__(self, layer: nn.Linear, dtype: torch.dtype):
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight = nn.Parameter(layer.weight.detach().to(dtype), requires_grad=False)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().to(dtype), requires_grad=False)


class PackedLinear(Held):
    """bfloat16 in the layout of oneDNN's kernels, which few rows read in half the time."""

    def __init__(self, layer: nn.Linear):
        super().__init__(layer)
        weight = layer.weight.detach().to(torch.bfloat16).contiguous()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, _PACKED_ROWS)
        self._whole: Tensor | None = None

    def whole(self, dtype: torch.dtype) -> Tensor:
        whole = self._whole
        if whole is None:  # asked for again and again by a mixer that reads it
            whole = self._whole = self.packed.to_dense().clone()
        return whole.to(dtype)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return self.whole(torch.bfloat16)

    def forward(self, input: Tensor) -> Tensor:
        if not input.numel():  # an expert without tokens
            return input.new_zeros(*input.shape[:-1], self.out_features, dtype=torch.bfloat16)
        y = torch.ops.mkldnn._linear_pointwise(input.to(torch.bfloat16), self.packed, None, "none", [], "")
        return y if self.bias is None else y + self.bias.to(y.dtype)


class Together:
    """Layers without biases that read one tensor, as one product: each takes its part of what the first one made."""

    def __init__(self, layers: list[nn.Linear]):
        self.sizes = [layer.out_features for layer in layers]
        both = nn.Linear(layers[0].in_features, sum(self.sizes), bias=False, device="meta")
        both.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]), requires_grad=False)
        self.layer = PackedLinear(both)
        self._made: tuple[Tensor, tuple[Tensor, ...]] | None = None

    def part(self, index: int, x: Tensor) -> Tensor:
        made = self._made
        if made is None or made[0] is not x:
            made = self._made = x, self.layer(x).split(self.sizes, dim=-1)
        if index == len(self.sizes) - 1:
            self._made = None
        return made[1][index]


class Part(Held):
    """One layer of those that multiply together."""

    def __init__(self, layer: nn.Linear, together: Together, index: int):
        super().__init__(layer)
        self.together, self.index = together, index

    def whole(self, dtype: torch.dtype) -> Tensor:
        return self.together.layer.whole(dtype).split(self.together.sizes)[self.index]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return self.whole(torch.bfloat16)

    def forward(self, input: Tensor) -> Tensor:
        return self.together.part(self.index, input)


def parts_of(layers: list[nn.Linear]) -> list[Part]:
    together = Together(layers)
    return [Part(layer, together, i) for i, layer in enumerate(layers)]


class Linear8(Held):
    """A scale for each output."""

    codes_OI: Tensor
    scales_O: Tensor

    def __init__(self, layer: nn.Linear):
        super().__init__(layer)
        weight = layer.weight.detach().float()
        scales_O1 = (weight.abs().amax(1, keepdim=True) / 127).clamp(min=1e-30).to(torch.bfloat16)
        codes = (weight / scales_O1.float()).round().clamp(-127, 127)
        self.register_buffer("codes_OI", codes.to(torch.int8))
        self.register_buffer("scales_O", scales_O1[:, 0].contiguous())

    def whole(self, dtype: torch.dtype) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        return (self.codes_OI.to(wide) * self.scales_O.to(wide)[:, None]).to(dtype)

    def few(self, x_MI: Tensor) -> Tensor | None:
        serves = x_MI.device.type == "cpu" and x_MI.dtype != torch.float64 and len(x_MI) <= _FEW_ROWS[8]
        if not serves or self.in_features % GROUP or not _has_8():  # it reads rows in wide steps, past their end too
            return None
        return torch.ops.aten._weight_int8pack_mm(x_MI.to(torch.bfloat16), self.codes_OI, self.scales_O)


class Linear4(Held):
    """A scale and a zero for every 32 inputs, 5 bits a weight. Beside two codes a byte a CPU holds its kernel's
    form."""

    packed: Tensor
    scales_GO2: Tensor

    def __init__(self, layer: nn.Linear):
        super().__init__(layer)
        codes_OI, self_scales = _four_bits(layer.weight.detach().float())
        self.register_buffer("packed", codes_OI[:, ::2] << 4 | codes_OI[:, 1::2])
        self.register_buffer("scales_GO2", self_scales)
        self.kernel_form: Tensor | None = None
        if codes_OI.device.type == "cpu" and _has_4() and self.out_features % 16 == 0:
            self.kernel_form = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes_OI.int(), 2)

    def whole(self, dtype: torch.dtype) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        codes = torch.stack((self.packed >> 4, self.packed & 15), dim=-1).view(self.out_features, -1, GROUP)
        scale_OG, zero_OG = self.scales_GO2.to(wide).permute(2, 1, 0)
        values = (codes.to(wide) - 8) * scale_OG[..., None] + zero_OG[..., None]
        return values.flatten(1).to(dtype)

    def few(self, x_MI: Tensor) -> Tensor | None:
        if self.kernel_form is None or len(x_MI) > _FEW_ROWS[4] or x_MI.dtype == torch.float64:
            return None
        product = torch.ops.aten._weight_int4pack_mm_for_cpu
        return product(x_MI.to(torch.bfloat16), self.kernel_form, GROUP, self.scales_GO2)


def _four_bits(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (O, I) uint8, and scale and zero (G, O, 2) in bfloat16: of several ranges the one with the least error."""
    groups = weight_OI.unflatten(1, (-1, GROUP))
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    least = best = kept = None
    for share in _SHRINK:
        scale = ((high - low) * share / 15).clamp(min=1e-30).to(torch.bfloat16).float()
        zero = ((high + low) / 2 + scale / 2).to(torch.bfloat16).float()  # code 7.5 is the middle
        codes = ((groups - zero) / scale + 8).round().clamp(0, 15)
        error = ((codes - 8) * scale + zero - groups).square().sum(-1, keepdim=True)
        pair = torch.cat((scale, zero), dim=-1)
        if least is None or best is None or kept is None:
            least, best, kept = error, codes, pair
            continue
        better = error < least
        least, best, kept = (torch.where(better, a, b) for a, b in ((error, least), (codes, best), (pair, kept)))
    assert best is not None
    assert kept is not None
    return best.flatten(1).to(torch.uint8), kept.transpose(0, 1).to(torch.bfloat16).contiguous()


def _narrowed(x: Tensor) -> Tensor:
    """As autocast has it for a linear layer."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def _has_8() -> bool:
    return _operator("_weight_int8pack_mm")


def _has_4() -> bool:
    return _operator("_weight_int4pack_mm_for_cpu") and _operator("_convert_weight_to_int4pack_for_cpu")


def _operator(name: str) -> bool:
    """Whether this torch knows an operator; older ones lack some."""
    operators: Any = torch.ops.aten
    try:
        getattr(operators, name)
    except AttributeError:
        return False
    return True
