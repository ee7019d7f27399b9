"""Activation checkpointing: what a backward pass needs is computed again instead of kept (1604.06174).

    full        a block keeps its input alone: least memory, about a third more arithmetic (the whole forward pass)
    selective   a block's MLP keeps its input alone

The choice for `selective` was measured against keeping all matrix products and computing the rest again (2205.05198):
that saves more, but every operation then passes through Python, and it was slower than `full` (docs/LOG.md).
"""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wren.block import Block, called
from wren.mixer import Context
from wren.mlp import SparseMlp
from wren.model import LM

Checkpointing = Literal["none", "selective", "full"]


def checkpoint_activations(model: LM, kind: Checkpointing) -> None:
    """Sets which activations the model keeps from now on. No number changes: random draws are repeated as they were."""
    model.call_block = recomputed if kind == "full" else called
    for module in model.modules():
        if isinstance(module, Block):
            module.call_mlp = recomputed if kind == "selective" else called


def recomputed(module: nn.Module, *inputs: Any) -> Tensor:
    """What a module gives, keeping its inputs alone for the backward pass, in which it runs again.

    Without gradients, and where a state is advanced (which must not happen twice), it is only called.
    """
    if not torch.is_grad_enabled() or any(isinstance(x, Context) and x.state is not None for x in inputs):
        return module(*inputs)
    sparse = [part for part in module.modules() if isinstance(part, SparseMlp)]
    if not sparse:
        return checkpoint(module, *inputs, use_reentrant=False)
    return checkpoint(module, *inputs, use_reentrant=False, context_fn=lambda: _contexts(sparse))


def _contexts(sparse: list[SparseMlp]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around the first run, and around the one in the backward pass."""
    return contextlib.nullcontext(), _counted_once(sparse)


@contextlib.contextmanager
def _counted_once(sparse: list[SparseMlp]) -> Iterator[None]:
    """Puts back what experts count of their tokens, which the first run has counted already."""
    counts = [(x, x.clone()) for module in sparse for x in module.counts()]
    try:
        yield
    finally:
        for x, before in counts:
            x.copy_(before)
