"""Parity: is the number of ones so far odd?  The word problem of the smallest group.  (2411.12537, 2502.10297)

    tokens    <  1  1  0  1
    targets   .  1  0  0  1

A recurrence needs an eigenvalue of -1 (or one that turns) to follow it; attention counts only as far as it was trained.
"""

from dataclasses import dataclass

import numpy as np

from wren.batch import Batch
from wren.groups import cyclic, word_levels, word_problem
from wren.probe import Setting
from wren.probe_parts import demand, large_setting, small_setting

GROUP = cyclic(2)


@dataclass(frozen=True, kw_only=True)
class Config:
    """bits: how many are added up."""

    bits: int

    def __post_init__(self) -> None:
        demand(self.bits >= 1, f"parity.bits is {self.bits}; it must be at least 1.")

    @property
    def vocab_size(self) -> int:
        return len(GROUP) + 1

    @property
    def length(self) -> int:
        return self.bits + 1

    def batch(self, count: int, rng: np.random.Generator, *, train: bool) -> Batch:
        return word_problem(count, self.bits, rng, GROUP)


def _tests(*bits: int) -> dict[str, Config]:
    return {f"{n} bits": Config(bits=n) for n in bits}


SIZES: dict[str, Setting] = {
    "cpu": small_setting(
        Config(bits=40),
        _tests(160, 40, 80, 320),
        num_heads=4,
        batch_size=32,
        steps=500,
        lrs=(3e-3, 1e-2),
        chance=1 / 2,
        says="40 bits in training, 160 in the headline test; all places count.",
    ).with_levels(word_levels(40, 160, len(GROUP))),
    "paper": large_setting(
        Config(bits=40),
        _tests(160, 40, 80, 320, 640),
        dim=128,
        num_heads=8,
        batch_size=256,
        chance=1 / 2,
        says="After 2411.12537: trained up to 40 bits, tested up to 256 there, up to 640 here, with all places, not "
        "the last alone, as targets; 2 layers of width 128.",
    ).with_levels(word_levels(40, 160, len(GROUP))),
}
