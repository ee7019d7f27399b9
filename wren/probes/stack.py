"""Stack: many stacks at once, pushed and popped; what lies on top of this one?  (the form of Kimi Linear, 2510.26692)

    tokens    push s2 a   push s1 b   push s2 c   pop s2 c   push s1 a   pop s2 a
    targets    .   .  .    .   .  .    .   .  .    .  c  .    .   .  .    .  a  .

Every operation names a stack at random; a pop comes half of the time, where there is something to pop. The popped
letter is fed back.
"""

from dataclasses import dataclass

import numpy as np

from wren.batch import Batch
from wren.probe import Setting
from wren.probe_parts import demand, examples, large_setting, mark_places, small_setting

PUSH, POP = 0, 1


@dataclass(frozen=True, kw_only=True)
class Config:
    """depth: how many letters a stack holds; a full one is popped."""

    operations: int
    stacks: int = 64
    letters: int = 26
    depth: int = 8

    def __post_init__(self) -> None:
        demand(self.operations >= 2, f"stack.operations is {self.operations}; it must be at least 2.")
        for name, least in (("stacks", 1), ("letters", 2), ("depth", 1)):
            value = getattr(self, name)
            demand(value >= least, f"stack.{name} is {value}; it must be at least {least}.")

    @property
    def vocab_size(self) -> int:
        return 2 + self.stacks + self.letters

    @property
    def length(self) -> int:
        return 3 * self.operations

    def batch(self, count: int, rng: np.random.Generator, *, train: bool) -> Batch:
        stack_BN = rng.integers(self.stacks, size=(count, self.operations))
        letter_BN = 2 + self.stacks + rng.integers(self.letters, size=(count, self.operations))
        wish_BN = rng.random((count, self.operations)) < 0.5
        held = np.zeros((count, self.stacks, self.depth), dtype=np.int64)
        size_BS = np.zeros((count, self.stacks), dtype=np.int64)
        pops_BN = np.zeros((count, self.operations), dtype=bool)
        row_B = np.arange(count)
        for i in range(self.operations):
            stack_B = stack_BN[:, i]
            size_B = size_BS[row_B, stack_B]
            pop_B = (wish_BN[:, i] & (size_B > 0)) | (size_B == self.depth)
            top_B = np.where(pop_B, size_B - 1, size_B)
            letter_BN[:, i] = np.where(pop_B, held[row_B, stack_B, top_B], letter_BN[:, i])
            held[row_B, stack_B, top_B] = letter_BN[:, i]
            size_BS[row_B, stack_B] = np.where(pop_B, size_B - 1, size_B + 1)
            pops_BN[:, i] = pop_B
        tokens_BT = np.stack([np.where(pops_BN, POP, PUSH), 2 + stack_BN, letter_BN], axis=2)
        targets_BT = mark_places(count, self.length)
        targets_BT[:, 1::3] = np.where(pops_BN, letter_BN, targets_BT[:, 1::3])
        return examples(tokens_BT.reshape(count, self.length), targets_BT)


def _paper(length: int) -> Setting:
    count = length // 3
    return large_setting(
        Config(operations=count),
        {f"{n} operations": Config(operations=n) for n in (count, 2 * count, 4 * count, 8 * count)},
        mlp="none",
        lrs=(5e-5, 1e-4, 5e-4, 1e-3),
        chance=1 / 26,
        says=f"After Kimi Linear (2510.26692): 64 stacks, 2 layers, 2 heads of 128, 20,000 steps, rows of {length} "
        "tokens. Its letters, depth and batch size are not known to us: 26, 8 and 64. Tests up to 8x are our addition.",
    )


SIZES: dict[str, Setting] = {
    "cpu": small_setting(
        Config(operations=32, stacks=4),
        {f"{n} operations": Config(operations=n, stacks=4) for n in (32, 64, 128)},
        num_heads=4,
        batch_size=32,
        steps=600,
        chance=1 / 26,
        says="4 stacks, 32 operations; the curve is 2x and 4x.",
    ),
    "paper": _paper(256),
    "paper-512": _paper(512),
    "paper-1024": _paper(1024),
    "paper-2048": _paper(2048),
}
