"""The table and the picture of `wren think`: accuracy against generated tokens and against seconds."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from wren.plot import colours, save_figure


def table(result: dict[str, Any]) -> Table:
    """A line for every algorithm and budget, and under them pass@k."""
    found = Table(
        title=f"{result['task']}, {result['count']} problems", box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0)
    )
    found.add_column("algorithm", overflow="fold")
    for name in ("budget", "right", "95 %", "over greedy", "tokens", "seconds"):  # together less than 80 characters
        found.add_column(name, justify="right", no_wrap=True)
    rows = result["rows"]
    for name in dict.fromkeys(row["name"] for row in rows):
        for number, row in enumerate(own := [row for row in rows if row["name"] == name]):
            shown = f"{name}{' *' if row['verifier'] else ''}" if number == 0 else ""
            found.add_row(
                shown, f"{row['budget']:,}", f"{row['accuracy']:.1%}", _interval(row), _over(row),
                f"{row['tokens']:,.0f}", f"{row['seconds']:.3g}", end_section=number == len(own) - 1,
            )  # fmt: skip
    for row in result["passes"]:
        found.add_row(f"pass@{row['k']}", "", f"{row['pass']:.1%}", _interval(row), "", f"{row['tokens']:,.0f}", "")
    found.caption = "\n".join(_notes(result))
    return found


def _notes(result: dict[str, Any]) -> Iterator[str]:
    yield "tokens, seconds: means of a problem, all run together; * with the verifier"
    if any("over_greedy" in row for row in result["rows"]):
        yield "over greedy: in points, on the same problems"
    if (scorer := result.get("scorer")) is not None:
        yield (
            f"scores learned from {scorer['attempts']:,} attempts: a right reply is above a wrong one in "
            f"{_share(scorer['separation'])}, by log-probability in {_share(scorer['by_logprob'])}"
        )


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def _over(row: dict[str, Any]) -> str:
    """ "+4.0 ± 2.8" """
    over = row.get("over_greedy")
    if over is None or row["name"] == "greedy":
        return ""
    half = "" if over["low"] is None else f" ± {50 * (over['high'] - over['low']):.1f}"
    return f"{100 * over['mean']:+.1f}{half}"


def _interval(row: dict[str, Any]) -> str:
    return "" if row["low"] is None else f"{100 * max(0.0, row['low']):.1f}-{100 * min(1.0, row['high']):.1f}"


def picture(result: dict[str, Any], path: Path) -> Path:
    """Draws both panels and returns the path."""
    from matplotlib.figure import Figure  # here: importing matplotlib takes a second
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(11, 4.8), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    rows = result["rows"]
    names = list(dict.fromkeys(row["name"] for row in rows))
    for axes, key in ((left, "tokens"), (right, "seconds")):
        for name, colour in zip(names, colours(len(names)), strict=True):
            own = sorted((row for row in rows if row["name"] == name), key=lambda row: row[key])
            style = "s--" if own[0]["verifier"] else "o-"
            label = f"{name} (verifier)" if own[0]["verifier"] else name
            _line(axes, own, key, "accuracy", style, label, colour)
        if key == "tokens" and result["passes"]:
            _line(axes, result["passes"], key, "pass", "x:", "pass@k", "black")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel({"tokens": "generated tokens", "seconds": "seconds"}[key] + " of a problem")
        axes.grid(alpha=0.3)
    left.set_ylabel("right answers, with 95 % intervals")
    left.set_ylim(-0.02, 1.02)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    figure.suptitle(f"{result['task']}, {result['count']} problems")
    return save_figure(figure, path)


def _line(axes: Any, rows: Sequence[dict[str, Any]], key: str, value: str, style: str, label: str, colour: Any) -> None:
    shares = [row[value] for row in rows]
    errors = [
        [max(0.0, row[value] - (row["low"] or 0.0)) if row["low"] is not None else 0.0 for row in rows],
        [max(0.0, row["high"] - row[value]) if row["high"] is not None else 0.0 for row in rows],
    ]
    axes.errorbar(
        [row[key] for row in rows], shares, errors, fmt=style, label=label, color=colour, markersize=4, linewidth=1,
        capsize=2, elinewidth=0.7,
    )  # fmt: skip
