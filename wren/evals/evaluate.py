"""A run on texts, minimal pairs and questions; the results are kept in the run directory under evals/."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wren import __version__
from wren.errors import ConfigError, DiskError
from wren.evals.answers import evaluate_choices, evaluate_pairs
from wren.evals.bits_per_byte import evaluate_texts
from wren.files import write_json
from wren.generate import load_run
from wren.precision import Precision
from wren.run import Run, context_len


def evaluate(
    run: Path | str,
    precision: Precision,
    *,
    texts: Sequence[str] = (),
    pairs: Sequence[Path] = (),
    choices: Sequence[Path] = (),
    text_key: str = "text",
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """{"step", "pairs": [...], "choice": [...]} and what evaluate_texts gives, for the parts that are asked for.

    Written to evals/step_<step>-<name of the first file>-<digest of what was asked>.json; say is told where that fails,
    and of damaged checkpoints. Raises a WrenError for a mistake of the user before anything is written.
    """
    if not (texts or pairs or choices):
        raise ConfigError("There is nothing to evaluate on; give --text, --pairs or --choice.")
    home = Run(run)
    loaded = load_run(run, precision.device, say)
    length = context_len(home)
    result: dict[str, Any] = {"step": loaded.step, "wren": __version__, "precision": precision.name}
    if pairs:
        result["pairs"] = [evaluate_pairs(loaded, precision, path, length) for path in pairs]
    if choices:
        result["choice"] = [evaluate_choices(loaded, precision, path, length) for path in choices]
    if texts:
        result |= evaluate_texts(loaded, precision, texts, text_key, length)
    asked = [*texts, *pairs, *choices]
    digest = hashlib.sha256("\n".join(str(Path(path).absolute()) for path in asked).encode()).hexdigest()[:8]
    file = home.path / "evals" / f"step_{loaded.step:06d}-{Path(asked[0]).stem or 'text'}-{digest}.json"
    try:
        write_json(file, result)
    except DiskError as error:
        say(f"Warning: the results are not kept: {error}")
    return result


def lines(result: dict[str, Any]) -> list[str]:
    """The results in words, one line each."""
    found = []
    rows = result.get("texts", [])
    for row in rows:
        found.append(f"{_figure(row, 'bits_per_byte')} bits per byte  {row['name']}  ({row['bytes']:,} bytes)")
    if len(rows) > 1:
        found.append(f"{_figure(result, 'bits_per_byte')} bits per byte  all together")
    for row in [*result.get("pairs", []), *result.get("choice", [])]:
        found.append(
            f"{_figure(row, 'accuracy')} right  {row['name']}  ({row['count']:,} questions; "
            f"{row['per_byte']['accuracy']:.4f} by log-probability per byte)"
        )
        found += [
            f"  {_figure(group, 'accuracy')}  {group['name'] or 'without a group'}  ({group['count']:,})"
            for group in row.get("groups", [])
        ]
    return found


def _figure(row: dict[str, Any], key: str) -> str:
    """ "1.2345 [1.2000, 1.2700]": the figure and its 95 % interval."""
    if row["low"] is None:
        return f"{row[key]:.4f}"
    return f"{row[key]:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
