"""The verb `wren think`: argument types and calls. Nothing heavy is imported before it runs."""

import sys
from pathlib import Path
from typing import Any, Literal

from wren.errors import ConfigError
from wren.flags import Device, Json, check_json, listed, write


def think(
    run: Path | None = None,
    task: str | None = None,
    budgets: str = "64,256,1024",
    algorithms: str | None = None,
    problems: int = 100,
    split: Literal["train", "val", "test"] = "test",
    form: Literal["plain", "bare", "chat"] | None = None,
    max_tokens: int | None = None,
    scorer: Literal["logprob", "learned"] = "logprob",
    verify: bool = True,
    out: Path | None = None,
    seed: int = 0,
    device: Device = "auto",
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    dry_run: bool = False,
    json_: Json = None,
) -> int:
    """Spend more tokens on a problem: search and votes, measured against tokens and seconds; the run stays as it is.

    Args:
        run: The run directory.
        task: The task, as `wren tasks` names it: chain_sum, countdown:max_number=9, file:PATH.jsonl.
        budgets: Tokens that may be generated for one problem, separated by commas; never more are.
        algorithms: Some of them, such as vote,beam:piece=8; by default all.
        problems: How many are asked.
        split: Which problems: those of test were in no training.
        form: How problems are put: chat to a tuned run, bare or plain to a base; by default as the run was trained.
        max_tokens: Of one reply; by default what the task's solutions need, and a little more.
        scorer: What best_by_score, weighted_vote, beam, particles and tree:by=score go by: the model's own
            log-probabilities, or a scorer that learns from its verified attempts at problems of train.
        verify: Let best_of_n and tree ask the task's verifier, as where an answer can be checked before it is given.
        out: Folder for the numbers and the picture; by default RUN/think.
        seed: Seed of the problems and of the samples.
        dtype: Number format of matrix products; auto is fp32 on a CPU and chosen by the device elsewhere.
        dry_run: Only say what would be done.
    """
    from wren import units
    from wren.precision import choose_device, choose_precision
    from wren.think import measure

    check_json(json_)
    if task is None:
        raise ConfigError("Name what to think about: --task NAME; `wren tasks` lists the tasks.")
    if run is None:
        raise ConfigError("Name the run that thinks with --run DIR; `wren train` and `wren tune` make runs.")
    asked = measure.Asked(
        run=run,
        task=task,
        budgets=tuple(units.count(each, "budget of tokens") for each in listed(budgets, "budgets")),
        algorithms=() if algorithms is None else tuple(listed(algorithms, "algorithms")),
        problems=problems,
        split=split,
        form=form,
        max_tokens=max_tokens,
        seed=seed,
        scorer=scorer,
        verify=verify,
    )
    where = choose_device(device)
    precision = choose_precision(where, "fp32" if (dtype, where.type) == ("auto", "cpu") else dtype)
    planned = measure.plan(asked, precision, lambda text: print(f"wren: {text}", file=sys.stderr))
    if dry_run:
        print(planned.text())
        return 0
    result = _measured(planned, out or run / "think", json_)
    return write(json_, result)


def _measured(planned: Any, folder: Path, json_: Path | None) -> dict[str, Any]:
    """Measures; what there is when Ctrl-C comes is shown and written too."""
    from rich.console import Console
    from rich.progress import Progress

    from wren.files import disk_errors
    from wren.think.measure import measure, with_scorer

    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    result: dict[str, Any] = {
        "run": str(planned.asked.run), "task": planned.thinker.asker.task.name, "count": len(planned.problems),
        "form": planned.thinker.asker.form, "max_tokens": planned.thinker.max_tokens, "split": planned.asked.split,
        "seed": planned.asked.seed, "complete": False, "rows": [], "passes": [],
    }  # fmt: skip
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task("", total=len(planned.problems))
        try:
            planned, result["scorer"] = with_scorer(planned, lambda text: bar.update(shown, description=text))
            measure(
                planned,
                say=lambda text: None if console.is_terminal else print(text, flush=True),
                watch=lambda what, count: bar.update(shown, description=what, completed=count),
                keep=lambda row: result["passes" if "k" in row else "rows"].append(row),
            )
            result["complete"] = True
        except KeyboardInterrupt:
            bar.stop()
            if result["rows"]:
                _finish(result, folder, console)
                write(json_, result)
            raise
    _finish(result, folder, console)
    return result


def _finish(result: dict[str, Any], folder: Path, console: Any) -> None:
    from wren.files import write_json
    from wren.think.shown import picture, table

    stem = "".join(each if each.isalnum() or each in "-_=" else "-" for each in result["task"])[:80]
    write_json(folder / f"{stem}.json", result)
    drawn = picture(result, folder / f"{stem}.png")
    console.print(table(result))
    console.print(f"written to {folder / stem}.json; picture: {drawn}", highlight=False, soft_wrap=True)
