"""A training of so many seconds through Wren's own loop, in a folder that is gone afterwards.

How many steps fit into the seconds is measured beforehand, which is not counted: it is no part of a training of given
length. Every training is preceded by that measuring, also one whose steps are given, so that none begins colder than
another. What is compiled is compiled anew by the training itself, without torch's cache on disk, and counted.
"""

import contextlib
import inspect
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from measures.paces import Paces
from wren import config as configs
from wren import recipes, shapes
from wren.interrupt import Interrupted
from wren.loss import cross_entropy
from wren.model import LM
from wren.optim.optimizer import Optimizer
from wren.precision import Precision, choose_precision
from wren.recipes import RunConfig
from wren.resume import Batches, Progress
from wren.run import Run
from wren.train import measure_step_seconds, train

WARMUP, STEPS = 3, 10  # of the measuring
_SAY_EVERY = 10.0  # seconds
NO_PACES = Paces(None)

Say = Callable[[str], None]


def trained(
    config: RunConfig,
    batches: Batches,
    device: torch.device,
    say: Say,
    *,
    seconds: float | None = None,
    paces: Paces = NO_PACES,
) -> tuple[LM, dict[str, Any]]:
    """The model after the config's steps, or after about as many as fit into `seconds`; and what it took.

    seconds of the row: of all steps, with what they compiled; with paces that are kept, what they would take at that
    pace. wall_seconds: of the whole call of train(), its one checkpoint too. Raises DivergedError, KeyboardInterrupt.
    """
    precision = choose_precision(device, config.train.dtype)
    torch.manual_seed(config.seed)
    model = config.model.build().to(device)
    optimizer = config.optimizer.build(model)
    step, compiling = paces.of(config, precision, lambda: pace(model, optimizer, batches, config, precision))
    if seconds is not None:
        if seconds <= compiling:
            say(
                f"  {config.recipe}: compiling takes {compiling:.0f} s, all of the {seconds:.3g} s: one step is trained"
            )
        steps = max(1, int((seconds - compiling) / step))
        config = replace(config, train=replace(config.train, steps=steps))
    with tempfile.TemporaryDirectory() as folder, _nothing_kept(), _cold(config):
        run = Run(Path(folder) / "run")
        run.create(configs.to_json(config))
        start = time.perf_counter()
        progress = train(
            model, optimizer, batches, cross_entropy, run, replace(config.train, eval_every=0, save_every=0),
            config.schedule, precision, watch=_Watch(config, say), say=say,
        )  # fmt: skip
        wall = time.perf_counter() - start
    return model, {
        "recipe": config.recipe,
        "seed": config.seed,
        "dtype": precision.name,
        "params": model.num_params(),
        "table_params": model.table_params(),
        "lr": config.optimizer.lr,
        "batch_size": config.train.batch_size,
        "context_len": config.train.context_len,
        "budget": seconds,
        "steps": progress.step,
        "tokens": progress.tokens,
        "seconds": progress.seconds if paces.path is None else compiling + progress.step * step,
        "wall_seconds": wall,
        "compile_seconds": compiling,
        "skipped_steps": progress.skipped,
    }


def pace(
    model: LM, optimizer: Optimizer, batches: Batches, config: RunConfig, precision: Precision
) -> tuple[float, float]:
    """Seconds of a step, and those that compilation adds to a training (0 without it)."""
    with _cold(config):
        start = time.perf_counter()
        step = measure_step_seconds(
            model, optimizer, batches, cross_entropy, config.train, precision, warmup=WARMUP, steps=STEPS
        )
        took = time.perf_counter() - start
    return step, max(0.0, took - (WARMUP + STEPS) * step) if config.train.compile else 0.0


@contextlib.contextmanager
def _cold(config: RunConfig) -> Iterator[None]:
    """What is compiled inside finds nothing compiled before, neither in memory nor on disk."""
    if not config.train.compile:
        yield
        return
    from torch._inductor.utils import fresh_cache  # here: importing the compiler takes seconds

    torch.compiler.reset()
    with fresh_cache():
        yield


class _Watch:
    """Says every ten seconds where a training is."""

    def __init__(self, config: RunConfig, say: Say):
        self.config, self.say, self.said = config, say, time.monotonic()

    def __call__(self, progress: Progress, row: dict[str, Any]) -> None:
        if time.monotonic() - self.said > _SAY_EVERY:
            self.said = time.monotonic()
            loss = row.get("loss", float("nan"))
            self.say(f"  {self.config.recipe}: step {progress.step} of {self.config.train.steps}, loss {loss:.3f}")


@contextlib.contextmanager
def _nothing_kept() -> Iterator[None]:
    """train() says that the same command goes on; here the folder is gone by then, and it begins anew."""
    try:
        yield
    except Interrupted as stop:
        raise KeyboardInterrupt from stop


def size_settings(recipe: str, depth: int, dim: int) -> list[str]:
    """Depth and width as settings of a recipe, with heads of the width that recipe wren takes."""
    head = shapes.head_dim(dim)
    chosen = {"depth": depth, "dim": dim, "head_dim": head, "num_heads": max(1, dim // head)}
    known = inspect.signature(recipes.get(recipe)).parameters
    return [f"{name}={value}" for name, value in chosen.items() if name in known]


def build(recipe: str, vocab_size: int, depth: int, dim: int, settings: Sequence[str] = ()) -> RunConfig:
    """A recipe at a size; raises ConfigError. Of two settings of one key the later counts."""
    return recipes.build(recipe, vocab_size=vocab_size, settings=[*size_settings(recipe, depth, dim), *settings])


def now(device: torch.device) -> float:
    """The time when the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
