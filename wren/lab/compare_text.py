"""A comparison in words: what was found, with how much certainty, and never more than that."""

from collections.abc import Callable, Sequence

from wren import units
from wren.lab import compare_laws, statistics
from wren.lab import compare_numbers as numbers
from wren.lab.compare_numbers import Difference, Race, Setting
from wren.lab.probe_report import levels
from wren.lab.schema import Comparison
from wren.lab.statistics import SEEDS_TO_CLAIM, SEEDS_TO_SEE

NONE = "not measured"
_AXES = {"seconds": "training time", "flops": "training FLOPs", "tokens": "training tokens"}


def findings(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """(setting, its sentences) for every size and context length."""
    return [(setting.name, _of_setting(comparison, setting)) for setting in numbers.settings(comparison)]


def _of_setting(comparison: Comparison, setting: Setting) -> list[str]:
    said = []
    base = setting.cells.get(comparison.baseline)
    if base is None:
        said.append(f"{comparison.baseline}, the baseline, was not trained here, so there is nothing to compare with.")
    elif len(setting.cells) == 1:
        score = numbers.mean(list(numbers.bits(base).values()))
        reached = f"reached {score.text()} bits per byte" if score else "has no finished run"
        said.append(f"{comparison.baseline} {reached}; it is the only arm, so nothing is compared.")
    for found in numbers.differences(comparison, setting) if base else []:
        said.append(" ".join([difference(found), *timing(setting, found)]))
    for cell in setting.cells.values():
        if numbers.diverged(cell) or (not cell.final and cell.tuning and all(r.tuned is None for r in cell.tuning)):
            said.append(f"{cell.arm} diverged {_how_often(numbers.diverged(cell), len(cell.final))}.")
    return said


def _how_often(count: int, runs: int) -> str:
    return f"in {count} of {runs} final runs" if runs else "at every learning rate of its grid"


def difference(found: Difference) -> str:
    """The difference with its interval and its verdict, as sentences."""
    if found.seeds is None:
        return f"{found.arm} and {found.baseline} have no finished seed in common, so nothing is compared."
    words = [statistics.in_words(found.arm, found.baseline, found.seeds, digits=_digits(found.seeds)) + "."]
    if found.text is not None and found.seeds.half is not None:
        low, high = found.text
        words.append(f"Over texts: {_sign(low)} to {_sign(high)}, {_wider(found)}.")
        if found.verdict == "no difference" and not found.seeds.holds_zero:
            words.append("Another text could turn it round, so this counts as no difference.")
    words += _certainty(found)
    return " ".join(words)


def _digits(interval: statistics.Interval) -> int:
    """Three digits, or more where the interval is finer than that."""
    return 3 if interval.half is None or interval.half >= 0.001 else 4


def _wider(found: Difference) -> str:
    return "narrower than over seeds" if found.wider == "seeds" else "wider than over seeds"


def _certainty(found: Difference) -> list[str]:
    words, count = [], found.seeds.count if found.seeds else 0
    if found.missing:
        one = "1 seed is" if found.missing == 1 else f"{found.missing} seeds are"
        words.append(f"{one} left out: diverged or not measured in one of the two.")
    if found.verdict == "two seeds":
        words.append(f"Two seeds are too few to see a difference ({SEEDS_TO_SEE} to see, {SEEDS_TO_CLAIM} to claim).")
    if found.verdict == "seen":
        why = [f"{count} of {SEEDS_TO_CLAIM} seeds"] if count < SEEDS_TO_CLAIM else []
        why += ["seeds left out"] if found.missing else []
        why += [f"the best learning rate of {arm} lies at the edge of its grid" for arm in found.edge]
        words.append(f"Seen, not claimed: {'; '.join(why)}.")
    if found.verdict == "claimed":
        words.append(f"Claimed: {count} seeds, tuned inside the grid.")
    return words


def timing(setting: Setting, found: Difference) -> list[str]:
    """How soon the arm reaches the baseline's final loss; the other way round where it never does."""
    forth = numbers.race(setting, found.arm, found.baseline, "seconds")
    if forth is None:
        return []
    if forth.reached:
        return [race(forth)]
    back = numbers.race(setting, found.baseline, found.arm, "seconds")
    return [race(forth), *([race(back)] if back and back.reached else [])]


def race(found: Race) -> str:
    """ "B reaches A's final held-back loss (1.234) 1.41 (1.30 to 1.53) times faster: faster to this loss ..." """
    what = f"{found.goal}'s final held-back loss ({found.loss:.4f} bits per byte)"
    if not found.reached:
        return f"{found.arm} never reaches {what} within its budget."
    if found.reached < found.count:
        return f"{found.arm} reaches {what} in {found.reached} of {found.count} seeds within its budget."
    if found.factor is None:
        return f"{found.arm} reaches {what}; how soon cannot be compared."
    if found.low is None or found.high is None:
        return f"{found.arm} reaches {what} in {1 / found.factor:.2f} of its {_AXES[found.axis]} (one seed, no claim)."
    if found.same:
        return f"{found.arm} reaches {what} about as soon: a factor of {factor(found)}, which holds 1."
    if found.count < SEEDS_TO_SEE:
        return (
            f"{found.arm} reaches {what} in {1 / found.factor:.2f} of its {_AXES[found.axis]} (too few seeds to see)."
        )
    word, low, high = (
        ("faster", found.low, found.high) if found.factor > 1 else ("slower", 1 / found.high, 1 / found.low)
    )
    size = max(found.factor, 1 / found.factor)
    return f"{found.arm} is {size:.2f} ({low:.2f} to {high:.2f}) times {word} to {what}."


def factor(found: Race) -> str:
    """ "1.41 (1.30 to 1.53)"; "–" where not every seed arrives."""
    if found.factor is None:
        return "–"
    if found.low is None or found.high is None:
        return f"{found.factor:.2f} (one seed)"
    return f"{found.factor:.2f} ({found.low:.2f} to {found.high:.2f})"


def laws(comparison: Comparison, fits: Sequence[compare_laws.Fit]) -> list[str]:
    """What the fitted laws say about savings, an arm and context length a sentence."""
    said = []
    for arm, context in dict.fromkeys((fit.arm, fit.context_len) for fit in fits if fit.saving):
        parts = [
            f"{saving(fit)} times fewer {fit.axis}"
            for fit in fits
            if (fit.arm, fit.context_len) == (arm, context) and fit.saving
        ]
        many = f"{arm} at {context:,} tokens of context needs, for the loss of {comparison.baseline}'s largest size,"
        said.append(f"{many} {', '.join(parts)} (below 1: more).")
    return said


def probes(comparison: Comparison) -> tuple[str, list[str]]:
    """How the probes' scores were reached, and what answers score that know something, a probe a sentence."""
    dtypes = ", ".join(sorted({score.dtype for score in comparison.probes}))
    said = (
        "Accuracy in %, in brackets the state of one sequence: one seed, which also chose the learning rate, so rather "
    )
    said += (
        "too high and without an interval; the arm's model at the probe's width and depth, trained by the probe's own "
    )
    said += f"optimizer at the best of its learning rates, in {dtypes}."
    known = {score.probe: levels(score.levels) for score in comparison.probes if score.levels}
    return said, [f"{probe}: {words}." for probe, words in known.items()]


def saving(fit: compare_laws.Fit) -> str:
    """ "1.52 (1.31 to 1.80, extrapolated)"; the reason where there is none."""
    if fit.saving is None:
        return fit.why or "–"
    found = fit.saving
    far = ["extrapolated"] if found.extrapolated else []
    if found.low is None or found.high is None:
        return f"{found.factor:.2f} ({', '.join(['one seed', *far])})"
    far += ["no difference"] if found.low <= 1 <= found.high else []
    return f"{found.factor:.2f} ({', '.join([f'{found.low:.2f} to {found.high:.2f}', *far])})"


def interval(found: statistics.Interval | None, digits: int = 4) -> str:
    if found is None:
        return NONE
    return f"{found.mean:.{digits}f}" if found.half is None else f"{found.mean:.{digits}f} ± {found.half:.{digits}f}"


def signed(found: statistics.Interval | None, digits: int = 4) -> str:
    """ "−0.0310 ± 0.0060", its sign always shown; "–" where nothing was paired."""
    if found is None:
        return "–"
    mean = _sign(found.mean, digits)
    return mean if found.half is None else f"{mean} ± {found.half:.{digits}f}"


def _sign(value: float, digits: int = 4) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def optional(value: float | None, show: Callable[[float], str] = units.short) -> str:
    return NONE if value is None else show(value)
