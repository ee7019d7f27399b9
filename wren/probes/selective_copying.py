"""Selective copying: the letters, without the blanks between them, in their order.  (MAD, 2403.17844)

    tokens    _ a _ _ b a _ c  |  _ _ _ _
    targets   . . . . . . . .  .  a b a c        asked for at blanks: no answer is fed back

Each blank of the first part falls before one of the letters, each with the same chance; so the last one ends it.
"""

from dataclasses import dataclass

import numpy as np

from wren.batch import Batch
from wren.probe import Setting
from wren.probe_parts import demand, examples, mad_setting, mark_places, small_setting


@dataclass(frozen=True, kw_only=True)
class Config:
    """letters: how many are to be copied. The last token says copy, the one before it is the blank."""

    length: int = 256
    letters: int = 16
    vocab_size: int = 16

    def __post_init__(self) -> None:
        name = "selective_copying"
        demand(self.letters >= 1, f"{name}.letters is {self.letters}; it must be at least 1.")
        demand(
            self.length > 2 * self.letters + 1,
            f"{name}.length is {self.length}; {self.letters} letters need more than {2 * self.letters + 1}.",
        )
        demand(self.vocab_size >= 4, f"{name}.vocab_size is {self.vocab_size}; it must be at least 4.")

    def batch(self, count: int, rng: np.random.Generator, *, train: bool) -> Batch:
        letters, blank, first = self.letters, self.vocab_size - 2, self.length - self.letters - 1
        letters_BN = rng.integers(blank, size=(count, letters))
        before_BS = np.sort(rng.integers(letters, size=(count, first - letters)), axis=1)  # each blank's letter
        edge_BN = np.arange(count)[:, None] * letters + np.arange(letters)
        flat = before_BS + np.arange(count)[:, None] * letters
        blanks_BN = np.bincount(flat.ravel(), minlength=count * letters)[edge_BN]
        places_BN = blanks_BN.cumsum(axis=1) + np.arange(letters)
        tokens_BT = np.full((count, self.length), blank)
        np.put_along_axis(tokens_BT, places_BN, letters_BN, axis=1)
        tokens_BT[:, first] = blank + 1
        targets_BT = mark_places(count, self.length)
        targets_BT[:, -letters:] = letters_BN
        return examples(tokens_BT, targets_BT)


def _tests(letters: int, *lengths: int) -> dict[str, Config]:
    return {f"{n} tokens": Config(length=n, letters=letters) for n in lengths}


SIZES: dict[str, Setting] = {
    "cpu": small_setting(
        Config(length=64, letters=8),
        _tests(8, 64, 128, 256),
        score="macro",
        num_heads=4,
        steps=500,
        lrs=(3e-3, 1e-2),
        chance=1 / 14,
        says="MAD's task with 8 letters in 64 tokens instead of 16 in 256; the curve is more blanks, 2x and 4x.",
    ),
    "paper": mad_setting(
        Config(),
        _tests(16, 256, 512, 1024, 2048, 4096),
        chance=1 / 14,
        says="vocab 16, 16 letters in 256 tokens; the lengths up to 16x are our addition.",
    ),
}
