"""One training of a comparison, in its own run directory, through the one training loop.

config.json     the whole RunConfig: a folder begun with another one is refused
metrics.jsonl   the loop's rows; "eval" rows hold the bits per byte on the held-back end
result.json     the TrainedRun, once the training is over: it is not repeated then
"""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from wren import config as configs
from wren.data.loader import TokenLoader
from wren.errors import ConfigError, DiskError, DivergedError
from wren.evals.bits_per_byte import bits_per_byte
from wren.evals.detail import detail
from wren.evals.parts import Detail
from wren.files import read_json, write_json
from wren.lab.compare_data import Text
from wren.lab.schema import Point, TrainedRun
from wren.loss import cross_entropy
from wren.model import LM
from wren.precision import Precision
from wren.pretrain import first_difference
from wren.recipes import RunConfig
from wren.resume import Progress, kept_rng
from wren.run import Run
from wren.train import train

HELD_BACK = "held_back_bits_per_byte"
Watch = Callable[[Progress, dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What determines a training. flops_per_token: of training. name: how the folder is called in the results."""

    path: Path
    name: str
    phase: Literal["tune", "final"]
    config: RunConfig
    flops_per_token: float

    def with_text(self, text: Text) -> RunConfig:
        """The config with what identifies the data."""
        return dataclasses.replace(self.config, data=str(text.folder), data_hash=text.content)


def stored(job: Job, text: Text) -> TrainedRun | None:
    """The result of a finished training; raises ConfigError when the folder is of other settings or data."""
    run = Run(job.path)
    if not run.exists():
        return None
    _check(run, job.with_text(text))
    path = job.path / "result.json"
    return configs.from_json(TrainedRun, read_json(path), str(path)) if path.exists() else None


def run_training(
    job: Job,
    text: Text,
    precision: Precision,
    *,
    watch: Watch = lambda progress, row: None,
    keep_checkpoints: bool = False,
) -> TrainedRun:
    """Trains, or goes on, or returns what is there. A training that diverges ends with tuned = None.

    Final runs read the validation split, once, when they are trained. Raises ConfigError (other settings), DiskError
    (the curve's end could not be written), Interrupted.
    """
    found = stored(job, text)
    run = Run(job.path)
    if found is None:
        with run.lock():
            if not run.exists():
                run.create(configs.to_json(job.with_text(text)))
            if keep_checkpoints:
                text.tokenizer.save(run.tokenizer_path)  # so that the run can be sampled
            found = _train(job, text, precision, run, watch)
            write_json(job.path / "result.json", configs.to_json(found))
    if not keep_checkpoints:
        drop_weights(run)
    return found


def drop_weights(run: Run) -> None:
    shutil.rmtree(run.checkpoints_path, ignore_errors=True)


def keep_best(runs: Mapping[Path, TrainedRun]) -> None:
    """Of these trainings, by folder, only the one that is best on validation keeps its weights."""
    judged = {path: run.detail.whole.bits_per_byte for path, run in runs.items() if run.detail is not None}
    best = min(judged, key=lambda path: judged[path], default=None)
    for path in runs:
        if path != best:
            drop_weights(Run(path))


def _check(run: Run, wanted: RunConfig) -> None:
    old, new = run.config(), json.loads(json.dumps(configs.to_json(wanted)))
    if isinstance(old, dict):
        new["data"] = old.get("data")  # the folder may have moved; its content is compared by hash
    difference = first_difference(old, new)
    if difference is not None:
        key, before, now = difference
        raise ConfigError(
            f"{run.path} was begun with {key} = {before}, and now it is {now}; repeat the first command to resume, "
            "choose another --out, or begin anew with --fresh."
        )


def _train(job: Job, text: Text, precision: Precision, run: Run, watch: Watch) -> TrainedRun:
    config, length = job.config, job.config.train.context_len
    loader = TokenLoader(text.train(length), batch_size=config.train.batch_size, seed=config.seed)
    held_back, token_bytes_V = text.held_back(length), text.tokenizer.token_bytes()
    if config.train.compile:  # else the first training compiles for all, and the ninth model would get none at all
        torch.compiler.reset()
    torch.manual_seed(config.seed)
    model = config.model.build().to(precision.device)
    optimizer = config.optimizer.build(model)

    def evaluate(step: int) -> dict[str, Any]:
        batches = held_back.batches_in_order(max(1, 4096 // length), text.held_back_tokens())
        return {HELD_BACK: bits_per_byte(model, batches, token_bytes_V, precision)["bits_per_byte"]}

    if not any(row["step"] == 0 for row in run.metrics()):
        with kept_rng(precision.device):
            run.log_metrics({"step": 0, "kind": "eval", **evaluate(0)})
    judged = reached = None
    try:
        reached = train(
            model, optimizer, loader, cross_entropy, run, config.train, config.schedule, precision,
            evaluate=evaluate, watch=watch, say=run.log,
        )  # fmt: skip
        if job.phase == "final":
            judged = _judge(model, text, length, precision)
    except DivergedError as error:
        run.log(str(error))
    return _result(job, run, reached, judged)


def _judge(model: LM, text: Text, context_len: int, precision: Precision) -> Detail | None:
    """The validation split; None where the model answers with numbers that are not finite."""
    found = detail(model, text.val(context_len), text.tokenizer.token_bytes(), precision)
    return found if math.isfinite(found.whole.nats) else None


def _result(job: Job, run: Run, reached: Progress | None, judged: Detail | None) -> TrainedRun:
    """reached: where the training ended; None = it diverged."""
    rows = run.metrics()
    steps = {row["step"]: row for row in rows if row.get("kind") == "train"}
    evals = {row["step"]: row for row in rows if row.get("kind") == "eval"}
    if reached is not None and reached.step not in evals:  # train() goes on where a full disk takes no metrics
        raise DiskError(
            f"{run.metrics_path} lacks the last evaluation, for which there was no room; free some space and repeat "
            "the command."
        )
    if reached is not None:
        last = {"step": reached.step, "tokens": reached.tokens, "seconds": reached.seconds}
        steps[reached.step] = last
    else:
        last = steps[max(steps)] if steps else {"step": 0, "tokens": 0, "seconds": 0.0}
    curve = [
        _point(row, steps.get(step), job.flops_per_token)
        for step, row in evals.items()
        if row.get(HELD_BACK) is not None and (step in steps or step == 0)
    ]
    whole = reached is not None and bool(curve) and curve[-1].step == reached.step
    return TrainedRun(
        folder=job.name,
        phase=job.phase,
        seed=job.config.seed,
        lr=job.config.optimizer.lr,
        weight_decay=job.config.optimizer.weight_decay,
        steps=last["step"],
        tokens=last["tokens"],
        seconds=last["seconds"],
        flops=last["tokens"] * job.flops_per_token,
        tuned=curve[-1].bits_per_byte if whole else None,
        curve=tuple(curve),
        detail=judged,
    )


def _point(row: dict[str, Any], trained: dict[str, Any] | None, flops_per_token: float) -> Point:
    """A row of an evaluation, with what training had used by then."""
    tokens, seconds = (trained["tokens"], trained["seconds"]) if trained else (0, 0.0)
    return Point(
        step=row["step"], tokens=tokens, seconds=seconds, flops=tokens * flops_per_token, bits_per_byte=row[HELD_BACK]
    )
