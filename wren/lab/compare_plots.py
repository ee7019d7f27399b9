"""The pictures of a comparison: learning curves, loss by place in the row, repeats, fronts and laws."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wren import units
from wren.lab import compare_numbers as numbers
from wren.lab import compare_tables as tables
from wren.lab.compare_laws import Fit
from wren.lab.compare_numbers import Setting
from wren.lab.schema import Comparison, Detail, Part
from wren.plot import colours, save_figure

_AXES = {"seconds": "seconds of training", "flops": "FLOPs", "tokens": "tokens"}
_MARKERS = "osD^vPX*"


def _palette(comparison: Comparison) -> dict[str, Any]:
    """Every arm keeps its colour in all pictures; the baseline is grey."""
    others = [arm.name for arm in comparison.arms if arm.name != comparison.baseline]
    return {comparison.baseline: "0.35", **dict(zip(others, colours(len(others)), strict=True))}


def _stroke(palette: dict[str, Any], name: str) -> dict[str, Any]:
    """The baseline is dashed and above the others, so that neither hides the other."""
    is_base = name == next(iter(palette))
    return {"linestyle": "--" if is_base else "-", "linewidth": 1.5, "zorder": 3 if is_base else 2}


def _label(name: str) -> str:
    """A name as matplotlib shows it: no formulas, and short enough for a legend."""
    plain = name.replace("$", r"\$").replace("\n", " ")
    return plain if len(plain) <= 40 else plain[:39] + "…"


def _panels(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # here: importing matplotlib takes a second

    figure = Figure(figsize=(width * columns, height * rows + 0.5), dpi=120, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _finish(figure: Any, axes: Any, path: Path) -> Path:
    """One legend for all panels, each name once; empty panels disappear."""
    named: dict[str, Any] = {}
    for axis in axes.flatten():
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
        if axis.has_data():
            axis.grid(alpha=0.3)
        else:
            axis.axis("off")
        if axis.get_xscale() == "log":
            axis.xaxis.set_minor_formatter("")
    columns = max(1, min(len(named), 110 // (8 + max(map(len, named), default=1))))
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=columns, frameon=False)
    return save_figure(figure, path)


def curves(comparison: Comparison, path: Path) -> Path | None:
    """A row of panels per size and context length, one panel per axis; None without any curve."""
    settings = [
        s for s in numbers.settings(comparison) if any(numbers.mean_curve(c, "tokens") for c in s.cells.values())
    ]
    if not settings:
        return None
    palette = _palette(comparison)
    figure, axes = _panels(len(settings), len(_AXES), 3.9, 3.1)
    for row, setting in zip(axes, settings, strict=True):
        for panel, (axis, label) in zip(row, _AXES.items(), strict=True):
            _curves(panel, setting, axis, palette)
            panel.set_xlabel(label)
            _in_units(panel)
        row[0].set_ylabel("held-back bits per byte")
        row[0].set_title(_label(setting.name), loc="left", fontsize=10)
    return _finish(figure, axes, path)


def _curves(panel: Any, setting: Setting, axis: str, palette: dict[str, Any]) -> None:
    lows, highs = [], []
    for name, cell in setting.cells.items():
        found = numbers.mean_curve(cell, axis)
        if found is None:
            continue
        xs, mean, low, high = found
        panel.plot(xs, mean, color=palette[name], label=_label(name), **_stroke(palette, name))
        panel.fill_between(xs, low, high, color=palette[name], alpha=0.18, linewidth=0)
        lows.append(float(low.min()))
        highs.append(float(np.interp(xs[0] + 0.08 * (xs[-1] - xs[0]), xs, high)))
    if lows:  # the first steps fall so far that the ends would lie on one another
        room = 0.06 * max(max(highs) - min(lows), 1e-6)
        panel.set_ylim(min(lows) - room, max(highs) + room)


def places_in_row(comparison: Comparison, path: Path) -> Path | None:
    return _parts(comparison, path, lambda detail: detail.places_in_row, "place in the row", _place)


def repeats(comparison: Comparison, path: Path) -> Path | None:
    return _parts(comparison, path, lambda detail: detail.repeats, "tokens", None)


def _place(name: str) -> float | None:
    """ "16-31" -> its middle on a logarithmic axis."""
    ends = [int(end) for end in name.split("-") if end.isdigit()]
    return math.sqrt((ends[0] + 1) * (ends[-1] + 1)) if ends else None


def _parts(
    comparison: Comparison,
    path: Path,
    of: Callable[[Detail], Sequence[Part]],
    label: str,
    place: Callable[[str], float | None] | None,
) -> Path | None:
    """The difference from the baseline by part of the text with its interval; the loss itself where only one arm is."""
    alone = len(comparison.arms) == 1
    found = [s for s in numbers.settings(comparison) if numbers.part_bits(s.cells.get(comparison.baseline), of)]
    if not found:
        return None
    palette = _palette(comparison)
    columns = min(3, len(found))
    figure, axes = _panels(math.ceil(len(found) / columns), columns, 11.4 / columns, 3.3)
    for panel, setting in zip(axes.flatten(), found, strict=False):
        scores = {name: numbers.part_bits(cell, of) for name, cell in setting.cells.items()}
        base = scores.get(comparison.baseline, {})
        names = list(dict.fromkeys(part for own in (base, *scores.values()) for part in own))
        at = {name: (place(name) if place else None) or float(i + 1) for i, name in enumerate(names)}
        _differences(panel, scores, {} if alone else base, at, palette, None if alone else comparison.baseline)
        panel.set_title(_label(setting.name), loc="left", fontsize=10)
        panel.set(xlabel=label, ylabel="bits per byte" if alone else "bits per byte above baseline")
        if place:
            panel.set_xscale("log", base=2)
        else:
            panel.set_xticks(list(at.values()), names)
    return _finish(figure, axes, path)


def _differences(
    panel: Any,
    scores: dict[str, dict[str, dict[int, float]]],
    base: dict[str, dict[int, float]],
    at: dict[str, float],
    palette: dict[str, Any],
    baseline: str | None,
) -> None:
    others = [name for name in scores if name != baseline]
    for i, name in enumerate(others):
        xs, ys, halves = [], [], []
        for part, place in at.items():
            mine = scores[name].get(part, {})
            each = numbers.paired_by_seed(mine, base.get(part, {})) if baseline else numbers.mean(list(mine.values()))
            if each is not None:
                shift = (i - (len(others) - 1) / 2) / max(len(others), 4)
                xs.append(place * 2 ** (shift / 3) if place >= 1 and len(at) > 4 else place + shift / 2)
                ys.append(each.mean)
                halves.append(each.half or 0.0)
        style = {"marker": "o", "markersize": 4, "linestyle": "-" if len(at) > 4 else "none", "capsize": 2}
        panel.errorbar(xs, ys, yerr=halves, color=palette[name], linewidth=1, label=_label(name), **style)
    if baseline and others:
        panel.axhline(0, color=palette[baseline], linestyle="--", linewidth=1, label=_label(baseline))


def pareto(comparison: Comparison, path: Path) -> Path | None:
    """Final loss against training time and against inference memory, a row per context length; rings mark the front."""
    contexts = sorted({setting.context_len for setting in numbers.settings(comparison)})
    contexts = [context for context in contexts if tables.pareto_points(comparison, context)]
    if not contexts:
        return None
    sizes = list(dict.fromkeys(setting.size for setting in numbers.settings(comparison)))
    figure, axes = _panels(len(contexts), 2, 5.4, 3.4)
    for row, context in zip(axes, contexts, strict=True):
        points = tables.pareto_points(comparison, context)
        timed = [(cell, seconds, score) for cell, seconds, _, score in points]
        lean = [(cell, float(memory), score) for cell, _, memory, score in points if memory is not None]
        _front(row[0], comparison, timed, sizes)
        _front(row[1], comparison, lean, sizes)
        row[0].set(xlabel="seconds of training", ylabel="bits per byte")
        row[1].set(xlabel="bytes at inference: weights and state")
        row[0].set_title(f"{context:,} tokens of context", loc="left", fontsize=10)
        _in_units(row[1])
    return _finish(figure, axes, path)


def _front(panel: Any, comparison: Comparison, points: list[tuple[Any, float, float]], sizes: list[str]) -> None:
    """Colours tell the arms, shapes the sizes."""
    palette = _palette(comparison)
    best = numbers.front([(x, y) for _, x, y in points])
    for i, (cell, x, y) in enumerate(points):
        marker = _MARKERS[sizes.index(cell.size) % len(_MARKERS)]
        panel.plot(x, y, marker, color=palette[cell.arm], markersize=6)
        if i in best:
            panel.plot(x, y, "o", markersize=13, markerfacecolor="none", markeredgecolor="0.3", markeredgewidth=1)
    line = sorted((points[i][1], points[i][2]) for i in best)
    if len(line) > 1:
        panel.step(*zip(*line, strict=True), where="post", color="0.6", linewidth=0.8, linestyle=":")
    for name in dict.fromkeys(cell.arm for cell, _, _ in points):
        panel.plot([], [], "s", color=palette[name], label=_label(name))
    for i, size in enumerate(sizes if len(sizes) > 1 else []):
        panel.plot([], [], _MARKERS[i % len(_MARKERS)], markerfacecolor="none", color="0.3", label=_label(size))


def _in_units(panel: Any) -> None:
    """2M instead of 2 and a power of ten at the end of the axis."""
    panel.xaxis.set_major_formatter(lambda value, _: units.short(value) if value else "0")


def laws(comparison: Comparison, fits: Sequence[Fit], path: Path) -> Path | None:
    """Loss against each axis with the fitted laws; None where nothing could be fitted."""
    drawn = [fit for fit in fits if fit.law is not None]
    if not drawn:
        return None
    axes_names = list(dict.fromkeys(fit.axis for fit in drawn))
    contexts = sorted({fit.context_len for fit in drawn})
    palette = _palette(comparison)
    figure, axes = _panels(len(contexts), len(axes_names), max(3.9, 7.5 / len(axes_names)), 3.3)
    for fit in drawn:
        panel = axes[contexts.index(fit.context_len)][axes_names.index(fit.axis)]
        means = [sum(losses) / len(losses) for losses in fit.points.values()]
        panel.plot(list(fit.points), means, "o", color=palette[fit.arm], markersize=4)
        xs = np.geomspace(min(fit.points) / 1.3, max(fit.points) * 1.3, 60)
        stroke = _stroke(palette, fit.arm)
        if fit.law is not None:
            panel.plot(xs, [fit.law.loss(x) for x in xs], color=palette[fit.arm], label=_label(fit.arm), **stroke)
        panel.set(xscale="log", xlabel=fit.axis)
    for row, context in zip(axes, contexts, strict=True):
        row[0].set_ylabel("bits per byte")
        row[0].set_title(f"{context:,} tokens of context", loc="left", fontsize=10)
    return _finish(figure, axes, path)
