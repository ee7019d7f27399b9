"""A model for decoding: a copy whose linear layers are held as decoding wants them and that shares all other tensors.

Files keep the weights as they were trained.
"""

import copy
import functools
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wren.errors import ConfigError
from wren.generate.layers import GROUP, Linear4, Linear8, PackedLinear, PlainLinear, parts_of
from wren.mlp import SparseMlp
from wren.model import LM
from wren.precision import Precision

Bits = Literal[8, 4]
SMALLEST = 16  # a layer with fewer outputs, such as one gate a head, stays as it is


def prepared(model: LM, precision: Precision, bits: Bits | None = None) -> LM:
    """The model for decoding: itself in float32, else a copy in whose place its weights may change; raises ConfigError.

    The copy's linear layers do not follow the model's weights; norms and lookup tables are the model's own. Adapters
    are put on the copy.
    """
    if bits not in (None, 8, 4):
        raise ConfigError(f"bits is {bits}; it can be 8 or 4, or nothing.")
    if precision.autocast is None and bits is None:
        return model.eval()
    if model.adapters is not None:
        if bits is not None:
            raise ConfigError("The model has adapters on it; put them on after it was turned into 8 or 4 bits.")
        return model.eval()
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    made = copy.deepcopy(model, shared).eval()
    routers = {id(child) for m in made.modules() if isinstance(m, SparseMlp) for child in m.children()}
    layers = {n: m for n, m in made.named_modules() if type(m) is nn.Linear and id(m) not in routers}
    converted: dict[str, nn.Linear] = {}
    if bits is None and _is_packed(precision):
        for names in read_together(made, layers, precision):
            converted |= zip(names, parts_of([layers[name] for name in names]), strict=True)
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(made.get_submodule(parent), child, converted.get(name) or _converted(layer, precision, bits))
    return made


@torch.no_grad()
def read_together(model: LM, layers: dict[str, nn.Linear], precision: Precision) -> list[list[str]]:
    """Groups of layers, by name, that read one and the same tensor, such as queries, keys and values; found by trying.

    One token is read to see it. A mixer that gives them different tensors at other times loses time, not truth.
    """
    seen: list[tuple[Tensor, list[str]]] = []

    def look(name: str, module: nn.Module, inputs: Any) -> None:
        (x,) = inputs
        group = next((names for tensor, names in seen if tensor is x), None)
        if group is None:
            seen.append((x, [name]))
        elif name not in group:
            group.append(name)

    hooks = [
        layer.register_forward_pre_hook(functools.partial(look, name))
        for name, layer in layers.items()
        if layer.bias is None
    ]
    try:
        with precision.context():
            token_11 = torch.zeros(1, 1, dtype=torch.long, device=precision.device)
            model.hidden(token_11, state=model.new_state(1, 1, device=precision.device))
    finally:
        for hook in hooks:
            hook.remove()
    return [names for _, names in seen if len(names) > 1]


@torch.no_grad()
def _converted(layer: nn.Linear, precision: Precision, bits: Bits | None) -> nn.Linear:
    if bits is not None and layer.out_features >= SMALLEST and layer.weight.is_floating_point():
        if bits == 4 and layer.in_features % GROUP == 0:
            return Linear4(layer)
        return Linear8(layer)
    if precision.autocast is None:
        return layer
    if _is_packed(precision):
        return PackedLinear(layer)
    return PlainLinear(layer, precision.autocast)


def _is_packed(precision: Precision) -> bool:
    """Whether oneDNN packs weights here."""
    if precision.device.type != "cpu" or precision.autocast != torch.bfloat16:
        return False
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
