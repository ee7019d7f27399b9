"""Palindrome: the letters once more, from the last to the first.  (the form of Kimi Linear, 2510.26692)

    tokens    <  a b d c  |  c d b a
    targets   .  . . . .  c  d b a  >        the answer so far is fed back

A state must give back first what it took in last.
"""

from dataclasses import dataclass

import numpy as np

from wren.probe import Setting
from wren.probe_parts import TranscriptionConfig, large_setting, small_setting


@dataclass(frozen=True, kw_only=True)
class Config(TranscriptionConfig):
    """size: letters in the longest row. smallest: in the shortest of training, None = size. letters: different ones."""

    name = "palindrome"

    def answer(self, source_BN: np.ndarray, sizes_B: np.ndarray) -> np.ndarray:
        return np.take_along_axis(source_BN, np.maximum(sizes_B[:, None] - 1 - np.arange(self.size), 0), axis=1)


def _tests(*sizes: int) -> dict[str, Config]:
    return {f"{n} letters": Config(size=n) for n in sizes}


def _paper(length: int) -> Setting:
    size = length // 2 - 1
    return large_setting(
        Config(size=size),
        {f"{n} letters": Config(size=n) for n in (size, 2 * size, 4 * size, 8 * size)},
        mlp="none",
        lrs=(5e-5, 1e-4, 5e-4, 1e-3),
        chance=1 / 26,
        says=f"After Kimi Linear (2510.26692): 2 layers, 2 heads of 128, 20,000 steps, rows of {length} tokens. Its "
        "letters and batch size are not known to us: 26 and 64. Tests up to 8x are our addition.",
    )


SIZES: dict[str, Setting] = {
    "cpu": small_setting(
        Config(size=32, smallest=4),
        _tests(32, 64, 128),
        num_heads=4,
        batch_size=32,
        steps=600,
        chance=1 / 26,
        says="4 to 32 letters in training, 32 in the headline test; the curve is 2x and 4x.",
    ),
    "paper": _paper(256),
    "paper-512": _paper(512),
    "paper-1024": _paper(1024),
    "paper-2048": _paper(2048),
}
