"""How long a run trains: a budget of steps, tokens or seconds as the steps of a config."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wren import config as configs
from wren import units
from wren.build import Parts, build, content_hash
from wren.data.shards import Manifest
from wren.distributed.ranks import ALONE, Ranks
from wren.errors import ConfigError
from wren.loss import cross_entropy
from wren.recipes import RunConfig
from wren.run import Run
from wren.train import measure_step_seconds

_MEASURED_TOKENS = 4096  # a batch large enough to tell tokens a second by, small enough for a large model on a CPU


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long to train: one of steps, tokens, or seconds of wall-clock; all None = the recipe's steps."""

    steps: int | None = None
    tokens: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.steps, self.tokens, self.seconds)) > 1:
            raise ConfigError("--steps, --tokens and --time exclude each other; give one of them.")


def with_data(config: RunConfig, data: Path, manifest: Manifest, budget: Budget) -> RunConfig:
    """The config with what identifies the data, and the steps as far as they are known without measuring."""
    steps = budget.steps
    if budget.tokens is not None:
        steps = max(1, round(budget.tokens / (config.train.batch_size * config.train.context_len)))
    train_config = dataclasses.replace(config.train, steps=config.train.steps if steps is None else steps)
    return dataclasses.replace(
        config,
        data=str(data),
        data_hash=content_hash(manifest),
        time_budget=budget.seconds,
        train=train_config,
    )


def horizon(config: RunConfig, data: Path, run: Run, budget: Budget, device: str, ranks: Ranks = ALONE) -> str:
    """How long will be trained, as a setting of a recipe that chooses batch and learning rate by it.

    Seconds are turned into tokens by measuring, once for a run; without any budget the recipe's own tokens.
    """
    if budget.steps is not None:
        return f"steps={budget.steps}"
    tokens = budget.tokens or config.horizon
    if budget.seconds is not None:
        stored = ranks.first(lambda: configs.from_json(RunConfig, run.config()) if run.exists() else None)
        if stored is not None and stored.horizon is not None:
            return f"tokens={stored.horizon}"
        rows = min(config.train.batch_size, _MEASURED_TOKENS // config.train.context_len) // ranks.size * ranks.size
        rows = max(ranks.size, rows)
        trial = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=rows))
        step = measured(build(trial, data, Manifest.load(data), ranks.device(device), ranks))
        tokens = round(budget.seconds / step * rows * config.train.context_len)
    return f"tokens={max(1, tokens or 1)}"


def with_steps(parts: Parts, budget: Budget, say: Callable[[str], None]) -> RunConfig:
    """The config with a time budget turned into steps after a measured warm-up."""
    config = parts.config
    if budget.seconds is None:
        return config
    step = measured(parts)
    steps = max(1, int(budget.seconds / step))
    say(f"A step takes {step * 1000:.0f} ms here, so {units.duration(budget.seconds)} make {steps:,} steps.")
    return dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps))


def measured(parts: Parts) -> float:
    """Seconds of a step, the same for all ranks."""
    model, optimizer, precision, ranks = parts.model, parts.optimizer, parts.precision, parts.ranks
    seconds = measure_step_seconds(
        model, optimizer, parts.loader, cross_entropy, parts.config.train, precision, ranks=ranks
    )
    return ranks.first(lambda: seconds)
