"""The verb `wren play`: argument types and calls. Nothing heavy is imported before it runs."""

from pathlib import Path
from typing import Literal

from wren.errors import ConfigError
from wren.flags import Device, Json, Settings, Time, check_json, write


def play(
    run: Path | None = None,
    task: str | None = None,
    game: str | None = None,
    out: Path | None = None,
    form: Literal["plain", "bare", "chat"] | None = None,
    invent: bool = False,
    gate: bool = True,
    steps: int | None = None,
    time_: Time = None,
    lr: float | None = None,
    prompts: int | None = None,
    samples: int | None = None,
    max_tokens: int | None = None,
    normalise: Literal["dapo", "dr_grpo", "grpo"] | None = None,
    entropy: float | None = None,
    kl: float | None = None,
    problems: int | None = None,
    micro_batch_size: int | None = None,
    generations: int | None = None,
    learn: Literal["search", "magnet", "reinforce"] | None = None,
    human: bool = False,
    against: str | None = None,
    games: int = 100,
    opening: int = 4,
    budget: int = 0,
    dtype: Literal["auto", "fp32", "bf16", "fp16"] | None = None,
    seed: int = 0,
    device: Device = "auto",
    set_: Settings = (),
    dry_run: bool = False,
    json_: Json = None,
) -> int:
    """Learn from what pays: a task's verifier, or the end of a game. The same command again goes on.

    Args:
        run: The run directory to begin with; of a game, the player's own, which may be new.
        task: The task to learn, as `wren tasks` names it: chain_sum, countdown:max_number=9, file:PATH.jsonl.
        game: The game to learn by playing itself, or to play: tic_tac_toe, connect4, kuhn, nim:heaps=7,7,7, ...
        out: The new run directory; by default RUN-TASK.
        form: How problems are put: chat to a tuned run, bare or plain to a base; by default as the run was trained.
        invent: The model writes the problems too, and is paid for those that it solves about half of the time.
        gate: Only problems that the task can read are asked, and its verifier scores; --no-gate shows what happens
            without: anything is asked, and the majority of the attempts counts as right.
        steps: Optimizer steps; by default 100.
        time_: How long to learn instead, such as 90s or 10m.
        lr: Learning rate.
        prompts: Problems of a step.
        samples: Attempts at each problem.
        max_tokens: The longest attempt; by default what the task's solutions need.
        normalise: What a token weighs: dapo (all alike), dr_grpo (by a constant), grpo (by its attempt).
        entropy: Weight of an entropy bonus, so that attempts stay different.
        kl: Weight of the distance to the model that learning began with.
        problems: Held-out problems that are asked before, after and in between.
        micro_batch_size: Attempts at once; fewer need less memory and change nothing else.
        generations: Of a game: how often to play games and learn from them; --time instead says how long.
        learn: How a game is learned: search (towards what a tree search prefers), magnet (mirror descent, for hidden
            cards), reinforce (plain policy gradient, the naive form); by default what suits the game.
        human: Play the game yourself, against --run or --against.
        against: Play a match against random, minimax:DEPTH, perfect, another run, or generation:N of its own league.
        games: Games of the match.
        opening: Random plies before each game of the match.
        budget: Simulations of a tree search before each move of --run, 0 = none.
        seed: Seed of the problems, the games and all that is drawn.
        dtype: Number format of matrix products; auto is fp32 on a CPU and chosen by the device elsewhere.
        dry_run: Only say what would be done.
    """
    from wren import units
    from wren.rl import reinforce
    from wren.rl.settings import Asked

    check_json(json_)
    if game is not None:
        from wren.rl.game_commands import GameFlags, play_game

        if task is not None:
            raise ConfigError("--game and --task are two things to learn; give one of them.")
        flags = GameFlags(
            game=game,
            run=run,
            generations=generations,
            seconds=None if time_ is None else units.seconds(time_),
            learn=learn,
            human=human,
            against=against,
            games=games,
            opening=opening,
            budget=budget,
            seed=seed,
            settings=set_,
            device=device,
            dry_run=dry_run,
        )
        return write(json_, play_game(flags))
    if task is None:
        raise ConfigError("Name what to play: --game NAME, or --task NAME; `wren tasks` lists the tasks.")
    if run is None:
        raise ConfigError("Name the run that learns with --run DIR; `wren train` and `wren tune` make runs.")
    if not gate and not invent:
        raise ConfigError("--no-gate goes with --invent; a task's own problems need no gate.")
    asked = Asked(
        run=run,
        task=task,
        out=out or run.with_name(f"{run.resolve().name}-{task.partition(':')[0]}"),
        form=form,
        origin="task" if not invent else "invented" if gate else "ungated",
        steps=steps,
        seconds=None if time_ is None else units.seconds(time_),
        lr=lr,
        prompts=prompts,
        samples=samples,
        max_tokens=max_tokens,
        normalise=normalise,
        entropy=entropy,
        kl=kl,
        problems=problems,
        micro_batch_size=micro_batch_size,
        dtype=dtype,
        seed=seed,
        settings=set_,
    )
    if dry_run:
        print(reinforce.describe(asked, device=device))
        return 0
    result = reinforce.reinforce(asked, device=device)
    before, k = result["before"], max(result["passes"])
    print(
        f"{result['accuracy']:.1%} of {result['count']} held-out problems (95 % interval {result['low']:.1%} to "
        f"{result['high']:.1%}), {before['accuracy']:.1%} before; pass@{k} {result['passes'][k][0]:.1%}; "
        f"{result['samples_per_second']:,.0f} attempts a second; picture: {asked.out / 'reward.png'}"
    )
    return write(json_, result)
