"""What the state of a parameter consists of, and how many bytes states and gradients take: all from shapes alone."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from wren.ops.widen import wide_dtype
from wren.optim.adamw import MOMENTS, AdamW
from wren.optim.muon import WAITING, Muon
from wren.optim.rows import FIELDS as ROW_FIELDS
from wren.optim.rows import Rows
from wren.optim.store import Store

Part = torch.optim.AdamW | AdamW | Muon | Rows
SMALL = ("step", "row_mean", *ROW_FIELDS)  # what is kept beside the weights, whatever becomes of moments
Layout = dict[str, tuple[list[int], torch.dtype]]


def state_layout(part: Part, param: Tensor, store: Store | None) -> Layout:
    """Shape and dtype of every tensor of a parameter's state, by its field."""
    wide = param.dtype if store is None else wide_dtype(param.dtype)
    if isinstance(part, Rows):
        return dict.fromkeys(ROW_FIELDS, ([len(param), 1], wide_dtype(param.dtype)))
    if isinstance(part, Muon):
        layout: Layout = {"row_mean": ([len(param), 1], wide)} if part.defaults["normalise"] else {}
        moments: tuple[str, ...] = ("momentum_buffer",)
    else:
        layout, moments = {"step": ([], torch.float32)}, MOMENTS
    for field in moments:
        layout |= {field: (list(param.shape), wide)} if store is None else store.layout(param, field)
    return layout


def is_moment(field: str) -> bool:
    """Whether a field is as large as its parameter, or belongs to one that is: such may lie in main memory."""
    return field not in SMALL


def state_bytes(trained: Iterable[tuple[Part, Tensor]], store: Store | None) -> tuple[int, int]:
    """Bytes of all states: on the devices of the weights, and in main memory by off-loading."""
    here = away = 0
    for part, p in trained:
        for field, (shape, dtype) in state_layout(part, p, store).items():
            size = math.prod(shape) * dtype.itemsize
            if store is not None and store.is_away(p) and is_moment(field):
                away += size
            else:
                here += size
    return here, away


def gradient_bytes(trained: Iterable[tuple[Part, Tensor]], *, in_backward: bool) -> int:
    """Bytes of the gradients that are alive at once, at most."""
    alone = everything = 0
    matrices: dict[tuple[Any, ...], list[int]] = {}
    for part, p in trained:
        size = p.numel() * p.dtype.itemsize
        everything += size
        if isinstance(part, Muon):
            matrices.setdefault((p.shape, p.dtype, p.device), []).append(size)
        else:
            alone = max(alone, size)
    if not in_backward:
        return everything
    waiting = (sum(sizes[: -(-WAITING // math.prod(shape))]) for (shape, *_), sizes in matrices.items())
    return alone + sum(waiting)
