"""From a data folder and a recipe to a trained run: builds everything train() needs and calls it.

The same call on the same run directory goes on where the run stopped, or says that it is complete.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from wren import checkpoint, units
from wren import config as configs
from wren.budget import Budget, with_data, with_steps
from wren.build import Parts, build, check_vocab
from wren.data.shards import Manifest
from wren.distributed.ranks import ALONE, Ranks
from wren.errors import ConfigError, DataError, DiskError, DivergedError, TokenizerError
from wren.evals.bits_per_byte import bits_per_byte
from wren.files import read_json
from wren.generate import Loaded, Sampling, sample_texts
from wren.loss import cross_entropy
from wren.plot import loss_plot
from wren.progress import TrainingProgress
from wren.recipes import RunConfig
from wren.report import write_report
from wren.run import Run, peak_memory_bytes
from wren.sinks import find_sinks, open_sinks
from wren.tokenizer import Tokenizer
from wren.train import train
from wren.utilisation import Utilisation, peak


def pretrain(
    config: RunConfig,
    data: Path,
    run: Run,
    budget: Budget,
    *,
    device: str = "auto",
    sinks: Sequence[str] = (),
    prompts: Sequence[str] = ("The",),
    say: Callable[[str], None] = print,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Trains (or resumes) `config` on the shards in `data` into `run`; returns what was reached.

    ranks: the processes of a torchrun job, which all call this alike (distributed/job.py); the first alone writes.

    The result holds bits_per_byte, loss, tokens_per_second, peak_memory_bytes, state_bytes (at the context length),
    params, steps, tokens, seconds, mfu, peak_flops (of one device; peak_flops_measured: here). Raises a WrenError for
    every mistake of the user, train's Interrupted on Ctrl-C.
    """
    manifest = Manifest.load(data)
    check_vocab(config, manifest, data)
    wanted = with_data(config, data, manifest, budget)
    run = Run(run.path, writes=ranks.rank == 0)
    stored = ranks.first(lambda: _stored(run, wanted))
    parts = build(stored or wanted, data, manifest, ranks.device(device), ranks)
    find_sinks(sinks)  # what is missing is said before a folder is made
    with contextlib.ExitStack() as held:
        ranks.first(lambda: held.enter_context(run.lock()))
        if stored is None:
            parts = dataclasses.replace(parts, config=with_steps(parts, budget, say))
            run.create(configs.to_json(parts.config))
        ranks.first(lambda: keep_tokenizer(parts.tokenizer, run))
        if not run.exists():
            raise ConfigError(f"Rank {ranks.rank} does not see {run.path}; choose a folder that all nodes share.")
        _announce(parts, run, say)
        if not ranks.first(lambda: any(row.get("step") == 0 for row in run.metrics())):
            run.log_metrics({"step": 0, "kind": "eval", **_validation_row(parts)})
        result = _train(parts, run, sinks if run.writes else (), prompts, say)
        ranks.first(lambda: _report(run, result))
        if ranks.everywhere:
            ranks.first(lambda: _in_one_piece(run, say))
    return result


def _in_one_piece(run: Run, say: Callable[[str], None]) -> None:
    """The last checkpoint of a sharded model as an ordinary one, for whatever reads its files by itself."""
    path, _ = checkpoint.newest_good(run.checkpoints_path)
    if path is None or not checkpoint.is_parted(read_json(path / "state.json")):
        return
    try:
        checkpoint.joined(path)
    except DiskError as error:
        say(f"Warning: {error} {path} stays in parts, which wren reads as well.")


def _report(run: Run, result: dict[str, Any]) -> None:
    with contextlib.suppress(DataError):  # the metrics of a finished run were lost: its report comes without
        loss_plot(run)
    write_report(run, result)


def describe(config: RunConfig, data: Path, run: Run, budget: Budget, device: str) -> str:
    """What a run would be, for --dry-run: nothing is written."""
    manifest = Manifest.load(data)
    check_vocab(config, manifest, data)
    parts = build(with_data(config, data, manifest, budget), data, manifest, device)
    train_split = manifest.splits["train"]
    length = f"{units.duration(budget.seconds)} of steps" if budget.seconds else f"{parts.config.train.steps:,} steps"
    return (
        f"{_summary(parts)}\nWould train for {length} on {train_split.tokens:,} tokens of {data} into {run.path}, "
        f"validating on {manifest.splits['val'].name}."
    )


def validate(parts: Parts, *, everything: bool = False) -> dict[str, float]:
    """Bits per byte on the validation split: its fixed first eval_tokens, or all of it."""
    limit = None if everything else parts.config.train.eval_tokens
    rows = max(1, 4096 // parts.config.train.context_len)
    batches = parts.ranks.shared(parts.val.batches_in_order(rows, limit))
    return bits_per_byte(parts.model, batches, parts.tokenizer.token_bytes(), parts.precision, parts.ranks.summed)


def _validation_row(parts: Parts) -> dict[str, float]:
    found = validate(parts)
    return {"val_bits_per_byte": found["bits_per_byte"], "val_loss": found["loss"]}


def _train(parts: Parts, run: Run, names: Sequence[str], prompts: Sequence[str], say: Callable[[str], None]) -> dict:
    config = parts.config

    def evaluate(step: int) -> dict[str, Any]:
        return _validation_row(parts)

    sampling = Sampling(max_tokens=80)
    length = config.train.context_len
    used = Utilisation(3 * parts.model.flops_per_token(length, training=True), peak(parts.precision))

    def sample(step: int) -> dict[str, Any]:
        texts = sample_texts(Loaded(parts.model, parts.tokenizer, step), prompts, parts.precision, sampling)
        run.write_sample(step, texts)
        return {"sample": texts[0]}

    sinks = open_sinks(names, run, configs.to_json(config))
    try:
        with TrainingProgress(config.train.steps, say=say) as display:

            def watch(progress: Any, row: dict[str, Any]) -> None:
                display.watch(progress, row)
                for sink in sinks:
                    sink.log(row)

            progress = train(
                parts.model,
                parts.optimizer,
                parts.loader,
                cross_entropy,
                run,
                config.train,
                config.schedule,
                parts.precision,
                evaluate=evaluate,
                sample=sample if prompts and (run.writes or parts.ranks.everywhere) else None,
                watch=watch,
                say=display.say,
                ranks=parts.ranks,
                utilisation=used,
            )
    finally:
        for sink in sinks:
            sink.close()
    final = validate(parts, everything=True)
    if not math.isfinite(final["bits_per_byte"]):
        raise DivergedError(
            f"The trained model's loss is not finite after {progress.step} steps; lower the learning rate "
            "(--set optimizer.lr=...) and choose another --run."
        )
    return {
        "run": str(run.path),
        "recipe": config.recipe,
        "split": Manifest.load(Path(config.data)).splits["val"].name,
        "bits_per_byte": final["bits_per_byte"],
        "loss": final["loss"],
        "steps": progress.step,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "tokens_per_second": progress.tokens / max(progress.seconds, 1e-9),
        "mfu": used.of(progress.step * config.train.batch_size * length, progress.seconds, parts.ranks.size),
        "peak_flops": used.peak.flops,
        "peak_flops_measured": used.peak.measured,
        "skipped_steps": progress.skipped,
        "params": parts.model.num_params(),
        "state_bytes": parts.model.state_bytes(config.train.context_len),
        "peak_memory_bytes": peak_memory(parts.precision.device),
        "precision": parts.precision.name,
        "device": str(parts.precision.device),
    }


def peak_memory(device: torch.device) -> int:
    """Peak of the accelerator's memory, or of this process on a CPU; 0 where the platform does not say."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else peak_memory_bytes() or 0


def _stored(run: Run, wanted: RunConfig) -> RunConfig | None:
    """The config of a run that exists already; raises ConfigError when it is not the wanted one."""
    if not run.exists():
        return None
    stored = configs.from_json(RunConfig, run.config())
    asked, kept = configs.to_json(wanted), configs.to_json(stored)
    if stored.time_budget is not None and wanted.time_budget is not None:  # measured, not asked for
        asked["train"]["steps"] = stored.train.steps
    asked["data"] = kept["data"]  # the folder may have moved; its content is compared by hash
    difference = first_difference(kept, asked)
    if difference is not None:
        key, old, new = difference
        what = f"{key} = {old}, and now it is {new}"
        if key == "data_hash":
            what = f"another data set than {wanted.data} holds now"
        elif key == "time_budget":
            before, now = (f"--time {x:g}s" if x is not None else "no --time" for x in (old, new))
            what = f"{before}, and now it is {now}"
        raise ConfigError(
            f"{run.path} was begun with {what}; repeat the first command to resume, or choose another --run."
        )
    return dataclasses.replace(stored, data=wanted.data)


def first_difference(old: Any, new: Any, where: str = "") -> tuple[str, Any, Any] | None:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            found = first_difference(old.get(key), new.get(key), f"{where}.{key}" if where else key)
            if found:
                return found
        return None
    return None if old == new else (where, old, new)


def keep_tokenizer(tokenizer: Tokenizer, run: Run) -> None:
    """Writes the run's tokenizer unless it is there: a kill may have come before it, and a file can be damaged."""
    with contextlib.suppress(TokenizerError):
        if Tokenizer.load(run.tokenizer_path).fingerprint() == tokenizer.fingerprint():
            return
    tokenizer.save(run.tokenizer_path)


def _summary(parts: Parts) -> str:
    config, model, precision = parts.config, parts.model, parts.precision
    return (
        f"{config.recipe}: {units.short(model.num_params())} parameters "
        f"({units.short(model.num_params(embeddings=False))} without embeddings), batches of "
        f"{units.short(config.train.batch_size * config.train.context_len)} tokens, {precision.name} on "
        f"{precision.device} ({precision.why})."
    )


def _announce(parts: Parts, run: Run, say: Callable[[str], None]) -> None:
    say(_summary(parts))
    if parts.ranks.size > 1:
        say(parts.ranks.about())
    done, steps = checkpoint.steps(run.checkpoints_path), parts.config.train.steps
    if done and done[-1] >= steps:
        say(f"{run.path} is complete already ({steps:,} steps); it is only evaluated again.")
    else:
        say(f"{steps:,} steps into {run.path}.")
