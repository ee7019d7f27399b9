"""Decoding: tokens a second of Wren's engine beside `transformers` generate, on the same weights, and what bits cost.

    python bench/decode.py [--sizes 25M,124M] [--dtypes fp32,bf16] [--batches 1,8,64] [--contexts 512,8192]
    python bench/decode.py --run RUN --text FILE [--gguf FILE]     bits per byte at 8 and 4 bits; beside llama.cpp

Both generate greedily after reading the same prompts; a repeat times one and then the other, and ratios are of
neighbouring times. The time of reading is taken off: what a generation of 1 token takes, off what one of N + 1 takes.
Models are random Llamas (recipe llama) whose logits are compared first; speed does not depend on weights. A cell whose
prompts hold more than --most-read tokens is left out. At batch 1 there are rows of 8 and 4 bits too.

B batch, T time.
"""

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from measures import options
from measures.record import Record
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from wren import recipes
from wren.data.loader import TokenStream
from wren.data.sources import open_sources
from wren.errors import ConfigError, DataError, unknown_key
from wren.evals.bits_per_byte import bits_per_byte
from wren.exits import exit_code
from wren.generate import Bits, Engine, Request, Sampling, load_run, prepared
from wren.lab.machine import in_words
from wren.model import LM
from wren.precision import Precision, choose_device, choose_precision
from wren.tokenizer import Tokenizer

OUT = Path(__file__).parent / "out" / "decode.json"
# depth, width, heads, vocabulary; the head is the embedding
SIZES = {"1M": (2, 64, 2, 4096), "25M": (8, 448, 7, 12_288), "124M": (12, 768, 12, 50_304)}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Timed(NamedTuple):
    """Seconds of reading with the first token, and of each token of the batch after it."""

    first: float
    rest: float


def ours(size: str) -> LM:
    depth, dim, heads, vocab_size = SIZES[size]
    settings = [f"depth={depth}", f"dim={dim}", f"num_heads={heads}", "tie_embeddings=true"]
    torch.manual_seed(0)
    return recipes.build("llama", vocab_size=vocab_size, settings=settings).model.build().eval()


def theirs(model: LM, max_len: int) -> nn.Module:
    """transformers' Llama with the same weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config, attention = model.config, model.config.mixers[0]
    heads = attention.num_heads  # type: ignore[attr-defined]
    found = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size, hidden_size=config.dim, num_hidden_layers=config.depth,
            intermediate_size=model.get_parameter("blocks.0.mlp.gate.weight").shape[0], num_attention_heads=heads,
            num_key_value_heads=heads, max_position_embeddings=max_len, rms_norm_eps=config.norm_eps,
            tie_word_embeddings=True, bos_token_id=None, eos_token_id=None, pad_token_id=0,
        )
    )  # fmt: skip
    names = {
        "embedding": "model.embed_tokens", "head": "lm_head", "norm": "model.norm", "blocks": "model.layers",
        "mixer_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm", "mixer.q": "self_attn.q_proj",
        "mixer.k": "self_attn.k_proj", "mixer.v": "self_attn.v_proj", "mixer.out": "self_attn.o_proj",
        "mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj", "mlp.out": "mlp.down_proj",
    }  # fmt: skip
    weights = {}
    for name, value in model.state_dict().items():
        first, _, rest = name.removesuffix(".weight").partition(".")
        number, _, inner = rest.partition(".")
        weights[f"{names[first]}.{number}.{names[inner]}.weight" if inner else f"{names[first]}.weight"] = value
    found.load_state_dict(weights)
    return found.eval()


@torch.no_grad()
def check_same(model: LM, other: nn.Module) -> float:
    """The largest difference of logits; raises ConfigError where the models are not the same."""
    tokens_BT = torch.randint(model.config.vocab_size, (2, 33), generator=torch.Generator().manual_seed(1))
    gap = float((model(tokens_BT) - other(tokens_BT).logits).abs().max())
    if not gap < 1e-3:
        raise ConfigError(f"The two models' logits differ by {gap:.2g}; their times cannot be compared.")
    return gap


def time_ours(engine: Engine, prompts_BT: Tensor, count: int) -> Timed:
    """Greedy decoding of all rows until each has count + 1 tokens."""
    sampling = Sampling(max_tokens=count + 1, temperature=0.0)
    start = time.perf_counter()
    handles = [engine.submit(Request(prompt=row, sampling=sampling)) for row in prompts_BT.tolist()]
    while any(not handle.completions[0].drawn for handle in handles):
        engine.step()
    first = time.perf_counter()
    before = sum(len(handle.completions[0].drawn) for handle in handles)
    while not all(handle.done for handle in handles):
        engine.step()
    end = time.perf_counter()
    engine.step()
    drawn = len(handles) * (count + 1) - before
    return Timed(first - start, (end - first) / drawn * len(handles))


@torch.no_grad()
def time_theirs(model: Any, prompts_BT: Tensor, count: int) -> Timed:
    mask = torch.ones_like(prompts_BT)

    def seconds(tokens: int) -> float:
        start = time.perf_counter()
        model.generate(prompts_BT, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        return time.perf_counter() - start

    first, whole = seconds(1), seconds(count + 1)
    return Timed(first, max(1e-9, whole - first) / count)


def measure_size(size: str, args: argparse.Namespace, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """A row for every dtype, batch, context and number of bits."""
    model = ours(size)
    longest = max(args.contexts) + args.tokens + 8
    other = theirs(model, longest)
    say(f"{size}: {model.num_params():,} parameters, logits differ by {check_same(model, other):.1e}")
    rows = []
    for dtype in args.dtypes:
        precision = Precision(device=choose_device("cpu"), autocast=None if dtype == "fp32" else DTYPES[dtype], why="")
        peer = other.to(DTYPES[dtype])
        for context in args.contexts:
            for batch in args.batches:
                if batch * context > args.most_read:
                    say(f"  {size} {dtype} batch {batch} after {context}: left out, {batch * context:,} tokens to read")
                    continue
                choices: list[Bits | None] = [None, 8, 4] if batch == 1 else [None]
                for bits in choices:
                    engine = Engine(model, precision, max_rows=batch, max_bytes=args.max_bytes, bits=bits)
                    row = cell(engine, peer, batch, context, args)
                    rows.append({"size": size, "dtype": dtype, "bits": bits, **row})
                    say(in_a_line(rows[-1]))
    return rows


def cell(engine: Engine, peer: nn.Module, batch: int, context: int, args: argparse.Namespace) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    prompts_BT = torch.randint(engine.drawable, (batch, context), generator=generator)
    time_ours(engine, prompts_BT[:, :16], 4)
    time_theirs(peer, prompts_BT[:, :16], 4)
    pairs = []
    for _ in range(args.repeats):
        pairs.append((time_ours(engine, prompts_BT, args.tokens), time_theirs(peer, prompts_BT, args.tokens)))
    speeds = [(batch / a.rest, batch / b.rest) for a, b in pairs]
    ratios = sorted(a / b for a, b in speeds)
    return {
        "batch": batch,
        "context": context,
        "tokens_per_second": statistics.median(a for a, _ in speeds),
        "peer_tokens_per_second": statistics.median(b for _, b in speeds),
        "ratio": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
        "reading_ratio": statistics.median(b.first / a.first for a, b in pairs),
    }


def in_a_line(row: dict[str, Any]) -> str:
    kind = row["dtype"] if row["bits"] is None else f"{row['dtype']}, {row['bits']} bits"
    return (
        f"  {row['size']} {kind} batch {row['batch']} after {row['context']}: {row['tokens_per_second']:.1f} tokens/s, "
        f"transformers {row['peer_tokens_per_second']:.1f}, {row['ratio']:.2f}x"
    )


def show(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table(
        "model", "format", "batch", "after", "tokens/s", "transformers", "ratio", "least to most", "reading",
        title="Greedy decoding; ratios over transformers in the same format", box=box.SIMPLE,
    )  # fmt: skip
    for row in rows:
        low, high = row["ratio_range"]
        kind = row["dtype"] if row["bits"] is None else f"{row['bits']} bits beside {row['dtype']}"
        table.add_row(
            row["size"], kind, str(row["batch"]), f"{row['context']:,}", f"{row['tokens_per_second']:.1f}",
            f"{row['peer_tokens_per_second']:.1f}", f"{row['ratio']:.2f}x", f"{low:.2f} to {high:.2f}",
            f"{row['reading_ratio']:.2f}x",
        )  # fmt: skip
    console.print(table)


def bits_cost(args: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """Bits per byte of a run's model on a text, whole and in fewer bits."""
    device = choose_device("cpu")
    loaded = load_run(args.run, device, console.print)
    precision = choose_precision(device, "fp32")
    tokens = first_tokens(args.text, loaded.tokenizer, args.eval_tokens)
    if len(tokens) < 2:
        raise DataError(f"{args.text} holds no text; name another file.")
    context_len = min(256, len(tokens) - 1)
    rows: list[dict[str, Any]] = []
    choices: list[Bits | None] = [None, 8, 4]
    for bits in choices:
        stream = TokenStream([tokens], loaded.tokenizer.document_id, context_len)
        model = prepared(loaded.model, precision, bits)
        found = bits_per_byte(model, stream.batches_in_order(8), loaded.tokenizer.token_bytes(), precision)
        cost = found["bits_per_byte"] - rows[0]["bits_per_byte"] if rows else 0.0
        rows.append({"bits": bits, "bits_per_byte": found["bits_per_byte"], "cost": cost, "bytes": found["bytes"]})
        name = "float32" if bits is None else f"{bits} bits"
        console.print(f"  {name}: {found['bits_per_byte']:.4f} bits per byte, {cost:+.4f}", highlight=False)
    return rows


def first_tokens(path: Path, tokenizer: Tokenizer, count: int) -> np.ndarray:
    """The first documents of a file end to end, each behind its document start, at most so many tokens."""
    tokens: list[int] = []
    for source in open_sources([str(path)], text_key="text"):
        for part in source.parts():
            for text in part.documents():
                if len(tokens) >= count:
                    break
                tokens += [tokenizer.document_id, *tokenizer.encode(text)]
    return np.array(tokens[:count], dtype=np.uint32)


def beside_llama_cpp(args: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """A run's model in the engine, and its GGUF export in llama.cpp, one row."""
    try:
        llama_cpp = importlib.import_module("llama_cpp")
    except ImportError as error:
        raise ConfigError("--gguf needs llama.cpp: pip install llama-cpp-python.") from error
    loaded = load_run(args.run, choose_device("cpu"), console.print)
    rows: list[dict[str, Any]] = []
    for context in args.contexts:
        positions = loaded.model.config.learned_positions
        if positions is not None and context + args.tokens + 1 > positions:
            console.print(f"  after {context}: left out, the model has {positions} learned positions")
            continue
        prompt = torch.randint(loaded.tokenizer.vocab_size, (1, context), generator=torch.Generator().manual_seed(0))
        peer = llama_cpp.Llama(
            str(args.gguf), n_ctx=context + args.tokens + 8, n_threads=torch.get_num_threads(), verbose=False
        )
        engine = Engine(loaded.model, choose_precision(choose_device("cpu"), "fp32"))
        ratios = []
        for _ in range(args.repeats):
            mine = time_ours(engine, prompt, args.tokens)
            peer.reset()
            peer.eval(prompt[0].tolist())
            start = time.perf_counter()
            for _ in range(args.tokens):
                peer.eval([peer.sample(temp=0.0)])
            ratios.append((time.perf_counter() - start) / args.tokens / mine.rest)
        rows.append({"context": context, "ratio": statistics.median(ratios), "ratio_range": [min(ratios), max(ratios)]})
        console.print(f"  after {context}: {rows[-1]['ratio']:.2f}x of llama.cpp's tokens/s", highlight=False)
    return rows


def _named(known: dict[str, Any], kind: str) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(unknown_key(kind, name, known))
        return names

    return read


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = found.add_argument
    add("--sizes", type=_named(SIZES, "Size"), default=["25M", "124M"], help="25M, 124M, or 1M for a trial")
    add("--dtypes", type=_named(DTYPES, "Format"), default=["fp32", "bf16"])
    add("--batches", type=options.wholes, default=[1, 8, 64])
    add("--contexts", type=options.wholes, default=[512, 8192])
    add("--tokens", type=options.whole, default=64, help="N, drawn after the first one")
    add("--repeats", type=options.whole, default=3)
    add("--most-read", type=options.whole, default=33_000, help="tokens of prompts in a cell")
    add("--max-bytes", type=options.whole, default=12 << 30, help="of the engine's states")
    add("--run", type=Path, help="a run whose model is measured at 8 and 4 bits, and beside --gguf")
    add("--text", type=Path, help="the text for that")
    add("--eval-tokens", type=options.whole, default=100_000, help="read of the text")
    add("--gguf", type=Path, help="the run's GGUF export, for llama.cpp")
    add("--json", type=Path, default=OUT, help="where the numbers go")
    return found


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    console = Console()
    if (args.text is None) != (args.run is None) and args.gguf is None:
        raise ConfigError("Give --run and --text together: a text is measured with a run's model.")
    if args.gguf is not None and args.run is None:
        raise ConfigError("--gguf is compared with the model of --run; give both.")
    record = Record.begin(args.json, choose_device("cpu"), vars(args))
    console.print(f"on {in_words(record.content['machine'])}", highlight=False)
    if args.run is not None:
        if args.text is not None:
            record.put("bits", {"rows": bits_cost(args, console)})
        if args.gguf is not None:
            record.put("llama_cpp", {"rows": beside_llama_cpp(args, console)})
    else:
        rows: list[dict[str, Any]] = []
        for size in args.sizes:
            rows += measure_size(size, args, lambda text: console.print(text, highlight=False))
            record.put("speed", {"rows": rows})
        show(rows, console)
    console.print(f"written to {args.json}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("decode.py", main))
