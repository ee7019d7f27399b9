"""Shapes of models from one number: 64 wide a layer as nearly as the wanted number of parameters allows (nanochat's
rule), in heads of 64, or of 32 where the width does not divide by 64.
"""

import math

from wren import units
from wren.errors import ConfigError

ASPECT = 64  # width of a layer for every layer
_MAX_DEPTH = 128


def head_dim(dim: int) -> int:
    return 64 if dim % 64 == 0 and dim > 64 else 32


def size(depth: int, dim: int, vocab_size: int) -> int:
    """Parameters of a transformer's blocks (12 D^2 each) and head: what costs matrix products, no lookup table."""
    return 12 * depth * dim * dim + vocab_size * dim


def shape(params: int, vocab_size: int) -> tuple[int, int]:
    """(depth, width) whose size() is nearest to `params`, and among the near ones the nearest to ASPECT.

    Raises ConfigError where even the smallest is twice as large.
    """
    found: list[tuple[float, int, int]] = []
    for depth in range(1, _MAX_DEPTH + 1):
        exact = (-vocab_size + math.sqrt(vocab_size**2 + 48 * depth * params)) / (24 * depth)
        step = 64 if exact >= 256 else 32
        dim = max(step, round(exact / step) * step)
        miss = abs(math.log(size(depth, dim, vocab_size) / params))
        found.append((max(miss, 0.03) * 4 + abs(math.log(dim / depth / ASPECT)), depth, dim))
    _, depth, dim = min(found)
    if size(depth, dim, vocab_size) > 2 * params:
        least = units.short(size(1, 32, vocab_size))
        raise ConfigError(
            f"No model of {units.short(params)} parameters has a head of {vocab_size:,} tokens; the least is {least}; "
            "ask for more, or prepare the data with a smaller --vocab-size."
        )
    return depth, dim
