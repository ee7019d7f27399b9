"""`wren play --task`: from a run and a task's verifier to a run that solves more of it, by the loop that pretrains.

The same call on the same folder goes on where it stopped, or says that it is complete.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from wren import checkpoint, units
from wren import config as configs
from wren.adapters.adapter import fingerprint
from wren.errors import ConfigError
from wren.exits import is_rank
from wren.files import read_json, write_json
from wren.generate import Engine, Loaded, Sampling, load_run
from wren.model import LM
from wren.optim.optimizer import Optimizer
from wren.policy import PolicyLoss, Seen
from wren.precision import Precision, choose_device, choose_precision
from wren.pretrain import first_difference, keep_tokenizer, peak_memory
from wren.progress import TrainingProgress
from wren.rl.batches import RolloutBatches, frozen_copy
from wren.rl.curve import reward_plot
from wren.rl.held_out import row, solved
from wren.rl.rollout import ask, shown
from wren.rl.settings import Asked, TaskPlayConfig, plan
from wren.rl.sources import new_source
from wren.run import Run
from wren.tasks.task import Problem
from wren.think.asker import Asker, read_task
from wren.train import measure_step_seconds, train

_TEST_SEED, _VAL_SEED = 0, 0  # the splits are apart already
_SHOWN = 10


@dataclass(frozen=True)
class _Parts:
    config: TaskPlayConfig
    model: LM
    optimizer: Optimizer
    asker: Asker
    batches: RolloutBatches
    loss: PolicyLoss
    precision: Precision


def reinforce(asked: Asked, *, device: str = "auto", say: Callable[[str], None] = print) -> dict[str, Any]:
    """Learns (or goes on learning) into asked.out and returns what was reached.

    The result holds accuracy (greedy, of held-out problems of "test") and before, both with their intervals, passes,
    steps, samples, seconds, samples_per_second, peak_memory_bytes. Raises a WrenError for every mistake of the user,
    train's Interrupted on Ctrl-C.
    """
    config, loaded, run, precision = _prepared(asked, device)
    if not run.exists():
        run.check_free()
    with run.lock():
        stored = _stored(run, config)
        parts = _build(stored or config, loaded, precision)
        test = parts.asker.task.distinct(_TEST_SEED, parts.config.eval_problems, "test")
        if not test:
            raise ConfigError(f"The task {config.task} has no problems to test with; choose settings that allow more.")
        if stored is None:
            parts = dataclasses.replace(parts, config=_with_steps(parts, asked.seconds, say))
            run.create(configs.to_json(parts.config))
        keep_tokenizer(loaded.tokenizer, run)
        before = _before(parts, run, test)
        _announce(parts, run, before, say)
        result = _train(parts, run, say)
        after = _solved(parts, test)
        result = {**result, **after, "before": before, "gain": after["accuracy"] - before["accuracy"]}
        write_json(run.path / "result.json", result)
        run.write_sample(result["steps"], _samples(parts, test[:_SHOWN]))
        reward_plot(run)
    return result


def describe(asked: Asked, *, device: str = "auto") -> str:
    """What a reinforcement would be, for --dry-run: nothing is written."""
    config, loaded, _, precision = _prepared(asked, device)
    problem = read_task(asked.task).problem(asked.seed, 0, "train")
    asker = Asker(read_task(asked.task), loaded.tokenizer, config.form)
    rollout = config.rollout
    return (
        f"Would reinforce {asked.run} ({units.short(loaded.model.num_params())} parameters, {precision.name}) on "
        f"{config.task} for {config.train.steps:,} steps of {rollout.prompts} problems x {rollout.samples} samples of "
        f"at most {rollout.max_tokens} tokens into {asked.out}. A problem, {len(asker.prompt(problem))} tokens as "
        f"'{config.form}':\n{problem.prompt}\nand a right answer:\n{problem.said}"
    )


def _prepared(asked: Asked, device: str) -> tuple[TaskPlayConfig, Loaded, Run, Precision]:
    if is_rank():
        raise ConfigError("`wren play` learns in one process; start it without torchrun.")
    task, raw = read_task(asked.task), Run(asked.run).config()
    where = choose_device(device)
    loaded = load_run(asked.run, where)
    config = plan(asked, raw, loaded, task)
    # a few rows of small models: a CPU's fp32 is as fast as its bf16, and engine and trainer agree to rounding
    dtype = "fp32" if (config.train.dtype, where.type) == ("auto", "cpu") else config.train.dtype
    digest = fingerprint(loaded.model)
    config = dataclasses.replace(config, base_step=loaded.step, base_fingerprint=digest)
    return config, loaded, Run(asked.out), choose_precision(where, dtype)


def _stored(run: Run, wanted: TaskPlayConfig) -> TaskPlayConfig | None:
    """The config of a reinforcement that was begun; raises ConfigError when it is not the wanted one."""
    if not run.exists():
        return None
    try:
        stored = configs.from_json(TaskPlayConfig, run.config())
    except ConfigError as error:
        raise ConfigError(f"{run.path} holds another run ({error}); choose another --out.") from error
    if stored.base_fingerprint != wanted.base_fingerprint:
        raise ConfigError(
            f"{run.path} was begun from other weights than {wanted.base} holds now; choose another --out."
        )
    kept, asked = configs.to_json(stored), configs.to_json(wanted)
    asked["base"] = kept["base"]
    if stored.time_budget is not None and stored.time_budget == wanted.time_budget:
        asked["train"]["steps"] = kept["train"]["steps"]
    if difference := first_difference(kept, asked):
        key, old, new = difference
        raise ConfigError(
            f"{run.path} was begun with {key} = {old}, and now it is {new}; repeat the first command to resume, or "
            "choose another --out."
        )
    return stored


def _build(config: TaskPlayConfig, loaded: Loaded, precision: Precision) -> _Parts:
    model = loaded.model
    if model.adapters is not None:
        raise ConfigError(f"{config.base} is an adapter; fold it into the weights first (`wren tune --merge`).")
    asker = Asker(read_task(config.task), loaded.tokenizer, config.form)
    reference = frozen_copy(model) if config.policy.kl else None
    torch.manual_seed(config.seed)
    longest = max(len(problem.prompt) for problem in asker.task.problems(config.seed, 50))
    source = new_source(config.origin, asker, config.seed, 2 * longest)
    batches = RolloutBatches(
        model, asker, config.rollout, precision, seed=config.seed, reference=reference, source=source
    )
    loss = PolicyLoss(config.policy, batches.drawing)
    return _Parts(config, model, config.optimizer.build(model), asker, batches, loss, precision)


def _with_steps(parts: _Parts, seconds: float | None, say: Callable[[str], None]) -> TaskPlayConfig:
    """The config with a time turned into steps after a measured warm-up."""
    if seconds is None:
        return parts.config
    settings = parts.config.train, parts.precision
    step = measure_step_seconds(parts.model, parts.optimizer, parts.batches, parts.loss, *settings, warmup=1, steps=3)
    parts.loss.seen = Seen()
    steps = max(1, int(seconds / step))
    say(f"A step takes {step * 1000:.0f} ms here, so {units.duration(seconds)} make {steps:,} steps.")
    return dataclasses.replace(parts.config, train=dataclasses.replace(parts.config.train, steps=steps))


def _solved(parts: _Parts, problems: list[Problem]) -> dict[str, Any]:
    config = parts.config
    return solved(
        parts.model, parts.asker, problems, parts.precision,
        samples=config.eval_samples, max_tokens=config.rollout.max_tokens,
    )  # fmt: skip


def _samples(parts: _Parts, problems: list[Problem]) -> list[str]:
    engine = Engine(parts.model, parts.precision, vocab_size=parts.asker.tokenizer.vocab_size)
    sampling = Sampling(max_tokens=parts.config.rollout.max_tokens, temperature=0.0)
    return [shown(parts.asker, group) for group in ask(parts.asker, engine, problems, 1, sampling)]


def _before(parts: _Parts, run: Run, test: list[Problem]) -> dict[str, Any]:
    """What the start solves of the test, asked once and kept."""
    path = run.path / "before.json"
    if path.exists():
        return read_json(path)
    found = _solved(parts, test)
    write_json(path, found)
    return found


def _train(parts: _Parts, run: Run, say: Callable[[str], None]) -> dict[str, Any]:
    config, batches, loss = parts.config, parts.batches, parts.loss
    held = parts.asker.task.distinct(_VAL_SEED, config.eval_problems, "val")
    if held and not any(each.get("step") == 0 for each in run.metrics()):
        run.log_metrics({"step": 0, "kind": "eval", **row(_solved(parts, held))})

    def evaluate(step: int) -> dict[str, Any]:
        found = row(_solved(parts, held))
        display.say(f"step {step}: {found['val_accuracy']:.1%} of held-out problems, reward {found['val_reward']:.3f}")
        return found

    def watch(progress: Any, numbers: dict[str, Any]) -> None:
        display.watch(progress, numbers)
        if numbers["kind"] == "train":
            run.log_metrics({"step": numbers["step"], "kind": "rollout", **batches.last, **loss.seen.row()})
            loss.seen = Seen()

    start = time.perf_counter()
    with TrainingProgress(config.train.steps, say=say) as display:
        progress = train(
            parts.model, parts.optimizer, batches, loss, run, config.train, config.schedule, parts.precision,
            evaluate=evaluate if held else None, watch=watch, say=display.say,
        )  # fmt: skip
    rows = [each for each in run.metrics() if each.get("kind") == "rollout"]
    samples = sum(each["samples"] for each in rows[:: config.rollout.updates])
    return {
        "run": str(run.path),
        "base": config.base,
        "task": config.task,
        "steps": progress.step,
        "samples": int(samples),
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "wall_seconds": time.perf_counter() - start,
        "samples_per_second": samples / max(progress.seconds, 1e-9),
        "largest_logprob_difference": max((each["logprob_difference"] for each in rows), default=0.0),
        "params": parts.model.num_params(),
        "peak_memory_bytes": peak_memory(parts.precision.device),
        "precision": parts.precision.name,
        "device": str(parts.precision.device),
    }


def _announce(parts: _Parts, run: Run, before: dict[str, Any], say: Callable[[str], None]) -> None:
    config = parts.config
    say(
        f"Reinforcing {config.base} on {config.task}: {units.short(parts.model.num_params())} parameters, "
        f"{config.rollout.prompts} problems x {config.rollout.samples} samples a step, {parts.precision.name} on "
        f"{parts.precision.device}. It solves {before['accuracy']:.1%} of {before['count']} held-out problems now."
    )
    done = checkpoint.steps(run.checkpoints_path)
    if done and done[-1] >= config.train.steps:
        say(f"{run.path} is complete already ({config.train.steps:,} steps); it is only asked again.")
    else:
        say(f"{config.train.steps:,} steps into {run.path}.")
