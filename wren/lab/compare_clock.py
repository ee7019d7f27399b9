"""The rules of fair comparison that are about time: was it equal, what does it hold, was it disturbed."""

import math
from collections.abc import Sequence

from wren import units
from wren.lab.compare_plan import CellPlan, CompareBudget
from wren.lab.schema import Cell, Rule

ALIKE = 1.05  # times apart, at most, in what counts as equal
STEADY = 1.25  # the largest factor between two times of a step that still counts as undisturbed


def same_time(budget: CompareBudget, cells: Sequence[Cell], machine: str) -> Rule:
    """By what the final runs took, not by what they were given."""
    what = {"time": "seconds of training steps", "flops": "operations", "tokens": "tokens"}[budget.kind]
    did = f"Every training had a budget of {budget.text} ({what}), one after another on one machine: {machine}."
    places: dict[tuple[str, int], list[float]] = {}
    for cell in cells:
        took = [run.seconds for run in cell.final if run.tuned is not None]
        if took:
            places.setdefault((cell.size, cell.context_len), []).append(math.fsum(took) / len(took))
    worst = max(map(spread, places.values()), default=1.0)
    if places:
        least, most = (units.duration(end(map(end, places.values()))) for end in (min, max))
        did += f" Final runs took {least} to {most}, at one size and context length {worst:.3g} times apart at most."
    if budget.kind != "time":
        did += " What the arms cost in time stands beside it."
    return Rule(
        rule="Arms get the same time on the same device before anything else",
        kept=budget.kind == "time" and worst <= ALIKE,
        did=did,
    )


def clock(plans: Sequence[CellPlan], cells: Sequence[Cell], budget: CompareBudget) -> Rule:
    """Not kept where a budget of time could not count what was not measured."""
    paying = {(plan.arm.name, plan.size, plan.context_len) for plan in plans if plan.config.train.compile}
    compiled = sorted({name for name, _, _ in paying})
    pays = [cell for cell in cells if (cell.arm, cell.size, cell.context_len) in paying]
    known = [cell.measured.compile_seconds for cell in pays if cell.measured.compile_seconds is not None]
    did, kept = "Seconds count from the first step on; nothing is compiled before.", True
    if compiled:
        did = (
            f"Seconds count from the first step on: every training of {', '.join(compiled)} pays for its compilation, "
            "which torch's cache on disk shortens after the first."
        )
    if known:
        did += f" Measured with that cache filled, it takes {_range(known)}"
        did += ", which the budget counts." if budget.kind == "time" else "."
    if budget.kind == "time" and len(known) < len(pays):
        kept, did = False, f"{did} It was not measured for every arm, so the budget does not count it."
    return Rule(rule="A time to a loss includes compilation", kept=kept, did=did)


def quiet(cells: Sequence[Cell]) -> Rule:
    """Whether a step of the trainings took what it took when it was measured: other work on the machine shows here."""
    ratios = [
        (run.seconds - (cell.measured.compile_seconds or 0.0)) / run.steps / cell.measured.step_seconds
        for cell in cells
        if cell.measured.step_seconds
        for run in cell.final
        if run.steps and run.seconds > (cell.measured.compile_seconds or 0.0)
    ]
    factor = max((max(ratio, 1 / ratio) for ratio in ratios), default=1.0)
    did = f"A step of a final run took at most {factor:.2f} times as long, or as short, as when it was measured alone."
    return Rule(
        rule="Times come from a quiet machine: the steps of a training take what they took when measured",
        kept=factor <= STEADY,
        did=did if factor <= STEADY else f"{did} Do not compare seconds; tokens and FLOPs stand.",
    )


def kernels(budget: CompareBudget) -> Rule:
    did = "Curves are kept against tokens and operations too, where the speed of an implementation does not count."
    if budget.kind == "time":
        did = "With equal time a faster implementation sees more tokens. " + did
    return Rule(rule="A faster implementation is not sold as a better architecture", kept=True, did=did)


def spread(values: Sequence[float]) -> float:
    """The largest over the smallest; 1 where all are 0, inf where one is."""
    if max(values) == 0:
        return 1.0
    return max(values) / min(values) if min(values) > 0 else math.inf


def _range(seconds: Sequence[float]) -> str:
    low, high = units.duration(min(seconds)), units.duration(max(seconds))
    return low if low == high else f"{low} to {high}"
