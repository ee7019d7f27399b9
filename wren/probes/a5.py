"""Word problem of A5, the 60 even permutations of five things: the product of all so far.  (DeltaProduct, 2502.10297)

    tokens    <  g4  g1  g1  g5
    targets   .  h1  h2  h3  h4        h_t = g_1 g_2 ... g_t

State tracking: the smallest group that no fixed number of parallel layers can follow,
if TC0 and NC1 differ (2404.08819).
"""

from dataclasses import dataclass

import numpy as np

from wren.batch import Batch
from wren.groups import alternating, word_problem, word_sizes
from wren.probe import Setting
from wren.probe_parts import demand

GROUP = alternating(5)


@dataclass(frozen=True, kw_only=True)
class Config:
    """elements: how many are multiplied."""

    elements: int

    def __post_init__(self) -> None:
        demand(self.elements >= 1, f"a5.elements is {self.elements}; it must be at least 1.")

    @property
    def vocab_size(self) -> int:
        return len(GROUP) + 1

    @property
    def length(self) -> int:
        return self.elements + 1

    def batch(self, count: int, rng: np.random.Generator, *, train: bool) -> Batch:
        return word_problem(count, self.elements, rng, GROUP)


SIZES: dict[str, Setting] = word_sizes(lambda elements: Config(elements=elements), len(GROUP))
