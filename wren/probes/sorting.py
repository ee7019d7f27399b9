"""Sorting: the numbers once more, from the smallest to the largest.  (after 2310.16028)

    tokens    <  5 2 9 2  |  2 2 5 9
    targets   .  . . . .  2  2 5 9  >        the answer so far is fed back

The same number may come several times.
"""

from dataclasses import dataclass

import numpy as np

from wren.probe import Setting
from wren.probe_parts import TranscriptionConfig, large_setting, small_setting


@dataclass(frozen=True, kw_only=True)
class Config(TranscriptionConfig):
    """size: numbers in the longest row. smallest: in the shortest of training, None = size. letters: different ones."""

    name = "sorting"
    letters: int = 64

    def answer(self, source_BN: np.ndarray, sizes_B: np.ndarray) -> np.ndarray:
        behind_BN = np.arange(self.size) >= sizes_B[:, None]
        return np.sort(np.where(behind_BN, self.letters, source_BN), axis=1)


def _tests(*sizes: int) -> dict[str, Config]:
    return {f"{n} numbers": Config(size=n) for n in sizes}


SIZES: dict[str, Setting] = {
    "cpu": small_setting(
        Config(size=32, smallest=4),
        _tests(32, 64, 128),
        num_heads=4,
        batch_size=32,
        steps=600,
        chance=1 / 33,
        says="64 different numbers; 4 to 32 of them in training, 32 in the headline test; the curve is 2x and 4x.",
    ),
    "paper": large_setting(
        Config(size=64, smallest=4),
        _tests(64, 128, 256, 512, 1024),
        num_heads=4,
        chance=1 / 64,
        says="No paper's row: 64 different numbers, 4 to 64 of them in training, tested up to 16x; 2 layers of "
        "width 256.",
    ),
}
