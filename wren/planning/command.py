"""`wren plan`, and the plan that `wren train` makes by itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wren import config as configs
from wren import dial, recipes, units
from wren.errors import ConfigError
from wren.memory.trace import Tracer
from wren.planning.ladder import Fit, Ladder
from wren.planning.largest import Wish, largest
from wren.planning.machine import Machine, machine
from wren.planning.plan import Plan, make
from wren.precision import DTypeName, choose_device
from wren.recipes import RunConfig
from wren.run import Run

VOCAB_SIZE = 32_768
HERE = "here"  # what --fit without a size means


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What `wren plan` was asked. settings: KEY=VALUE, those of the user."""

    recipe: str
    vocab_size: int
    settings: tuple[str, ...] = ()
    depth: int | None = None
    params: int | None = None
    gpu: str | None = None
    device: str = "auto"
    dtype: DTypeName = "auto"
    tokens: int | None = None
    prices: tuple[float, float] = (0.3, 0.0)
    look: bool = True


def plan(asked: Asked, say: Callable[[str], None] = lambda text: None) -> Plan:
    """Raises ConfigError for wrong settings, an unknown GPU, and a model that cannot be planned."""
    for price in asked.prices:
        if not price >= 0:
            raise ConfigError(f"A price of {price} is none; give one of 0 or more.")
    target = machine(asked.gpu, asked.device, asked.dtype)
    size = dial.settings(
        asked.recipe, vocab_size=asked.vocab_size, depth=asked.depth, params=asked.params, given=asked.settings
    )
    settings = [*asked.settings, *size]
    if asked.tokens is not None and dial.follows_horizon(asked.recipe, settings):
        settings.append(f"tokens={asked.tokens}")
    config = recipes.build(asked.recipe, vocab_size=asked.vocab_size, settings=settings)
    locked = named(asked.settings)
    look = asked.look and not locked & {"depth", "dim", "num_heads", "head_dim"}
    wish = Wish(asked.recipe, asked.vocab_size, asked.settings) if look else None
    return make(config, target, locked=locked, tokens=asked.tokens, wish=wish, prices=asked.prices, say=say)


def vocabulary(text: str | None, of_data: int | None) -> int:
    """What --vocab-size says, else the data's, else VOCAB_SIZE."""
    return units.count(text, "vocabulary size") if text is not None else of_data or VOCAB_SIZE


def count(text: str | None, what: str) -> int | None:
    return None if text is None else units.count(text, what)


def named(settings: Sequence[str]) -> frozenset[str]:
    return frozenset(setting.partition("=")[0] for setting in settings)


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """The plan of a training run. fit: what --fit says, None = not given. given: the keys that the user has set.

    num_ranks: processes that train together; a plan is for one. stored: the settings that the run was begun with by a
    plan, None for a new run.
    """

    wish: Wish
    fit: str | None
    given: frozenset[str]
    device: str
    dtype: DTypeName
    num_ranks: int = 1
    stored: tuple[str, ...] | None = None
    say: Callable[[str], None] = print

    def size(self, *, is_given: bool) -> list[str]:
        """The settings that --fit chooses where no size is given: the largest that fits; and all of a run's plan."""
        if self.stored is not None:
            return list(self.stored)
        if self.fit is None:
            return []
        if self.num_ranks > 1:
            raise ConfigError("--fit plans for one process; leave it out, or train in one process.")
        if is_given or self.given & {"depth", "dim", "num_heads", "head_dim"}:
            return []
        target = self._machine()
        found = largest(self.wish, Tracer(), target, self.given, self.say)
        if found is None:
            raise ConfigError(f"No size of recipe {self.wish.recipe} fits into {units.size(target.memory)}.")
        self.say(f"Planned: {units.short(found[0])} parameters, the largest {self.wish.recipe} that fits.")
        return dial.settings(self.wish.recipe, vocab_size=self.wish.vocab_size, depth=None, params=found[0])

    def memory(self, config: RunConfig) -> list[str]:
        """The settings that save memory: with --fit all that it takes, else on a GPU the micro-batch alone."""
        if self.stored is not None or self.num_ranks > 1:
            return []
        if self.fit is None and ("train.micro_batch_size" in self.given or choose_device(self.device).type != "cuda"):
            return []
        target = self._machine()
        ladder = Ladder(Tracer(), target, self.given)
        if self.fit is None:
            return self._micro_batch(ladder, config, target)
        found = ladder.fit(config)
        if not found.fits:
            raise ConfigError(
                f"A step of one row takes {units.size(found.needs.total)} of {units.size(target.memory)} with every "
                "means of saving memory; choose a smaller --params, or `wren plan` to see what would fit."
            )
        self.say(
            f"Planned: {units.size(found.needs.total)} of {units.size(target.memory)} at the peak. {chosen(found)}"
        )
        return written(found)

    def _micro_batch(self, ladder: Ladder, config: RunConfig, target: Machine) -> list[str]:
        """A plan that nobody asked for never stops a training."""
        try:
            found = ladder.fit(config, all_means=False)
        except ConfigError as error:
            self.say(f"Not planned: {error}")
            return []
        need = f"{units.size(found.needs.total)} of {units.size(target.memory)}"
        if not found.fits:
            self.say(f"Warning: by the plan one row takes {need}; --fit chooses settings that save memory.")
        elif found.config.train.micro_batch_size == config.train.batch_size:
            self.say(f"Planned: the whole batch at once, {need} at the peak.")
        else:
            self.say(f"Planned: micro-batches of {found.config.train.micro_batch_size} rows, {need} at the peak.")
        return written(found)

    def _machine(self) -> Machine:
        gpu = None if self.fit in (None, HERE) else self.fit
        if gpu is not None and choose_device(self.device).type == "cpu":  # so much of main memory
            return replace(machine(None, self.device, self.dtype), memory=machine(gpu, "cpu", "auto").memory)
        return machine(gpu, self.device, self.dtype, measure=False)


def chosen(found: Fit) -> str:
    """The settings of a fit in a sentence each."""
    rows = found.config.train.micro_batch_size or found.config.train.batch_size
    return " ".join([f"Micro-batches of {rows} rows.", *(f"{r.cost[0].upper()}{r.cost[1:]}." for r in found.rungs)])


def written(found: Fit) -> list[str]:
    """What was chosen as settings of a recipe."""
    return [f"{key}={value}" for key, value in found.settings.items()]


def stored(folder: Path) -> tuple[str, ...] | None:
    """What a plan chose for the run that lies there; None where there is no run."""
    run = Run(folder)
    return configs.from_json(RunConfig, run.config()).planned if run.exists() else None
