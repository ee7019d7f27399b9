"""One cell of a comparison on its way: measured, its budget turned into steps, tuned, trained with every seed."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wren import config as configs
from wren.errors import ConfigError, unknown_key
from wren.files import read_json, write_json
from wren.lab import measure
from wren.lab.compare_data import Text
from wren.lab.compare_display import CompareDisplay
from wren.lab.compare_plan import MAX_EXTENSIONS, TUNING_SEED, CellPlan, CompareBudget, Grid, outward, run_folder
from wren.lab.compare_run import Job, run_training, stored
from wren.lab.machine import Machine, in_words
from wren.lab.schema import Arm, Cell, Measured, TrainedRun
from wren.precision import Precision
from wren.pretrain import first_difference
from wren.recipes import RunConfig

Measure = Callable[[RunConfig, Path, str], Measured]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What was asked for. source: for the record."""

    arms: tuple[Arm, ...]
    cells: tuple[CellPlan, ...]
    budget: CompareBudget
    grid: Grid
    seeds: int
    baseline: str
    source: str
    tune_share: float = 1.0
    probes: tuple[str, ...] = ()
    keep_checkpoints: bool = False  # of every training; else each arm keeps those of its best final one

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ConfigError(f"--seeds is {self.seeds}; it must be at least 1.")
        if not 0 < self.tune_share <= 1:
            raise ConfigError(f"--tune-share is {self.tune_share}; it must lie above 0 and at most at 1.")
        names = [arm.name for arm in self.arms]
        if self.baseline not in names:
            raise ConfigError(unknown_key("Baseline", self.baseline, names))


@dataclass(frozen=True, kw_only=True)
class Place:
    """begun: the machine the comparison was begun on, None where it does not say. here: this one."""

    begun: Machine | None
    here: Machine

    def check(self, what: str) -> None:
        """Raises ConfigError where `what` would be made on another machine than the rest."""
        if self.begun != self.here:
            raise ConfigError(
                f"{what} is not done yet, the comparison was begun on {in_words(self.begun)}, and this is "
                f"{in_words(self.here)}; times of two machines cannot be compared, so go on there, choose another "
                "--out, or begin anew with --fresh."
            )


class Work:
    """One cell on its way: measured, tuned, trained."""

    def __init__(
        self,
        settings: Settings,
        cell: CellPlan,
        text: Text,
        precision: Precision,
        display: CompareDisplay,
        place: Place,
    ):
        self.settings, self.cell, self.text, self.precision, self.display = settings, cell, text, precision, display
        self.place = place
        self.flops_per_token = measure.training_flops_per_token(cell.config)

    def measure(self, measured: Measure) -> None:
        """Shape, speed and memory, stored; and how many steps the budget makes of it."""
        path = self.cell.folder / "measured.json"
        config = json.loads(json.dumps(configs.to_json(self.cell.config)))
        if path.exists():
            found = read_json(path)
            if not isinstance(found, dict) or not found.keys() >= {"config", "measured"}:
                raise ConfigError(f"{path} is not what a comparison writes; remove it, so that it is measured anew.")
            difference = first_difference(found["config"], config)
            if difference is not None:
                key, before, now = difference
                raise ConfigError(
                    f"{self.cell.folder} was begun with {key} = {before}, and now it is {now}; give the arm another "
                    "name, choose another --out, or begin anew with --fresh."
                )
            self.measured = configs.from_json(Measured, found["measured"], str(path))
            if found.get("machine") != self.place.begun:
                raise ConfigError(
                    f"{path} was measured on {in_words(found.get('machine'))}, and the comparison was begun on "
                    f"{in_words(self.place.begun)}; remove it, so that it is measured anew, or begin anew with --fresh."
                )
        else:
            self.place.check(f"Measuring {self.cell.title}")
            self.display.say(f"{self.cell.title}: measuring")
            self.steps("final", None)  # a budget that is too small is told before
            self.measured = measured(self.cell.config, self.text.folder, str(self.precision.device))
            kept = {"config": config, "machine": self.place.here, "measured": configs.to_json(self.measured)}
            write_json(path, kept)
        self.tune_steps, self.final_steps = (self.steps(phase, self.measured) for phase in ("tune", "final"))

    def steps(self, phase: str, measured: Measured | None) -> int:
        """Steps of a training; 0 where a budget of time waits for what is measured."""
        budget = self.settings.budget
        if budget.kind == "time" and (measured is None or measured.step_seconds is None):
            return 0
        share = self.settings.tune_share if phase == "tune" else 1.0
        step_seconds = measured.step_seconds if measured else None
        return budget.steps(
            self.cell, self.flops_per_token, step_seconds, share, compile_seconds=_compilation(measured)
        )

    def seconds(self, steps: int) -> float:
        """What a training of so many steps should take, its compilation counted."""
        return _compilation(self.measured) + (self.measured.step_seconds or 0.0) * steps

    def planned(self) -> list[float]:
        """Seconds that each training should take, in their order, those that are over among them."""
        count = self.settings.grid.num_trainings(self.cell.config.optimizer)
        return [self.seconds(self.tune_steps)] * count + [self.seconds(self.final_steps)] * self.settings.seeds

    def run(self) -> Cell:
        """Tuned and trained; without final runs where every tuning run diverged."""
        tuning, chosen, edge = self.tune()
        final: tuple[TrainedRun, ...] = ()
        lr = decay = None
        if chosen is not None:
            lr, decay = chosen
            seeds = range(self.settings.seeds)
            final = tuple(self.train("final", lr=lr, weight_decay=decay, seed=seed) for seed in seeds)
        self.display.finish(self.cell, _told(chosen, final, edge))
        return Cell(
            arm=self.cell.arm.name,
            size=self.cell.size,
            context_len=self.cell.context_len,
            measured=self.measured,
            lr=lr,
            weight_decay=decay,
            edge=edge,
            tuning=tuple(tuning),
            final=final,
        )

    def tune(self) -> tuple[list[TrainedRun], tuple[float, float] | None, bool]:
        """Every grid point, the best one's lr and weight decay, and whether it stayed at the edge of the extended grid.

        Where all diverge, lower learning rates are the way out of the grid; None where those diverge too. A grid of
        one point is taken as it is: there is nothing to choose.
        """
        optimizer, grid = self.cell.config.optimizer, self.settings.grid
        lrs, decays = grid.learning_rates(optimizer.lr), grid.weight_decays(optimizer.weight_decay)
        if not grid.num_trainings(optimizer):
            return [], (lrs[0], decays[0]), True
        runs: list[TrainedRun] = []
        todo = lrs
        for extension in range(MAX_EXTENSIONS + 1):
            if extension:
                self.display.more(self.cell, [self.seconds(self.tune_steps)] * len(decays))
            runs += [self.train("tune", lr=lr, weight_decay=decay, seed=TUNING_SEED) for lr in todo for decay in decays]
            best = min(runs, key=lambda run: (_tuned(run), run.lr if run.tuned is None else 0.0))
            beyond = outward(lrs, best.lr)
            if beyond is None or extension == MAX_EXTENSIONS:
                if math.isinf(_tuned(best)):
                    return runs, None, False
                return runs, (best.lr, best.weight_decay), beyond is not None or len(lrs) < 2
            todo, lrs = [beyond], [*lrs, beyond]
        raise AssertionError("the loop returns at its last turn")

    def train(self, phase: Literal["tune", "final"], *, lr: float, weight_decay: float, seed: int) -> TrainedRun:
        """One training, or its stored result."""
        steps = self.tune_steps if phase == "tune" else self.final_steps
        config = self.cell.tuned(lr=lr, weight_decay=weight_decay, seed=seed, steps=steps)
        path = run_folder(self.cell, lr, weight_decay, seed)
        name = str(Path(*path.parts[-4:]))
        job = Job(path=path, name=name, phase=phase, config=config, flops_per_token=self.flops_per_token)
        over = stored(job, self.text) is not None
        if not over:
            self.place.check(f"The training {name}")
        self.display.begin(self.cell, job)
        result = run_training(
            job,
            self.text,
            self.precision,
            watch=self.display.watch(job),
            keep_checkpoints=phase == "final" or self.settings.keep_checkpoints,
        )
        self.display.end(self.cell, result, stored=over)
        return result


def _told(chosen: tuple[float, float] | None, final: tuple[TrainedRun, ...], edge: bool) -> str:
    """A finished cell in words. chosen: learning rate and weight decay."""
    if chosen is None:
        return "every tuning run diverged, so there is no final run; give lower --lrs, or look at the recipe"
    judged = [run.detail.whole.bits_per_byte for run in final if run.detail is not None]
    told = f"{sum(judged) / len(judged):.4f} bits per byte on validation" if judged else "every final run diverged"
    return f"{told}, lr {chosen[0]:.3g}{' (edge)' if edge else ''}, wd {chosen[1]:.3g}"


def _compilation(measured: Measured | None) -> float:
    return (measured.compile_seconds if measured else None) or 0.0


def _tuned(run: TrainedRun) -> float:
    return math.inf if run.tuned is None else run.tuned
