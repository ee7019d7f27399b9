"""Rotary positions, half-split as in Llama: (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin)  (2104.09864).

The angle of pair i of K/2 at position p is p * base ** (-2i / K). B batch, T time, H heads, K head width.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wren.errors import ConfigError
from wren.ops.widen import wide_dtype


@dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Slower angles for rows longer than those first trained on (Llama 3.1, 2407.21783): pairs that turn fewer than
    low_freq_factor times in original_context_len tokens turn `factor` times slower, those that turn more than
    high_freq_factor times stay, and those between are blended."""

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context_len: int = 8192

    def __post_init__(self) -> None:
        for name in ("factor", "low_freq_factor", "original_context_len"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"rope_scaling.{name} is {getattr(self, name)}; it must be above 0.")
        if not self.high_freq_factor > self.low_freq_factor:
            raise ConfigError("rope_scaling.high_freq_factor must be above rope_scaling.low_freq_factor.")

    def slowed(self, frequencies_K: Tensor) -> Tensor:
        turns_K = self.original_context_len * frequencies_K / (2 * math.pi)
        share_K = (turns_K - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        share_K = share_K.clamp(0, 1)  # of the frequency as it was
        return share_K * frequencies_K + (1 - share_K) * frequencies_K / self.factor


class Rotation(NamedTuple):
    cos_BTK: Tensor  # (B or 1, T, 1, K/2): the same for every head
    sin_BTK: Tensor


def rotation(
    positions_BT: Tensor, head_dim: int, base: float, dtype: torch.dtype, scaling: Llama3Scaling | None = None
) -> Rotation:
    """Cosines and sines for int64 positions (B or 1, T); angles are taken in fp32 at least, then cast to dtype."""
    wide = wide_dtype(dtype)
    pairs_K = torch.arange(0, head_dim, 2, device=positions_BT.device).to(wide) / head_dim
    frequencies_K = 1.0 / base**pairs_K
    if scaling is not None:
        frequencies_K = scaling.slowed(frequencies_K)
    angles_BTK = (positions_BT[..., None].to(wide) * frequencies_K)[:, :, None, :]
    return Rotation(angles_BTK.cos().to(dtype), angles_BTK.sin().to(dtype))


def rotate(x_BTHK: Tensor, by: Rotation) -> Tensor:
    """Queries or keys turned by their positions; scores then depend on differences of positions alone."""
    left, right = x_BTHK.chunk(2, dim=-1)
    return torch.cat((left * by.cos_BTK - right * by.sin_BTK, right * by.cos_BTK + left * by.sin_BTK), dim=-1)
