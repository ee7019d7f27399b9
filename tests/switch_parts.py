"""A small model with switches turned, and what its blocks are called with."""

from dataclasses import replace
from typing import Any, cast

import torch
from model_cases import VOCAB, shaken
from torch import Tensor

from wren.block import Block
from wren.mixer import Context
from wren.mixers import attention
from wren.mlps import relu2
from wren.model import LM, ModelConfig

PLAIN = ModelConfig(
    vocab_size=VOCAB, dim=16, depth=3, mixers=(attention.Config(num_heads=2),), mlp=relu2.Config(hidden=24)
)
DOCUMENTS = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 2]])


def made(**switches: Any) -> LM:
    torch.manual_seed(0)
    return shaken(replace(PLAIN, **switches).build().double().eval())


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


def seen(model: LM, tokens_BT: Tensor, **inputs: Tensor) -> dict[str, list[tuple[Tensor, Context]]]:
    """What every block and mixer was called with: the stream or its normed form, and the context."""
    calls: dict[str, list[Any]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, args, name=name: calls.setdefault(name, []).append(args))
        for name, module in model.named_modules()
        if name.startswith("blocks.") and (name.count(".") == 1 or name.endswith((".mixer", ".mlp")))
    ]
    with torch.no_grad():
        model(tokens_BT, **inputs)
    for hook in hooks:
        hook.remove()
    return calls


def block(model: LM, index: int) -> Block:
    return cast(Block, model.blocks[index])
