"""The verb `wren play`: argument types and calls. Nothing heavy is imported before it runs."""

from pathlib import Path
from typing import Literal

from wren.errors import ConfigError
from wren.flags import Device, Json, Settings, Time, check_json, write


def play(
    run: Path | None = None,
    task: str | None = None,
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
    dtype: Literal["auto", "fp32", "bf16", "fp16"] | None = None,
    seed: int = 0,
    device: Device = "auto",
    set_: Settings = (),
    dry_run: bool = False,
    json_: Json = None,
) -> int:
    """Learn from what pays: a task's verifier scores the model's own attempts. The same command again goes on.

    Args:
        run: The run directory to begin with.
        task: The task to learn, as `wren tasks` names it: chain_sum, countdown:max_number=9, file:PATH.jsonl.
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
        seed: Seed of the problems and of the attempts.
        dtype: Number format of matrix products; auto is fp32 on a CPU and chosen by the device elsewhere.
        dry_run: Only say what would be done.
    """
    from wren import units
    from wren.rl import reinforce
    from wren.rl.settings import Asked

    check_json(json_)
    if task is None:
        raise ConfigError("Name what to play: --task NAME; `wren tasks` lists the tasks.")
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
