"""The tables of a comparison's page, each from the measurements of one size and context length or of all."""

from collections.abc import Callable, Sequence

from wren import units
from wren.lab import compare_laws
from wren.lab import compare_numbers as numbers
from wren.lab import compare_text as text
from wren.lab.compare_numbers import Setting
from wren.lab.schema import Cell, Comparison, Detail, Part, TrainedRun
from wren.lab.statistics import Interval
from wren.page import Figures


def final(comparison: Comparison, setting: Setting) -> Figures:
    """Bits per byte of every arm, its difference from the baseline, and what it took."""
    same_vocab = len({arm.vocab_size for arm in comparison.arms}) == 1
    found = {each.arm: each for each in numbers.differences(comparison, setting)}
    rows = []
    for name, cell in setting.cells.items():
        score = numbers.mean(list(numbers.bits(cell).values()))
        against = text.signed(found[name].seeds) if name in found else "baseline"
        row = [name, text.interval(score), against, str(score.count if score else 0)]
        if same_vocab:
            row.append(text.interval(loss(cell)))
        rows.append([*row, *_spent(cell), *_tuned(cell), _remarks(cell)])
    loss_head = ["nats per token"] if same_vocab else []
    head = ["arm", "bits per byte", "against baseline", "seeds", *loss_head, "steps", "tokens", "time", "best lr"]
    return Figures([*head, "weight decay", "remarks"], rows)


_MARKS = {"claimed": " ★", "seen": " ○", "no difference": " =", "one seed": " ?", "two seeds": " ?", "nothing": ""}


def overview(comparison: Comparison) -> Figures | None:
    """Arms x settings: each difference from the baseline and how sure it is; None for a single setting or arm."""
    found = numbers.settings(comparison)
    others = [arm.name for arm in comparison.arms if arm.name != comparison.baseline]
    if len(found) < 2 or not others:
        return None
    rows = {name: [name] for name in others}
    for setting in found:
        known = {}
        if comparison.baseline in setting.cells:
            known = {each.arm: each for each in numbers.differences(comparison, setting)}
        for name, row in rows.items():
            each = known.get(name)
            shown = text.signed(each.seeds, 3) + _MARKS[each.verdict] if each else text.NONE
            row.append(shown.replace(" ", "\u00a0"))  # a mark stays beside its figure
    return Figures(["arm", *(f"{each.size}, {each.context_len:,}" for each in found)], list(rows.values()))


def loss(cell: Cell) -> Interval | None:
    return numbers.mean([run.detail.whole.loss for run in numbers.good_runs(cell).values() if run.detail])


def average(cell: Cell, value: Callable[[TrainedRun], float]) -> float | None:
    found = numbers.mean([value(run) for run in cell.final])
    return found.mean if found else None


def _spent(cell: Cell) -> list[str]:
    steps, tokens = average(cell, lambda run: run.steps), average(cell, lambda run: run.tokens)
    seconds = average(cell, lambda run: run.seconds)
    shown = (text.optional(steps, "{:,.0f}".format), text.optional(tokens), text.optional(seconds, units.duration))
    return [*shown]


def _tuned(cell: Cell) -> list[str]:
    """The best learning rate and weight decay; a dash where every tuning run diverged."""
    return ["–" if value is None else f"{value:g}" for value in (cell.lr, cell.weight_decay)]


def _remarks(cell: Cell) -> str:
    words = ["best lr at the edge of its grid"] if cell.edge else []
    if numbers.diverged(cell):
        words.append(f"diverged in {numbers.diverged(cell)} of {len(cell.final)}")
    lacking = len(cell.final) - numbers.diverged(cell) - len(numbers.good_runs(cell))
    if lacking:
        words.append(f"{lacking} not measured")
    if not cell.final:
        words.append("no final run" if cell.lr is not None else "no final run: every tuning run diverged")
    return ", ".join(words)


def parts(
    comparison: Comparison, setting: Setting, of: Callable[[Detail], Sequence[Part]], first: str
) -> Figures | None:
    """Bits per byte of each part of the text by arm, with the paired difference from the baseline in brackets."""
    scores = {name: numbers.part_bits(cell, of) for name, cell in setting.cells.items()}
    base = scores.get(comparison.baseline, {})
    names = list(dict.fromkeys(part for own in (base, *scores.values()) for part in own))
    if not names:
        return None
    rows = []
    for part in names:
        row = [part]
        for name, own in scores.items():
            mine = own.get(part, {})
            shown = text.interval(numbers.mean(list(mine.values())), 3)
            against = numbers.paired_by_seed(mine, base.get(part, {}))
            row.append(
                shown if name == comparison.baseline or against is None else f"{shown} ({text.signed(against, 3)})"
            )
        rows.append(row)
    return Figures([first, *scores], rows)


def cost(setting: Setting) -> Figures:
    contexts = sorted({int(key) for cell in setting.cells.values() for key in cell.measured.state_bytes})
    state = [f"state at {context:,} tokens" for context in contexts]
    loaded = any(cell.measured.load is not None for cell in setting.cells.values())
    rows = []
    for name, cell in setting.cells.items():
        of = cell.measured
        sizes = [text.optional(of.state_bytes.get(str(context)), units.size) for context in contexts]
        row = [name, units.short(of.params), units.short(of.table_params), units.short(of.core_params)]
        row += [units.short(of.flops_per_token), text.optional(of.peak_memory_bytes, units.size)]
        row += [text.optional(of.tokens_per_second, "{:,.0f}".format), *sizes]
        row += [text.optional(of.decode_tokens_per_second, "{:,.0f}".format)]
        rows.append([*row, text.optional(of.load, "{:.1f}".format)] if loaded else row)
    head = ["arm", "parameters", "of them tables", "core", "FLOPs per token", "peak memory", "training tokens/s"]
    return Figures([*head, *state, "decode tokens/s", *(["load of the machine"] if loaded else [])], rows)


def races(comparison: Comparison, setting: Setting) -> Figures | None:
    """When each arm reaches the loss the baseline ended at, and how many times sooner than the baseline itself."""
    if comparison.baseline not in setting.cells:
        return None
    rows = []
    for name in setting.cells:
        found = [numbers.race(setting, name, comparison.baseline, axis) for axis in numbers.AXES]
        if found[0] is None:
            continue
        is_base = name == comparison.baseline
        row = [name, f"{found[0].loss:.4f}", f"{found[0].reached} of {found[0].count}"]
        shows = (units.duration, units.short, units.short)
        for each, show in zip(found, shows, strict=True):
            row.append("never" if each is None or each.mine is None else show(each.mine))
            row.append("1" if is_base else text.factor(each) if each and each.reached else "–")
        rows.append(row)
    axes = [name for axis in ("time", "FLOPs", "tokens") for name in (axis, "times fewer")]
    return Figures(["arm", "to this loss", "seeds that reach it", *axes], rows) if rows else None


def fronts(comparison: Comparison, context_len: int) -> Figures | None:
    """Final bits per byte beside time and inference memory; marked is what nothing else beats in either."""
    points = pareto_points(comparison, context_len)
    if not points:
        return None
    timed = numbers.front([(seconds, score) for _, seconds, _, score in points])
    known = [i for i, point in enumerate(points) if point[2] is not None]
    lean = {known[i] for i in numbers.front([(points[i][2] or 0, points[i][3]) for i in known])}
    rows = []
    for i, (cell, seconds, memory, score) in enumerate(points):
        row = [cell.arm, cell.size, f"{score:.4f}", units.duration(seconds), "on the front" if i in timed else ""]
        rows.append([*row, text.optional(memory, units.size), "on the front" if i in lean else ""])
    head = ["arm", "size", "bits per byte", "training time", "loss against time", "inference memory"]
    return Figures([*head, "loss against memory"], rows)


def pareto_points(comparison: Comparison, context_len: int) -> list[tuple[Cell, float, int | None, float]]:
    """(cell, mean seconds, inference bytes, mean bits per byte) of the cells with a finished run."""
    points = []
    for setting in numbers.settings(comparison):
        for cell in setting.cells.values() if setting.context_len == context_len else ():
            score, runs = numbers.mean(list(numbers.bits(cell).values())), numbers.good_runs(cell).values()
            if score:
                seconds = sum(run.seconds for run in runs) / len(runs)
                points.append((cell, seconds, numbers.inference_bytes(comparison, cell), score.mean))
    return points


def laws(fits: Sequence[compare_laws.Fit], baseline: str) -> Figures:
    rows = []
    for fit in fits:
        law = fit.law
        exponent = "–" if law is None else f"{law.b:.3f}"
        if law is not None and fit.low is not None and fit.high is not None:
            exponent += f" ({fit.low:.3f} to {fit.high:.3f})"
        floor = "–" if law is None else f"{law.floor:.3f}" if law.floor else "0 (not fitted)"
        won = fit.why or "baseline" if fit.arm == baseline else text.saving(fit)
        rows.append([fit.arm, f"{fit.context_len:,}", fit.axis, str(len(fit.points)), exponent, floor, won])
    return Figures(["arm", "context", "over", "sizes", "exponent", "floor", "times fewer for the same loss"], rows)


def probes(comparison: Comparison) -> Figures:
    names = list(dict.fromkeys(score.probe for score in comparison.probes))
    chance = {score.probe: f"{100 * score.chance:.1f}" for score in comparison.probes}
    rows = []
    for arm in dict.fromkeys(score.arm for score in comparison.probes):
        own = {score.probe: score for score in comparison.probes if score.arm == arm}
        cells = [
            f"{100 * own[name].accuracy:.1f} ({units.size(own[name].state_bytes)})" if name in own else text.NONE
            for name in names
        ]
        rows.append([arm, *cells])
    return Figures(["arm", *names], [*rows, ["guessing", *(chance[name] for name in names)]])


def rules(comparison: Comparison) -> Figures:
    rows = [[rule.rule, "kept" if rule.kept else "NOT KEPT", rule.did] for rule in comparison.rules]
    broken = frozenset(i for i, rule in enumerate(comparison.rules) if not rule.kept)
    return Figures(["rule", "", "what this comparison did"], rows, marked=broken, look="prose")


def tuning(cell: Cell) -> Figures:
    """lr x weight decay with the held-back bits per byte each reached; the best is marked by a star."""
    lrs, decays = sorted({run.lr for run in cell.tuning}), sorted({run.weight_decay for run in cell.tuning})
    scores: dict[tuple[float, float], list[float | None]] = {}
    for run in cell.tuning:
        scores.setdefault((run.lr, run.weight_decay), []).append(run.tuned)
    rows = []
    for lr in lrs:
        row = [f"{lr:g}"]
        for decay in decays:
            tried = scores.get((lr, decay), [])
            shown = ", ".join("diverged" if score is None else f"{score:.4f}" for score in tried) or "not tried"
            row.append(shown + (" ★" if (lr, decay) == (cell.lr, cell.weight_decay) and tried else ""))
        rows.append(row)
    return Figures(["lr", *(f"weight decay {decay:g}" for decay in decays)], rows)
