"""What a sweep of probes found: a table mixers x probes, and accuracy against length and against state bytes."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from wren import units
from wren.files import write_json, write_text
from wren.plot import colours, save_figure

Result = dict[str, Any]


def write(results: Sequence[Result], out: Path) -> dict[str, Any]:
    """Writes probes.json, table.md and the two pictures into `out`; returns what --json holds."""
    summary = {"rows": [_row(result) for result in results]}
    write_json(out / "probes.json", {**summary, "results": list(results)})
    write_text(out / "table.md", markdown(results))
    length_plot(results, out / "accuracy_length.png")
    state_plot(results, out / "accuracy_state.png")
    return summary


def _row(result: Result) -> dict[str, Any]:
    keys = ("probe", "size", "accuracy", "chance", "state_bytes", "params", "dim", "lr", "steps", "seconds", "tests")
    keys += ("tuning_seed", "final_seeds")
    return {"name": f"{result['probe']}/{result['mixer']}", "mixer": result["mixer"], **{k: result[k] for k in keys}}


def _arms(results: Sequence[Result]) -> list[tuple[str, int | None]]:
    """(mixer, width) of every line of the table; the width is None where every probe chose its own."""
    swept = any(
        len({r["dim"] for r in results if (r["probe"], r["mixer"]) == (x["probe"], x["mixer"])}) > 1 for x in results
    )
    return list(dict.fromkeys((r["mixer"], r["dim"] if swept else None) for r in results))


def _cells(results: Sequence[Result]) -> tuple[list[str], list[tuple[str, list[str], str, str]]]:
    """Probes, and for every arm its name, its cells, its state bytes and its parameters."""
    probes = list(dict.fromkeys(r["probe"] for r in results))
    lines = []
    for mixer, dim in _arms(results):
        own = {r["probe"]: r for r in results if r["mixer"] == mixer and dim in (None, r["dim"])}
        cells = [_cell(own[probe]) if probe in own else "" for probe in probes]
        name = mixer if dim is None else f"{mixer} @{dim}"
        state = _range([r["state_bytes"] for r in own.values()], units.size)
        lines.append((name, cells, state, _range([r["params"] for r in own.values()], units.short)))
    return probes, lines


def _cell(result: Result) -> str:
    """The headline accuracy in percent, with half its range over seeds; ~ marks what is no better than guessing."""
    scores = result["tests"][0]["accuracy"]
    mean = 100 * result["accuracy"]
    spread = f" ±{100 * (max(scores) - min(scores)) / 2:.1f}" if len(scores) > 1 else ""
    guess = " ~" if result["accuracy"] < result["chance"] + 0.05 else ""
    return f"{mean:.1f}{spread}{guess}"


def _range(values: list[float], show: Any) -> str:
    low, high = show(min(values)), show(max(values))
    if low == high:
        return low
    number, _, unit = low.partition(" ")  # one unit is said once: 5.25-35.1 kB
    return f"{number if unit and high.endswith(' ' + unit) else low}-{high}"


def table(results: Sequence[Result]) -> Table:
    """For the terminal: accuracy in percent of the headline test."""
    probes, lines = _cells(results)
    title = f"accuracy in %, best learning rate; ~ = no better than guessing{_spread(results)}"
    drawn = Table(title=title, caption=f"{_chances(results)}\n{_seeds(results)}")
    drawn.add_column("mixer, state, parameters", overflow="fold")
    for probe in probes:
        drawn.add_column(probe, justify="right")
    for name, cells, state, params in lines:
        drawn.add_row(f"{name}\n[dim]{state}, {params}[/dim]", *cells)
    return drawn


def _spread(results: Sequence[Result]) -> str:
    """What ± means, where it is shown: no interval of confidence."""
    return "; ± half the range over seeds" if any(len(r["tests"][0]["accuracy"]) > 1 for r in results) else ""


def _chances(results: Sequence[Result]) -> str:
    words = {}
    for r in results:
        known = levels(r["setting"]["levels"])
        words[r["probe"]] = f"{r['probe']} {100 * r['chance']:.1f}{f' ({known})' if known else ''}"
    return f"guessing: {', '.join(words.values())}"


def levels(known: Mapping[str, float]) -> str:
    """What answers score that know something and not the answer: "25.0 by any value of the row"; "" for none."""
    return ", ".join(f"{100 * level:.1f} by {words}" for words, level in known.items())


def _seeds(results: Sequence[Result]) -> str:
    """Whether the runs in the table are those that chose the learning rates."""
    said = []
    chose = [r["tuning_seed"] in r["final_seeds"] for r in results if len(r["tuning"]) > 1]
    if any(chose):
        said.append("one seed, whose run also chose the learning rate, so its score is rather too high")
    if not all(chose):
        said.append("the seed that chose the learning rate is not among those shown")
    return "; ".join(said) or "one setting alone was trained, so nothing was chosen"


def markdown(results: Sequence[Result]) -> str:
    """The table, how each cell was reached, and where each setting is from."""
    probes, lines = _cells(results)
    head = ["mixer", *probes, "state", "parameters"]
    text = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    text += [f"| {' | '.join([name, *cells, state, params])} |" for name, cells, state, params in lines]
    text += [
        "",
        f"Accuracy in % of the headline test at the best learning rate{_spread(results)}; {_chances(results)}.",
        f"Seeds: {_seeds(results)}.",
        "",
    ]
    text += ["| probe | mixer | width | test | length | accuracy | state | lr | steps | seconds |", f"|{'---|' * 10}"]
    for r in results:
        for test in r["tests"]:
            scores = ", ".join(f"{100 * score:.1f}" for score in test["accuracy"])
            edge = " (edge)" if r["lr_at_edge"] else ""
            where = f"| {r['probe']} | {r['mixer']} | {r['dim']} | {test['name']} | {test['length']} | {scores} "
            text.append(
                f"{where}| {units.size(test['state_bytes'])} | {r['lr']:g}{edge} | {r['steps']} | {r['seconds']:.0f} |"
            )
    says = {r["probe"]: r["setting"]["says"] for r in results}
    text += ["", *(f"- {probe}: {said}" for probe, said in says.items() if said), ""]
    return "\n".join(text)


def length_plot(results: Sequence[Result], path: Path) -> None:
    """Accuracy against the length of the row: a panel for each probe with several lengths, a line a mixer and width."""
    if any(dim is not None for _, dim in _arms(results)):
        results = [{**r, "mixer": f"{r['mixer']} @{r['dim']}"} for r in results]
    several = [r for r in results if len({t["length"] for t in r["tests"]}) > 1]
    _panels(several or results, path, "tokens in a row", str, lambda r: [(t["length"], _mean(t)) for t in r["tests"]])


def state_plot(results: Sequence[Result], path: Path) -> None:
    """Headline accuracy against what the mixer remembers of a row: a panel a probe, a line a mixer over widths."""
    _panels(results, path, "state per sequence", units.size, lambda r: [(r["state_bytes"], r["accuracy"])])


def _mean(test: dict[str, Any]) -> float:
    return sum(test["accuracy"]) / len(test["accuracy"])


def ticks(places: Sequence[float]) -> list[float]:
    """Of ascending places on a logarithmic axis those whose names have room: a sixth of the axis apart."""
    least = max((places[-1] / places[0]) ** (1 / 6), 1.3) if places else 1.0
    kept: list[float] = []
    for x in places:
        if not kept or x >= least * kept[-1]:
            kept.append(x)
    return kept


def _panels(results: Sequence[Result], path: Path, x_label: str, show: Callable[[Any], str], points: Any) -> None:
    from matplotlib.figure import Figure

    probes = list(dict.fromkeys(r["probe"] for r in results))
    names = list(dict.fromkeys(r["mixer"] for r in results))
    columns = min(3, len(probes))
    rows = math.ceil(len(probes) / columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows + 0.25 * len(names)), dpi=120, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, probe in zip(axes, probes, strict=False):
        own = [r for r in results if r["probe"] == probe]
        places = sorted({x for r in own for x, _ in points(r)})
        for name, colour in zip(names, colours(len(names)), strict=True):
            found = sorted(point for r in own if r["mixer"] == name for point in points(r))
            if found:
                axis.plot(*zip(*found, strict=True), marker="o", markersize=4, color=colour, label=name)
        axis.axhline(own[0]["chance"], color="0.6", linewidth=0.8, linestyle=":")
        axis.set(title=probe, xlabel=x_label, ylim=(-0.03, 1.03), xscale="log")
        apart = ticks(places)
        axis.set_xticks(apart, [show(x) for x in apart])
        axis.minorticks_off()
        axis.set_ylabel("accuracy")
    for axis in axes[len(probes) :]:
        axis.axis("off")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(2, columns, len(names)), frameon=False)
    save_figure(figure, path)
