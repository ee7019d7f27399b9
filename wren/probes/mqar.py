"""MQAR, multi-query associative recall: which value stood behind this key?  (2312.04927; HazyResearch/zoology d88d6f5)

    tokens    k1 v1 k2 v2 k3 v3  k2 0  0 0  k1 0  k3 0
    targets    .  .  .  .  .  .  v2 .  . .  v1 .  v3 .

Keys are 1 .. V/2 - 1, values V/2 .. V - 1, no two alike in a row. Queries stand at even distances behind the pairs:
query i, in the order of the pairs, takes one of the S places left, place s with a chance like s^(power - 1).
"""

from dataclasses import dataclass

import numpy as np

from wren.batch import Batch
from wren.probe import Setting
from wren.probe_parts import demand, distinct, examples, mark_places, small_setting, weighted_distinct


@dataclass(frozen=True, kw_only=True)
class Config:
    """random_fill: random tokens, not 0, where neither a pair nor a query stands."""

    length: int
    num_pairs: int
    vocab_size: int = 8192
    power: float = 0.01
    random_fill: bool = False

    def __post_init__(self) -> None:
        pairs, half = self.num_pairs, self.vocab_size // 2
        demand(pairs >= 1, f"mqar.num_pairs is {pairs}; it must be at least 1.")
        demand(
            self.length % 2 == 0 and self.length >= 4 * pairs,
            f"mqar.length is {self.length}; {pairs} pairs and their queries need an even one of at least {4 * pairs}.",
        )
        demand(half > pairs, f"mqar.vocab_size is {self.vocab_size}; {pairs} pairs need at least {2 * pairs + 2}.")
        demand(self.power > 0, f"mqar.power is {self.power}; it must be above 0.")

    def batch(self, count: int, rng: np.random.Generator, *, train: bool) -> Batch:
        half, pairs, context = self.vocab_size // 2, self.num_pairs, 2 * self.num_pairs
        keys_BN = 1 + distinct(rng, count, half - 1, pairs)
        values_BN = half + distinct(rng, count, self.vocab_size - half, pairs)
        places = np.arange(1, (self.length - context) // 2 + 1)
        queries_BN = context + 2 * weighted_distinct(rng, count, places ** (self.power - 1.0), pairs)

        tokens_BT = np.zeros((count, self.length), dtype=np.int64)
        if self.random_fill:
            tokens_BT = rng.integers(self.vocab_size, size=tokens_BT.shape)
        tokens_BT[:, 0:context:2] = keys_BN
        tokens_BT[:, 1:context:2] = values_BN
        np.put_along_axis(tokens_BT, queries_BN, keys_BN, axis=1)
        targets_BT = mark_places(count, self.length)
        np.put_along_axis(targets_BT, queries_BN, values_BN, axis=1)
        return examples(tokens_BT, targets_BT)


def _levels(config: Config) -> dict[str, float]:
    return {"any value of the row": 1 / config.num_pairs}


def _paper(length: int, pairs: int, batch_size: int) -> Setting:
    config = Config(length=length, num_pairs=pairs)
    epoch = -(-100_000 // batch_size)
    return Setting(
        train=config,
        tests={f"{pairs} pairs": config},
        dim=64,
        learned_positions=True,
        embedding_dropout=0.1,
        train_examples=100_000,
        test_examples=3000,
        steps=64 * epoch,
        batch_size=batch_size,
        lrs=(1e-4, 10**-3.3333333333, 10**-2.6666666667, 1e-2),
        warmup=0.0,
        eval_every=epoch,
        chance=1 / 4096,
        levels=_levels(config),
        says=f"Zoology, figure 2 (2312.04927): {length} tokens, {pairs} pairs, widths 64 to 512, 64 epochs. There "
        "attention also drops 0.1 of its weights.",
    )


_SHORT = Config(length=64, num_pairs=4)
SIZES: dict[str, Setting] = {
    "cpu": small_setting(
        _SHORT,
        {f"{pairs} pairs": Config(length=64, num_pairs=pairs) for pairs in (4, 8, 16)},
        num_heads=1,
        mlp="none",
        learned_positions=True,
        steps=1500,
        batch_size=64,
        lrs=(2e-3, 1e-2),
        chance=1 / 4096,
        says="As the paper's (64, 4), on fresh examples. The curve is over pairs, of which 8 and 16 were never trained "
        "on: a learned position table knows no longer rows.",
    ).with_levels(_levels(_SHORT)),
    "cpu-paper-64": Setting(
        train=_SHORT,
        tests={"4 pairs": _SHORT},
        dim=64,
        learned_positions=True,
        embedding_dropout=0.1,
        test_examples=1000,
        steps=2000,
        batch_size=64,
        lrs=(10**-3.3333333333, 10**-2.6666666667, 1e-2),
        eval_every=100,
        chance=1 / 4096,
        levels=_levels(_SHORT),
        says="Zoology, figure 2 (2312.04927) at (64, 4) and width 64, cut: 128,000 examples seen once (there 100,000 "
        "seen 64 times), batch 64 (there 512), with a warm-up, without the lowest learning rate.",
    ),
    "paper": _paper(512, 64, 128),
    "paper-64": _paper(64, 4, 512),
    "paper-128": _paper(128, 8, 512),
    "paper-256": _paper(256, 16, 256),
}
