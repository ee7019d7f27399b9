"""In-context linear regression: y = w . x, w drawn anew for every row; what is the next y?  (2208.01066)

    tokens    x1 x1' y1  x2 x2' y2  x3 x3' y3  x4 x4'
    targets    .  .  .    .  .  .    .  .  .    .  y4        a test scores from example 2 x dims + 1 on

w ~ N(0, I / dims) and x ~ N(0, I); x is rounded to one of the bins of [-3, 3] before y is taken, and y after. So x is
known exactly and y to a bin: least squares on what was seen tells most, not all, of the bins; see `says` of the sizes.
"""

from dataclasses import dataclass

import numpy as np

from wren.batch import Batch
from wren.probe import Setting
from wren.probe_parts import demand, examples, large_setting, mark_places, small_setting


@dataclass(frozen=True, kw_only=True)
class Config:
    """dims: numbers in an x. num_examples: the last one, whose y is not read, included. bins: of x and of y."""

    dims: int
    num_examples: int
    bins: int = 16

    def __post_init__(self) -> None:
        name = "linear_regression"
        demand(self.dims >= 1, f"{name}.dims is {self.dims}; it must be at least 1.")
        demand(self.bins >= 2, f"{name}.bins is {self.bins}; it must be at least 2.")
        least = 2 * self.dims + 1
        demand(self.num_examples >= least, f"{name}.num_examples is {self.num_examples}; it must be at least {least}.")

    @property
    def vocab_size(self) -> int:
        return 2 * self.bins

    @property
    def length(self) -> int:
        return (self.dims + 1) * self.num_examples - 1

    def bin(self, numbers: np.ndarray) -> np.ndarray:
        """The number of the bin of [-3, 3]; what lies outside goes to the first or the last."""
        return np.clip(np.floor((numbers + 3) * (self.bins / 6)), 0, self.bins - 1).astype(np.int64)

    def middle(self, bins: np.ndarray) -> np.ndarray:
        return (bins + 0.5) * (6 / self.bins) - 3

    def batch(self, count: int, rng: np.random.Generator, *, train: bool) -> Batch:
        w_BK = rng.normal(size=(count, self.dims)) / self.dims**0.5
        x_BNK = self.bin(rng.normal(size=(count, self.num_examples, self.dims)))
        y_BN = self.bins + self.bin(np.einsum("bnk,bk->bn", self.middle(x_BNK), w_BK))
        tokens_BT = np.concatenate([x_BNK, y_BN[:, :, None]], axis=2).reshape(count, -1)[:, :-1]
        targets_BT = mark_places(count, self.length)
        first = 0 if train else 2 * self.dims
        targets_BT[:, self.dims - 1 :: self.dims + 1][:, first:] = y_BN[:, first:]
        return examples(tokens_BT, targets_BT)


def _tests(dims: int, bins: int, *numbers: int) -> dict[str, Config]:
    return {f"{n} examples": Config(dims=dims, num_examples=n, bins=bins) for n in numbers}


SIZES: dict[str, Setting] = {
    "cpu": small_setting(
        Config(dims=2, num_examples=24),
        _tests(2, 16, 24, 48, 96),
        num_heads=4,
        batch_size=32,
        steps=800,
        lrs=(1e-3, 3e-3),
        chance=0.205,
        says="2 dimensions, 16 bins, 24 examples; least squares gets 0.90. The curve is 2x and 4x as many.",
    ),
    "paper": large_setting(
        Config(dims=8, num_examples=64, bins=32),
        _tests(8, 32, 64, 128, 256, 512, 1024),
        num_heads=4,
        chance=0.083,
        says="No paper's row (2208.01066 reads numbers, not tokens): 8 dimensions, 32 bins, 64 examples, tested up to "
        "16x; 2 layers of width 256; least squares gets 0.88.",
    ),
}
