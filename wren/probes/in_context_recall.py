"""In-context recall: pairs of a fixed map, drawn again and again; which value has this key?  (MAD, 2403.17844)

    tokens         k3 v1  k1 v2  k3 v1  k2 v1  k1
    targets, test   .  .   .  .  v1  .   .  .  v2        the values of keys that were shown before
    targets, train v1 k1  v2 k3  v1 k2  v1 k1  v2        every next token, as there

Keys are the first half of the tokens, values the second; several keys may have one value.
"""

from dataclasses import dataclass

import numpy as np

from wren.batch import Batch
from wren.probe import Setting
from wren.probe_parts import demand, mad_recall, mad_setting, small_setting


@dataclass(frozen=True, kw_only=True)
class Config:
    """num_pairs: the last one, whose value is not read any more, included."""

    num_pairs: int = 64
    vocab_size: int = 16

    def __post_init__(self) -> None:
        name = "in_context_recall"
        demand(self.num_pairs >= 2, f"{name}.num_pairs is {self.num_pairs}; it must be at least 2.")
        demand(self.vocab_size >= 4, f"{name}.vocab_size is {self.vocab_size}; it must be at least 4.")

    @property
    def length(self) -> int:
        return 2 * self.num_pairs - 1

    def batch(self, count: int, rng: np.random.Generator, *, train: bool) -> Batch:
        return mad_recall(
            count, rng, pairs=self.num_pairs, vocab_size=self.vocab_size, noise_vocab=0, noise=0.0, train=train
        )


def _tests(*pairs: int) -> dict[str, Config]:
    return {f"{n} pairs": Config(num_pairs=n) for n in pairs}


SIZES: dict[str, Setting] = {
    "cpu": small_setting(
        Config(num_pairs=32),
        _tests(32, 64, 128),
        score="macro",
        num_heads=4,
        chance=1 / 8,
        says="MAD's task at 32 pairs instead of 64; the curve is 2x and 4x the trained length.",
    ),
    "paper": mad_setting(
        Config(),
        _tests(64, 128, 256, 512, 1024),
        chance=1 / 8,
        says="vocab 16, 64 pairs; the lengths up to 16x are our addition.",
    ),
}
