"""Memorization: which value belongs to this key, by a map that is the same in every row?  (MAD, 2403.17844)

    tokens    k9  ?  k2  ?  k5  ?
    targets    . v4   . v7   . v1        the map is in the weights, not in the row

The map is one to one, fixed by map_seed, and shared by training and tests: it is what is to be learned.
"""

from dataclasses import dataclass

import numpy as np

from wren.batch import Batch
from wren.probe import Setting
from wren.probe_parts import demand, examples, mad_setting, mark_places, small_setting


@dataclass(frozen=True, kw_only=True)
class Config:
    """The last token asks; of the others the first half is keys."""

    num_pairs: int = 16
    vocab_size: int = 256
    map_seed: int = 12345

    def __post_init__(self) -> None:
        demand(self.num_pairs >= 1, f"memorization.num_pairs is {self.num_pairs}; it must be at least 1.")
        demand(self.vocab_size >= 3, f"memorization.vocab_size is {self.vocab_size}; it must be at least 3.")

    @property
    def length(self) -> int:
        return 2 * self.num_pairs

    def values(self) -> np.ndarray:
        """The value of every key; of an odd number of tokens one value stays unused."""
        keys = (self.vocab_size - 1) // 2
        return np.random.default_rng(self.map_seed).permutation(np.arange(keys, self.vocab_size - 1))[:keys]

    def batch(self, count: int, rng: np.random.Generator, *, train: bool) -> Batch:
        values_K = self.values()
        tokens_BT = np.full((count, self.length), self.vocab_size - 1)
        tokens_BT[:, 0::2] = rng.integers(len(values_K), size=(count, self.num_pairs))
        targets_BT = mark_places(count, self.length)
        targets_BT[:, 1::2] = values_K[tokens_BT[:, 0::2]]
        return examples(tokens_BT, targets_BT)


def _tests(*pairs: int) -> dict[str, Config]:
    return {f"{n} pairs": Config(num_pairs=n) for n in pairs}


SIZES: dict[str, Setting] = {
    "cpu": small_setting(
        Config(),
        _tests(16, 32, 64),
        score="macro",
        num_heads=4,
        steps=400,
        batch_size=64,
        chance=1 / 127,
        says="MAD's task with fresh examples instead of 256 fixed ones; the curve is 2x and 4x the trained length.",
    ),
    "paper": mad_setting(
        Config(),
        _tests(16, 32, 64, 128, 256),
        train_examples=256,
        chance=1 / 127,
        says="vocab 256, 16 pairs, 256 training examples; the lengths up to 16x are our addition.",
    ),
}
SIZES |= {
    f"paper-{vocab}": mad_setting(
        Config(vocab_size=vocab),
        {"16 pairs": Config(vocab_size=vocab)},
        train_examples=256,
        chance=1 / ((vocab - 1) // 2),
        says=f"the same with a vocab of {vocab}; MAD's score is the mean over its five changes and the baseline. "
        "4,096 pairs are seen, so that of many keys some never are.",
    )
    for vocab in (512, 1024, 2048, 4096, 8192)
}
