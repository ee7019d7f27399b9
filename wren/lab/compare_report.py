"""A comparison as people and programs read it: report.html, report.md with its pictures, compare.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wren import config as configs
from wren.files import write_json, write_text
from wren.lab import compare_laws, compare_plots, compare_tables, compare_text
from wren.lab import compare_numbers as numbers
from wren.lab.compare_laws import Fit
from wren.lab.compare_numbers import Setting
from wren.lab.schema import Cell, Comparison
from wren.page import Block, Bullets, Cards, Code, Figures, Fold, Heading, Picture, Text, html_page, markdown_page


def write(comparison: Comparison, out: Path) -> dict[str, Any]:
    """Writes report.html, report.md, compare.json and the pictures into `out`; returns what --json holds."""
    comparison = numbers.cleaned(comparison)
    found = numbers.settings(comparison)
    summary = {
        "rows": [_row(cell) for setting in found for cell in setting.cells.values()],
        "differences": [row for setting in found for row in _differences(comparison, setting)],
    }
    write_json(out / "compare.json", configs.to_json(comparison))
    blocks = _blocks(comparison, found, out)
    title, lead = f"Wren: {len(comparison.arms)} architectures compared", _lead(comparison)
    if len(comparison.arms) == 1:
        title = "Wren: one architecture measured"
    write_text(out / "report.html", html_page(title, lead, blocks))
    write_text(out / "report.md", markdown_page(title, lead, blocks))
    return summary


def _row(cell: Cell) -> dict[str, Any]:
    score, loss = numbers.mean(list(numbers.bits(cell).values())), compare_tables.loss(cell)
    of = cell.measured
    return {
        "name": f"{cell.arm}/{cell.size}/{cell.context_len}",
        "arm": cell.arm,
        "size": cell.size,
        "context_len": cell.context_len,
        "bits_per_byte": score.mean if score else None,
        "half": score.half if score else None,
        "seeds": score.count if score else 0,
        "diverged": numbers.diverged(cell),
        "loss": loss.mean if loss else None,
        "steps": compare_tables.average(cell, lambda run: run.steps),
        "tokens": compare_tables.average(cell, lambda run: run.tokens),
        "seconds": compare_tables.average(cell, lambda run: run.seconds),
        "lr": cell.lr,
        "weight_decay": cell.weight_decay,
        "edge": cell.edge,
        "tokens_per_second": of.tokens_per_second,
        "decode_tokens_per_second": of.decode_tokens_per_second,
        "peak_memory_bytes": of.peak_memory_bytes,
        "state_bytes": of.state_bytes.get("2048"),
        "state_bytes_32k": of.state_bytes.get("32768"),
        "params": of.params,
        "table_params": of.table_params,
        "core_params": of.core_params,
        "flops_per_token": of.flops_per_token,
    }


def _differences(comparison: Comparison, setting: Setting) -> list[dict[str, Any]]:
    rows = []
    for found in numbers.differences(comparison, setting) if comparison.baseline in setting.cells else []:
        race = numbers.race(setting, found.arm, comparison.baseline, "seconds")
        rows.append(
            {
                "name": f"{found.arm}/{setting.size}/{setting.context_len}",
                "arm": found.arm,
                "baseline": found.baseline,
                "size": setting.size,
                "context_len": setting.context_len,
                "bits_per_byte": found.seeds.mean if found.seeds else None,
                "half": found.seeds.half if found.seeds else None,
                "seeds": found.seeds.count if found.seeds else 0,
                "text_low": found.text[0] if found.text else None,
                "text_high": found.text[1] if found.text else None,
                "verdict": found.verdict,
                "times_faster": race.factor if race else None,
                "times_faster_low": race.low if race else None,
                "times_faster_high": race.high if race else None,
                "words": compare_text.difference(found),
            }
        )
    return rows


def _lead(comparison: Comparison) -> str:
    seeds = len(comparison.seeds)
    return (
        f"Baseline {comparison.baseline}; {comparison.budget} a run, {seeds} paired seed{'' if seeds == 1 else 's'}; "
        f"{comparison.device}, {comparison.precision}; started {comparison.started}"
    )


def _blocks(comparison: Comparison, found: list[Setting], out: Path) -> list[Block]:
    fits = compare_laws.fits(comparison)
    return [
        *_findings(comparison, fits),
        *_final(comparison, found),
        *_curves(comparison, out),
        *_parts(comparison, found, out),
        *_cost(comparison, found),
        *_races(comparison, found),
        *_fronts(comparison, found, out),
        *_laws(comparison, fits, out),
        *_probes(comparison),
        *_rules(comparison),
        *_how(comparison, found),
    ]


def told(comparison: Comparison, out: Path) -> str:
    """What was found, in the report's sentences, for a terminal; and where the report is."""
    lines = []
    for name, sentences in compare_text.findings(numbers.cleaned(comparison)):
        lines += ["", name, *(f"  {sentence}" for sentence in sentences)]
    broken = _broken(comparison)
    lines += ["", broken] if broken else []
    return "\n".join([*lines, "", f"Report: {out / 'report.html'}"])


def _broken(comparison: Comparison) -> str:
    """The rules of fair comparison that were not kept, in a sentence; empty where all were."""
    broken = [rule.rule for rule in comparison.rules if not rule.kept]
    if not broken:
        return ""
    many = "1 rule of fair comparison was" if len(broken) == 1 else f"{len(broken)} rules of fair comparison were"
    return f"{many} not kept; read the findings with that in mind: {'; '.join(broken)}."


def _findings(comparison: Comparison, fits: Sequence[Fit]) -> list[Block]:
    blocks: list[Block] = [Cards(_cards(comparison)), Heading("What was found")]
    broken = _broken(comparison)
    if broken:
        blocks.append(Text(broken, "alarm"))
    if not comparison.cells:
        blocks.append(Text("Nothing has been measured yet."))
    if comparison.left:
        blocks.append(Text(f"Not over yet; left to do: {'; '.join(comparison.left)}.", "alarm"))
    table = compare_tables.overview(comparison)
    if table is not None:
        said = "Bits per byte against the baseline, below 0 is better. ★ claimed, ○ seen but not claimed, "
        blocks += [Text(f"{said}= no difference, ? too few seeds to tell.", "soft"), table]
    if len(comparison.arms) > 1 and comparison.cells:
        blocks.append(Text("Short budgets show what is faster to a loss, not what is better in the end.", "soft"))
    for name, sentences in compare_text.findings(comparison):
        blocks += [Heading(name, 3), Bullets(sentences)]
    saved = compare_text.laws(comparison, fits)
    if saved:
        blocks += [Heading("Across sizes", 3), Bullets(saved)]
    return blocks


def _cards(comparison: Comparison) -> list[tuple[str, str]]:
    sizes = list(dict.fromkeys(cell.size for cell in comparison.cells))
    contexts = sorted({cell.context_len for cell in comparison.cells})
    runs = sum(len(cell.tuning) + len(cell.final) for cell in comparison.cells)
    return [
        ("arms", str(len(comparison.arms))),
        ("sizes", ", ".join(sizes) or "–"),
        ("tokens of context", ", ".join(f"{context:,}" for context in contexts) or "–"),
        ("budget of a run", comparison.budget),
        ("paired seeds", str(len(comparison.seeds))),
        ("trainings in all", str(runs)),
    ]


def _final(comparison: Comparison, found: list[Setting]) -> list[Block]:
    said = "Mean ± half of the 95 % interval (Student's) over seeds, on the validation split; lower is better. The "
    said += "difference is paired by seed, so it can be surer than the two means are."
    if len({arm.vocab_size for arm in comparison.arms}) > 1:
        said += " The vocabularies differ, so losses are compared in bits per byte alone."
    blocks: list[Block] = [Heading("Final bits per byte"), Text(said, "soft")]
    return [*blocks, *_each(found, lambda setting: compare_tables.final(comparison, setting))]


def _each(found: list[Setting], table: Any) -> list[Block]:
    """The table of every setting under its name, where it has one."""
    blocks: list[Block] = []
    for setting in found:
        made = table(setting)
        if made is not None:
            blocks += [Heading(setting.name, 3), made]
    return blocks


def _curves(comparison: Comparison, out: Path) -> list[Block]:
    path = compare_plots.curves(comparison, out / "curves.png")
    if path is None:
        return [Heading("Learning curves"), Text("No run has a learning curve of two points or more.")]
    said = "On the held-back end of the training split; the line is the mean over seeds, the band their range."
    return [Heading("Learning curves"), Text(said, "soft"), Picture(path, "learning curves of all arms")]


def _parts(comparison: Comparison, found: list[Setting], out: Path) -> list[Block]:
    place = _each(found, lambda s: compare_tables.parts(comparison, s, lambda d: d.places_in_row, "place in the row"))
    again = _each(found, lambda s: compare_tables.parts(comparison, s, lambda d: d.repeats, "tokens"))
    said = (
        "Bits per byte, in brackets the paired difference from the baseline. Recurrent models lose late in a row and "
    )
    said += (
        "on repeats: tokens that complete a pair (repeat-2) or a triple (repeat-3) seen before in the document. A row "
    )
    said += "can hold several documents, so a late place can have a short context."
    if len({arm.vocab_size for arm in comparison.arms}) > 1:
        said += " The vocabularies differ, so each arm cuts the text into other parts: compare with care."
    blocks: list[Block] = [Heading("By place in the row, and on repeats"), Text(said, "soft")]
    if not place and not again:
        return [blocks[0], Text("Not measured.")]
    if len(found) > 1:
        place = [Fold("Figures by place in the row", place)] if place else []
        again = [Fold("Figures on repeats", again)] if again else []
    for tables, draw, name, alt in (
        (place, compare_plots.places_in_row, "places_in_row.png", "bits per byte by place in the row"),
        (again, compare_plots.repeats, "repeats.png", "bits per byte on repeats and on new tokens"),
    ):
        path = draw(comparison, out / name) if tables else None
        blocks += [*([Picture(path, alt)] if path else []), *tables]
    return blocks


def _cost(comparison: Comparison, found: list[Setting]) -> list[Block]:
    said = "Lookup tables (embeddings and the like) cost memory but no matrix product; core is what remains without "
    said += "the head. FLOPs are those of a forward pass. State is what one sequence keeps while it is generated."
    if any(cell.measured.load is not None for cell in comparison.cells):
        said += " Load: how many processes wanted a core just before; above the number of cores, timings suffer."
    return [Heading("What it costs"), Text(said, "soft"), *_each(found, compare_tables.cost)]


def _races(comparison: Comparison, found: list[Setting]) -> list[Block]:
    said = (
        "When each arm first comes down to the held-back loss the baseline ended at, seed by seed, and how many times "
    )
    said += (
        "fewer seconds, FLOPs or tokens that takes than the baseline took (95 % interval over seeds; below 1: more)."
    )
    made = _each(found, lambda setting: compare_tables.races(comparison, setting))
    return [Heading("To equal loss"), Text(said, "soft"), *(made or [Text("No run of the baseline has a curve.")])]


def _fronts(comparison: Comparison, found: list[Setting], out: Path) -> list[Block]:
    path = compare_plots.pareto(comparison, out / "pareto.png")
    if path is None:
        return []
    each = numbers.weight_bytes(comparison)
    said = (
        "On the front (ringed): nothing else has both a lower loss and a lower cost, costs within 2 % taken as equal. "
    )
    said += f"Inference memory is the weights at {each} bytes each and one sequence's state after 2,048 tokens."
    blocks: list[Block] = [Heading("Pareto fronts"), Text(said, "soft"), Picture(path, "loss against time and memory")]
    for context in dict.fromkeys(setting.context_len for setting in found):
        table = compare_tables.fronts(comparison, context)
        blocks += [Heading(f"{context:,} tokens of context", 3), table] if table else []
    return blocks


def _laws(comparison: Comparison, fits: Sequence[Fit], out: Path) -> list[Block]:
    if not fits:
        return []
    path = compare_plots.laws(comparison, fits, out / "scaling.png")
    said = "loss = floor + a x^-b over sizes (the floor is fitted from four sizes on), with the 95 % interval of b "
    said += "(Student's, its error from drawing seeds anew). The last column: how many times less an arm needs than "
    said += f"{comparison.baseline} for the "
    said += "loss at its largest size; extrapolated where the arm's own answer lies outside what was measured."
    drawn: list[Block] = [Picture(path, "scaling laws")] if path else []
    return [Heading("Across sizes"), Text(said, "soft"), *drawn, compare_tables.laws(fits, comparison.baseline)]


def _probes(comparison: Comparison) -> list[Block]:
    if not comparison.probes:
        return []
    said, levels = compare_text.probes(comparison)
    known: list[Block] = [Bullets(levels)] if levels else []
    return [Heading("Probes"), Text(said, "soft"), compare_tables.probes(comparison), *known]


def _rules(comparison: Comparison) -> list[Block]:
    if not comparison.rules:
        return [Heading("Rules of fair comparison"), Text("The comparison does not say which rules it kept.", "alarm")]
    return [Heading("Rules of fair comparison"), compare_tables.rules(comparison)]


def _how(comparison: Comparison, found: list[Setting]) -> list[Block]:
    facts = [
        ["machine", f"{comparison.machine}; everything was measured and trained on it"],
        ["device and precision", f"{comparison.device}, {comparison.precision}"],
        ["text", comparison.source],
        ["validation split", comparison.validation],
        ["seeds", ", ".join(map(str, comparison.seeds))],
        ["tuning", f"each tuning run has {comparison.tune_share:g} of a run's budget"],
    ]
    arms = []
    for arm in comparison.arms:
        arms.append([arm.name, arm.recipe, ", ".join(arm.settings) or "as the recipe has it", f"{arm.vocab_size:,}"])
    grids = []
    for setting in found:
        for cell in setting.cells.values():
            if cell.tuning:
                grids += [Heading(f"{cell.arm}: {setting.name}", 4), compare_tables.tuning(cell)]
    title = "Tuning grids: held-back bits per byte of every learning rate and weight decay (★ chosen)"
    return [
        Heading("How it was done"),
        Figures(["", ""], facts, look="prose"),
        Figures(["arm", "recipe", "settings", "vocabulary"], arms, look="prose"),
        *([Fold(title, grids)] if grids else [Text("Nothing was tuned.")]),
        Heading("Command", 3),
        Code(comparison.command),
    ]
