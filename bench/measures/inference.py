"""What generating costs: bytes of state, and tokens a second after a long prompt, of wren beside llama.

llama comes twice, with as many key-value heads as wren's global layers have and with all of them (multi-head
attention); depth, width, vocabulary and number format are the same. Models are untrained: neither depends on weights.
State is counted twice: the bytes of every tensor that new_state makes, numbers of tokens too, and the model's formula.
Decoding is greedy, one row; a repeat reads the whole prompt and then decodes, the models in turn, and ratios are of
neighbouring times.

T time.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from measures.training import Say, build, now
from wren import units
from wren.generate import prepared
from wren.mixers import attention
from wren.model import LM
from wren.precision import Precision
from wren.recipes import RunConfig

LENGTHS = (2048, 8192, 32_768)
CONTEXTS = (512, 8192)
DECODED, WARMUP = 64, 512  # tokens


def contestants(depth: int, dim: int, vocab_size: int, settings: Sequence[str] = ()) -> dict[str, RunConfig]:
    """wren first. settings: of wren alone, such as pattern=LLLG."""
    ours = build("wren", vocab_size, depth, dim, settings)
    heads = build("llama", vocab_size, depth, dim).model.mixers[0].num_heads  # type: ignore[attr-defined]
    found = {"wren": ours}
    for kv_heads in (global_kv_heads(ours, heads), heads):
        found[f"llama, {kv_heads} KV"] = build("llama", vocab_size, depth, dim, [f"num_kv_heads={kv_heads}"])
    return found


def global_kv_heads(config: RunConfig, otherwise: int) -> int:
    """Key-value heads of a model's attention over the whole context, the most of a layer; `otherwise` without any."""
    layers = [mixer for mixer in config.model.mixers if isinstance(mixer, attention.Config) and mixer.window is None]
    return max((layer.num_kv_heads or layer.num_heads for layer in layers), default=otherwise)


def measure(
    configs: dict[str, RunConfig],
    precision: Precision,
    *,
    lengths: Sequence[int] = LENGTHS,
    contexts: Sequence[int] = CONTEXTS,
    decoded: int = DECODED,
    repeats: int = 3,
    say: Say,
    begin: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """State and speed; the models are built once. begin: called before each repeat, and may raise."""
    torch.manual_seed(0)
    models = {name: config.model.build().to(precision.device).eval() for name, config in configs.items()}
    state = state_rows(models, lengths, precision.device)
    models = {name: prepared(model, precision) for name, model in models.items()}  # as the engine decodes
    rows = []
    for context in contexts:
        rows += decode_rows(models, context, decoded, repeats, precision, say, begin)
    params = {name: model.num_params() for name, model in models.items()}
    shape = {"depth": configs["wren"].model.depth, "dim": configs["wren"].model.dim}
    return {**shape, "dtype": precision.name, "params": params, "state": state, "decode": rows}


def state_rows(models: dict[str, LM], lengths: Sequence[int], device: torch.device) -> list[dict[str, Any]]:
    """At 2 bytes a cached value; ratio: the model's bytes over wren's."""
    rows = []
    for length in lengths:
        sizes = {name: state_size(model, length, device) for name, model in models.items()}
        for name, model in models.items():
            row = {"name": name, "length": length, "state_bytes": sizes[name], "formula": model.state_bytes(length)}
            rows.append({**row, "ratio": sizes[name] / sizes["wren"]})
    return rows


def state_size(model: LM, length: int, device: torch.device) -> int:
    """Bytes of all tensors of a state for one row of so many tokens."""
    state = model.new_state(1, length, device=device, dtype=torch.bfloat16)
    tensors = [state.lengths_B, *(x for part in state.states() for x in part.tensors().values())]
    return sum(x.numel() * x.element_size() for x in tensors)


def decode_rows(
    models: dict[str, LM],
    context: int,
    decoded: int,
    repeats: int,
    precision: Precision,
    say: Say,
    begin: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """A row per model: medians, ranges and all repeats. ratio: wren's speed over the model's."""
    generator = torch.Generator().manual_seed(0)
    vocab_size = models["wren"].config.vocab_size
    prompt_1T = torch.randint(vocab_size, (1, context), generator=generator).to(precision.device)
    begin()
    for model in models.values():  # kernels are chosen for each length on a GPU; a CPU only wakes up
        warm_1T = prompt_1T if precision.device.type == "cuda" else prompt_1T[:, :WARMUP]
        decode(model, warm_1T, min(decoded, 8), precision)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    names = list(models)
    for repeat in range(repeats):
        begin()
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(decode(models[name], prompt_1T, decoded, precision))
            reading, writing = times[name][-1]
            say(f"  {name} at {context}: prompt {reading:.2f} s, then {decoded / writing:.1f} tokens/s")
    return [_row(name, context, decoded, times) for name in names]


def _row(name: str, context: int, decoded: int, times: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    reading, writing = zip(*times[name], strict=True)
    speeds = [decoded / seconds for seconds in writing]
    prefills = [context / seconds for seconds in reading]
    pairs = list(zip(times[name], times["wren"], strict=True))
    return {
        "name": name,
        "context": context,
        "prefill_tokens_per_second": statistics.median(prefills),
        "prefill_range": [min(prefills), max(prefills)],
        "decode_tokens_per_second": statistics.median(speeds),
        "decode_range": [min(speeds), max(speeds)],
        "prefill_ratio": statistics.median(theirs[0] / ours[0] for theirs, ours in pairs),
        "ratio": statistics.median(theirs[1] / ours[1] for theirs, ours in pairs),
        "seconds": [list(pair) for pair in times[name]],
    }


@torch.inference_mode()
def decode(model: LM, prompt_1T: torch.Tensor, count: int, precision: Precision) -> tuple[float, float]:
    """Seconds of reading the prompt, and of `count` more tokens.

    One autocast context holds it all; keys and values are kept in its format.
    """
    device = precision.device
    with precision.context():
        state = model.new_state(1, prompt_1T.shape[1] + count, device=device, dtype=precision.autocast or torch.float32)
        start = now(device)
        token_11 = model.logits(model.hidden(prompt_1T, state=state)[:, -1:]).argmax(dim=-1)
        read = now(device)
        for _ in range(count):
            token_11 = model.logits(model.hidden(token_11, state=state)).argmax(dim=-1)
        return read - start, now(device) - read


def show(result: dict[str, Any], console: Console) -> None:
    title = f"{result['depth']} layers, width {result['dim']}, one row"
    table = Table(
        "model",
        "length",
        "bytes of state",
        "by formula",
        "over wren's",
        title=f"{title}: state, 16-bit",
        box=box.SIMPLE,
    )
    for row in result["state"]:
        table.add_row(
            row["name"], f"{row['length']:,}", units.size(row["state_bytes"]), units.size(row["formula"]),
            f"{row['ratio']:.2f}x",
        )  # fmt: skip
    console.print(table)
    table = Table(
        "model", "prompt", "read/s", "written/s", "least to most", "wren over it",
        title=f"{title}: greedy decoding, tokens, {result['dtype']}",
        box=box.SIMPLE,
    )  # fmt: skip
    for row in result["decode"]:
        low, high = row["decode_range"]
        table.add_row(
            row["name"], f"{row['context']:,}", f"{row['prefill_tokens_per_second']:,.0f}",
            f"{row['decode_tokens_per_second']:.1f}", f"{low:.1f} to {high:.1f}",
            "" if row["name"] == "wren" else f"{row['ratio']:.2f}x",
        )  # fmt: skip
    console.print(table)
