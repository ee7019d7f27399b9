"""What a comparison trains, worked out before anything is trained: cells, budgets in steps, the grid of settings."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wren import units
from wren.errors import ConfigError
from wren.lab.arms import config_of, folder_name
from wren.lab.schema import Arm
from wren.optim.optimizer import OptimizerConfig
from wren.recipes import RunConfig

TUNING_SEED = 1_000_003  # never one of the final runs'
NUM_POINTS = 16  # of a learning curve
MAX_EXTENSIONS = 2  # steps outward of a grid of learning rates, the same for every arm
_KINDS = {"flops": "flops", "flop": "flops", "tokens": "tokens", "token": "tokens"}


@dataclass(frozen=True, kw_only=True)
class CompareBudget:
    """What every training may use: seconds of steps, floating-point operations, or tokens."""

    kind: Literal["time", "flops", "tokens"]
    amount: float
    text: str

    def steps(
        self,
        cell: "CellPlan",
        flops_per_token: float,
        step_seconds: float | None,
        share: float = 1.0,
        *,
        compile_seconds: float = 0.0,
    ) -> int:
        """Steps of a training; raises ConfigError when the budget is too small for one.

        flops_per_token: of training, forward and backward. share: of the budget, for tuning. compile_seconds: what a
        training pays for compilation, which a budget of time counts.
        """
        tokens = cell.batch_tokens
        if self.kind == "time" and step_seconds is None:
            raise ValueError("a budget of time needs the seconds of a step")
        price = {"time": step_seconds or 0.0, "flops": flops_per_token * tokens, "tokens": tokens}[self.kind]
        amount = self.amount * share - (compile_seconds if self.kind == "time" else 0.0)
        steps = math.floor(amount / price * (1 + 1e-12))
        if steps < 1:
            shown = {
                "time": units.duration(price), "flops": f"{price:.3g} FLOPs", "tokens": f"{tokens:,} tokens"
            }[self.kind]  # fmt: skip
            part = f"{share:g} of the budget {self.text}" if share < 1 else f"The budget {self.text}"
            counted = self.kind == "time" and compile_seconds > 0
            first = f" after {units.duration(compile_seconds)} of compilation" if counted else ""
            raise ConfigError(
                f"{part} is too small for one step of {cell.title}, which takes {shown}{first}; raise --budget, or "
                "lower the arm's batch_size."
            )
        return steps


def read_budget(text: str) -> CompareBudget:
    """ "5m", "1e15flops" or "50Mtokens"; raises ConfigError for anything else."""
    plain = text.strip().lower()
    for ending, kind in _KINDS.items():
        if plain.endswith(ending):
            amount = units.count(plain.removesuffix(ending), f"number of {kind}")
            return CompareBudget(kind="flops" if kind == "flops" else "tokens", amount=amount, text=text.strip())
    try:
        return CompareBudget(kind="time", amount=units.seconds(plain), text=text.strip())
    except ConfigError as error:
        raise ConfigError(f"'{text}' is not a budget; write a time (5m), 1e15flops or 50Mtokens.") from error


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Learning rates x weight decays. lrs, decays: as given; counts: how many around (below) the recipe's own."""

    lrs: tuple[float, ...] = ()
    num_lrs: int = 4
    decays: tuple[float, ...] = ()
    num_decays: int = 2

    def learning_rates(self, own: float) -> list[float]:
        """Powers of two around the recipe's own: 1/2, 1, 2, 4 times it for four; or those that were given."""
        if self.lrs:
            return sorted(self.lrs)
        first = -((self.num_lrs - 1) // 2)
        return [own * 2.0 ** (first + i) for i in range(self.num_lrs)]

    def weight_decays(self, own: float) -> list[float]:
        """The recipe's own and tenths of it, or 0, 0.01, 0.1, ... where that is 0; or those that were given."""
        if self.decays:
            return sorted(self.decays, reverse=True)
        if own == 0:
            return [0.0, *(0.01 * 10**i for i in range(self.num_decays - 1))]
        return [own / 10**i for i in range(self.num_decays)]

    def num_trainings(self, optimizer: OptimizerConfig) -> int:
        """Tuning runs before any extension; none for a single point."""
        count = len(self.learning_rates(optimizer.lr)) * len(self.weight_decays(optimizer.weight_decay))
        return count if count > 1 else 0


def read_grid(lrs: str, decays: str) -> Grid:
    """--lrs and --weight-decays: a count, or a list of values; raises ConfigError for an empty or impossible one."""
    num_lrs, given_lrs = _count_or_list(lrs, "--lrs", "learning rate", zero=False)
    num_decays, given_decays = _count_or_list(decays, "--weight-decays", "weight decay", zero=True)
    return Grid(lrs=given_lrs, num_lrs=num_lrs, decays=given_decays, num_decays=num_decays)


def _count_or_list(text: str, flag: str, what: str, *, zero: bool) -> tuple[int, tuple[float, ...]]:
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items:
        raise ConfigError(f"{flag} is empty; give how many, such as 4, or the {what}s themselves, such as 1e-3,2e-3.")
    if len(items) == 1 and items[0].isdigit() and not (zero and items[0] == "0"):
        if not 1 <= int(items[0]) <= 16:
            raise ConfigError(f"{flag} is {items[0]}; give a count from 1 to 16, or a list of {what}s.")
        return int(items[0]), ()
    values = []
    for item in items:
        try:
            value = float(item)
        except ValueError as error:
            raise ConfigError(f"{flag}: '{item}' is not a {what}.") from error
        if not (0 <= value < math.inf) or (value == 0 and not zero):
            raise ConfigError(
                f"{flag}: a {what} of {item} makes no sense; it must be {'0 or ' if zero else ''}above 0."
            )
        values.append(value)
    return len(set(values)), tuple(sorted(set(values)))


def outward(lrs: Sequence[float], best: float) -> float | None:
    """The next learning rate past the edge that `best` is, one step of the grid further; None inside the grid."""
    ordered = sorted(lrs)
    if len(ordered) < 2:
        return None
    if best == ordered[-1]:
        return best * (ordered[-1] / ordered[-2])
    return best * (ordered[0] / ordered[1]) if best == ordered[0] else None


@dataclass(frozen=True, kw_only=True)
class CellPlan:
    """An arm at a size and a context length. config: its recipe, with its own learning rate and weight decay."""

    arm: Arm
    size: str
    context_len: int
    config: RunConfig
    folder: Path

    @property
    def title(self) -> str:
        size = "" if self.size == "own" else f" {self.size}"
        return f"{self.arm.name}{size} @{self.context_len}"

    @property
    def batch_tokens(self) -> int:
        return self.config.train.batch_size * self.config.train.context_len

    def tuned(self, *, lr: float, weight_decay: float, seed: int, steps: int) -> RunConfig:
        """The config of one training: the matrices' learning rate moves along with lr."""
        optimizer, train = self.config.optimizer, self.config.train
        matrix_lr = None if optimizer.matrix_lr is None else optimizer.matrix_lr * (lr / optimizer.lr)
        every = max(1, steps // NUM_POINTS)
        return dataclasses.replace(
            self.config,
            optimizer=dataclasses.replace(optimizer, lr=lr, matrix_lr=matrix_lr, weight_decay=weight_decay),
            train=dataclasses.replace(train, steps=steps, eval_every=every, save_every=every, sample_every=0, keep=1),
            seed=seed,
        )


def run_folder(cell: CellPlan, lr: float, weight_decay: float, seed: int) -> Path:
    return cell.folder / f"lr{lr:.6g}-wd{weight_decay:.6g}-seed{seed}"


def plan_cells(
    arms: Sequence[Arm],
    sizes: Sequence[tuple[str, tuple[str, ...]]],
    contexts: Sequence[int | None],
    out: Path,
    dtype: str,
    tokens: int | None = None,
) -> list[CellPlan]:
    """Every arm x size x context length in the order they are trained; raises ConfigError for what cannot be built.

    tokens: of a training, where the budget says so.
    """
    cells = []
    for size, settings in sizes:
        for context in contexts:
            for arm in arms:
                config = config_of(arm, settings, context, tokens=tokens)
                config = dataclasses.replace(config, train=dataclasses.replace(config.train, dtype=dtype))
                length = config.train.context_len
                folder = out / "runs" / folder_name(arm.name) / folder_name(size) / str(length)
                cells.append(CellPlan(arm=arm, size=size, context_len=length, config=config, folder=folder))
    return cells
