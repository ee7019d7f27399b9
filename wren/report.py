"""report.html: one self-contained page about a run: what it is and reached, its curve, samples, settings, machine."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wren import page, units
from wren.files import read_json, write_json, write_text
from wren.run import Run
from wren.utilisation import Peak

_CURVE = "training loss and validation bits per byte over steps"


def write_report(run: Run, result: Mapping[str, Any], notes: Mapping[str, str] | None = None) -> Path:
    """Writes result.json and report.html into the run directory and returns the page's path.

    result: what pretrain() returned. notes: further rows of the first table, label -> text.
    """
    write_json(run.path / "result.json", dict(result))
    write_text(run.path / "report.html", _page(run, result, notes or {}))
    return run.path / "report.html"


def _page(run: Run, result: Mapping[str, Any], notes: Mapping[str, str]) -> str:
    config, environment = run.config(), read_json(run.path / "env.json")
    title = f"Wren: {config['recipe']}, seed {config['seed']}"
    cards = [
        ("bits per byte of held-out text", f"{result['bits_per_byte']:.4f}"),
        ("parameters", units.short(result["params"])),
        ("tokens trained on", units.short(result["tokens"])),
        ("time in steps", units.duration(result["seconds"])),
        ("tokens per second", f"{result['tokens_per_second']:,.0f}"),
        ("peak memory", units.size(result["peak_memory_bytes"])),
    ]
    machine = environment["gpu"] or f"{environment['cpu_count']} CPU cores"
    facts = {
        "machine": f"{machine}, {result['precision']}, torch {environment['torch']}, {environment['platform']}",
        "command": "wren " + " ".join(environment["command"][1:]),
        "started": environment["started"],
        "steps": f"{result['steps']:,} ({result['skipped_steps']} skipped as not finite)",
        **_utilisation(result),
        "held-out text": result["split"],
        "state per sequence": f"{units.size(result['state_bytes'])} at {config['train']['context_len']} tokens",
        **notes,
    }
    body = f"""{page.cards(cards)}
<h2>What it is</h2>{_table(facts)}
<h2>How it learned</h2>{page.picture(run.path / "loss.png", _CURVE)}{_evaluations(run)}
<h2>What it writes</h2>{_samples(run)}
<h2>Settings</h2><details><summary>config.json</summary>{_table(_flat(config))}</details>"""
    return page.document(title, f"{run.path}, wren {environment['wren']}", body)


def _utilisation(result: Mapping[str, Any]) -> dict[str, str]:
    if result.get("mfu") is None:
        return {}
    peak = Peak(result["peak_flops"], result["peak_flops_measured"])
    return {"model FLOPs utilisation": f"{result['mfu']:.1%} of {peak}"}


def _table(rows: Mapping[str, Any]) -> str:
    cells = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(str(v))}</td></tr>" for k, v in rows.items())
    return f"<table>{cells}</table>"


def _evaluations(run: Run) -> str:
    rows = [row for row in run.metrics() if row.get("kind") == "eval" and row.get("val_bits_per_byte") is not None]
    if not rows:
        return ""
    cells = "".join(f"<tr><td>{row['step']:,}</td><td>{row['val_bits_per_byte']:.4f}</td></tr>" for row in rows)
    table = f"<table><tr><th>step</th><th>bits per byte</th></tr>{cells}</table>"
    return f"<details><summary>validation</summary>{table}</details>"


def _samples(run: Run) -> str:
    files = sorted((run.path / "samples").glob("step_*.txt"))
    if not files:
        return "<p>No samples were written.</p>"
    texts = files[-1].read_text(encoding="utf-8").rstrip().split("\n\n-----\n\n")
    return "".join(f"<pre>{html.escape(text)}</pre>" for text in texts)


def _flat(value: Any, where: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{where}.{key}" if where else key).items()}
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return {k: v for i, item in enumerate(value) for k, v in _flat(item, f"{where}.{i}").items()}
    return {where: value}
