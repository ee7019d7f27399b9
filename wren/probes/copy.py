"""Copying: the letters once more, in their order.  (2402.01032)

    tokens    <  a b a c  |  a b a c
    targets   .  . . . .  a  b a c  >        the answer so far is fed back

A state of fixed size holds so many letters and no more; attention looks each one up.
"""

from dataclasses import dataclass

import numpy as np

from wren.batch import Batch
from wren.probe import Setting
from wren.probe_parts import demand, large_setting, small_setting, transcription


@dataclass(frozen=True, kw_only=True)
class Config:
    """size: letters in the longest row; training draws sizes from smallest (None = all of that size), tests do not.

    letters: different ones; behind them come the tokens for the beginning, the mark, the end and the filling.
    """

    size: int
    smallest: int | None = None
    letters: int = 26

    def __post_init__(self) -> None:
        smallest = self.size if self.smallest is None else self.smallest
        demand(
            1 <= smallest <= self.size,
            f"copy.smallest is {smallest}; it must lie between 1 and size, {self.size}.",
        )
        demand(self.letters >= 2, f"copy.letters is {self.letters}; it must be at least 2.")

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
        begin = self.letters
        return transcription(source_BN, source_BN, sizes_B, begin=begin, mark=begin + 1, end=begin + 2, pad=begin + 3)


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
