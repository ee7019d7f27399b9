"""The rules of fair comparison, and which of them a comparison kept: worked out from its settings and results."""

import math
from collections.abc import Sequence

from wren.lab.compare_plan import MAX_EXTENSIONS, CellPlan, CompareBudget, Grid
from wren.lab.schema import Cell, Measured, Rule
from wren.lab.statistics import SEEDS_TO_CLAIM, SEEDS_TO_SEE

ALIKE = 1.05  # times apart, at most, in what counts as equal
LEAST_LRS, LEAST_DECAYS, LEAST_SIZES = 4, 2, 3
STEADY = 1.25  # the largest factor between two times of a step that still counts as undisturbed


def rules(
    plans: Sequence[CellPlan],
    cells: Sequence[Cell],
    *,
    budget: CompareBudget,
    grid: Grid,
    seeds: int,
    tune_share: float,
    baseline: str,
    validation: str,
) -> tuple[Rule, ...]:
    """Every rule with whether it was kept and what was done instead or for it."""
    return (
        _axis(budget, plans),
        _alike(cells),
        _split(plans, validation),
        _tuning(grid, tune_share),
        _sizes(plans),
        _seeds(seeds),
        _pairs(plans),
        _contexts(plans),
        _short(budget),
        _depth(plans),
        _transfer(plans),
        _held_back(),
        _interior(cells, baseline),
        _parts(),
        _clock(plans),
        _quiet(cells),
        _kernels(budget),
    )


def _axis(budget: CompareBudget, plans: Sequence[CellPlan]) -> Rule:
    what = {"time": "seconds of training steps", "flops": "operations", "tokens": "tokens"}[budget.kind]
    did = f"Every training had a budget of {budget.text} ({what}) on the same device, one after another."
    if budget.kind != "time":
        did += " What the arms cost in time stands beside it."
    return Rule(
        rule="Arms get the same time on the same device before anything else", kept=budget.kind == "time", did=did
    )


def _alike(cells: Sequence[Cell]) -> Rule:
    """How far apart the arms of one size and context length are in what a model costs."""
    places: dict[tuple[str, int], list[Measured]] = {}
    for cell in cells:
        places.setdefault((cell.size, cell.context_len), []).append(cell.measured)
    spreads = {
        "operations a token": [_spread([m.flops_per_token for m in found]) for found in places.values()],
        "parameters, lookup tables counted": [_spread([m.params for m in found]) for found in places.values()],
        "bytes of state": [
            max(_spread([m.state_bytes[length] for m in found]) for length in found[0].state_bytes)
            for found in places.values()
        ],
    }
    worst = {what: max(found, default=1.0) for what, found in spreads.items()}
    shown = "; ".join(f"{what} {ratio:.3g} times" for what, ratio in worst.items())
    return Rule(
        rule="Beside time, arms agree in operations, in all parameters (lookup tables counted) and in bytes of state",
        kept=all(ratio <= ALIKE for ratio in worst.values()),
        did=f"At one size and context length the largest arm has at most: {shown} those of the smallest.",
    )


def _spread(values: Sequence[float]) -> float:
    """The largest over the smallest; 1 where all are 0, inf where one is."""
    if max(values) == 0:
        return 1.0
    return max(values) / min(values) if min(values) > 0 else math.inf


def _split(plans: Sequence[CellPlan], validation: str) -> Rule:
    sizes = sorted({plan.arm.vocab_size for plan in plans})
    vocabularies = ", ".join(f"{size:,}" for size in sizes)
    return Rule(
        rule="Quality is bits per byte on a named, fixed validation split, so that vocabularies can be compared",
        kept=True,
        did=f"The split is {validation}; {'vocabularies' if len(sizes) > 1 else 'one vocabulary'} of {vocabularies}.",
    )


def _tuning(grid: Grid, tune_share: float) -> Rule:
    lrs, decays = grid.num_lrs, grid.num_decays
    share = "the whole budget" if tune_share == 1 else f"{tune_share:g} of the budget, so its schedule was shorter"
    return Rule(
        rule="Every arm is tuned with the same effort: at least four learning rates by two weight decays",
        kept=lrs >= LEAST_LRS and decays >= LEAST_DECAYS and tune_share == 1,
        did=f"{_counted(lrs, 'learning rate')} x {_counted(decays, 'weight decay')} for every arm; each point had "
        f"{share}; at most {MAX_EXTENSIONS} steps beyond an edge.",
    )


def _sizes(plans: Sequence[CellPlan]) -> Rule:
    sizes = list(dict.fromkeys(plan.size for plan in plans))
    return Rule(
        rule="A claim rests on three sizes or more, each tuned by itself",
        kept=len(sizes) >= LEAST_SIZES,
        did=f"{_counted(len(sizes), 'size')}: {'; '.join(sizes)}.",
    )


def _seeds(seeds: int) -> Rule:
    enough = "enough to claim" if seeds >= SEEDS_TO_CLAIM else f"to claim, {SEEDS_TO_CLAIM} are needed"
    if seeds < SEEDS_TO_SEE:
        enough = f"too few to see a difference, which takes {SEEDS_TO_SEE}"
    interval = "with 95 % intervals" if seeds > 1 else "without intervals, which one seed cannot give"
    return Rule(
        rule="Three seeds to see, five to claim; differences come with 95 % intervals and are none where those hold 0",
        kept=seeds >= SEEDS_TO_SEE,
        did=f"{_counted(seeds, 'seed')}, {enough}; differences are given {interval}.",
    )


def _pairs(plans: Sequence[CellPlan]) -> Rule:
    """Equal batches need equal tokens (vocabulary), windows (context length) and rows."""
    places: dict[tuple[str, int], set[tuple[int, int]]] = {}
    for plan in plans:
        batches = places.setdefault((plan.size, plan.context_len), set())
        batches.add((plan.arm.vocab_size, plan.config.train.batch_size))
    lengths = {plan.arm.name: {p.context_len for p in plans if p.arm.name == plan.arm.name} for plan in plans}
    same_lengths = len({frozenset(found) for found in lengths.values()}) == 1
    kept = same_lengths and all(len(batches) == 1 for batches in places.values())
    did = "The same seed gave every arm the same batches in the same order and the same validation windows."
    if not kept:
        did = (
            "The arms differ in vocabulary, context length or rows in a batch; the same seed gives the same batches "
            "only to those that agree in all three."
        )
    return Rule(
        rule="Seeds are paired: the same batches in the same order, the same windows judged", kept=kept, did=did
    )


def _contexts(plans: Sequence[CellPlan]) -> Rule:
    lengths = sorted({plan.context_len for plan in plans})
    return Rule(
        rule="More than one context length",
        kept=len(lengths) > 1,
        did=f"{_counted(len(lengths), 'length')}: {', '.join(map(str, lengths))} tokens.",
    )


def _short(budget: CompareBudget) -> Rule:
    return Rule(
        rule="A short run shows which arm is faster to a loss, not which is better: gaps can close with more training",
        kept=True,
        did=f"What is found holds for trainings of {budget.text}, each with a schedule that ends there.",
    )


def _depth(plans: Sequence[CellPlan]) -> Rule:
    varied = sorted(
        {
            plan.arm.name
            for plan in plans
            if len({p.config.model.depth for p in plans if p.arm.name == plan.arm.name}) > 1
        }
    )
    depths = ", ".join(map(str, sorted({plan.config.model.depth for plan in plans})))
    did = f"Sizes change the depth of {', '.join(varied)}." if varied else f"Every arm keeps its depth ({depths})."
    return Rule(rule="Depth stays at the target's and width shrinks", kept=not varied, did=did)


def _transfer(plans: Sequence[CellPlan]) -> Rule:
    tables = {
        p.arm.name: p.config.model.depth
        for p in plans
        if p.config.model.tables.bigrams or p.config.model.tables.trigrams
    }
    did = "No arm has n-gram tables; every arm is tuned anew at every size."
    if tables:
        names = ", ".join(f"{name} (depth {depth})" for name, depth in tables.items())
        did = f"n-gram tables in {names}: their gain at depth 12 is known to vanish at 25, so do not carry it over."
    return Rule(
        rule="What is known not to carry over is left: n-gram tables and settings from one depth to another",
        kept=not tables,
        did=did,
    )


def _held_back() -> Rule:
    return Rule(
        rule="Tuning reads the last 5 % of the training split; the validation split is read once, at the end",
        kept=True,
        did="No training saw that end; each final run read the validation split once, when it was trained.",
    )


def _interior(cells: Sequence[Cell], baseline: str) -> Rule:
    edges = [f"{cell.arm} ({cell.size}, {cell.context_len})" for cell in cells if cell.edge]
    did = "Every arm's best learning rate lies inside its grid." if not edges else f"At the edge: {', '.join(edges)}."
    return Rule(
        rule="The baseline's sweep is kept and its best setting lies inside the grid",
        kept=not any(cell.edge for cell in cells if cell.arm == baseline),
        did=f"{did} Every grid point stands in compare.json.",
    )


def _parts() -> Rule:
    return Rule(
        rule="Beside the whole: by position, and on tokens that complete an n-gram the context already held",
        kept=True,
        did="Both are measured on every final run.",
    )


def _clock(plans: Sequence[CellPlan]) -> Rule:
    compiled = sorted({plan.arm.name for plan in plans if plan.config.train.compile})
    did = "Seconds count from the first step on; nothing is compiled before."
    if compiled:
        did = (
            f"Seconds count from the first step on: every training of {', '.join(compiled)} pays for its compilation, "
            "which torch's cache on disk shortens after the first."
        )
    return Rule(rule="A time to a loss includes compilation", kept=True, did=did)


def _quiet(cells: Sequence[Cell]) -> Rule:
    """Whether a step of the trainings took what it took when it was measured: other work on the machine shows here."""
    ratios = [
        run.seconds / run.steps / cell.measured.step_seconds
        for cell in cells
        if cell.measured.step_seconds
        for run in cell.final
        if run.steps and run.seconds > 0
    ]
    factor = max((max(ratio, 1 / ratio) for ratio in ratios), default=1.0)
    did = f"A step of a final run took at most {factor:.2f} times as long, or as short, as when it was measured alone."
    return Rule(
        rule="Times come from a quiet machine: the steps of a training take what they took when measured",
        kept=factor <= STEADY,
        did=did if factor <= STEADY else f"{did} Do not compare seconds; tokens and FLOPs stand.",
    )


def _kernels(budget: CompareBudget) -> Rule:
    did = "Curves are kept against tokens and operations too, where the speed of an implementation does not count."
    if budget.kind == "time":
        did = "With equal time a faster implementation sees more tokens. " + did
    return Rule(rule="A faster implementation is not sold as a better architecture", kept=True, did=did)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
