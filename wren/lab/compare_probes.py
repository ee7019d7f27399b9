"""The arms' architectures on synthetic tasks: each arm's own model at the width and depth of the probe."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wren import config as configs
from wren import probes, recipes
from wren.errors import ConfigError, unknown_key
from wren.lab import probe_sweep
from wren.lab.arms import folder_name
from wren.lab.schema import Arm, ProbeScore
from wren.model import ModelConfig
from wren.precision import Precision
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


def score(
    cells: Sequence[probe_sweep.Cell], precision: Precision, say: Callable[[str], None]
) -> tuple[ProbeScore, ...]:
    """Trains what is not trained yet: the probe's own learning rates, one seed."""
    results = probe_sweep.sweep(cells, seeds=1, precision=precision, display=_Lines(say))
    return tuple(
        ProbeScore(
            arm=result["mixer"],
            probe=result["probe"],
            accuracy=result["accuracy"],
            chance=result["chance"],
            state_bytes=result["state_bytes"],
        )
        for result in results
    )


@dataclasses.dataclass
class _Lines:
    """A line for every probe that is done."""

    print: Callable[[str], None]
    number: int = 0
    total: int = 0

    def begin(self, cell: probe_sweep.Cell, number: int, total: int) -> None:
        self.number, self.total = number, total

    def say(self, text: str) -> None:
        """Steps inside a probe are not told."""

    def end(self, cell: probe_sweep.Cell, result: dict[str, Any]) -> None:
        self.print(
            f"[{self.number}/{self.total}] probe {cell.probe}, {cell.arm}: {result['accuracy']:.3f} "
            f"(guessing {result['chance']:.3f})"
        )
