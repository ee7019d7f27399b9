"""`wren play --game`: from random weights to a player, by the loop that pretrains. The same call again goes on.

run/  config.json metrics.jsonl checkpoints/ tokenizer.json    as every run
      league/  frozen generations    rounds/  positions to learn from    elo.png  result.json
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wren import checkpoint, units
from wren import config as configs
from wren.batch import Batch
from wren.errors import ConfigError
from wren.exits import is_rank
from wren.files import write_json
from wren.games.game import Game
from wren.interrupt import Interrupted
from wren.model import LM
from wren.optim.optimizer import Optimizer
from wren.policy import Drawing, PolicyConfig, PolicyLoss
from wren.precision import Precision, choose_device, choose_precision
from wren.pretrain import first_difference, keep_tokenizer, peak_memory
from wren.progress import TrainingProgress
from wren.rl.game_curve import curve
from wren.rl.game_loss import distribution_loss
from wren.rl.game_rounds import Numbers
from wren.rl.game_settings import AskedGame, GamePlayConfig, plan, read_game, with_generations
from wren.rl.selfplay import SelfPlayBatches
from wren.run import Run
from wren.step import Loss
from wren.train import train

_MEASURED = 2  # generations that a time is measured with


@dataclass(frozen=True)
class Parts:
    """What a run of self-play is made of."""

    config: GamePlayConfig
    game: Game
    model: LM
    optimizer: Optimizer
    batches: SelfPlayBatches
    loss: Loss
    precision: Precision


def selfplay(asked: AskedGame, *, device: str = "auto", say: Callable[[str], None] = print) -> dict[str, Any]:
    """Learns (or goes on learning) a game into asked.run, and returns what was reached.

    The result holds the measures of game_measures.py, elo by generation, rollbacks, games, seconds. Raises a WrenError
    for every mistake of the user, train's Interrupted on Ctrl-C.
    """
    if is_rank():
        raise ConfigError("`wren play` learns in one process; start it without torchrun.")
    run, game = Run(asked.run), read_game(asked.game)
    wanted, precision = plan(asked, game), choose_precision(choose_device(device), "fp32")
    if not run.exists():
        run.check_free()
    with run.lock():
        config = _stored(run, wanted)
        if config is None:
            config = _with_time(wanted, game, precision, say)
            run.create(configs.to_json(config))
        parts = build(config, game, run.path, precision)
        keep_tokenizer(parts.batches.tokens.tokenizer, run)
        _announce(parts, run, say)
        result = _train(parts, run, say)
        write_json(run.path / "result.json", result)
        parts.batches.league.sweep()
        curve(run)
    return result


def describe(asked: AskedGame, *, device: str = "auto") -> str:
    """What a run would be, for --dry-run: nothing is written."""
    game = read_game(asked.game)
    config = plan(asked, game)
    model, own = config.model.build(), config.selfplay
    long = f"{config.generations:,} generations"
    if asked.seconds is not None:
        long = f"as many generations as {units.duration(asked.seconds)} allow"
    return (
        f"Would learn {asked.game} by {own.learn} for {long} of {own.games:,} games and {own.updates} steps into "
        f"{asked.run}: {units.short(model.num_params())} parameters, rows of {config.train.context_len} tokens, "
        f"{choose_device(device)}."
    )


def build(config: GamePlayConfig, game: Game, folder: Path, precision: Precision) -> Parts:
    """Model, optimizer, self-play and loss from the run's seed."""
    torch.manual_seed(config.seed)
    model = config.model.build().to(precision.device)
    optimizer = config.optimizer.build(model)
    batches = SelfPlayBatches(model, optimizer, game, config, folder)
    loss = _GradientLoss(batches) if config.selfplay.learn == "reinforce" else distribution_loss
    return Parts(config, game, model, optimizer, batches, loss, precision)


class _GradientLoss:
    """wren.policy's loss with the entropy bonus of the generation."""

    def __init__(self, batches: SelfPlayBatches):
        self.batches = batches

    def __call__(self, model: LM, batch: Batch) -> Tensor:
        config = self.batches.config
        share = min(1.0, self.batches.generation / config.generations)
        policy = PolicyConfig(entropy=config.selfplay.entropy_at(share))
        return PolicyLoss(policy, Drawing())(model, batch)


def _stored(run: Run, wanted: GamePlayConfig) -> GamePlayConfig | None:
    """The config of a run that was begun; raises ConfigError when it is not the wanted one."""
    if not run.exists():
        return None
    try:
        stored = configs.from_json(GamePlayConfig, run.config())
    except ConfigError as error:
        raise ConfigError(f"{run.path} holds another run ({error}); choose another --run.") from error
    kept, asked = configs.to_json(stored), configs.to_json(wanted)
    if stored.time_budget is not None and stored.time_budget == wanted.time_budget:
        asked = configs.to_json(with_generations(wanted, stored.generations))
    if difference := first_difference(kept, asked):
        key, old, new = difference
        raise ConfigError(
            f"{run.path} was begun with {key} = {old}, and now it is {new}; repeat the first command to resume, or "
            "choose another --run."
        )
    return stored


def _with_time(config: GamePlayConfig, game: Game, precision: Precision, say: Callable[[str], None]) -> GamePlayConfig:
    """The config with a time turned into generations by playing some, the measures counted in their share."""
    if config.time_budget is None:
        return config
    trial = with_generations(config, _MEASURED)
    with tempfile.TemporaryDirectory() as folder:
        parts = build(trial, game, Path(folder), precision)
        seconds = []
        trained = dataclasses.replace(trial.train, save_every=0, keep=1)
        start = time.perf_counter()
        try:
            train(
                parts.model, parts.optimizer, parts.batches, parts.loss, Run(folder), trained, config.schedule,
                precision, watch=lambda progress, row: seconds.append(parts.batches.last.get("measure_seconds", 0.0)),
                say=lambda text: None,
            )  # fmt: skip
        except Interrupted as stop:
            raise Interrupted(None, stop.signal_number) from None  # the folder is gone
        whole = time.perf_counter() - start
    once = max(seconds)
    each = (whole - once) / _MEASURED + once / config.selfplay.measure_every
    generations = max(1, int(config.time_budget / each))
    say(
        f"A generation takes {each:.2f} s here, so {units.duration(config.time_budget)} make {generations:,} "
        "generations."
    )
    return with_generations(config, generations)


def _train(parts: Parts, run: Run, say: Callable[[str], None]) -> dict[str, Any]:
    config, batches = parts.config, parts.batches

    def watch(progress: Any, numbers: Numbers) -> None:
        if numbers["kind"] == "train" and batches.fresh:
            batches.fresh = False
            run.log_metrics({"step": numbers["step"], "kind": "generation", **batches.last})
            if "measure" in batches.last:
                display.say(f"generation {batches.last['generation'] - 1}: {said(batches.last)}")
        display.watch(progress, numbers)

    start, cpu = time.perf_counter(), time.process_time()
    with TrainingProgress(config.train.steps, say=say, every=30.0) as display:
        progress = train(
            parts.model, parts.optimizer, batches, parts.loss, run, config.train, config.schedule, parts.precision,
            watch=watch, say=display.say,
        )  # fmt: skip
    final = batches.measured()
    say(f"generation {batches.generation}: {said(final)}")
    if config.selfplay.patience and batches.league.is_much_worse(batches.generation, final):
        final = {**final, **_ended_with_best(parts, run, say)}
    rows = [row for row in run.metrics() if row.get("kind") == "generation"]
    ratings = batches.league.ratings()
    return {
        "run": str(run.path),
        "game": config.game,
        "generations": batches.generation,
        "steps": progress.step,
        "games": sum(row["games"] for row in rows),
        "positions": sum(row["positions"] for row in rows),
        "seconds": progress.seconds,
        "wall_seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "params": parts.model.num_params(),
        "peak_memory_bytes": peak_memory(parts.precision.device),
        "device": str(parts.precision.device),
        **final,
        "elo_by_generation": {name: dataclasses.asdict(rating) for name, rating in ratings.items()},
    }


def _ended_with_best(parts: Parts, run: Run, say: Callable[[str], None]) -> Numbers:
    """The last checkpoint with the best generation's weights in place of a collapsed one's; returns its measures."""
    batches = parts.batches
    path, _ = checkpoint.newest_good(run.checkpoints_path)
    best = batches.league.go_back(parts.model, parts.optimizer)
    if path is not None:
        saved = checkpoint.load(path, verified=True)
        rng = {name: x for name, x in saved.optimizer.items() if name.startswith("rng/")}
        tensors = parts.optimizer.tensors()
        state = {**saved.state, "optimizer_began": bool(tensors)}
        checkpoint.save(run.checkpoints_path, saved.step, checkpoint.weights(parts.model), {**tensors, **rng}, state)
    batches.net.forget()
    row = batches.measure.row()
    say(f"Collapsed at the end: the run ends with generation {best}: {said(row)}")
    return {**row, "rolled_back_to": best, "rollbacks": batches.league.rollbacks}


def said(row: Numbers) -> str:
    """The measures of a generation in words."""
    parts = []
    if "losing_lines" in row:
        parts.append(
            f"{row['losing_lines_first']} losing lines as first and {row['losing_lines_second']} as second player "
            f"(of {row['lines']:,} in both)"
        )
    if row.get("optimal") is not None:
        parts.append(f"{row['optimal']:.1%} of {row['optimal_positions']:,} positions played perfectly")
    if "exploitability" in row:
        parts.append(f"exploitability {row['exploitability']:.4f}")
    if "average_exploitability" in row:
        parts.append(f"of the average policy {row['average_exploitability']:.4f}")
    if "minimax_share" in row:
        parts.append(
            f"{row['minimax_share']:.0%} of the points against minimax:{row['minimax_depth']} "
            f"({row['minimax_low']:.0%} to {row['minimax_high']:.0%})"
        )
    if "elo" in row:
        parts.append(f"Elo {row['elo']:+.0f}")
    if "draws" in row:
        parts.append(f"{row['draws']:.0%} draws with itself")
    if row.get("rolled_back_to") is not None:
        parts.append(f"collapsed: back to generation {row['rolled_back_to']}")
    return ", ".join(parts)


def _announce(parts: Parts, run: Run, say: Callable[[str], None]) -> None:
    config, own = parts.config, parts.config.selfplay
    say(
        f"Learning {config.game} by {own.learn}: {units.short(parts.model.num_params())} parameters, "
        f"{config.generations:,} generations of {own.games:,} games, {parts.precision.name} on "
        f"{parts.precision.device}."
    )
    done = checkpoint.steps(run.checkpoints_path)
    if done and done[-1] >= config.train.steps:
        say(f"{run.path} is complete already; it is only measured again.")
