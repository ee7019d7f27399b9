"""report.html: one self-contained page about a run: what it is and reached, its curve, samples, settings, machine."""

import base64
import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wren import units
from wren.files import read_json, write_json, write_text
from wren.run import Run

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --soft: #5b636d; --line: #d9dee4; --paper: #ffffff; --tint: #f5f7f9 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #9aa3ad; --line: #353b42; --paper: #16191d; --tint: #1f2429 }
}
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 860px;
  margin: 2.5rem auto; padding: 0 1.25rem }
h1 { font-size: 1.6rem; margin-bottom: 0.2rem } h2 { font-size: 1.1rem; margin: 2rem 0 0.6rem }
p.lead { color: var(--soft); margin-top: 0 }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 0.75rem }
.card { background: var(--tint); border-radius: 8px; padding: 0.8rem 1rem }
.card { overflow-wrap: anywhere } .card b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums }
.card span { color: var(--soft) }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem }
td, th { text-align: left; padding: 0.3rem 0.6rem; border-bottom: 1px solid var(--line); vertical-align: top }
td:first-child { color: var(--soft); white-space: nowrap }
pre { background: var(--tint); border-radius: 8px; padding: 0.9rem 1.1rem; white-space: pre-wrap; font: 0.92rem/1.5
  ui-serif, Georgia, serif; overflow-wrap: anywhere }
img { width: 100%; background: white; border-radius: 8px } details { margin-top: 0.6rem }
code { font-size: 0.9em }
"""


def write_report(run: Run, result: Mapping[str, Any], notes: Mapping[str, str] | None = None) -> Path:
    """Writes result.json and report.html into the run directory and returns the page's path.

    result: what pretrain() returned. notes: further rows of the first table, label -> text.
    """
    write_json(run.path / "result.json", dict(result))
    page = _page(run, result, notes or {})
    write_text(run.path / "report.html", page)
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
        "held-out text": result["split"],
        "state per sequence": f"{units.size(result['state_bytes'])} at {config['train']['context_len']} tokens",
        **notes,
    }
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
<p class="lead">{html.escape(str(run.path))}, wren {html.escape(environment["wren"])}</p>
<div class="cards">{"".join(_card(label, value) for label, value in cards)}</div>
<h2>What it is</h2>{_table(facts)}
<h2>How it learned</h2>{_picture(run.path / "loss.png")}{_evaluations(run)}
<h2>What it writes</h2>{_samples(run)}
<h2>Settings</h2><details><summary>config.json</summary>{_table(_flat(config))}</details>
</body></html>
"""


def _card(label: str, value: str) -> str:
    return f'<div class="card"><b>{html.escape(value)}</b><span>{html.escape(label)}</span></div>'


def _table(rows: Mapping[str, Any]) -> str:
    cells = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(str(v))}</td></tr>" for k, v in rows.items())
    return f"<table>{cells}</table>"


def _picture(path: Path) -> str:
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<img alt="training loss and validation bits per byte over steps" src="data:image/png;base64,{data}">'


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
