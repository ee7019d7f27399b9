"""`wren <verb>`: argument types and calls, nothing else.

Exit codes: 0 done, 2 a mistake that the printed sentence names, 130 Ctrl-C, 143 SIGTERM. The heavy imports happen
inside the verbs, so that `--help` answers at once. The file is long because every flag carries its line of help.
"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg
from tyro.extras import SubcommandApp

from wren.errors import ConfigError
from wren.flags import Device, Json, Settings, Time, check_json, write
from wren.lab.commands import compare, probe
from wren.rl.commands import play
from wren.think.commands import think

app = SubcommandApp()
tokenizer_app = SubcommandApp()
app.command(tokenizer_app, name="tokenizer", help="Train, compare and look at tokenizers.")
app.command(probe)
app.command(compare)
app.command(play)
app.command(think)


@app.command
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


@app.command
def doctor(json_: Json = None) -> int:
    """What this machine is, what Wren will use on it, and what to install for more."""
    from wren import doctor as examination

    lines = examination.examine()
    examination.show(lines)
    return write(json_, examination.as_json(lines))


@app.command
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
            say=_warn,
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


@app.command
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
    made = planning.plan(asked, _warn)
    print("\n".join(lines(made)))
    return write(json_, as_json(made))


@app.command
def sample(
    run: Path,
    prompt: str = "",
    n: Annotated[int, arg(aliases=("-n",))] = 1,
    max_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop: tuple[str, ...] = (),
    bits: Literal[8, 4] | None = None,
    device: Device = "auto",
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    json_: Json = None,
) -> int:
    """Let a trained model write, token by token.

    Args:
        run: The run directory.
        prompt: What the text begins with; - reads it from standard input.
        n: How many samples.
        max_tokens: Tokens at most in each.
        temperature: 0 = always the likeliest token; higher is more varied.
        top_k: Draw among the k likeliest tokens only.
        top_p: Draw among the fewest tokens that together hold probability p.
        seed: The same seed gives the same text.
        stop: Texts that end a sample.
        bits: Hold the matrices in 8 or 4 bits; a little worse, smaller and on a CPU quicker.
        dtype: Number format of matrix products; auto chooses by the device.
    """
    from wren.generate import Engine, Sampling, load_run, stream_rows, text_request
    from wren.precision import choose_device, choose_precision

    if n < 1:
        raise ConfigError(f"-n is {n}; it must be at least 1.")
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    precision = choose_precision(choose_device(device), dtype)
    loaded = load_run(run, precision.device, _warn)
    prompt = sys.stdin.read() if prompt == "-" else prompt
    engine = Engine(loaded.model, precision, vocab_size=loaded.tokenizer.vocab_size, bits=bits)
    handle = engine.submit(text_request(loaded.tokenizer, prompt, sampling, n))
    samples = [prompt] * n
    if n == 1:
        print(prompt, end="", flush=True)
    for row, piece in stream_rows(engine, loaded.tokenizer, [handle], stop):
        samples[row] += piece
        if n == 1:
            print(piece, end="", flush=True)
    if n == 1:
        print()
    for row, text in enumerate(samples if n > 1 else []):
        print(f"--- sample {row + 1} ---\n{text}")
    return write(json_, {"step": loaded.step, "samples": samples})


@app.command
def tune(
    run: Path,
    data: tuple[str, ...],
    out: Annotated[Path | None, arg(aliases=("--to",))] = None,
    val: tuple[str, ...] = (),
    lora: int | None = None,
    bits: int | None = None,
    merge: bool = False,
    dpo: bool = False,
    spin: bool = False,
    beta: float = 0.1,
    epochs: float | None = None,
    steps: int | None = None,
    lr: float | None = None,
    context: int | None = None,
    on_long: Literal["truncate", "drop"] = "truncate",
    skip_bad: bool = False,
    pack: bool = True,
    batch_size: int | None = None,
    micro_batch_size: int | None = None,
    seed: int = 0,
    device: Device = "auto",
    dtype: Literal["auto", "fp32", "bf16", "fp16"] | None = None,
    compile: bool = False,
    set_: Settings = (),
    dry_run: bool = False,
    json_: Json = None,
) -> int:
    """Teach a trained model to answer, from conversations or preferences; the same command again goes on.

    Args:
        run: The run directory to begin with.
        data: Files, folders or globs of conversations: messages, ShareGPT, Alpaca, prompt/completion, question/answer,
            Q: and A: lines or preference pairs, as .jsonl, .json, .parquet or .txt, plain, .gz or .zst.
        out: The new run directory; by default RUN-tuned.
        val: Files of held-out conversations; by default 2 % of the data, at most 1,000, chosen by their content.
        lora: Tune an adapter of this rank and leave the weights as they are.
        bits: 4 = hold the frozen weights in four bits meanwhile.
        merge: Also write a run directory with the adapter folded into the weights: OUT/merged.
        dpo: Learn from pairs of a chosen and a rejected answer.
        spin: Learn what sets the answers of the data apart from the model's own.
        beta: With dpo or spin, how near to stay to the model that tuning began with; larger is nearer.
        epochs: How often the data is gone through; by default 3, with dpo or spin 1.
        steps: Optimizer steps instead.
        lr: Learning rate; by default one that fits what is tuned.
        context: Tokens in a row; by default the run's.
        on_long: What becomes of conversations that are longer: truncate or drop.
        skip_bad: Pass over wrong rows and count them.
        pack: Several conversations in a row, which do not see each other.
        batch_size: Rows of one step; by default the run's, at most 16,384 tokens.
        micro_batch_size: Rows at once; fewer need less memory and change nothing else.
        seed: Seed of the order of the data and of the adapter.
        dtype: Number format of matrix products; by default the run's.
        compile: Use torch.compile: slower to start, faster to run.
        dry_run: Only say what would be done, and show a conversation as it would be learned.
    """
    from wren.tune import run as tuning
    from wren.tune.settings import Asked

    check_json(json_)
    if dpo and spin:
        raise ConfigError("--dpo and --spin exclude each other; give one of them.")
    asked = Asked(
        run=run,
        data=data,
        out=out or run.with_name(f"{run.resolve().name}-tuned"),
        val=val,
        objective="dpo" if dpo else "spin" if spin else "answers",
        beta=beta,
        lora=lora,
        bits=bits,
        merge=merge,
        epochs=epochs,
        steps=steps,
        lr=lr,
        context=context,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        dtype=dtype,
        seed=seed,
        on_long=on_long,
        skip_bad=skip_bad,
        packed=pack,
        compile=compile,
        settings=set_,
    )
    if dry_run:
        print(tuning.describe(asked, device=device))
        return 0
    result = tuning.tune(asked, device=device)
    found = f"{result['bits_per_byte']:.4f} bits per byte of the assistant's words in {result['split']}"
    print(f"{found}; report: {asked.out / 'report.html'}")
    return write(json_, result)


@app.command
def chat(
    run: Path,
    system: str = "",
    ask: str | None = None,
    tools: tuple[Literal["calculator", "search"], ...] = (),
    folder: Path | None = None,
    max_calls: int = 8,
    context: int | None = None,
    max_tokens: int = 400,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    adapt: bool = False,
    bits: Literal[8, 4] | None = None,
    device: Device = "auto",
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    json_: Json = None,
) -> int:
    """Talk to a tuned model, here or on a pipe; what it has read or said once is not computed again.

    Args:
        run: The run directory.
        system: What the model is told before the conversation.
        ask: Ask this alone and leave; - reads the question from standard input. Else every line is a turn.
        tools: What the model may call: calculator, search.
        folder: The folder whose text files search finds passages in.
        max_calls: Calls of tools at most before an answer.
        context: Tokens of the whole conversation, then the oldest turns are forgotten; by default as trained.
        max_tokens: Tokens at most in an answer.
        temperature: 0 = always the likeliest token; higher is more varied.
        top_k: Draw among the k likeliest tokens only.
        top_p: Draw among the fewest tokens that together hold probability p.
        seed: The same seed and the same questions give the same answers.
        adapt: Learn the conversation before each answer, by an adapter that is gone after it, where a gate allows it.
        bits: Hold the matrices in 8 or 4 bits; a little worse, smaller and on a CPU quicker.
        dtype: Number format of matrix products; auto chooses by the device.
    """
    from wren.adapt.talk import Talk
    from wren.chat import command
    from wren.generate import Sampling

    check_json(json_)
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    wish = command.Wish(
        system=system, tools=tools, folder=folder, max_calls=max_calls, context=context, ask=ask, sampling=sampling
    )
    code, result = command.chat(
        run,
        wish,
        bits=bits,
        device=device,
        dtype=dtype,
        say=_warn,
        learning=(lambda loaded, precision, talk: Talk(loaded.model, talk.engine, precision, talk.context_len))
        if adapt
        else None,
    )
    write(json_, result)
    return code


@app.command
def serve(
    run: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    api_key_file: Path | None = None,
    allow_host: tuple[str, ...] = (),
    context: int | None = None,
    max_prompt: int | None = None,
    max_tokens: int | None = None,
    max_requests: int = 64,
    max_queue: int = 256,
    max_budget: int = 16_384,
    max_adapt: int = 0,
    state_memory: str | None = None,
    drain: str = "30s",
    bits: Literal[8, 4] | None = None,
    device: Device = "auto",
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
) -> int:
    """Answer OpenAI clients and a chat page in the browser, until Ctrl-C or SIGTERM.

    Args:
        run: The run directory.
        host: The address to listen on; 0.0.0.0 lets other machines in.
        port: 0 takes any that is free.
        name: What clients call the model; by default the run directory's name.
        api_key_file: A file with the key that clients must send; or set WREN_API_KEY.
        allow_host: Further names that this machine is called by, where it listens on its own address alone.
        context: Tokens of a prompt and its completion together; by default as trained.
        max_prompt: Tokens of a prompt at most; by default what the context holds.
        max_tokens: Tokens of a completion at most; by default what the context holds.
        max_requests: Requests that run at once.
        max_queue: Requests that wait; one more is told to come back later.
        max_budget: Tokens that a request may have generated to think about its answer.
        max_adapt: Tokens that a request may have an adapter learn from before its answer; 0 = none is.
        state_memory: Bytes that all states may take, such as 2G; by default half of the memory that is free.
        drain: How long what runs may take to end after a signal, such as 30s.
        bits: Hold the matrices in 8 or 4 bits; a little worse, smaller and on a CPU quicker.
        dtype: Number format of matrix products; auto chooses by the device.
    """
    try:
        from wren.serve import command
    except ImportError as error:
        raise ConfigError(f"wren serve cannot be imported ({error}); pip install 'wren-llm[serve]'.") from error
    from wren import units
    from wren.precision import choose_device, choose_precision

    options = command.Options(
        run=run,
        host=host,
        port=port,
        name=name,
        allow_host=allow_host,
        api_key_file=api_key_file,
        context=context,
        max_prompt=max_prompt,
        max_tokens=max_tokens,
        max_requests=max_requests,
        max_queue=max_queue,
        max_budget=max_budget,
        max_adapt=max_adapt,
        state_memory=units.count(state_memory, "number of bytes") if state_memory else None,
        drain=units.seconds(drain),
        bits=bits,
    )
    return command.serve(options, choose_precision(choose_device(device), dtype), _warn)


@app.command
def tasks(
    name: Annotated[str, Positional, arg(metavar="NAME")] = "",
    show: int = 0,
    check: bool = False,
    count: int = 50,
    split: Literal["train", "val", "test"] = "train",
    seed: int = 0,
    json_: Json = None,
) -> int:
    """Problems with gold answers and verifiers: list the tasks, look at one, check that its verifier can be trusted.

    Args:
        name: Such as chain_sum, countdown:max_number=9, gym:mini_sudoku, stories or file:PATH.jsonl; gym alone lists
            the generators of reasoning-gym.
        show: Problems to print with their answers.
        check: Score gold answers with the task's own verifier.
        count: How many gold answers --check scores.
        split: Which problems; no problem is in two splits.
        seed: The same seed gives the same problems.
    """
    from wren.tasks import command

    check_json(json_)
    if check and count < 1:
        raise ConfigError(f"--count is {count}; it must be at least 1.")
    result = command.tasks_command(name, show=show, check=count if check else 0, split=split, seed=seed)
    return write(json_, result)


@app.command
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
        found = way(run, choose_precision(choose_device(device), dtype), asked_trying, _warn)
        print("\n".join(line(row) for row in found["forms"]))
        return write(json_, found)
    if task:
        from wren.adapt import few_shot, puzzles

        few = few_shot.FewShotConfig(lr=few_shot.LR if lr is None else lr, rank=rank, steps=steps)
        problems = puzzles.AskedTask(task=task, count=count, form=form, few_shot=few, compare=compare, seed=seed)
        found = puzzles.adapt_task(run, choose_precision(choose_device(device), dtype), problems, _warn)
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
    result = documents.adapt_documents(run, choose_precision(choose_device(device), dtype), asked, _warn)
    print("\n".join(documents.lines(result)))
    return write(json_, result)


@app.command(name="eval")
def evaluate(
    run: Path,
    text: tuple[str, ...] = (),
    pairs: tuple[Path, ...] = (),
    choice: tuple[Path, ...] = (),
    text_key: str = "text",
    device: Device = "auto",
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    json_: Json = None,
) -> int:
    """Bits per byte of a trained model on texts, and its accuracy on questions, with 95 % intervals.

    Args:
        run: The run directory; the results are kept in its evals/.
        text: Files, folders or globs of text.
        pairs: Minimal pairs as JSON lines with sentence_good and sentence_bad, as in BLiMP.
        choice: Multiple choice (context, choices, answer) and cloze (context, completion) as JSON lines.
        text_key: The JSON key or parquet column that holds the text.
        dtype: Number format of matrix products; auto chooses by the device.
    """
    from wren.evals import evaluate as evaluation
    from wren.precision import choose_device, choose_precision

    check_json(json_)
    precision = choose_precision(choose_device(device), dtype)
    asked: dict[str, Any] = {"texts": text, "pairs": pairs, "choices": choice, "text_key": text_key}
    result = evaluation.evaluate(run, precision, **asked, say=_warn)
    print("\n".join(evaluation.lines(result)))
    return write(json_, result)


@app.command
def export(
    run: Path,
    out: Path,
    format: Literal["hf", "gguf"] = "hf",
    dtype: Literal["fp32", "bf16", "fp16", "q8_0"] = "fp32",
    own_code: bool = False,
    json_: Json = None,
) -> int:
    """Write a trained model in another program's format.

    Args:
        run: The run directory.
        out: A new folder for hf; a new folder or a .gguf file for gguf.
        format: hf (transformers, and what reads its folders) or gguf (llama.cpp and what is built on it).
        dtype: Number format of the weights; q8_0 for gguf only.
        own_code: With hf, write Wren's own modelling file even where a class of transformers is the same.
    """
    from wren.export import command

    check_json(json_)
    result = command.export(run, out, format, dtype, own_code=own_code, say=_warn)
    print(f"{result['out']}: {result['architecture']}, {result['bytes']:,} bytes.")
    return write(json_, result)


@app.command(name="import")
def import_(
    source: Annotated[str, Positional, arg(metavar="SOURCE")] = "",
    from_: Annotated[str, arg(name="from", metavar="SOURCE")] = "",
    run: Annotated[Path | None, arg(aliases=("--out",))] = None,
    context_len: int | None = None,
    turns: bool = True,
    revision: str | None = None,
    json_: Json = None,
) -> int:
    """Make a run directory of a pretrained GPT-2, Llama, Mistral, Qwen2, Qwen3 or SmolLM model.

    Args:
        source: A local folder with config.json, safetensors and tokenizer.json, or a name on the Hugging Face hub.
        from_: The same as a flag.
        run: The new run directory; wren sample, eval, tune, chat and export take it.
        context_len: Length of the rows for evaluation and tuning; by default the model's, at most 2,048.
        turns: Give the vocabulary tokens for the turns of a conversation where it has none.
        revision: Branch, tag or commit on the hub.
    """
    from wren.export.importing import import_model

    check_json(json_)
    given = source or from_
    if not given or (source and from_) or run is None:
        raise ConfigError("Write `wren import SOURCE --run DIR`: a folder or a name on the hub, and a new run.")
    result = import_model(given, run, context_len=context_len, turns=turns, revision=revision, say=print)
    print(f"{run}: {result['family']}, {result['parameters']:,} parameters, {result['vocab_size']:,} tokens.")
    return write(json_, result)


@app.command
def data(
    source: tuple[str, ...] = (),
    out: Path = Path("data/mine"),
    tokenizer: Path | None = None,
    vocab_size: str = "32768",
    val: tuple[str, ...] = (),
    val_fraction: float | None = None,
    mix: str | None = None,
    text_key: str = "text",
    tokens: str | None = None,
    shard_tokens: str = "16M",
    dedup: Literal["none", "exact", "near"] = "none",
    decontaminate: tuple[str, ...] = (),
    strict: bool = False,
    fresh: bool = False,
    workers: int | None = None,
    dry_run: bool = False,
    json_: Json = None,
) -> int:
    """Turn text into token shards; interrupt it anywhere, the same command goes on.

    Args:
        source: Files, folders, globs or - (standard input): .txt, .jsonl, .parquet, each plain, .gz or .zst.
        out: The folder for shards, manifest and tokenizer.
        tokenizer: A tokenizer.json to use; by default one is trained on the first part of the text.
        vocab_size: Entries of a new tokenizer.
        val: Files of the validation split; by default a part is chosen by the content of each document.
        val_fraction: Share of the documents held out when --val is not given; by default 0.005.
        mix: Sources with weights instead of --source, such as a.jsonl:0.7,b.jsonl:0.3.
        text_key: The JSON key or parquet column that holds the text.
        tokens: Stop after about so many training tokens, such as 300M.
        shard_tokens: Tokens in a shard.
        dedup: Remove documents that are exact copies, or also near ones (MinHash; needs the dedup extra).
        decontaminate: Evaluation files whose text must not be in the training documents.
        strict: Refuse broken UTF-8 instead of replacing and counting it.
        fresh: Begin anew although the folder holds other or unfinished shards.
        workers: Threads that tokenize; by default one a core.
        dry_run: Only say what would be done.
    """
    from wren import units
    from wren.data.prepare import prepare
    from wren.data.shards import MANIFEST
    from wren.data.show import DataDisplay, plan, summary
    from wren.data.sources import StdinSource, open_sources, parse_mix
    from wren.files import read_json
    from wren.tokenizer import Tokenizer

    check_json(json_)
    if bool(source) == bool(mix):
        raise ConfigError("Give either --source PATH... or --mix PATH:WEIGHT,...; exactly one of them.")
    pairs = parse_mix(mix) if mix else [(path, 1.0) for path in source]
    stdin = StdinSource(sys.stdin.buffer, out, text_key, strict)
    sources = open_sources([path for path, _ in pairs], text_key=text_key, strict=strict, stdin=stdin)
    if dry_run:
        print(plan(sources, out, units.count(vocab_size, "vocabulary size")))
        return 0
    with DataDisplay() as display:
        manifest = prepare(
            sources,
            out,
            tokenizer=Tokenizer.load(tokenizer) if tokenizer else None,
            vocab_size=units.count(vocab_size, "vocabulary size"),
            val_sources=open_sources(val, text_key=text_key, strict=strict),
            val_fraction=val_fraction,
            max_tokens=units.count(tokens, "number of tokens") if tokens else None,
            shard_tokens=units.count(shard_tokens, "number of tokens"),
            weights=[weight for _, weight in pairs] if mix else None,
            dedup=dedup,
            decontaminate=decontaminate,
            workers=workers,
            fresh=fresh,
            progress=display.update,
            say=display.say,
        )
    print(summary(manifest, out))
    return write(json_, read_json(out / MANIFEST))


@tokenizer_app.command(name="train")
def tokenizer_train(
    source: tuple[str, ...],
    vocab_size: str = "32768",
    out: Path = Path("tokenizer.json"),
    text_key: str = "text",
    max_bytes: str | None = None,
    json_: Json = None,
) -> int:
    """Train a byte-level BPE tokenizer and save it as a Hugging Face tokenizer.json.

    Args:
        source: Files, folders or globs of text.
        vocab_size: Entries, special tokens included: 258 to 200,000.
        out: Where the tokenizer is saved.
        text_key: The JSON key or parquet column that holds the text.
        max_bytes: Read at most so much text, such as 500M; by default all of it.
    """
    from wren import units
    from wren.data.sources import open_sources, texts_of
    from wren.tokenizer import Tokenizer

    start = time.perf_counter()
    size = units.count(vocab_size, "vocabulary size")
    limit = units.count(max_bytes, "number of bytes") if max_bytes else None
    trained = Tokenizer.train(texts_of(open_sources(source, text_key=text_key)), size, max_bytes=limit)
    trained.save(out)
    seconds = time.perf_counter() - start
    print(f"{out}: {trained.vocab_size:,} entries, trained in {units.duration(seconds)}.")
    if trained.num_unused:
        print(f"The text gave only {trained.num_merges:,} merges, so {trained.num_unused:,} entries are unused.")
    return write(json_, {"vocab_size": trained.vocab_size, "fingerprint": trained.fingerprint(), "seconds": seconds})


@tokenizer_app.command(name="compare")
def tokenizer_compare(
    source: tuple[str, ...],
    sizes: str = "1k,2k,4k,8k,16k,32k,64k",
    dim: int = 768,
    depth: int = 12,
    tied: bool = True,
    text_key: str = "text",
    max_bytes: str = "64M",
    plot: Path | None = None,
    json_: Json = None,
) -> int:
    """Train tokenizers of several sizes on one sample and compare what they cost.

    Args:
        source: Files, folders or globs of text.
        sizes: Vocabulary sizes, such as 1k,4k,32768.
        dim: Width of the model they are compared for.
        depth: Layers of that model.
        tied: Whether its head shares the embedding.
        text_key: The JSON key or parquet column that holds the text.
        max_bytes: Size of the sample.
        plot: Draw the table into this .png.
    """
    from rich.console import Console

    from wren import units
    from wren.data.sources import open_sources, texts_of
    from wren.tokenizer import compare

    rows = compare.compare(
        texts_of(open_sources(source, text_key=text_key)),
        compare.parse_sizes(sizes),
        dim=dim,
        depth=depth,
        tied=tied,
        max_bytes=units.count(max_bytes, "number of bytes"),
        on_row=lambda row: print(f"{row.vocab_size:,} entries: {row.bytes_per_token:.3f} bytes per token", flush=True),
    )
    Console().print(compare.table(rows))
    if plot is not None:
        compare.plot(rows, plot)
        print(f"Drawn into {plot}.")
    return write(json_, {"sizes": compare.to_json(rows)})


@tokenizer_app.command(name="show")
def tokenizer_show(tokenizer: Path, text: str = "The wren sings: 3.14159 times louder than 1,000 others!") -> int:
    """Look at a text through a tokenizer, token by token.

    Args:
        tokenizer: A tokenizer.json, or a run or data folder that holds one.
        text: The text; - reads it from standard input.
    """
    from rich.console import Console

    from wren.tokenizer import Tokenizer
    from wren.tokenizer.compare import show

    path = tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer
    show(Tokenizer.load(path), sys.stdin.read() if text == "-" else text, Console())
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code."""
    from wren.exits import exit_code

    arguments = sys.argv[1:] if arguments is None else arguments
    arguments = arguments[1:] if arguments[:1] == ["--"] else arguments  # what torchrun -m wren -- leaves in front
    return exit_code("wren", lambda: _verb(arguments))


def _verb(arguments: Sequence[str]) -> int | None:
    from wren.exits import one_voice

    try:
        with one_voice():
            return app.cli(prog="wren", args=_completed(arguments))
    except (RuntimeError, MemoryError) as error:
        from wren.precision import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        short = " ".join(str(error).split())[:160]
        raise ConfigError(f"Out of memory ({short}); choose a smaller model or context, or fewer tokens.") from error


def _completed(arguments: Sequence[str]) -> list[str]:
    """With what `--fit` means where no size follows it."""
    ends = [*arguments[1:], "--"]
    return [x for word, after in zip(arguments, ends, strict=False) for x in _with_default(word, after)]


def _with_default(word: str, after: str) -> list[str]:
    return [word, "here"] if word == "--fit" and after.startswith("-") else [word]


def _warn(text: str) -> None:
    print(f"wren: {text}", file=sys.stderr)


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


if __name__ == "__main__":
    sys.exit(main())
