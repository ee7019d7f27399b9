"""Where metrics can go besides metrics.jsonl: TensorBoard, Weights & Biases, trackio; each optional.

Nothing is imported before a sink is asked for. Numbers are named `<kind>/<key>`, such as train/loss; the step is the
x-axis of all of them. A resumed run goes on in the same place.
"""

import hashlib
import importlib
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Protocol

from wren.errors import ConfigError, unknown_key
from wren.run import Run


class Sink(Protocol):
    def log(self, row: dict[str, Any]) -> None:
        """Takes a row of metrics."""
        ...

    def close(self) -> None:
        """Flushes; nothing may be logged afterwards."""
        ...


def find_sinks(names: Sequence[str]) -> list[ModuleType]:
    """The sinks' packages; raises ConfigError for an unknown name and for a package that is not installed."""
    for name in names:
        if name not in _SINKS:
            raise ConfigError(unknown_key("Sink", name, _SINKS))
    return [_module(name, _SINKS[name][0]) for name in names]


def open_sinks(names: Sequence[str], run: Run, config: dict[str, Any]) -> list[Sink]:
    """The named sinks, opened for `run`; config: JSON values shown beside it. Raises what find_sinks raises."""
    modules = find_sinks(names)
    return [_SINKS[name][1](module, run, config) for name, module in zip(names, modules, strict=True)]


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """The finite numbers of a row, named by its kind."""
    kind = row.get("kind", "other")
    return {
        f"{kind}/{key}": float(value)
        for key, value in row.items()
        if isinstance(value, (int, float)) and key != "step" and math.isfinite(value)
    }


class TensorBoard:
    """Event files in <run>/tensorboard: `tensorboard --logdir <run>` shows them."""

    def __init__(self, module: ModuleType, run: Run, config: dict[str, Any]):
        self.writer = module.SummaryWriter(log_dir=str(run.path / "tensorboard"))
        self.writer.add_text("config", f"    {config}")

    def log(self, row: dict[str, Any]) -> None:
        for name, value in numbers(row).items():
            self.writer.add_scalar(name, value, row["step"])
        if "sample" in row:
            self.writer.add_text("sample", str(row["sample"]), row["step"])

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """A run of the project `wren` at Weights & Biases, or offline where WANDB_MODE says so."""

    def __init__(self, module: ModuleType, run: Run, config: dict[str, Any]):
        self.run = module.init(
            project="wren", name=run.path.name, id=_identity(run), resume="allow", dir=str(run.path), config=config
        )

    def log(self, row: dict[str, Any]) -> None:
        # the step is a number among others: the service refuses to go back to an earlier one, as resuming does
        self.run.log({**numbers(row), "step": row["step"]})

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """A run of the local project `wren`: `trackio show` opens it."""

    def __init__(self, module: ModuleType, run: Run, config: dict[str, Any]):
        self.module = module
        module.init(project="wren", name=f"{run.path.name}-{_identity(run)}", resume="allow", config=config)

    def log(self, row: dict[str, Any]) -> None:
        self.module.log({**numbers(row), "step": row["step"]})

    def close(self) -> None:
        self.module.finish()


_SINKS: dict[str, tuple[str, Callable[[ModuleType, Run, dict[str, Any]], Sink]]] = {
    "tensorboard": ("torch.utils.tensorboard", TensorBoard),
    "wandb": ("wandb", Wandb),
    "trackio": ("trackio", Trackio),
}


def _module(name: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except ImportError as error:
        raise ConfigError(
            f"{name} is not installed; `pip install -e '.[track]'` in Wren's folder brings it."
        ) from error


def _identity(run: Run) -> str:
    """The same for every resumption of a run, another for every other run of its name."""
    environment = run.path / "env.json"
    content = environment.read_bytes() if environment.exists() else str(run.path.resolve()).encode()
    return hashlib.sha256(content).hexdigest()[:12]
