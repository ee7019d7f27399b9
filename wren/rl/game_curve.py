"""league.png of a run of self-play: its exact measure, and the Elo of its generations."""

from pathlib import Path

from wren.errors import DataError
from wren.plot import save_figure
from wren.run import Run

_MEASURES = {
    "losing_lines": "losing lines, both seats",
    "exploitability": "exploitability, coins a game",
    "optimal": "share of positions played perfectly",
    "minimax_share": "share of the points against minimax",
}


def curve(run: Run) -> Path:
    """Draws metrics.jsonl and returns the picture's path; raises DataError before the first generation."""
    rows = [row for row in run.metrics() if row.get("kind") == "generation"]
    if not rows:
        raise DataError(f"{run.metrics_path} holds no generation yet; play first.")
    from matplotlib.figure import Figure  # here: importing matplotlib takes a second

    measured = [row for row in rows if "measure" in row]
    figure = Figure(figsize=(8, 6), dpi=120, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for name, label in _MEASURES.items():
        points = [(row["generation"] - 1, row[name]) for row in measured if row.get(name) is not None]
        if points:
            above.plot(*zip(*points, strict=True), "o-", markersize=3, linewidth=1, label=label)
    points = [(row["generation"] - 1, row["average_exploitability"]) for row in measured if "exploitability" in row]
    if points:
        above.plot(*zip(*points, strict=True), "x--", markersize=3, linewidth=1, label="of the average policy")
    for row in measured:
        if row.get("rolled_back_to") is not None:
            above.axvline(row["generation"] - 1, color="tab:red", linewidth=0.8)
    above.set_ylim(bottom=0)
    above.legend(loc="best")
    rated = [(row["generation"] - 1, row["elo"], row["elo_half"]) for row in measured if "elo" in row]
    if rated:
        x, y, half = zip(*rated, strict=True)
        below.errorbar(x, y, yerr=half, fmt="o-", markersize=3, linewidth=1, capsize=2)
    below.set_ylabel("Elo over the first generation")
    below.set_xlabel("generation")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    above.set_title(f"{run.path.name}, {rows[-1]['generation']:,} generations")
    return save_figure(figure, run.path / "league.png")
