"""Noisy MQAR: associative recall with filler between the pairs and between the queries.  (after 2312.04927, 2403.17844)

    tokens    n3 n8  k1 v4  n2 n2  k2 v7  n1 n5   n6 n1  k2 n3  n8 n4  k1 n2
    targets    . .    . .    . .    . .    . .     . .   v7 .    . .   v4 .

The first half of the row holds the pairs, the second the queries, each at random even places; the rest is noise.
"""

from dataclasses import dataclass

import numpy as np

from wren.batch import Batch
from wren.probe import Setting
from wren.probe_parts import demand, distinct, examples, large_setting, mark_places, small_setting


@dataclass(frozen=True, kw_only=True)
class Config:
    """vocab_size: noise comes first, then as many keys as values; no two alike in a row."""

    length: int
    num_pairs: int
    vocab_size: int
    noise_vocab: int = 16

    def __post_init__(self) -> None:
        name, pairs = "noisy_mqar", self.num_pairs
        demand(pairs >= 1, f"{name}.num_pairs is {pairs}; it must be at least 1.")
        demand(self.noise_vocab >= 1, f"{name}.noise_vocab is {self.noise_vocab}; it must be at least 1.")
        demand(
            self.length % 4 == 0 and self.length >= 4 * pairs,
            f"{name}.length is {self.length}; {pairs} pairs need a multiple of 4 of at least {4 * pairs}.",
        )
        least = self.noise_vocab + 2 * pairs
        demand(self.vocab_size >= least, f"{name}.vocab_size is {self.vocab_size}; it must be at least {least}.")

    def batch(self, count: int, rng: np.random.Generator, *, train: bool) -> Batch:
        pairs, slots, noise = self.num_pairs, self.length // 4, self.noise_vocab
        key_count = (self.vocab_size - noise) // 2
        keys_BN = noise + distinct(rng, count, key_count, pairs)
        values_BN = noise + key_count + distinct(rng, count, self.vocab_size - noise - key_count, pairs)
        shown_BN = 2 * distinct(rng, count, slots, pairs)
        asked_BN = 2 * slots + 2 * distinct(rng, count, slots, pairs)
        tokens_BT = rng.integers(noise, size=(count, self.length))
        np.put_along_axis(tokens_BT, shown_BN, keys_BN, axis=1)
        np.put_along_axis(tokens_BT, shown_BN + 1, values_BN, axis=1)
        np.put_along_axis(tokens_BT, asked_BN, keys_BN, axis=1)
        targets_BT = mark_places(count, self.length)
        np.put_along_axis(targets_BT, asked_BN, values_BN, axis=1)
        return examples(tokens_BT, targets_BT)


def _tests(num_pairs: int, vocab_size: int, *lengths: int) -> dict[str, Config]:
    return {f"{n} tokens": Config(length=n, num_pairs=num_pairs, vocab_size=vocab_size) for n in lengths}


SIZES: dict[str, Setting] = {
    "cpu": small_setting(
        Config(length=96, num_pairs=8, vocab_size=80),
        _tests(8, 80, 96, 192, 384),
        num_heads=4,
        batch_size=32,
        steps=600,
        chance=1 / 32,
        says="8 pairs in 96 tokens; the curve is more noise, 2x and 4x the trained length.",
    ).with_levels({"any value of the row": 1 / 8}),
    "paper": large_setting(
        Config(length=512, num_pairs=32, vocab_size=8192),
        _tests(32, 8192, 512, 1024, 2048, 4096, 8192),
        dim=128,
        mlp="none",
        chance=1 / 4088,
        says="No paper's row: 32 pairs in 512 tokens, vocab 8192 of which 16 noise, tested with noise up to 16x the "
        "length.",
    ).with_levels({"any value of the row": 1 / 32}),
}
