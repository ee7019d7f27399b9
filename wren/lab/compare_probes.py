"""The arms' architectures on synthetic tasks: each arm's own model at the width and depth of the probe."""

import dataclasses
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wren import config as configs
from wren import probes, recipes
from wren.errors import ConfigError, unknown_key
from wren.lab import probe_sweep
from wren.lab.arms import folder_name
from wren.lab.compare_display import CompareDisplay
from wren.lab.schema import Arm, ProbeScore
from wren.model import ModelConfig
from wren.precision import Precision, choose_precision
from wren.probe import Setting

SIZE = "cpu"
_SHAPE = ("dim", "depth", "num_heads")  # dials that take the probe's value, where a recipe has them


def model_for_arm(arm: Arm, setting: Setting) -> ModelConfig:
    """The arm's recipe with the probe's width, depth, heads and vocabulary; everything else is the arm's.

    Raises ConfigError where its mixers cannot have that width.
    """
    dials = inspect.signature(recipes.get(arm.recipe)).parameters
    wanted = {name: getattr(setting, name) for name in _SHAPE}
    own = [s for s in arm.settings if s.partition("=")[0] not in (*_SHAPE, "model.dim", "model.depth")]
    own += [f"{name}={value}" for name, value in wanted.items() if name in dials]
    vocab_size = max(config.vocab_size for config in (setting.train, *setting.tests.values()))
    try:
        model = recipes.build(arm.recipe, vocab_size=vocab_size, settings=own).model
        changes: dict[str, Any] = {"dim": setting.dim, "depth": setting.depth}
        if model.learned_positions is not None:
            changes["learned_positions"] = max(c.length for c in (setting.train, *setting.tests.values()))
        model = configs.replace(model, changes, "model")
        for mixer in model.mixers:
            mixer.build(model.dim)
    except ConfigError as error:
        raise ConfigError(f"Arm '{arm.name}' cannot be probed at width {setting.dim}: {error}") from error
    return model


def plan_probes(arms: Sequence[Arm], names: Sequence[str], out: Path) -> list[probe_sweep.Cell]:
    """A cell for every arm and probe; raises ConfigError for an unknown probe or an arm that cannot be probed."""
    cells = []
    for name in names:
        sizes: dict[str, Setting] = probes.get(name).SIZES
        if SIZE not in sizes:
            raise ConfigError(unknown_key(f"Size of probe {name}", SIZE, sizes))
        for arm in arms:
            cells.append(
                probe_sweep.Cell(
                    probe=name,
                    arm=arm.name,
                    size=SIZE,
                    setting=sizes[SIZE],
                    model=model_for_arm(arm, sizes[SIZE]),
                    folder=out / "probes" / name / folder_name(arm.name),
                )
            )
    return cells


def title(cell: probe_sweep.Cell) -> str:
    return f"probe {cell.probe}, {cell.arm}"


def precision_of(precision: Precision) -> Precision:
    """What probes are trained in: on a CPU fp32, as by `wren probe` (narrow models gain nothing from its bf16)."""
    return choose_precision(precision.device, "fp32") if precision.device.type == "cpu" else precision


def scores(cells: Sequence[probe_sweep.Cell], precision: Precision, display: CompareDisplay) -> Iterator[ProbeScore]:
    """Trains what is not trained yet, cell by cell: the probe's own learning rates, one seed.

    precision: the comparison's.
    """
    precision = precision_of(precision)
    for number, cell in enumerate(cells, 1):
        lines = _Lines(display, number, len(cells), (cell.folder / "cell.json").exists())
        (result,) = probe_sweep.sweep([cell], seeds=1, precision=precision, display=lines)
        yield ProbeScore(
            arm=result["mixer"],
            probe=result["probe"],
            accuracy=result["accuracy"],
            chance=result["chance"],
            state_bytes=result["state_bytes"],
            dtype=precision.name,
            levels=dict(cell.setting.levels),
        )


@dataclasses.dataclass
class _Lines:
    """A line for every probe that is done. stored: it had been before."""

    display: CompareDisplay
    number: int
    total: int
    stored: bool

    def begin(self, cell: probe_sweep.Cell, number: int, total: int) -> None:
        self.display.begin_probe()

    def say(self, text: str) -> None:
        """Steps inside a probe are not told."""

    def end(self, cell: probe_sweep.Cell, result: dict[str, Any]) -> None:
        found = f"{result['accuracy']:.3f} (guessing {result['chance']:.3f})"
        self.display.end_probe(f"[{self.number}/{self.total}] {title(cell)}: {found}", stored=self.stored)
