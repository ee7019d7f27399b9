"""Induction heads: what followed the mark when it stood there first?  (2209.11895; the form of Mamba, 2312.00752)

    tokens    c a d  *  b  a a c d  *
    targets   . . .  .  .  . . . .  b

The first mark may stand anywhere; the letters are random.
"""

from dataclasses import dataclass

import numpy as np

from wren.batch import Batch
from wren.probe import Setting
from wren.probe_parts import demand, examples, large_setting, mark_places, small_setting


@dataclass(frozen=True, kw_only=True)
class Config:
    """The last token is the mark."""

    length: int = 256
    vocab_size: int = 16

    def __post_init__(self) -> None:
        demand(self.length >= 3, f"induction.length is {self.length}; it must be at least 3.")
        demand(self.vocab_size >= 3, f"induction.vocab_size is {self.vocab_size}; it must be at least 3.")

    def batch(self, count: int, rng: np.random.Generator, *, train: bool) -> Batch:
        mark, row_B = self.vocab_size - 1, np.arange(count)
        tokens_BT = rng.integers(mark, size=(count, self.length))
        first_B = rng.integers(self.length - 2, size=count)
        tokens_BT[row_B, first_B] = mark
        tokens_BT[:, -1] = mark
        targets_BT = mark_places(count, self.length)
        targets_BT[:, -1] = tokens_BT[row_B, first_B + 1]
        return examples(tokens_BT, targets_BT)


def _tests(*lengths: int) -> dict[str, Config]:
    return {f"{n} tokens": Config(length=n) for n in lengths}


SIZES: dict[str, Setting] = {
    "cpu": small_setting(
        Config(length=64),
        _tests(64, 128, 256, 512),
        mlp="none",
        batch_size=64,
        steps=500,
        chance=1 / 15,
        says="64 tokens; the curve is 2x to 8x the trained length.",
    ),
    "paper": large_setting(
        Config(),
        _tests(256, 512, 1024, 2048, 4096),
        dim=64,
        mlp="none",
        batch_size=128,
        chance=1 / 15,
        says="After Mamba's (2312.00752): vocab 16, 256 tokens, 2 layers of width 64, tested up to 16x (there up to "
        "4096x); 20,000 steps of 128 fresh rows (there 204,800 of 8).",
    ),
}
