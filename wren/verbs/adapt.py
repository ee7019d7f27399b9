"""The verb `wren adapt`.

Argument types and calls, nothing else: the heavy imports happen inside, so that `--help` answers at once.
"""

from pathlib import Path
from typing import Literal

from wren.errors import ConfigError
from wren.flags import Device, Json, check_json, warn, write


def adapt(
    run: Path,
    text: tuple[str, ...] = (),
    task: str = "",
    by: Literal["examples", "search", "vote"] = "examples",
    choose: tuple[str, ...] = (),
    lr: float | None = None,
    rank: int = 16,
    chunk: int = 64,
    context: int | None = None,
    gate: bool = True,
    carry: bool = False,
    compare: bool = True,
    max_tokens: int | None = None,
    streams: int = 8,
    steps: int = 8,
    budget: int = 4096,
    form: Literal["plain", "bare", "chat"] = "plain",
    count: int = 100,
    text_key: str = "text",
    seed: int = 0,
    device: Device = "auto",
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    json_: Json = None,
) -> int:
    """Let a trained model learn while it is used, and measure whether that helps; the run stays as it is.

    Args:
        run: The run directory.
        text: Files, folders or globs of documents, each read with an adapter of its own.
        task: Learn to solve problems of this task instead, such as list_functions.
        by: With --task: from the examples in each prompt, by a search that learns from its own attempts at one hard
            problem, or from the majority of its attempts at problems without answers.
        choose: Other documents, on which the learning rate is chosen.
        lr: Learning rate of the adapters instead.
        rank: Of the adapters.
        chunk: Tokens that are scored before the adapter learns from them.
        context: Tokens before a chunk that it sees; by default what fits the length that the run was trained on.
        gate: Use and train an adapter only while it would have helped so far; believe only votes that can be trusted.
        carry: Go on from states that earlier adapters left behind instead of reading the context again.
        compare: Measure the form without a gate too, and longer contexts that take as long.
        max_tokens: Tokens of each document, or of an attempt, at most.
        streams: Documents at once.
        steps: With --task, of the adapter on each prompt's examples.
        budget: Generated tokens of a search.
        form: With --task, how problems are put: as the run was trained.
        count: With --task, problems of the split "test".
        text_key: The JSON key or parquet column that holds the text.
        seed: Seed of the adapters.
        dtype: Number format of matrix products; auto chooses by the device.
    """
    from wren.adapt import documents
    from wren.precision import choose_device, choose_precision

    check_json(json_)
    if task and (text or choose):
        raise ConfigError("--task and --text exclude each other; give one of them.")
    if by != "examples":
        from wren.adapt import trying

        if not task:
            raise ConfigError(f"--by {by} needs problems; name a task with --task.")
        asked_trying = trying.AskedTrying(
            task=task,
            count=count,
            form=form,
            budget=budget,
            max_tokens=max_tokens,
            lr=trying.LR if lr is None else lr,
            rank=rank,
            gate=gate,
            compare=compare,
            seed=seed,
        )
        way, line = (trying.by_search, trying.search_line) if by == "search" else (trying.by_vote, trying.vote_line)
        found = way(run, choose_precision(choose_device(device), dtype), asked_trying, warn)
        print("\n".join(line(row) for row in found["forms"]))
        return write(json_, found)
    if task:
        from wren.adapt import few_shot, puzzles

        few = few_shot.FewShotConfig(lr=few_shot.LR if lr is None else lr, rank=rank, steps=steps)
        problems = puzzles.AskedTask(task=task, count=count, form=form, few_shot=few, compare=compare, seed=seed)
        found = puzzles.adapt_task(run, choose_precision(choose_device(device), dtype), problems, warn)
        print("\n".join(puzzles.line(row) for row in found["forms"]))
        return write(json_, found)
    asked = documents.Asked(
        texts=text,
        choose=choose,
        lr=lr,
        rank=rank,
        chunk=chunk,
        context=context,
        gate=gate,
        carry=carry,
        max_tokens=max_tokens,
        streams=streams,
        text_key=text_key,
        seed=seed,
        compare=compare,
    )
    result = documents.adapt_documents(run, choose_precision(choose_device(device), dtype), asked, warn)
    print("\n".join(documents.lines(result)))
    return write(json_, result)
