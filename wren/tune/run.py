"""`wren tune`: from a run and conversations to a run that answers, by the loop that pretrains.

The same call on the same folder goes on where the tuning stopped, or says that it is complete.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from torch import Tensor

from wren import checkpoint, units
from wren import config as configs
from wren.adapters.bits import rounded_to_four_bits
from wren.adapters.files import load_base, save
from wren.batch import Batch
from wren.errors import ConfigError, DataError, DivergedError
from wren.exits import is_rank
from wren.generate import Sampling
from wren.loss import cross_entropy
from wren.model import LM
from wren.plot import loss_plot
from wren.precision import choose_device, choose_precision
from wren.pretrain import keep_tokenizer, peak_memory
from wren.progress import TrainingProgress
from wren.report import write_report
from wren.run import Run
from wren.train import train
from wren.tune.answer import conversations as talks
from wren.tune.build import (
    OnBase,
    Parts,
    build,
    loader,
    model_before,
    prepared,
    stored_config,
    validate,
    validation_row,
    with_steps,
)
from wren.tune.preference import PreferenceLoss
from wren.tune.settings import Asked
from wren.tune.show import show_example
from wren.utilisation import Utilisation, peak

MERGED, ADAPTER = "merged", "adapter"  # folders of the run
_SAMPLES, _SAMPLE_TOKENS = 10, 120


def tune(
    asked: Asked, *, device: str = "auto", say: Callable[[str], None] = print, console: Console | None = None
) -> dict[str, Any]:
    """Tunes (or resumes) into asked.out and returns what was reached.

    The result holds bits_per_byte and loss (of held-out assistant turns), accuracy (of held-out pairs, where there are
    some), steps, tokens, seconds, tokens_per_second, params, trained_params, peak_memory_bytes. Raises a WrenError for
    every mistake of the user, train's Interrupted on Ctrl-C.
    """
    if is_rank():
        raise ConfigError("`wren tune` trains in one process; start it without torchrun.")
    run, console = Run(asked.out), console or Console()
    config, chat, data = prepared(asked, run, say)
    stored = stored_config(run, config)
    precision = choose_precision(choose_device(device), config.train.dtype)
    config.train.check(config.optimizer, precision)
    with run.lock():
        model, config = model_before(stored or config, run, chat.tokenizer, begun=stored is not None)
        if stored is None:
            config = with_steps(config, data, chat)
            run.create(configs.to_json(config))
        keep_tokenizer(chat.tokenizer, run)
        show_example(data.train, 0, chat.tokenizer, console)
        parts = build(config, model, chat, precision, data, run, say)
        _announce(parts, run, say)
        inside = model.adapters.rows(1) if model.adapters is not None else contextlib.nullcontext()
        with inside:  # around the whole loop: a backward pass may compute activations again
            result = _train(parts, run, say)
        _finish(parts, run, asked, result, say)
    return result


def describe(asked: Asked, *, device: str = "auto", console: Console | None = None) -> str:
    """What a tuning would be, for --dry-run, with a sample conversation: nothing is written."""
    lines: list[str] = []
    config, chat, data = prepared(asked, Run(asked.out), lines.append)
    precision = choose_precision(choose_device(device), config.train.dtype)
    config.train.check(config.optimizer, precision)
    show_example(data.train, 0, chat.tokenizer, console or Console())
    config = with_steps(config, data, chat)
    what = "all weights" if config.adapter is None else f"an adapter of rank {config.adapter.rank}"
    lines.append(
        f"Would tune {what} of {asked.run} for {config.train.steps:,} steps of {config.train.batch_size} x "
        f"{config.train.context_len} tokens into {asked.out}, validating on {data.val_name}."
    )
    return "\n".join(lines)


def _train(parts: Parts, run: Run, say: Callable[[str], None]) -> dict[str, Any]:
    config = parts.config
    if not any(row.get("step") == 0 for row in run.metrics()):
        run.log_metrics({"step": 0, "kind": "eval", **validation_row(parts)})
    compare = None if config.objective == "answers" else PreferenceLoss(beta=config.beta)

    def loss(trained: LM | OnBase, batch: Batch) -> Tensor:
        model = trained.base if isinstance(trained, OnBase) else trained
        return cross_entropy(model, batch) if compare is None else compare(model, batch)

    length = config.train.context_len
    passes = 3 if parts.trained is parts.model else 2  # frozen weights have no gradient of their own
    used = Utilisation(passes * parts.model.flops_per_token(length, training=True), peak(parts.precision))
    with TrainingProgress(config.train.steps, say=say) as display:
        progress = train(
            cast(LM, parts.trained),  # the loop asks for its tensors and for train(); what it computes is the loss's
            parts.optimizer,
            loader(config, parts.data.train, parts.chat),
            cast(Any, loss),
            run,
            config.train,
            config.schedule,
            parts.precision,
            evaluate=lambda step: validation_row(parts),
            watch=display.watch,
            say=display.say,
            utilisation=used,
        )
    final = validate(parts, everything=True)
    if not math.isfinite(final["bits_per_byte"]):
        raise DivergedError(f"The tuned model's loss is not finite after {progress.step} steps; lower --lr.")
    before = next((row for row in run.metrics() if row["step"] == 0), {})
    trained = sum(p.numel() for p in parts.trained.parameters() if p.requires_grad)
    return {
        "run": str(run.path),
        "base": config.base,
        "recipe": config.recipe,
        "objective": config.objective,
        "split": parts.data.val_name,
        "before": before.get("val_bits_per_byte"),
        **final,
        **({"accuracy": final["preference_accuracy"]} if "preference_accuracy" in final else {}),
        "steps": progress.step,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "tokens_per_second": progress.tokens / max(progress.seconds, 1e-9),
        "mfu": used.of(progress.step * config.train.batch_size * length, progress.seconds),
        "peak_flops": used.peak.flops,
        "peak_flops_measured": used.peak.measured,
        "skipped_steps": progress.skipped,
        "params": parts.num_params,
        "trained_params": trained,
        "state_bytes": parts.model.state_bytes(config.train.context_len),
        "peak_memory_bytes": peak_memory(parts.precision.device),
        "precision": parts.precision.name,
        "device": str(parts.precision.device),
    }


def _finish(parts: Parts, run: Run, asked: Asked, result: dict[str, Any], say: Callable[[str], None]) -> None:
    """Samples, the report, and the adapter by itself or in the weights."""
    config, model = parts.config, parts.model
    inside = model.adapters.rows(1) if model.adapters is not None else contextlib.nullcontext()
    with inside:
        texts = talks(
            model,
            parts.chat,
            parts.data.held[:_SAMPLES],
            Sampling(max_tokens=min(_SAMPLE_TOKENS, config.train.context_len // 4), temperature=0.7, seed=config.seed),
            parts.precision,
            context_len=config.train.context_len,
        )
    run.write_sample(result["steps"], texts)
    if isinstance(parts.trained, OnBase):
        save(parts.trained.adapter, run.path / ADAPTER, config.base_fingerprint)
        result["adapter"] = str(run.path / ADAPTER)
        if asked.merge:
            result["merged"] = str(_merged(parts, run, result["steps"]))
            say(f"The model with the adapter folded in: {result['merged']}")
    with contextlib.suppress(DataError):  # the metrics of a finished run were lost: its report comes without
        loss_plot(run)
    notes = {"bits per byte": "of the assistant's words in held-out conversations"}
    if result["before"] is not None:
        notes["before tuning"] = f"{result['before']:.4f}"
    write_report(run, result, notes)


def _merged(parts: Parts, run: Run, step: int) -> Path:
    """A run directory of its own with the adapter in the weights."""
    assert isinstance(parts.trained, OnBase)
    config, target = parts.config, Run(run.path / MERGED)
    model = config.model.build()
    load_base(model, run.path, {"base_sha256": config.base_sha256})
    if config.bits is not None:
        rounded_to_four_bits(model)
    parts.trained.adapter.cpu().merge_into(model)
    if not target.exists():
        target.create(configs.to_json(dataclasses.replace(config, adapter=None, bits=None, base_sha256="")))
    parts.chat.tokenizer.save(target.tokenizer_path)
    if step not in checkpoint.steps(target.checkpoints_path) or checkpoint.verify(
        target.checkpoints_path / f"step_{step:06d}"
    ):
        checkpoint.save(target.checkpoints_path, step, checkpoint.weights(model), {}, {})
    return target.path


def _announce(parts: Parts, run: Run, say: Callable[[str], None]) -> None:
    config, precision = parts.config, parts.precision
    trained = sum(p.numel() for p in parts.trained.parameters() if p.requires_grad)
    how = "all weights" if config.adapter is None else f"an adapter of rank {config.adapter.rank}"
    bits = f", the others in {config.bits} bits" if config.bits else ""
    say(
        f"Tuning {how} of {config.base}: {units.short(trained)} of {units.short(parts.num_params)} "
        f"parameters{bits}, {precision.name} on {precision.device} ({precision.why})."
    )
    done, steps = checkpoint.steps(run.checkpoints_path), config.train.steps
    if done and done[-1] >= steps:
        say(f"{run.path} is complete already ({steps:,} steps); it is only evaluated again.")
    else:
        say(f"{steps:,} steps into {run.path}.")
