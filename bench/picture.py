"""The README's picture of efficiency, from what bench/efficiency.py wrote.

    python bench/picture.py RECORD.json... [--out docs/images/pareto.png]

Left: bits per byte (the mean of the seeds and its 95 % interval) against the seconds of a training, every point a
training with a schedule of its own. Right: bytes of state at the longest length against tokens a second decoded at the
longest prompt.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from measures.race import grouped
from measures.record import rows_of

from wren.errors import DataError
from wren.exits import exit_code
from wren.files import read_json
from wren.plot import colours, save_figure

OUT = Path(__file__).parent.parent / "docs" / "images" / "pareto.png"


def races(paths: list[Path]) -> dict[str, list[tuple[float, float, float]]]:
    """(seconds, bits per byte, half of its interval) of each arm, by seconds; trainings that diverged are left out."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for path in paths:
        for group in grouped(rows_of(path, "text")):
            if group["bits_per_byte"] is None:
                continue
            loss = group["bits_per_byte"]
            found.setdefault(group["name"], []).append((group["seconds"]["mean"], loss["mean"], loss["half"] or 0.0))
    return {name: sorted(points) for name, points in found.items()}


def inference(paths: list[Path]) -> list[tuple[str, float, float]]:
    """(name, bytes of state, tokens a second) of the last record that measured them."""
    parts = [part for path in paths if (part := read_json(path)["parts"].get("inference"))]
    if not parts:
        return []
    length = max(row["length"] for row in parts[-1]["state"])
    context = max(row["context"] for row in parts[-1]["decode"])
    state = {row["name"]: row["state_bytes"] for row in parts[-1]["state"] if row["length"] == length}
    speed = {r["name"]: r["decode_tokens_per_second"] for r in parts[-1]["decode"] if r["context"] == context}
    return [(f"{name}\n({length:,} / {context:,} tokens)", state[name], speed[name]) for name in state if name in speed]


def draw(paths: list[Path], out: Path) -> Path:
    from matplotlib.figure import Figure

    lines, points = races(paths), inference(paths)
    if not lines:
        raise DataError("The records hold no trainings on text; run bench/efficiency.py with --corpus first.")
    figure = Figure(figsize=(11 if points else 6, 4.2), dpi=120, layout="constrained")
    panels: Any = figure.subplots(1, 2 if points else 1, squeeze=False)[0]
    shown = dict(zip(lines, colours(len(lines)), strict=True))
    for name, line in lines.items():
        seconds, losses, halves = zip(*line, strict=True)
        panels[0].errorbar(
            seconds, losses, yerr=halves, marker="o", markersize=4, capsize=2, label=name, color=shown[name]
        )
        if len(line) == 1:  # a baseline: where wren's line crosses this one is the time it needs
            panels[0].axhline(losses[0], color=shown[name], linewidth=0.8, linestyle=":")
    panels[0].set(xscale="log", xlabel="seconds of training", ylabel="bits per byte, validation")
    _plain_numbers(panels[0].xaxis, sorted({round(point[0]) for line in lines.values() for point in line}))
    panels[0].legend(fontsize=8)
    for (name, state, speed), colour in zip(points, colours(len(points)), strict=True):
        colour = shown.get(name.partition("\n")[0], colour)
        panels[1].plot(state / 2**20, speed, "o", color=colour)
        panels[1].annotate(name, (state / 2**20, speed), textcoords="offset points", xytext=(6, 4), fontsize=8)
    if points:
        sizes = sorted(state / 2**20 for _, state, _ in points)
        panels[1].set(xscale="log", xlabel="MiB of state", ylabel="tokens a second, one row")
        panels[1].margins(0.25)
        panels[1].set_xlim(sizes[0] / 2, sizes[-1] * 6)  # room for the names, which stand right of the points
        _plain_numbers(panels[1].xaxis, [round(size) for size in sizes])
    for panel in panels:
        panel.grid(alpha=0.3, which="both")
    out.parent.mkdir(parents=True, exist_ok=True)
    return save_figure(figure, out)


def _plain_numbers(axis: Any, values: list[int]) -> None:
    """Ticks at these values of a logarithmic axis, written out."""
    axis.set_ticks(values, labels=[f"{value:,}" for value in values])
    axis.set_ticks([], minor=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(arguments)
    print(draw(args.records, args.out))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("picture.py", main))
