"""Sorting: the numbers once more, from the smallest to the largest.  (after 2310.16028)

    tokens    <  5 2 9 2  |  2 2 5 9
    targets   .  . . . .  2  2 5 9  >        the answer so far is fed back

The same number may come several times.
"""

from dataclasses import dataclass

import numpy as np

from wren.batch import Batch
from wren.probe import Setting
from wren.probe_parts import demand, large_setting, small_setting, transcription


@dataclass(frozen=True, kw_only=True)
class Config:
    """size: numbers in the longest row; training draws sizes from smallest (None = all of that size), tests do not.

    letters: different ones; behind them come the tokens for the beginning, the mark, the end and the filling.
    """

    size: int
    smallest: int | None = None
    letters: int = 64

    def __post_init__(self) -> None:
        smallest = self.size if self.smallest is None else self.smallest
        demand(
            1 <= smallest <= self.size,
            f"sorting.smallest is {smallest}; it must lie between 1 and size, {self.size}.",
        )
        demand(self.letters >= 2, f"sorting.letters is {self.letters}; it must be at least 2.")

    @property
    def vocab_size(self) -> int:
        return self.letters + 4

    @property
    def length(self) -> int:
        return 2 * self.size + 2

    def batch(self, count: int, rng: np.random.Generator, *, train: bool) -> Batch:
        smallest = self.smallest if train and self.smallest is not None else self.size
        sizes_B = rng.integers(smallest, self.size + 1, size=count)
        source_BN = rng.integers(self.letters, size=(count, self.size))
        behind_BN = np.arange(self.size) >= sizes_B[:, None]
        answer_BN = np.sort(np.where(behind_BN, self.letters, source_BN), axis=1)
        begin = self.letters
        return transcription(source_BN, answer_BN, sizes_B, begin=begin, mark=begin + 1, end=begin + 2, pad=begin + 3)


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
