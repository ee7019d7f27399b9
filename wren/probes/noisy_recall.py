"""Noisy in-context recall: as in_context_recall, with a fifth of the pairs replaced by noise.  (MAD, 2403.17844)

    tokens         k3 v1  n7 n2  k1 v2  k3 v1  n4 n4  k1
    targets, test   .  .   .  .   .  .  v1  .   .  .  v2     the values of keys that were shown before
    targets, train v1 n7  n2 k1  v2 k3  v1 n4  n4 k1  v2     every next token, as there

Keys, values and noise have tokens of their own, in this order.
"""

from dataclasses import dataclass

import numpy as np

from wren.batch import Batch
from wren.probe import Setting
from wren.probe_parts import demand, mad_recall, mad_setting, small_setting


@dataclass(frozen=True, kw_only=True)
class Config:
    """num_pairs: noise ones and the last one included. vocab_size: noise tokens included. noise: share of the pairs."""

    num_pairs: int = 64
    vocab_size: int = 32
    noise_vocab: int = 16
    noise: float = 0.2

    def __post_init__(self) -> None:
        name = "noisy_recall"
        demand(self.num_pairs >= 2, f"{name}.num_pairs is {self.num_pairs}; it must be at least 2.")
        demand(self.noise_vocab >= 1, f"{name}.noise_vocab is {self.noise_vocab}; it must be at least 1.")
        demand(
            self.vocab_size >= self.noise_vocab + 4,
            f"{name}.vocab_size is {self.vocab_size}; beside {self.noise_vocab} noise tokens it needs 4 or more.",
        )
        demand(0 <= self.noise < 1, f"{name}.noise is {self.noise}; it must lie in [0, 1).")

    @property
    def length(self) -> int:
        return 2 * self.num_pairs - 1

    def batch(self, count: int, rng: np.random.Generator, *, train: bool) -> Batch:
        return mad_recall(
            count, rng, pairs=self.num_pairs, vocab_size=self.vocab_size, noise_vocab=self.noise_vocab,
            noise=self.noise, train=train,
        )  # fmt: skip


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
        says="vocab 32 of which 16 noise, a fifth noise, 64 pairs; the lengths up to 16x are our addition.",
    ),
}
