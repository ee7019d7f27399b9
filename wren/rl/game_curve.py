"""league.png of a run of self-play: its exact measures, and the Elo of its generations."""

import json
from pathlib import Path
from typing import Any

from wren.errors import DataError
from wren.plot import save_figure
from wren.run import Run

_MEASURES = {
    "losing_lines": "losing lines, both seats",
    "exploitability": "exploitability, coins a game",
    "average_exploitability": "of the average policy",
}
_SHARES = {"optimal": "positions played perfectly", "minimax_share": "points against minimax"}
Row = dict[str, Any]


def curve(run: Run) -> Path:
    """Draws metrics.jsonl and result.json, and returns the picture's path.

    Measures stand on the left, shares on the right; Elo, of the last rating of every member of the league, below where
    there is any. Raises DataError before the first generation.
    """
    rows = [row for row in run.metrics() if row.get("kind") == "generation"]
    if not rows:
        raise DataError(f"{run.metrics_path} holds no generation yet; play first.")
    from matplotlib.figure import Figure  # here: importing matplotlib takes a second

    result = _result(run)
    # a row's measures are of the player that its games were played by, so of the generation before
    measured = [{**row, "generation": row["generation"] - 1} for row in rows if "measure" in row]
    measured += [{**result, "generation": result["generations"]}] if "measure" in result else []
    ratings = _ratings(result, measured)
    figure = Figure(figsize=(8, 6 if ratings else 4), dpi=120, layout="constrained")
    axes = figure.subplots(2 if ratings else 1, 1, sharex=True, squeeze=False)[:, 0]
    _measures(axes[0], measured)
    if ratings:
        x, y, half = zip(*ratings, strict=True)
        axes[1].errorbar(x, y, yerr=half, fmt="o-", markersize=3, linewidth=1, capsize=2)
        axes[1].set_ylabel("Elo over the first generation")
        axes[1].grid(alpha=0.3)
    axes[-1].set_xlabel("generation")
    axes[0].set_title(f"{run.path.name}, {rows[-1]['generation']:,} generations")
    return save_figure(figure, run.path / "league.png")


def _measures(left: Any, measured: list[Row]) -> None:
    """Each by its generation; rollbacks are upright lines."""
    lines = [line for name, label in _MEASURES.items() if (line := _line(left, measured, name, label, "o-"))]
    if any(row.get(name) is not None for row in measured for name in _SHARES):
        right = left.twinx() if lines else left
        right.set_ylim(0, 1.03)
        right.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        for name, label in _SHARES.items():
            lines += [line] if (line := _line(right, measured, name, label, "x--", first=len(lines))) else []
    for row in measured:
        if row.get("rolled_back_to") is not None:
            left.axvline(row["generation"], color="tab:red", linewidth=0.8)
    left.set_ylim(bottom=0)
    left.grid(alpha=0.3)
    left.legend(lines, [str(line.get_label()) for line in lines], loc="center right")


def _line(axes: Any, measured: list[Row], name: str, label: str, style: str, first: int = 0) -> Any:
    points = [(row["generation"], row[name]) for row in measured if row.get(name) is not None]
    if not points:
        return None
    color = f"C{first + len(axes.lines)}"
    return axes.plot(*zip(*points, strict=True), style, markersize=3, linewidth=1, label=label, color=color)[0]


def _ratings(result: Row, measured: list[Row]) -> list[tuple[int, float, float]]:
    """Generation, Elo and half of its interval: of one rating of them all where the run has ended."""
    if found := result.get("elo_by_generation"):
        return sorted((int(generation), each["elo"], each["half"]) for generation, each in found.items())
    return [(row["generation"], row["elo"], row["elo_half"]) for row in measured if "elo" in row]


def _result(run: Run) -> Row:
    path = run.path / "result.json"
    return json.loads(path.read_text()) if path.exists() else {}
