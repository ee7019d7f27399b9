"""Key overwrite: keys are given new values again and again; the newest counts.  (the idea: zoology's forgetting MQAR)

    tokens    k1 v5  k2 v3  k1 v7  k1 v2  k2 v9   k2 0  k1 0
    targets    . .    . .    . .    . .    . .    v9 .  v2 .

Every key is written at least once, in random order; all values of a row differ, so an old one is never right.
"""

from dataclasses import dataclass

import numpy as np

from wren.batch import Batch
from wren.probe import Setting
from wren.probe_parts import demand, distinct, examples, large_setting, mark_places, small_setting


@dataclass(frozen=True, kw_only=True)
class Config:
    """num_keys: of a row, each asked for once. num_writes: pairs of a row. Token 0 fills, keys come before values."""

    num_keys: int
    num_writes: int
    key_vocab: int
    value_vocab: int

    def __post_init__(self) -> None:
        name = "key_overwrite"
        demand(self.num_keys >= 1, f"{name}.num_keys is {self.num_keys}; it must be at least 1.")
        for key, least in (
            ("num_writes", self.num_keys),
            ("key_vocab", self.num_keys),
            ("value_vocab", self.num_writes),
        ):
            value = getattr(self, key)
            demand(value >= least, f"{name}.{key} is {value}; it must be at least {least} for these settings.")

    @property
    def vocab_size(self) -> int:
        return 1 + self.key_vocab + self.value_vocab

    @property
    def length(self) -> int:
        return 2 * (self.num_writes + self.num_keys)

    def batch(self, count: int, rng: np.random.Generator, *, train: bool) -> Batch:
        keys, writes, context = self.num_keys, self.num_writes, 2 * self.num_writes
        names_BK = 1 + distinct(rng, count, self.key_vocab, keys)
        slot_BN = rng.integers(keys, size=(count, writes))
        slot_BN[:, :keys] = np.arange(keys)  # every key once; the shuffle moves it anywhere
        slot_BN = rng.permuted(slot_BN, axis=1)
        values_BN = 1 + self.key_vocab + distinct(rng, count, self.value_vocab, writes)
        newest_BK = np.zeros((count, keys), dtype=np.int64)
        for i in range(writes):
            np.put_along_axis(newest_BK, slot_BN[:, i, None], values_BN[:, i, None], axis=1)
        asked_BK = distinct(rng, count, keys, keys)

        tokens_BT = np.zeros((count, self.length), dtype=np.int64)
        tokens_BT[:, 0:context:2] = np.take_along_axis(names_BK, slot_BN, axis=1)
        tokens_BT[:, 1:context:2] = values_BN
        tokens_BT[:, context::2] = np.take_along_axis(names_BK, asked_BK, axis=1)
        targets_BT = mark_places(count, self.length)
        targets_BT[:, context::2] = np.take_along_axis(newest_BK, asked_BK, axis=1)
        return examples(tokens_BT, targets_BT)


def _config(num_keys: int, num_writes: int, value_vocab: int) -> Config:
    return Config(num_keys=num_keys, num_writes=num_writes, key_vocab=4 * num_keys, value_vocab=value_vocab)


def _levels(num_keys: int, num_writes: int) -> dict[str, float]:
    return {"any value of the row": 1 / num_writes, "any key's newest value": 1 / num_keys}


SIZES: dict[str, Setting] = {
    "cpu": small_setting(
        _config(8, 24, 96),
        {f"{n} writes": _config(8, n, 96) for n in (24, 48, 96)},
        num_heads=4,
        batch_size=32,
        chance=1 / 96,
        says="8 keys written 24 times in all; the curve is 2x and 4x as many writes to as many keys.",
    ).with_levels(_levels(8, 24)),
    "paper": large_setting(
        _config(16, 64, 1024),
        {f"{n} writes": _config(16, n, 1024) for n in (64, 128, 256, 512, 1024)},
        dim=128,
        mlp="none",
        chance=1 / 1024,
        says="No paper's row: 16 keys written 64 times in all, tested with up to 16x as many writes; 2 layers of "
        "width 128.",
    ).with_levels(_levels(16, 64)),
}
