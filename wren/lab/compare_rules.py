"""The rules of fair comparison, and which of them a comparison kept: worked out from its settings and results."""

from collections.abc import Mapping, Sequence

from wren.lab.compare_clock import ALIKE, clock, kernels, quiet, same_time, spread
from wren.lab.compare_plan import MAX_EXTENSIONS, CellPlan, CompareBudget, Grid
from wren.lab.schema import Cell, Measured, Rule
from wren.lab.statistics import SEEDS_TO_CLAIM, SEEDS_TO_SEE

LEAST_LRS, LEAST_DECAYS, LEAST_SIZES = 4, 2, 3


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
    contents: Mapping[int, str],
    machine: str,
) -> tuple[Rule, ...]:
    """Every rule with whether it was kept and what was done instead or for it.

    contents: what identifies the tokens of every vocabulary size. machine: where all of it was done, in words.
    """
    return (
        same_time(budget, cells, machine),
        all_there(cells),
        _alike(cells),
        _split(plans, validation),
        _tuning(grid, tune_share),
        _sizes(plans),
        _seeds(seeds),
        pairs(plans, contents),
        _contexts(plans),
        _short(budget),
        _depth(plans),
        _transfer(plans),
        _held_back(),
        _interior(cells, baseline),
        _parts(),
        clock(plans, cells, budget),
        quiet(cells),
        kernels(budget),
    )


def all_there(cells: Sequence[Cell]) -> Rule:
    """Arms that could not be trained stay on the page, and are told here."""
    lost = []
    for cell in cells:
        lost += [f"{_where(cell)} at all {len(cell.tuning)} points of its grid"] if not cell.final else []
    for cell in cells:
        count = sum(run.tuned is None for run in cell.final)
        lost += [f"{_where(cell)} in {count} of {len(cell.final)} final runs"] if count else []
    did = "No arm was left out, and no final run diverged."
    if lost:
        did = f"Diverged: {'; '.join(lost)}. The rest is compared; lower --lrs may mend it."
    return Rule(rule="Every arm has all its final runs: none drops out by diverging", kept=not lost, did=did)


def _where(cell: Cell) -> str:
    return f"{cell.arm} ({cell.size}, {cell.context_len})"


def _alike(cells: Sequence[Cell]) -> Rule:
    """How far apart the arms of one size and context length are in what a model costs."""
    places: dict[tuple[str, int], list[Measured]] = {}
    for cell in cells:
        places.setdefault((cell.size, cell.context_len), []).append(cell.measured)
    spreads = {
        "operations a token": [spread([m.flops_per_token for m in found]) for found in places.values()],
        "parameters, lookup tables counted": [spread([m.params for m in found]) for found in places.values()],
        "bytes of state": [
            max(spread([m.state_bytes[length] for m in found]) for length in found[0].state_bytes)
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
        did=f"{_counted(lrs, 'learning rate')} x {_counted(decays, 'weight decay')} for every arm: nothing was tuned."
        if lrs * decays == 1
        else f"{_counted(lrs, 'learning rate')} x {_counted(decays, 'weight decay')} for every arm; each point had "
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


def pairs(plans: Sequence[CellPlan], contents: Mapping[int, str]) -> Rule:
    """Equal batches need equal tokens (whatever the vocabularies are called), windows (context length) and rows."""
    places: dict[tuple[str, int], set[tuple[str, int]]] = {}
    for plan in plans:
        batches = places.setdefault((plan.size, plan.context_len), set())
        batches.add((contents[plan.arm.vocab_size], plan.config.train.batch_size))
    lengths = {plan.arm.name: {p.context_len for p in plans if p.arm.name == plan.arm.name} for plan in plans}
    same_lengths = len({frozenset(found) for found in lengths.values()}) == 1
    same_batches = all(len(batches) == 1 for batches in places.values())
    differ = [
        *(["tokens"] if any(len({tokens for tokens, _ in batches}) > 1 for batches in places.values()) else []),
        *(["context length"] if not same_lengths else []),
        *(["rows in a batch"] if any(len({rows for _, rows in batches}) > 1 for batches in places.values()) else []),
    ]
    did = "The same seed gave every arm the same batches in the same order, as far as it trained, and all arms the "
    did += "same validation windows."
    if differ:
        did = (
            f"The arms differ in {' and '.join(differ)}; the same seed gives the same batches only to those that agree "
            "in tokens, context length and rows in a batch."
        )
    return Rule(
        rule="Seeds are paired: the same batches in the same order, the same windows judged",
        kept=same_lengths and same_batches,
        did=did,
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
    edges = [_where(cell) for cell in cells if cell.edge]
    none = [_where(cell) for cell in cells if cell.lr is None]
    did = "Every arm's best learning rate lies inside its grid." if not edges else f"At the edge: {', '.join(edges)}."
    if none:
        did = f"{did if edges else ''} Every point of the grid diverged: {', '.join(none)}.".lstrip()
    return Rule(
        rule="The baseline's sweep is kept and its best setting lies inside the grid",
        kept=not any(cell.edge or cell.lr is None for cell in cells if cell.arm == baseline),
        did=f"{did} Every grid point stands in compare.json.",
    )


def _parts() -> Rule:
    return Rule(
        rule="Beside the whole: by position, and on tokens that complete an n-gram the context already held",
        kept=True,
        did="Both are measured on every final run; the position is the place in the row, which can hold more than one "
        "document.",
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
