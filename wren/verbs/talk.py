"""The verbs of conversations: tune, chat, serve.

Argument types and calls, nothing else: the heavy imports happen inside, so that `--help` answers at once.
"""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from wren.errors import ConfigError
from wren.flags import Device, Json, Settings, check_json, warn, write


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
        say=warn,
        learning=(lambda loaded, precision, talk: Talk(loaded.model, talk.engine, precision, talk.context_len))
        if adapt
        else None,
    )
    write(json_, result)
    return code


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
    return command.serve(options, choose_precision(choose_device(device), dtype), warn)
