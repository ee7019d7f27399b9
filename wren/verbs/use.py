"""The verbs that use a run as it is: sample, eval, export; and import, which makes one.

Argument types and calls, nothing else: the heavy imports happen inside, so that `--help` answers at once.
"""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from wren.errors import ConfigError
from wren.flags import Device, Json, check_json, warn, write


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
    loaded = load_run(run, precision.device, warn)
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
    result = evaluation.evaluate(run, precision, **asked, say=warn)
    print("\n".join(evaluation.lines(result)))
    return write(json_, result)


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
    result = command.export(run, out, format, dtype, own_code=own_code, say=warn)
    print(f"{result['out']}: {result['architecture']}, {result['bytes']:,} bytes.")
    return write(json_, result)


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
