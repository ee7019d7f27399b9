"""What a comparison measured: the dataclasses behind compare.json, for the report and for other programs.

    Comparison
      arms          what is compared: recipe, dials, vocabulary
      cells         arm x size x context length: shape, speed, memory; its tuning grid and its final runs
      rules         the rules of fair comparison, and whether this one kept them
      probes        scores of the arms on synthetic tasks, where asked for
      left          what was not done yet when this was written

Bits per byte are of the validation split in `final`, and of the held-back end of the training split in curves and
tuning. Seconds are of training steps alone. FLOPs are 3 x forward per trained token.
"""

from dataclasses import dataclass, field

from wren.evals.parts import Detail as Detail
from wren.evals.parts import Part as Part


@dataclass(frozen=True, kw_only=True)
class Arm:
    """name: how the report calls it. recipe, settings: what `wren train --recipe R --set ...` would be given."""

    name: str
    recipe: str
    settings: tuple[str, ...] = ()
    vocab_size: int = 0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Shape, speed and memory of a cell; speed and memory in a process of their own.

    table_params: of lookup tables (token, position, value, n-gram), which cost no matrix product. core_params: the
    others without the head. compile_seconds: what a training pays for compilation, over its steps' own seconds; 0
    without compilation, None where it was not measured. load: processes that wanted a core just before (1-minute load
    average), which timings suffer from; None where the system does not say.
    """

    params: int
    table_params: int
    core_params: int
    flops_per_token: float
    state_bytes: dict[str, int]  # by context length: "2048", "32768"
    tokens_per_second: float | None = None
    step_seconds: float | None = None
    compile_seconds: float | None = None
    peak_memory_bytes: int | None = None
    decode_tokens_per_second: float | None = None
    load: float | None = None


@dataclass(frozen=True, kw_only=True)
class Point:
    """A place of a learning curve."""

    step: int
    tokens: int
    seconds: float
    flops: float
    bits_per_byte: float


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """One training. tuned: bits per byte on the held-back end of the training split at its end; None = it diverged."""

    folder: str
    phase: str  # "tune" or "final"
    seed: int
    lr: float
    weight_decay: float
    steps: int
    tokens: int
    seconds: float
    flops: float
    tuned: float | None
    curve: tuple[Point, ...] = ()
    detail: Detail | None = None  # final runs only


@dataclass(frozen=True, kw_only=True)
class Cell:
    """An arm at a size and a context length. lr, weight_decay: the tuned ones. edge: the best lr stayed at the edge.

    Where every tuning run diverged there is nothing to train with: lr and weight_decay are None, final is empty.
    """

    arm: str
    size: str
    context_len: int
    measured: Measured
    lr: float | None
    weight_decay: float | None
    edge: bool
    tuning: tuple[TrainedRun, ...]
    final: tuple[TrainedRun, ...]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule of fair comparison: whether this one kept it, and what it did."""

    rule: str
    kept: bool
    did: str


@dataclass(frozen=True, kw_only=True)
class ProbeScore:
    """Accuracy in [0, 1] of an arm on a synthetic task; chance: what guessing scores.

    levels: what answers score that know something, by the words for them. dtype: of the probe's matrix products.
    """

    arm: str
    probe: str
    accuracy: float
    chance: float
    state_bytes: int
    dtype: str
    levels: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """baseline: the arm the others are compared with. budget: as asked for, "5m", "1e15flops", "50Mtokens".

    machine: where everything was measured and trained. left: titles of the cells and probes that are not done yet;
    empty once all of it is over.
    """

    arms: tuple[Arm, ...]
    baseline: str
    budget: str
    tune_share: float
    seeds: tuple[int, ...]
    source: str
    validation: str
    device: str
    precision: str
    machine: str
    started: str
    command: str
    cells: tuple[Cell, ...] = ()
    rules: tuple[Rule, ...] = ()
    probes: tuple[ProbeScore, ...] = ()
    left: tuple[str, ...] = ()
