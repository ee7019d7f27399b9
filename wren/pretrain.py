"""From a data folder and a recipe to a trained run: builds everything train() needs and calls it.

The same call on the same run directory goes on where the run stopped, or says that it is complete.
"""

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wren import checkpoint, units
from wren import config as configs
from wren.data.loader import TokenLoader, TokenStream
from wren.data.shards import Manifest, open_shards
from wren.errors import ConfigError, DataError, DivergedError, TokenizerError
from wren.evals.bits_per_byte import bits_per_byte
from wren.generate import Loaded, Sampling, sample_texts
from wren.loss import cross_entropy
from wren.model import LM
from wren.optim.optimizer import Optimizer
from wren.plot import loss_plot
from wren.precision import Precision, choose_device, choose_precision
from wren.progress import TrainingProgress
from wren.recipes import RunConfig
from wren.report import write_report
from wren.run import Run, peak_memory_bytes
from wren.sinks import find_sinks, open_sinks
from wren.tokenizer import Tokenizer
from wren.train import measure_step_seconds, train

_MEASURED_TOKENS = 4096  # a batch large enough to tell tokens a second by, small enough for a large model on a CPU


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long to train: one of steps, tokens, or seconds of wall-clock; all None = the recipe's steps."""

    steps: int | None = None
    tokens: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.steps, self.tokens, self.seconds)) > 1:
            raise ConfigError("--steps, --tokens and --time exclude each other; give one of them.")


@dataclass(frozen=True)
class Parts:
    """What a run is made of once it is built."""

    config: RunConfig
    model: LM
    optimizer: Optimizer
    loader: TokenLoader
    val: TokenStream
    tokenizer: Tokenizer
    precision: Precision


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
) -> dict[str, Any]:
    """Trains (or resumes) `config` on the shards in `data` into `run`; returns what was reached.

    The result holds bits_per_byte, loss, tokens_per_second, peak_memory_bytes, state_bytes (at the context length),
    params, steps, tokens, seconds. Raises a WrenError for every mistake of the user, train's Interrupted on Ctrl-C.
    """
    manifest = Manifest.load(data)
    _check_vocab(config, manifest, data)
    wanted = _with_data(config, data, manifest, budget)
    stored = _stored(run, wanted)
    parts = build(stored or wanted, data, manifest, device)
    find_sinks(sinks)  # what is missing is said before a folder is made
    with run.lock():
        if stored is None:
            parts = dataclasses.replace(parts, config=_with_steps(parts, budget, say))
            run.create(configs.to_json(parts.config))
        _keep_tokenizer(parts.tokenizer, run)
        _announce(parts, run, say)
        if not any(row.get("step") == 0 for row in run.metrics()):
            run.log_metrics({"step": 0, "kind": "eval", **_validation_row(parts)})
        result = _train(parts, run, sinks, prompts, say)
        with contextlib.suppress(DataError):  # the metrics of a finished run were lost: its report comes without
            loss_plot(run)
        write_report(run, result)
    return result


def describe(config: RunConfig, data: Path, run: Run, budget: Budget, device: str) -> str:
    """What a run would be, for --dry-run: nothing is written."""
    manifest = Manifest.load(data)
    _check_vocab(config, manifest, data)
    parts = build(_with_data(config, data, manifest, budget), data, manifest, device)
    train_split = manifest.splits["train"]
    length = f"{units.duration(budget.seconds)} of steps" if budget.seconds else f"{parts.config.train.steps:,} steps"
    return (
        f"{_summary(parts)}\nWould train for {length} on {train_split.tokens:,} tokens of {data} into {run.path}, "
        f"validating on {manifest.splits['val'].name}."
    )


def build(config: RunConfig, data: Path, manifest: Manifest, device: str) -> Parts:
    """Model, optimizer and loader, all from config.seed."""
    precision = choose_precision(choose_device(device), config.train.dtype)
    tokenizer = Tokenizer.load(data / "tokenizer.json")
    if tokenizer.fingerprint() != manifest.tokenizer:
        raise TokenizerError(f"{data / 'tokenizer.json'} is not the tokenizer of the shards beside it; restore it.")
    length = config.train.context_len
    train_stream = TokenStream(open_shards(data, "train", check=True), manifest.document_id, length)
    val_stream = TokenStream(open_shards(data, "val", check=True), manifest.document_id, length)
    loader = TokenLoader(train_stream, batch_size=config.train.batch_size, seed=config.seed)
    if val_stream.num_windows == 0:
        raise DataError(f"The validation split of {data} is empty; prepare the data with --val FILE or more text.")
    torch.manual_seed(config.seed)
    model = config.model.build().to(precision.device)
    return Parts(config, model, config.optimizer.build(model), loader, val_stream, tokenizer, precision)


def validate(parts: Parts, *, everything: bool = False) -> dict[str, float]:
    """Bits per byte on the validation split: its fixed first eval_tokens, or all of it."""
    limit = None if everything else parts.config.train.eval_tokens
    rows = max(1, 4096 // parts.config.train.context_len)
    batches = parts.val.batches_in_order(rows, limit)
    return bits_per_byte(parts.model, batches, parts.tokenizer.token_bytes(), parts.precision)


def _validation_row(parts: Parts) -> dict[str, float]:
    found = validate(parts)
    return {"val_bits_per_byte": found["bits_per_byte"], "val_loss": found["loss"]}


def _train(parts: Parts, run: Run, names: Sequence[str], prompts: Sequence[str], say: Callable[[str], None]) -> dict:
    config = parts.config

    def evaluate(step: int) -> dict[str, Any]:
        return _validation_row(parts)

    sampling = Sampling(max_tokens=80)

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
                sample=sample if prompts else None,
                watch=watch,
                say=display.say,
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
        "skipped_steps": progress.skipped,
        "params": parts.model.num_params(),
        "state_bytes": parts.model.state_bytes(config.train.context_len),
        "peak_memory_bytes": _peak_memory(parts.precision.device),
        "precision": parts.precision.name,
        "device": str(parts.precision.device),
    }


def _peak_memory(device: torch.device) -> int:
    """Peak of the accelerator's memory, or of this process on a CPU; 0 where the platform does not say."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else peak_memory_bytes() or 0


def _check_vocab(config: RunConfig, manifest: Manifest, data: Path) -> None:
    if config.model.vocab_size < manifest.vocab_size:
        raise ConfigError(
            f"The model's vocabulary of {config.model.vocab_size:,} is smaller than the {manifest.vocab_size:,} of the "
            f"shards in {data}; set model.vocab_size={manifest.vocab_size} or prepare the data anew."
        )


def _with_data(config: RunConfig, data: Path, manifest: Manifest, budget: Budget) -> RunConfig:
    """The config with what identifies the data, and the steps as far as they are known without measuring."""
    steps = budget.steps
    if budget.tokens is not None:
        steps = max(1, round(budget.tokens / (config.train.batch_size * config.train.context_len)))
    train_config = dataclasses.replace(config.train, steps=config.train.steps if steps is None else steps)
    return dataclasses.replace(
        config,
        data=str(data),
        data_hash=content_hash(manifest),
        time_budget=budget.seconds,
        train=train_config,
    )


def horizon(config: RunConfig, data: Path, run: Run, budget: Budget, device: str) -> str:
    """How long will be trained, as a setting of a recipe that chooses batch and learning rate by it.

    Seconds are turned into tokens by measuring, once for a run; without any budget the recipe's own tokens.
    """
    if budget.steps is not None:
        return f"steps={budget.steps}"
    tokens = budget.tokens or config.horizon
    if budget.seconds is not None:
        stored = configs.from_json(RunConfig, run.config()) if run.exists() else None
        if stored is not None and stored.horizon is not None:
            return f"tokens={stored.horizon}"
        rows = max(1, min(config.train.batch_size, _MEASURED_TOKENS // config.train.context_len))
        trial = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=rows))
        parts = build(trial, data, Manifest.load(data), device)
        step = measure_step_seconds(
            parts.model, parts.optimizer, parts.loader, cross_entropy, trial.train, parts.precision
        )
        tokens = round(budget.seconds / step * rows * config.train.context_len)
    return f"tokens={max(1, tokens or 1)}"


def content_hash(manifest: Manifest) -> str:
    """What identifies the tokens of a data folder, wherever it lies."""
    digest = hashlib.sha256(manifest.tokenizer.encode())
    for name, split in sorted(manifest.splits.items()):
        digest.update("".join([name, *(shard.sha256 for shard in split.shards)]).encode())
    return digest.hexdigest()


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


def _with_steps(parts: Parts, budget: Budget, say: Callable[[str], None]) -> RunConfig:
    """The config with a time budget turned into steps after a measured warm-up."""
    config = parts.config
    if budget.seconds is None:
        return config
    step = measure_step_seconds(
        parts.model, parts.optimizer, parts.loader, cross_entropy, config.train, parts.precision
    )
    steps = max(1, int(budget.seconds / step))
    say(f"A step takes {step * 1000:.0f} ms here, so {units.duration(budget.seconds)} make {steps:,} steps.")
    return dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps))


def _keep_tokenizer(tokenizer: Tokenizer, run: Run) -> None:
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
    done, steps = checkpoint.steps(run.checkpoints_path), parts.config.train.steps
    if done and done[-1] >= steps:
        say(f"{run.path} is complete already ({steps:,} steps); it is only evaluated again.")
    else:
        say(f"{steps:,} steps into {run.path}.")
