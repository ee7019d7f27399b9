"""Step times measured once, on a quiet machine, and kept.

Trainings that only have to end at the right loss may then run beside other work; their seconds are steps times the
pace.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wren import config as configs
from wren.errors import DataError
from wren.files import read_json, write_json
from wren.lab.machine import this_machine
from wren.precision import Precision
from wren.recipes import RunConfig


class Paces:
    """path: None = nothing is kept, and every training is measured anew and timed by its own clock."""

    def __init__(self, path: Path | None):
        self.path = path
        self.known: dict[str, Any] = read_json(path) if path is not None and path.exists() else {}
        if not isinstance(self.known, dict):
            raise DataError(f"{path} holds no paces; remove it or name another file.")

    def of(
        self, config: RunConfig, precision: Precision, measure: Callable[[], tuple[float, float]]
    ) -> tuple[float, float]:
        """(seconds of a step, seconds that compiling adds); `measure` gives them where they are not known."""
        if self.path is None:
            return measure()
        key = _key(config, precision)
        if key not in self.known:
            step, compiling = measure()
            about = f"{config.recipe} {config.model.depth}x{config.model.dim}, {config.train.batch_size} rows"
            machine = this_machine(precision.device)
            self.known[key] = {"about": about, "step": step, "compiling": compiling, "machine": machine}
            write_json(self.path, self.known)
        return self.known[key]["step"], self.known[key]["compiling"]


def _key(config: RunConfig, precision: Precision) -> str:
    """What the time of a step depends on: not on the seed, the rates or how many steps there are."""
    raw = configs.to_json(config)
    optimizer = {name: value for name, value in raw["optimizer"].items() if name not in ("lr", "matrix_lr")}
    train = [config.train.batch_size, config.train.context_len, config.train.micro_batch_size, config.train.compile]
    text = json.dumps([raw["model"], optimizer, train, precision.name, str(precision.device)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
