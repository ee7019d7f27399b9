"""The verbs that train from text: quickstart, train, plan; and doctor, which looks at the machine.

Argument types and calls, nothing else: the heavy imports happen inside, so that `--help` answers at once.
"""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from wren.errors import ConfigError
from wren.flags import Device, Json, Settings, Time, check_json, warn, write


def quickstart(
    corpus: str = "stories",
    time_: Time = "3m30s",
    run: Path | None = None,
    vocab_size: str = "2048",
    seed: int = 0,
    device: Device = "auto",
    chat: bool = True,
    set_: Settings = (),
    json_: Json = None,
    dry_run: bool = False,
) -> int:
    """The whole path in minutes: text, tokenizer, training, samples, a chat and a report.

    Args:
        corpus: stories (synthetic, made here), shakespeare (38 plays), or a file or folder of your own text.
        run: The run directory; by default a new one under runs/.
        vocab_size: Entries of the tokenizer.
        seed: Seed of the stories, the weights and the order of the data.
        chat: At the end tune the story model on questions, and ask it some.
        dry_run: Only say what would be done.
    """
    from wren import units

    check_json(json_)
    run = run or _another_run("quickstart" if corpus == "stories" else f"quickstart-{Path(corpus).stem}", seed)
    seconds, size = units.seconds(time_ or "3m30s"), units.count(vocab_size, "vocabulary size")
    if dry_run:
        print(f"Would train on {corpus} for {units.duration(seconds)} with {size:,} tokens into {run}.")
        return 0
    from wren import quickstart as quick

    return write(
        json_,
        quick.quickstart(
            run,
            corpus=corpus,
            seconds=seconds,
            vocab_size=size,
            seed=seed,
            settings=set_,
            device=device,
            chat=chat,
        ),
    )


def doctor(json_: Json = None) -> int:
    """What this machine is, what Wren will use on it, and what to install for more."""
    from wren import doctor as examination

    lines = examination.examine()
    examination.show(lines)
    return write(json_, examination.as_json(lines))


def train(
    data: Path,
    recipe: str = "small",
    depth: int | None = None,
    params: str | None = None,
    run: Annotated[Path | None, arg(aliases=("--run-dir",))] = None,
    steps: int | None = None,
    tokens: str | None = None,
    time_: Time = None,
    seed: int = 0,
    device: Device = "auto",
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    compile: bool = False,
    micro_batch_size: int | None = None,
    keep: int = 2,
    eval_every: int | None = None,
    sample_every: int | None = None,
    save_every: int | None = None,
    sinks: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = (),
    prompts: tuple[str, ...] = ("The",),
    fit: str | None = None,
    shard: bool = False,
    join_timeout: str = "10m",
    set_: Settings = (),
    dry_run: bool = False,
    json_: Json = None,
) -> int:
    """Train a recipe on a data folder; the same command again goes on where it stopped.

    Args:
        data: A folder made by `wren data` or `python download_data.py`.
        recipe: wren, gpt2, llama, small or tiny; its dials and every key of its config can be changed with --set.
        depth: Layers, 64 wide each; with recipe wren batch, learning rate and length follow.
        params: Size to choose layers and width for instead, such as 124M, lookup tables not counted.
        run: The run directory; by default runs/<date>-<recipe>-<seed>. Under torchrun, which has a --run of its own,
            write --run-dir.
        steps: Optimizer steps to train; by default the recipe's.
        tokens: Tokens to train on instead, such as 300M.
        seed: Seed of the weights and of the order of the data.
        dtype: Number format of matrix products; auto chooses by the device.
        compile: Use torch.compile: slower to start, faster to run.
        micro_batch_size: Rows at once; fewer need less memory and change nothing else. By default all, on a GPU as many
            as fit by a plan.
        keep: Checkpoints to keep.
        eval_every: Steps between evaluations, 0 = only at the end; by default the recipe's.
        sample_every: Steps between samples, 0 = only at the end.
        save_every: Steps between checkpoints, 0 = only at the end.
        sinks: Where else the metrics go.
        prompts: Beginnings of the samples.
        fit: Choose settings that fit the memory here, or as much as is named (--fit 6GB); without a size the largest
            model that does.
        shard: Under torchrun, spread the model over the processes instead of copying it to each.
        join_timeout: Under torchrun, how long to wait for the other processes at the start.
        dry_run: Only say what would be done.
    """
    from wren import dial, units
    from wren import pretrain as training
    from wren.budget import Budget, horizon
    from wren.data.shards import Manifest
    from wren.distributed.job import joined
    from wren.planning import command as planning
    from wren.recipes import build

    flags = {
        "train.dtype": dtype,
        "train.compile": str(compile),
        "train.keep": str(keep),
        "train.micro_batch_size": micro_batch_size,
        "train.eval_every": eval_every,
        "train.sample_every": sample_every,
        "train.save_every": save_every,
        "seed": seed,
    }
    settings = [*(f"{key}={value}" for key, value in flags.items() if value is not None), *set_]
    with joined(device, sharded=shard, wait=units.seconds(join_timeout)) as ranks:
        check_json(json_)
        vocab_size = Manifest.load(data).vocab_size
        size = units.count(params, "number of parameters") if params else None
        sized = dial.settings(recipe, vocab_size=vocab_size, depth=depth, params=size, given=set_)
        settings += sized
        budget = Budget(
            steps=steps,
            tokens=units.count(tokens, "number of tokens") if tokens else None,
            seconds=units.seconds(time_) if time_ else None,
        )
        config = build(recipe, vocab_size=vocab_size, settings=settings)
        folder = ranks.first(lambda: run or _new_run(recipe, config.seed))
        fitting = planning.Fitting(
            wish=planning.Wish(recipe, vocab_size, tuple(settings)),
            fit=fit,
            given=planning.named(set_) | ({"train.micro_batch_size"} if micro_batch_size is not None else set()),
            device=device,
            dtype=dtype,
            num_ranks=ranks.size,
            stored=ranks.first(lambda: planning.stored(folder)),
            say=warn,
        )
        planned = fitting.size(is_given=bool(sized))
        if planned:
            config = build(recipe, vocab_size=vocab_size, settings=[*planned, *settings])
        if dial.follows_horizon(recipe, settings):
            settings.append(horizon(config, data, _run(folder), budget, device, ranks))
            config = build(recipe, vocab_size=vocab_size, settings=[*planned, *settings])
        if more := fitting.memory(config):
            planned += more
            config = build(recipe, vocab_size=vocab_size, settings=[*planned, *settings])
        config = dataclasses.replace(config, planned=tuple(planned))
        if dry_run:
            print(training.describe(config, data, _run(folder), budget, device))
            return 0
        options: dict[str, Any] = {"device": device, "sinks": sinks, "prompts": prompts, "ranks": ranks}
        result = training.pretrain(config, data, _run(folder), budget, **options)
        found = f"{result['bits_per_byte']:.4f} bits per byte on {result['split']}, all of it"
        print(f"{found}; report: {folder / 'report.html'}")
        return write(json_ if ranks.rank == 0 else None, result)


def plan(
    recipe: str = "small",
    depth: int | None = None,
    params: str | None = None,
    gpu: str | None = None,
    tokens: str | None = None,
    context: int | None = None,
    vocab_size: str | None = None,
    data: Path | None = None,
    device: Device = "auto",
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    price_per_kwh: float = 0.30,
    price_per_hour: float = 0.0,
    largest: bool = True,
    set_: Settings = (),
    json_: Json = None,
) -> int:
    """Say before anything runs whether a model fits a machine, with which settings, and what training costs.

    Args:
        recipe: wren, gpt2, llama, small or tiny.
        depth: Layers, 64 wide each.
        params: Size to choose layers and width for instead, such as 350M, lookup tables not counted.
        gpu: Plan for this GPU, by name (T4, P100, 3060, 4090, H100) or memory (6GB); by default what is here.
        tokens: Tokens to train on, such as 1B; by default the recipe's.
        context: Tokens in a row; by default the recipe's.
        vocab_size: Entries of the tokenizer; by default those of --data, or 32,768.
        data: A folder made by `wren data`, whose vocabulary counts.
        dtype: Number format of matrix products; auto chooses by the device.
        price_per_kwh: What electricity costs.
        price_per_hour: What renting the machine costs.
        largest: Also look for the largest model that fits.
    """
    from wren.data.shards import Manifest
    from wren.planning import command as planning
    from wren.planning.plan import as_json, lines

    check_json(json_)
    if vocab_size is not None and data is not None:
        raise ConfigError("--vocab-size and --data both say how large the vocabulary is; give one of them.")
    given = set_ if context is None else (*set_, f"context_len={context}")
    asked = planning.Asked(
        recipe=recipe,
        vocab_size=planning.vocabulary(vocab_size, Manifest.load(data).vocab_size if data is not None else None),
        settings=given,
        depth=depth,
        params=planning.count(params, "number of parameters"),
        gpu=gpu,
        device=device,
        dtype=dtype,
        tokens=planning.count(tokens, "number of tokens"),
        prices=(price_per_kwh, price_per_hour),
        look=largest,
    )
    made = planning.plan(asked, warn)
    print("\n".join(lines(made)))
    return write(json_, as_json(made))


def _run(path: Path) -> Any:
    from wren.run import Run

    return Run(path)


def _new_run(name: str, seed: int) -> Path:
    """The newest run of that name that is not complete, so that the same command resumes; else a new one of today."""
    found = sorted(Path("runs").glob(f"????-??-??-{name}-{seed}"))
    unfinished = [path for path in found if not (path / "result.json").exists()]
    return unfinished[-1] if unfinished else Path("runs") / f"{time.strftime('%Y-%m-%d')}-{name}-{seed}"


def _another_run(name: str, seed: int) -> Path:
    """As _new_run, but beside a complete one of today."""
    base = path = _new_run(name, seed)
    number = 2
    while (path / "result.json").exists():
        path, number = base.with_name(f"{base.name}-{number}"), number + 1
    return path
