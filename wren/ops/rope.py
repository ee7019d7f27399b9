"""Rotary positions, half-split as in Llama: (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin)  (2104.09864).

The angle of pair i of K/2 at position p is p * base ** (-2i / K). B batch, T time, H heads, K head width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from wren.ops.widen import wide_dtype


class Rotation(NamedTuple):
    cos_BTK: Tensor  # (B or 1, T, 1, K/2): the same for every head
    sin_BTK: Tensor


def rotation(positions_BT: Tensor, head_dim: int, base: float, dtype: torch.dtype) -> Rotation:
    """Cosines and sines for int64 positions (B or 1, T); angles are taken in fp32 at least, then cast to dtype."""
    wide = wide_dtype(dtype)
    pairs_K = torch.arange(0, head_dim, 2, device=positions_BT.device).to(wide) / head_dim
    angles_BTK = (positions_BT[..., None].to(wide) * (1.0 / base**pairs_K))[:, :, None, :]
    return Rotation(angles_BTK.cos().to(dtype), angles_BTK.sin().to(dtype))


def rotate(x_BTHK: Tensor, by: Rotation) -> Tensor:
    """Queries or keys turned by their positions; scores then depend on differences of positions alone."""
    left, right = x_BTHK.chunk(2, dim=-1)
    return torch.cat((left * by.cos_BTK - right * by.sin_BTK, right * by.cos_BTK + left * by.sin_BTK), dim=-1)
