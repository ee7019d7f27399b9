"""`wren compare`: arms trained with the same tuning effort and paired seeds, one after another, resumable anywhere.

    out/comparison.json                                  what decides the trainings: a resumed one must agree; and the
                                                         machine, which must be the same while anything is left to do
    out/data/vocab<N>/                                   shards and tokenizer of every vocabulary size
    out/runs/<arm>/<size>/<context>/measured.json        shape, speed and memory, and the machine they are of
    out/runs/<arm>/<size>/<context>/lr..-wd..-seed../    a run directory; result.json once it is over
    out/compare.json                                     all of it so far (wren/lab/schema.py), after every cell

Arms, sizes, context lengths, seeds and probes may be added later: every training stands by itself.
"""

import itertools
import json
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wren import config as configs
from wren import units
from wren.errors import ConfigError, DataError
from wren.files import read_json, write_json
from wren.lab import compare_probes, measure
from wren.lab.compare_cell import Measure, Place, Settings, Work
from wren.lab.compare_data import Text
from wren.lab.compare_display import CompareDisplay
from wren.lab.compare_rules import rules
from wren.lab.compare_run import keep_best
from wren.lab.machine import Machine, in_words, this_machine
from wren.lab.schema import Cell, Comparison, ProbeScore
from wren.precision import Precision
from wren.pretrain import first_difference


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What writes compare.json, again and again while there is more to tell."""

    settings: Settings
    texts: Mapping[int, Text]
    precision: Precision
    started: str
    machine: Machine | None
    path: Path

    def write(self, cells: Sequence[Cell], scores: Sequence[ProbeScore], left: Sequence[str]) -> Comparison:
        settings, precision = self.settings, self.precision
        validation = next(iter(self.texts.values())).manifest.splits["val"].name
        comparison = Comparison(
            arms=settings.arms,
            baseline=settings.baseline,
            budget=settings.budget.text,
            tune_share=settings.tune_share,
            seeds=tuple(range(settings.seeds)),
            source=settings.source,
            validation=validation,
            device=str(precision.device),
            precision=precision.name,
            machine=in_words(self.machine),
            started=self.started,
            command=shlex.join(["wren", *sys.argv[1:]]),
            cells=tuple(cells),
            rules=rules(
                settings.cells,
                cells,
                budget=settings.budget,
                grid=settings.grid,
                seeds=settings.seeds,
                tune_share=settings.tune_share,
                baseline=settings.baseline,
                validation=validation,
                contents={size: text.content for size, text in self.texts.items()},
                machine=in_words(self.machine),
            ),
            probes=tuple(scores),
            left=tuple(left),
        )
        write_json(self.path, configs.to_json(comparison))
        return comparison


def clear(out: Path) -> None:
    """Removes what an earlier comparison left in `out`, for --fresh; the prepared data has a --fresh of its own.

    Raises ConfigError where `runs` or `probes` in `out` are not a comparison's: they may be someone's work.
    """
    found = [name for name in ("runs", "probes") if (out / name).exists()]
    if found and not (out / "comparison.json").exists():
        raise ConfigError(
            f"{out} holds '{found[0]}' and no comparison (no comparison.json), so --fresh removes nothing there; "
            "choose another --out."
        )
    for name in ("runs", "probes"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ("comparison.json", "compare.json"):
        (out / name).unlink(missing_ok=True)


def compare(
    settings: Settings,
    texts: Mapping[int, Text],
    out: Path,
    *,
    precision: Precision,
    display: CompareDisplay,
    measured: Measure = measure.measured,
) -> Comparison:
    """Trains what is not trained yet and returns everything that was measured; compare.json holds it cell by cell.

    An arm of which every tuning run diverges keeps its place, without final runs. Raises ConfigError for a folder of
    other settings, for work that is left to another machine than the first, for a budget too small for a step;
    Interrupted on Ctrl-C, with the state kept.
    """
    here = this_machine(precision.device)
    started, begun = _begin(settings, texts, out, precision, here)
    place = Place(begun=begun, here=here)
    record = _Record(
        settings=settings, texts=texts, precision=precision, started=started, machine=begun, path=out / "compare.json"
    )
    probe_cells = compare_probes.plan_probes(settings.arms, settings.probes, out)
    left = [cell.title for cell in settings.cells] + [compare_probes.title(cell) for cell in probe_cells]
    work = [Work(settings, cell, texts[cell.arm.vocab_size], precision, display, place) for cell in settings.cells]
    for each in work:
        each.measure(measured)
    display.plan(settings.cells, [each.planned() for each in work], probes=len(probe_cells))
    cells: list[Cell] = []
    for each in work:
        cells.append(each.run())
        if not settings.keep_checkpoints:
            _keep_best(cells, out)
        record.write(cells, (), left[len(cells) :])
    scores: list[ProbeScore] = []
    for score in compare_probes.scores(probe_cells, precision, display):
        scores.append(score)
        record.write(cells, scores, left[len(cells) + len(scores) :])
    return record.write(cells, scores, ())


def _keep_best(cells: Sequence[Cell], out: Path) -> None:
    """Of the newest cell's arm, the weights of its best final run stay."""
    finals = (run for cell in cells if cell.arm == cells[-1].arm for run in cell.final)
    keep_best({out / "runs" / run.folder: run for run in finals})


def _begin(
    settings: Settings, texts: Mapping[int, Text], out: Path, precision: Precision, here: Machine
) -> tuple[str, Machine | None]:
    """Notes what decides the trainings, or checks it against what was noted; returns when and where it was begun."""
    path = out / "comparison.json"
    wanted: dict[str, Any] = {
        "budget": settings.budget.text,
        "tune_share": settings.tune_share,
        "lrs": list(settings.grid.lrs) or settings.grid.num_lrs,
        "weight_decays": list(settings.grid.decays) or settings.grid.num_decays,
        "device": precision.device.type,
        "dtype": precision.name,
        "data": {str(size): text.content for size, text in sorted(texts.items())},
    }
    if path.exists():
        try:
            old = read_json(path)
        except DataError:
            old = None
        if not isinstance(old, dict) or not isinstance(old.get("data"), dict):
            raise ConfigError(
                f"{path} is damaged; remove it, and the same command writes it again and keeps the trainings."
            )
        kept = {name: old.get(name) for name in wanted}
        kept["data"] = {**wanted["data"], **{k: v for k, v in old["data"].items() if k in wanted["data"]}}
        difference = first_difference(kept, json.loads(json.dumps(wanted)))
        if difference is not None:
            key, before, now = difference
            raise ConfigError(
                f"{out} holds a comparison with {key} = {before}, and now it is {now}; repeat the first command to "
                "resume, choose another --out, or begin anew with --fresh."
            )
        wanted["data"] = {**old["data"], **wanted["data"]}
        started, machine = str(old.get("started")), old.get("machine")
    else:
        started, machine = time.strftime("%Y-%m-%d %H:%M:%S"), here
    write_json(path, {**wanted, "started": started, "machine": machine})
    return started, machine


def describe(settings: Settings, precision: Precision) -> str:
    """What a comparison would be, for --dry-run."""
    lines = []
    for cell in settings.cells:
        optimizer, grid = cell.config.optimizer, settings.grid
        lrs, decays = grid.learning_rates(optimizer.lr), grid.weight_decays(optimizer.weight_decay)
        shape = measure.shape(cell.config)
        if settings.budget.kind == "time":
            length = f"{settings.budget.text} of steps"
        else:
            flops = measure.training_flops_per_token(cell.config)
            length = f"{settings.budget.steps(cell, flops, None):,} steps"
        lines.append(
            f"{cell.title}: {units.short(shape.params)} parameters ({units.short(shape.core_params)} core), "
            f"vocabulary {cell.arm.vocab_size:,}, {_tunings(settings.grid.num_trainings(cell.config.optimizer))} and "
            f"{settings.seeds} final ones of {length}; learning rates "
            f"{', '.join(f'{lr:.3g}' for lr in lrs)}; weight decays "
            f"{', '.join(f'{decay:.3g}' for decay in decays)}"
        )
    lines += [f"Note: {one} and {other} are the same model and settings." for one, other in _alike(settings)]
    lines.append(f"Baseline {settings.baseline}, {precision.name} on {precision.device}.")
    return "\n".join(lines)


def _tunings(count: int) -> str:
    return f"{count} tuning trainings (more while the best is at the grid's edge)" if count else "no tuning trainings"


def _alike(settings: Settings) -> list[tuple[str, str]]:
    """Pairs of arms that differ in nothing but their name."""
    cells = [cell for cell in settings.cells if cell.size == settings.cells[0].size]
    cells = [cell for cell in cells if cell.context_len == cells[0].context_len]
    pairs = itertools.combinations(cells, 2)
    return [(a.arm.name, b.arm.name) for a, b in pairs if (a.arm.vocab_size, a.config) == (b.arm.vocab_size, b.config)]


def load(path: Path) -> Comparison:
    """A compare.json; raises DataError or ConfigError when it is none."""
    return configs.from_json(Comparison, read_json(path), str(path))
