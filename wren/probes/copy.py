"""Copying: the letters once more, in their order.  (2402.01032)

    tokens    <  a b a c  |  a b a c
    targets   .  . . . .  a  b a c  >        the answer so far is fed back

A state of fixed size holds so many letters and no more; attention looks each one up.
"""

from dataclasses import dataclass

import numpy as np

from wren.probe import Setting
from wren.probe_parts import TranscriptionConfig, large_setting, small_setting


@dataclass(frozen=True, kw_only=True)
class Config(TranscriptionConfig):
    """size: letters in the longest row. smallest: in the shortest of training, None = size. letters: different ones."""

    name = "copy"

    def answer(self, source_BN: np.ndarray, sizes_B: np.ndarray) -> np.ndarray:
        return source_BN


def _tests(*sizes: int) -> dict[str, Config]:
    return {f"{n} letters": Config(size=n) for n in sizes}


SIZES: dict[str, Setting] = {
    "cpu": small_setting(
        Config(size=48, smallest=8),
        _tests(48, 96, 192, 384),
        num_heads=4,
        batch_size=32,
        steps=450,
        lrs=(3e-3, 1e-2),
        chance=1 / 26,
        says="8 to 48 letters in training, 48 in the headline test; the curve is 2x to 8x.",
    ),
    "paper": large_setting(
        Config(size=50, smallest=20),
        _tests(50, 100, 200, 400, 800),
        score="exact",
        num_heads=4,
        chance=0.0,
        says="After 2402.01032: 26 letters, 20 to 50 of them in training, whole copies counted, tested up to 16x. "
        "There 12 layers of width 1024 and several strings a row; here 2 layers of width 256, one string a row.",
    ),
}
