"""`wren probe`: every mixer on every probe, each at its best learning rate, resumable after a kill.

out/<size>/<probe>/<mixer>@<dim>/lr0.001-wd0.1-seed0/   one training each, a run directory
out/<size>/<probe>/<mixer>@<dim>/cell.json              what came out, once all of the cell's trainings are done
"""

import dataclasses
import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from wren import config as configs
from wren import probes, units
from wren.errors import ConfigError, DataError, unknown_key
from wren.files import read_json, write_json
from wren.lab.arms import folder_name
from wren.lab.probe_trial import Training, Trial, model_for, rungs
from wren.model import ModelConfig
from wren.precision import Precision
from wren.probe import Setting
from wren.run import Run

TUNING_SEED = 0  # not shown where several seeds are, and it had a choice


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One place of the table: a mixer on a probe at a width. arm: its name in the table."""

    probe: str
    arm: str
    size: str
    setting: Setting
    model: ModelConfig
    folder: Path


class Display(Protocol):
    """What one sees meanwhile."""

    def begin(self, cell: Cell, number: int, total: int) -> None: ...
    def say(self, text: str) -> None: ...
    def end(self, cell: Cell, result: dict[str, Any]) -> None: ...


def plan(
    arms: Sequence[str], names: Sequence[str], size: str, out: Path, dims: Sequence[int] = (), steps: int | None = None
) -> list[Cell]:
    """The cells in the order they are trained; raises ConfigError for anything unknown, before anything is trained.

    arms: mixers, or "name=mixer", see model_for. dims: widths instead of the setting's own. steps: optimizer steps
    instead of the setting's own.
    """
    if not arms or not names:
        raise ConfigError("There is nothing to probe: name at least one mixer (--mixers) and one probe (--probes).")
    cells = []
    if steps is not None and steps < 1:
        raise ConfigError(f"--steps is {steps}; it must be at least 1.")
    labels = [folder_name(named(arm)[0]) for arm in arms]
    for i, label in enumerate(labels):
        if label in labels[:i]:
            raise ConfigError(f"Two mixers are called '{label}'; leave one out, or give one a name: new={arms[i]}.")
    for name in names:
        sizes: dict[str, Setting] = probes.get(name).SIZES
        if size not in sizes:
            raise ConfigError(unknown_key(f"Size of probe {name}", size, sizes))
        for arm, dim in itertools.product(arms, dims or (None,)):
            setting = _changed(sizes[size], dim, steps)
            label, text = named(arm)
            folder = out / size / name / f"{folder_name(label)}@{setting.dim}"
            model = model_for(text, setting)
            cells.append(Cell(probe=name, arm=label, size=size, setting=setting, model=model, folder=folder))
    return cells


def named(arm: str) -> tuple[str, str]:
    """ "two=delta_product:num_steps=2" as its name and its mixer; without a name the mixer's text is the name."""
    name, equals, text = arm.partition("=")
    return (name, text) if equals and name.isidentifier() and ":" not in name else (arm, arm)


def _changed(setting: Setting, dim: int | None, steps: int | None) -> Setting:
    changes = {"dim": dim, "steps": steps}
    return dataclasses.replace(setting, **{name: value for name, value in changes.items() if value is not None})


def sweep(
    cells: Sequence[Cell],
    *,
    seeds: int,
    precision: Precision,
    display: Display,
    lrs: Sequence[float] = (),
    halving: bool = True,
    fresh: bool = False,
) -> list[dict[str, Any]]:
    """Trains what is not trained yet and returns a result for every cell.

    lrs: learning rates instead of the setting's. halving: all of them begin, the better half goes on (else all train
    to the end). Raises ConfigError when a folder holds a cell of other settings; Interrupted on Ctrl-C.
    """
    results = []
    for number, cell in enumerate(cells, 1):
        if fresh:
            shutil.rmtree(cell.folder, ignore_errors=True)
        display.begin(cell, number, len(cells))
        settings = _settings(cell, seeds, lrs, halving, precision)
        result = _stored(cell, settings)
        if result is None:
            result = {**settings, **_train(cell, seeds, lrs or cell.setting.lrs, halving, precision, display)}
            write_json(cell.folder / "cell.json", result)
        for weights in cell.folder.glob("lr*/checkpoints"):  # after the result: a kill before it still needs them
            shutil.rmtree(weights, ignore_errors=True)
        display.end(cell, result)
        results.append(result)
    return results


def _settings(cell: Cell, seeds: int, lrs: Sequence[float], halving: bool, precision: Precision) -> dict[str, Any]:
    """What a stored cell must agree in to be taken for this one."""
    setting = dataclasses.replace(cell.setting, lrs=tuple(lrs)) if lrs else cell.setting
    return {
        "probe": cell.probe,
        "mixer": cell.arm,
        "size": cell.size,
        "seeds": seeds,
        "halving": halving,
        "dtype": precision.name,
        "device": precision.device.type,
        "model": json.loads(json.dumps(configs.to_json(cell.model))),
        "setting": json.loads(json.dumps(configs.to_json(setting))),
    }


def _stored(cell: Cell, settings: dict[str, Any]) -> dict[str, Any] | None:
    path = cell.folder / "cell.json"
    if not path.exists():
        return None
    try:
        stored = read_json(path)
    except DataError:
        stored = None
    if not isinstance(stored, dict):
        raise DataError(f"{path} is damaged; remove it, or add --fresh, and the cell is trained anew.")
    for key, value in settings.items():
        if stored.get(key) != value:
            inner = (
                next((k for k in value if stored.get(key, {}).get(k) != value[k]), "")
                if key in ("setting", "model")
                else ""
            )
            what = f"{key}.{inner}" if inner else key
            raise ConfigError(f"{path} holds a result with another {what}; choose another --out, or add --fresh.")
    return stored


def _train(
    cell: Cell, seeds: int, lrs: Sequence[float], halving: bool, precision: Precision, display: Display
) -> dict[str, Any]:
    def training(lr: float, weight_decay: float, seed: int) -> Training:
        trial = Trial(
            probe=cell.probe, arm=cell.arm, setting=cell.setting, model=cell.model, lr=lr, weight_decay=weight_decay,
            seed=seed, dtype=precision.name,
        )  # fmt: skip
        return Training(trial, Run(cell.folder / f"lr{lr:g}-wd{weight_decay:g}-seed{seed}"), precision)

    grid = [
        training(lr, decay, TUNING_SEED)
        for lr, decay in itertools.product(_from_the_middle(lrs), cell.setting.weight_decays)
    ]
    best = _best_of(grid, cell.setting.steps, halving, display)
    finals = [best, *(training(best.trial.lr, best.trial.weight_decay, seed) for seed in range(1, seeds))]
    if seeds > 1 and len(grid) > 1:  # the best of several owes some of its score to its seed
        finals = [*finals[1:], training(best.trial.lr, best.trial.weight_decay, seeds)]
    for final in finals:
        if final is best:
            continue
        final.advance(cell.setting.steps, lambda text, t=final: display.say(f"seed {t.trial.seed}  {text}"))
    tests = [final.results() for final in finals]
    seconds = sum(each.seconds for each in {each.run.path: each for each in (*grid, *finals)}.values())
    return _result(cell, grid, best, finals, tests, seconds)


def _best_of(grid: list[Training], steps: int, halving: bool, display: Display) -> Training:
    """The training with the best tuning score; the first one that solves the task ends the search."""
    field, reached = list(grid), 0
    for count, share in rungs(len(grid), halving=halving):
        field = sorted(field, key=lambda each, at=reached: each.rank(at), reverse=True)[:count]
        reached = round(share * steps)
        for each in field:
            each.advance(reached, lambda text, t=each: display.say(f"lr {t.trial.lr:g}  {text}"))
            if each.solved and halving:
                return each
    return max(field, key=lambda each: each.rank(steps))


def _from_the_middle(lrs: Sequence[float]) -> list[float]:
    """The likely ones first: they may end the search."""
    ordered = sorted(lrs)
    middle = (len(ordered) - 1) / 2
    return sorted(ordered, key=lambda lr: abs(ordered.index(lr) - middle))


def _result(
    cell: Cell,
    grid: list[Training],
    best: Training,
    finals: list[Training],
    tests: list[dict[str, float]],
    seconds: float,
) -> dict[str, Any]:
    model, setting = cell.model.build(), cell.setting
    rows = [
        {
            "name": name,
            "length": config.length,
            "accuracy": [found[name] for found in tests],
            "state_bytes": model.state_bytes(config.length),
        }
        for name, config in setting.tests.items()
    ]
    headline = rows[0]
    tried = sorted({t.trial.lr for t in grid})
    solved_early = best.solved and best.step < setting.steps  # the other rates may not have had their turn
    return {
        "accuracy": sum(headline["accuracy"]) / len(finals),
        "chance": setting.chance,
        "tests": rows,
        "state_bytes": headline["state_bytes"],
        "params": model.num_params(),
        "dim": setting.dim,
        "lr": best.trial.lr,
        "weight_decay": best.trial.weight_decay,
        "lr_at_edge": len(tried) > 1 and not solved_early and best.trial.lr in (tried[0], tried[-1]),
        "tuning_seed": TUNING_SEED,
        "final_seeds": [final.trial.seed for final in finals],
        "steps": finals[0].step,
        "solved": finals[0].solved,
        "seconds": seconds,
        "tuning": [
            {"lr": t.trial.lr, "weight_decay": t.trial.weight_decay, "steps": t.step, "score": t.score} for t in grid
        ],
    }


def describe(cells: Sequence[Cell], seeds: int) -> str:
    """What a sweep would be, for --dry-run."""
    lines = []
    for cell in cells:
        s = cell.setting
        tokens = s.steps * s.batch_size * s.train.length
        points = len(s.lrs) * len(s.weight_decays)
        trials = points + seeds - (seeds == 1 or points == 1)
        lines.append(
            f"{cell.probe} x {cell.arm}: {units.short(cell.model.build().num_params())} parameters, {trials} trainings "
            f"of at most {s.steps:,} steps ({units.short(tokens)} tokens)"
        )
    return "\n".join(lines)
