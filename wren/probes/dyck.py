"""Dyck: brackets of several kinds, nested; which one may be closed now?  (2010.07515)

    tokens    (  [  ]  {  [  ]  }  )
    targets   )  ]  )  }  ]  }  )  .

Opens and closes with the same chance, opens at depth 0 and closes at the greatest depth: a stack of bounded depth.
"""

from dataclasses import dataclass

import numpy as np

from wren.batch import IGNORE, Batch
from wren.probe import Setting
from wren.probe_parts import demand, examples, large_setting, small_setting


@dataclass(frozen=True, kw_only=True)
class Config:
    """kinds: of brackets; tokens are the opening ones, then the closing ones. depth: how many may be open."""

    length: int
    kinds: int = 8
    depth: int = 8

    def __post_init__(self) -> None:
        for name in ("length", "kinds", "depth"):
            value = getattr(self, name)
            demand(value >= 1, f"dyck.{name} is {value}; it must be at least 1.")

    @property
    def vocab_size(self) -> int:
        return 2 * self.kinds

    def batch(self, count: int, rng: np.random.Generator, *, train: bool) -> Batch:
        kind_BT = rng.integers(self.kinds, size=(count, self.length))
        wish_BT = rng.random((count, self.length)) < 0.5
        open_BD = np.full((count, self.depth + 1), IGNORE)  # the closing bracket of each depth; of 0, none
        depth_B, row_B = np.zeros(count, dtype=np.int64), np.arange(count)
        tokens_BT = np.empty((count, self.length), dtype=np.int64)
        targets_BT = np.empty((count, self.length), dtype=np.int64)
        for t in range(self.length):
            opens_B = (wish_BT[:, t] & (depth_B < self.depth)) | (depth_B == 0)
            tokens_BT[:, t] = np.where(opens_B, kind_BT[:, t], open_BD[row_B, depth_B])
            depth_B = depth_B + np.where(opens_B, 1, -1)
            open_BD[row_B[opens_B], depth_B[opens_B]] = self.kinds + kind_BT[opens_B, t]
            targets_BT[:, t] = open_BD[row_B, depth_B]
        return examples(tokens_BT, targets_BT)


def _tests(*lengths: int) -> dict[str, Config]:
    return {f"{n} tokens": Config(length=n) for n in lengths}


SIZES: dict[str, Setting] = {
    "cpu": small_setting(
        Config(length=64),
        _tests(64, 128, 256),
        num_heads=4,
        batch_size=32,
        chance=1 / 8,
        says="8 kinds, 8 deep, 64 tokens; the curve is 2x and 4x. The newest token alone tells 0.64 of the answers: "
        "those behind an opening bracket.",
    ),
    "paper": large_setting(
        Config(length=256),
        _tests(256, 512, 1024, 2048, 4096),
        dim=128,
        num_heads=4,
        chance=1 / 8,
        says="No paper's row (after 2010.07515): 8 kinds, 8 deep, 256 tokens, tested up to 16x; 2 layers of width 128. "
        "The newest token alone tells 0.6 of the answers.",
    ),
}
