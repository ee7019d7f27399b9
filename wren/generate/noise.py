"""Noise that is a function of (seed, place, token), so that a draw does not depend on the rows beside it.

    argmax_v (logits_v / T + g_v),  g = -log(-log(u)),  u uniform

is a draw from softmax(logits / T) (Gumbel 1954). Logits that differ by rounding draw the same token unless two
perturbed scores lie as close together. Hashes after splitmix64 (Steele et al. 2014) and MurmurHash3's finaliser.

B rows, V vocabulary or candidates.
"""

import numpy as np
import torch
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SPREAD, _FIRST, _SECOND = -1640531535, -2048144789, -1028477387  # as int32
_SMALLEST = 2.0**-24
_IN_CACHE = 1 << 17  # numbers at once on a CPU


def mixed(values: np.ndarray) -> np.ndarray:
    """uint64 -> uint64, every bit depends on every bit."""
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))


def seed_keys(seeds: list[int]) -> np.ndarray:
    """uint64 (B,): seeds that differ by little made far apart, before places are counted on from them."""
    return mixed(np.array([seed % 2**64 for seed in seeds], dtype=np.uint64) + _GOLDEN)


def place_keys(keys_B: np.ndarray, places: list[int]) -> np.ndarray:
    """int32 (B, 2): one for each row's seed key and place in the text."""
    counted = keys_B + (np.array(places, dtype=np.uint64) + np.uint64(1)) * _GOLDEN
    return mixed(counted).view(np.int32).reshape(-1, 2)


def spread(tokens: Tensor) -> Tensor:
    """int32 of any shape -> int32: token ids as `gumbel` takes them."""
    return tokens.int() * _SPREAD


def gumbel(keys_B2: Tensor, spread_tokens: Tensor) -> Tensor:
    """float32 (B, V) for int32 keys (B, 2) and spread token ids (V,) or (B, V)."""
    B, V = len(keys_B2), spread_tokens.shape[-1]
    rows = max(1, _IN_CACHE // V) if keys_B2.device.type == "cpu" else B
    tokens_BV = spread_tokens.expand(B, V)
    pieces = [_gumbel(keys_B2[i : i + rows], tokens_BV[i : i + rows]) for i in range(0, B, rows)]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _gumbel(keys_B2: Tensor, tokens_BV: Tensor) -> Tensor:
    """Shifts that carry the sign along mix as well, and take one pass less."""
    hashed = tokens_BV + keys_B2[:, :1]
    hashed ^= hashed >> 16
    hashed *= _FIRST
    hashed ^= hashed >> 13
    hashed *= _SECOND
    hashed ^= hashed >> 16
    hashed ^= keys_B2[:, 1:]
    hashed *= _FIRST
    hashed ^= hashed >> 15
    hashed &= 0x7FFFFFFF
    # log(1 - u), exact where u is small: there the largest noise comes from
    minus = hashed.float().mul_(-(2.0**-31)).sub_(2.0**-32).clamp_(min=_SMALLEST - 1)
    return minus.log1p_().neg_().log_().neg_()
