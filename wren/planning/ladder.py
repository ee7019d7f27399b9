"""Settings that make a run fit, tried in the order of what they cost in speed; those that turn out needless are undone.

Each rung stands on those below it. First, LEAST_TOKENS at once must fit, or the batch where that is smaller: fewer
leave a device idle. Then one row, and last one row with those that make an update wait or change what is learned.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from wren import units
from wren.memory.trace import Tracer
from wren.planning.machine import Machine
from wren.planning.needs import Needs, changed, fits, least, needs
from wren.recipes import RunConfig

LEAST_TOKENS = 2048
MOST_TOKENS = 65_536  # at once; more make nothing faster
_CHUNK_LOGITS = 2**24  # of a smaller chunk of the loss
_LEAST_CHUNK = 256
_DEAR = frozenset(("optimizer.offload", "optimizer.in_backward"))
Settings = dict[str, Any]


@dataclass(frozen=True)
class Rung:
    """settings: what it sets. cost: in a sentence, what that costs."""

    settings: Settings
    cost: str


@dataclass(frozen=True)
class Fit:
    """settings: what was chosen beside the run's own. fits: whether the needs are within the machine's memory."""

    config: RunConfig
    settings: Settings
    rungs: tuple[Rung, ...]
    needs: Needs
    fits: bool


def rungs(config: RunConfig, machine: Machine, locked: frozenset[str]) -> list[Rung]:
    """Those that apply to this run, from cheap to dear. locked: keys that the user has set."""
    chunk = max(_LEAST_CHUNK, 1 << (_CHUNK_LOGITS // config.model.vocab_size).bit_length() - 1)
    batch = config.train.batch_size
    found = [
        Rung({"train.loss_chunk": chunk}, f"logits of {chunk:,} tokens at a time: about 1 % of speed"),
        Rung({"train.activation_checkpointing": "selective"}, "MLPs run again in the backward pass: up to 20 % slower"),
        Rung({"optimizer.state_dtype": "8bit"}, "moments in 8 bits: an update takes a little longer"),
        Rung({"train.activation_checkpointing": "full"}, "blocks run again in the backward pass: up to a third slower"),
    ]
    if machine.precision.name == "bf16":
        cost = "weights in bf16 alone, rounded by chance: no slower, a little noisier"
        found.append(Rung({"optimizer.weight_dtype": "bf16"}, cost))
    tables = config.model.tables
    if machine.kind == "cuda" and (tables.values is not None or tables.bigrams or tables.trigrams):
        cost = "lookup tables in main memory: their rows travel, and the CPU updates them"
        found.append(Rung({"model.tables.on_cpu": True}, cost))
    if machine.kind == "cuda":
        cost = "moments in main memory: every update waits for them to travel to and fro"
        found.append(Rung({"optimizer.offload": True}, cost))
    if not machine.precision.scaler and not config.train.compile and batch == 1:
        found.append(Rung({"optimizer.in_backward": True}, _IN_BACKWARD))
    elif not machine.precision.scaler and not config.train.compile and not locked & {"train.batch_size", "batch_size"}:
        cost = f"{_IN_BACKWARD}, and the batch is as small as a micro-batch, so that the rate may have to fall"
        found.append(Rung({"optimizer.in_backward": True, "train.batch_size": 1}, cost))
    if machine.kind == "cpu":  # its chunks are small already
        found = found[1:]
    return [r for r in found if not r.settings.keys() & locked and changed(config, r.settings) != config]


_IN_BACKWARD = "the update is part of the backward pass: each tensor is clipped by itself"


class Ladder:
    """Finds the cheapest settings with which a run fits a machine. locked: keys that the user has set."""

    def __init__(
        self, tracer: Tracer, machine: Machine, locked: frozenset[str], say: Callable[[str], None] = lambda text: None
    ):
        self.tracer, self.machine, self.locked, self.say = tracer, machine, locked, say

    def fit(self, config: RunConfig, *, all_means: bool = True) -> Fit:
        """all_means: whether settings other than the micro-batch may be chosen."""
        steps = rungs(config, self.machine, self.locked) if all_means else []
        few, mild = self._fewest(config), sum(not rung.settings.keys() & _DEAR for rung in steps)
        for rows, last in dict.fromkeys(((self._enough(config), mild), (few, mild), (few, len(steps)))):
            for count in range(last + 1):
                if (found := self._tried(config, steps[:count], rows)).fits:
                    return self._grown(config, self._pruned(config, found, rows), rows)
        return self.last(config, steps)

    def last(self, config: RunConfig, steps: Sequence[Rung] | None = None) -> Fit:
        """With every means, whether that fits or not."""
        steps = rungs(config, self.machine, self.locked) if steps is None else steps
        return self._tried(config, steps, self._fewest(config), anyway=True)

    def everything(self, config: RunConfig) -> RunConfig:
        """The run with every means."""
        return self._with(config, rungs(config, self.machine, self.locked), self._fewest(config))[0]

    def _is_fixed(self) -> bool:
        return "train.micro_batch_size" in self.locked

    def _fewest(self, config: RunConfig) -> int:
        own = config.train.micro_batch_size
        return min(own or config.train.batch_size, config.train.batch_size) if self._is_fixed() else 1

    def _enough(self, config: RunConfig) -> int:
        """Rows that keep a device busy."""
        rows = max(1, LEAST_TOKENS // config.train.context_len)
        return self._fewest(config) if self._is_fixed() else min(rows, config.train.batch_size)

    def _with(self, config: RunConfig, steps: Sequence[Rung], rows: int) -> tuple[RunConfig, Settings]:
        settings: Settings = {key: value for rung in steps for key, value in rung.settings.items()}
        batch = config.train.batch_size
        if "train.batch_size" in settings:  # in the backward pass: the batch is one micro-batch
            settings |= {"train.batch_size": rows, "train.steps": -(-config.train.steps * batch // rows)}
        elif config.optimizer.in_backward or settings.get("optimizer.in_backward"):
            rows = batch
        elif not self._is_fixed():
            settings["train.micro_batch_size"] = rows
        return changed(config, settings), settings

    def _tried(self, config: RunConfig, steps: Sequence[Rung], rows: int, *, anyway: bool = False) -> Fit:
        """anyway: traced also where it cannot fit."""
        fitted, settings = self._with(config, steps, rows)
        lower = least(self.tracer, fitted, self.machine)
        if lower > self.machine.room and not anyway:
            return Fit(fitted, settings, tuple(steps), Needs({}, lower, None, 0, "", self.machine.allowance), False)
        self.say(f"Tracing a step of {units.counted(rows, 'row')}{_listed(steps)} ...")
        found = needs(self.tracer, fitted, self.machine)
        return Fit(fitted, settings, tuple(steps), found, fits(found, self.machine))

    def _pruned(self, config: RunConfig, found: Fit, rows: int) -> Fit:
        """Without the rungs that are not needed, the dearest first; the last one is. Where the batch is as small as the
        micro-batch, all stay: more rows are worth more."""
        if _follows(found):
            return found
        for rung in reversed(found.rungs[:-1]):
            fewer = [other for other in found.rungs if other is not rung]
            if (without := self._tried(config, fewer, rows)).fits:
                found = without
        return found

    def _grown(self, config: RunConfig, found: Fit, rows: int) -> Fit:
        """With as many rows as fit: a power of two, or the batch. Two sizes foretell which; it is traced itself."""
        batch, most = config.train.batch_size, max(rows, MOST_TOKENS // config.train.context_len)
        sizes = [n for n in (2**i for i in range(batch.bit_length())) if rows < n <= most and n < batch]
        sizes = [rows, *sizes, *([batch] if rows < batch <= most else [])]
        if self._is_fixed() or len(sizes) == 1 or (found.config.optimizer.in_backward and not _follows(found)):
            return found
        second = self._tried(config, found.rungs, sizes[1])
        if not second.fits:
            return found
        each = max(1, second.needs.peak - found.needs.peak) / (sizes[1] - rows)
        foretold = sizes[1] + (self.machine.room - second.needs.total + self.machine.allowance) / each
        at = max(i for i, n in enumerate(sizes) if n <= max(foretold, sizes[1]))
        best = second if at == 1 else self._tried(config, found.rungs, sizes[at])
        while best.fits and at + 1 < len(sizes):
            at += 1
            if not (more := self._tried(config, found.rungs, sizes[at])).fits:
                return best
            best = more
        while not best.fits:
            at -= 1
            best = second if at == 1 else self._tried(config, found.rungs, sizes[at])
        return best


def _follows(found: Fit) -> bool:
    """Whether the batch is as large as the micro-batch may be."""
    return any("train.batch_size" in rung.settings for rung in found.rungs)


def _listed(steps: Sequence[Rung]) -> str:
    values = [f"{key.rpartition('.')[2]}={value}" for rung in steps for key, value in rung.settings.items()]
    return f", {', '.join(values)}" if values else ""
