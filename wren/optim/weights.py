"""Weights in bf16 without a float32 copy: half of their memory and of their gradients'.

Narrowed are the weights of linear layers and of lookup tables; gains, decays, convolutions and other small tensors stay
float32. Rows of tables are widened when they are looked up, so that the residual stream is what it is with float32
weights. Matrix products must run in bf16 (autocast), which then finds the weights as it would have made them.
"""

import torch
from torch import Tensor, nn

from wren.mlp import SparseMlp
from wren.ops.place import kind
from wren.tables import Table, gathered


def narrow_weights(model: nn.Module) -> None:
    """Converts the model in place; names, shapes and ties stay. A second call changes nothing."""
    kept = {id(child.weight) for m in model.modules() if isinstance(m, SparseMlp) for child in _routers(m)}
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding, Table)) and id(module.weight) not in kept:
            if isinstance(module, (nn.Embedding, Table)) and _widened not in module._forward_hooks.values():
                module.register_forward_hook(_widened)
            module.weight.data = module.weight.data.to(torch.bfloat16)


def _routers(module: SparseMlp) -> list[nn.Linear]:
    """They read their weights in float32, since near scores decide."""
    return [child for child in module.children() if isinstance(child, nn.Linear)]


def _widened(module: nn.Module, inputs: tuple[Tensor], rows: Tensor) -> Tensor:
    """Looked-up rows in float32. On a CPU torch would add up their gradients in bf16, where a common token's drown."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return (gathered(weight, inputs[0]) if kind(weight) == "cpu" else rows).float()
