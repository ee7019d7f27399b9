"""`wren adapt --text`: bits per byte of documents as they are, with an adapter that learns from them, and in longer
contexts that take as long.

B batch, T time, N tokens of a document, V vocabulary.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wren.adapt.gate import GateConfig
from wren.adapt.learner import adapting
from wren.adapt.stream import Read, StreamConfig, adapt, score
from wren.adapt.windows import Windows
from wren.data.sources import open_sources
from wren.errors import ConfigError, DataError
from wren.generate import Loaded, load_run
from wren.intervals import ratio_interval
from wren.model import LM
from wren.precision import Precision
from wren.run import Run, context_len

LR = 3e-3
RATES = (1e-3, 2e-3, 4e-3, 8e-3)  # that --choose chooses among
LONGEST = 64  # times the context, of the longer ones


class Document(NamedTuple):
    """tokens_N: the document's start first. bytes: of the tokens after it."""

    name: str
    text: str
    tokens_N: Tensor
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the verb was asked for. choose: files to choose the learning rate on, else lr, None = LR.

    context: tokens that a chunk sees before it, None = what fits the length that the run was trained on. max_tokens: of
    each document. compare: also the form without gate, and longer contexts. The rest is StreamConfig's.
    """

    texts: tuple[str, ...]
    choose: tuple[str, ...] = ()
    lr: float | None = None
    rank: int = 16
    chunk: int = 64
    context: int | None = None
    gate: bool = True
    carry: bool = False
    max_tokens: int | None = None
    streams: int = 8
    text_key: str = "text"
    seed: int = 0
    compare: bool = True

    def __post_init__(self) -> None:
        if not self.texts:
            raise ConfigError("There is nothing to adapt to; give --text FILE or --task NAME.")
        if self.lr is not None and self.choose:
            raise ConfigError("--lr and --choose both say what the learning rate is; give one of them.")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"--max-tokens is {self.max_tokens}; it must be at least 1.")

    def stream(self, run: Run) -> StreamConfig:
        context = max(0, context_len(run) - self.chunk) if self.context is None else self.context
        past = "carry" if self.carry else "recompute"
        return StreamConfig(
            lr=LR if self.lr is None else self.lr,
            rank=self.rank,
            windows=Windows(chunk=self.chunk, context=context, past=past),
            gate=GateConfig() if self.gate else None,
            streams=self.streams,
        )


def adapt_documents(
    run: Path | str, precision: Precision, asked: Asked, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """{"bits_per_byte", "low", "high", "before", "saved", ..., "texts": [...], "forms": [...]}; see `summary`.

    say: is told what goes on. Raises a WrenError for a mistake of the user.
    """
    loaded = load_run(run, precision.device, say)
    config = asked.stream(Run(run))
    documents = read_documents(asked.texts, loaded, asked)
    chosen: list[dict[str, float]] = []
    if asked.choose:
        others = read_documents(asked.choose, loaded, asked)
        _check_apart(documents, others)
        chosen = choose_rate(loaded.model, others, config, precision, seed=asked.seed, say=say)
        config = replace(config, lr=min(chosen, key=lambda row: row["bits_per_byte"])["lr"])
    forms = [measure(f"context {config.windows.context}", documents, say, _scoring(loaded.model, config, precision))]
    wanted = {"with the gate" if asked.gate else "without a gate": config}
    if asked.gate and asked.compare:
        wanted["without a gate"] = replace(config, gate=None)
    for name, form in wanted.items():
        forms.append(measure(name, documents, say, _adapting(loaded.model, form, precision, asked.seed)))
    if asked.compare:
        forms += longer(loaded.model, documents, config, precision, forms[1]["seconds"], say)
    return {
        **summary(documents, forms),
        "step": loaded.step,
        "precision": precision.name,
        "lr": config.lr,
        "rank": config.rank,
        "chunk": config.windows.chunk,
        "context": config.windows.context,
        "past": config.windows.past,
        "chosen": chosen,
    }


def read_documents(paths: Sequence[str], loaded: Loaded, asked: Asked) -> list[Document]:
    """Every document that is not empty, cut to max_tokens; raises DataError where there is none."""
    documents = list(_documents(paths, loaded, asked))
    if not documents:
        raise DataError(f"There is no text in {', '.join(paths)}; give a file with text in it.")
    return documents


def _documents(paths: Sequence[str], loaded: Loaded, asked: Asked) -> Iterator[Document]:
    sizes_V = torch.from_numpy(loaded.tokenizer.token_bytes())
    for source in open_sources(paths, text_key=asked.text_key):
        for part in source.parts():
            for number, text in enumerate(part.documents(), 1):
                tokens = loaded.tokenizer.encode(text)[: asked.max_tokens]
                tokens_N = torch.tensor([loaded.tokenizer.document_id, *tokens])
                if num_bytes := int(sizes_V[tokens_N[1:]].sum()):
                    yield Document(f"{part.name}:{number}", text, tokens_N, num_bytes)


def _check_apart(documents: Sequence[Document], others: Sequence[Document]) -> None:
    known = {document.text: document.name for document in documents}
    for other in others:
        if (name := known.get(other.text)) is not None:
            raise DataError(
                f"{other.name} of --choose is {name} of --text; the learning rate must be chosen on other documents."
            )


def choose_rate(
    model: LM,
    documents: Sequence[Document],
    config: StreamConfig,
    precision: Precision,
    *,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> list[dict[str, float]]:
    """[{"lr", "bits_per_byte"}]: what each of RATES makes of the documents without a gate."""
    found = []
    for lr in RATES:
        form = _adapting(model, replace(config, lr=lr, gate=None), precision, seed)
        row = measure(f"learning rate {lr:g} on other documents", documents, say, form)
        found.append({"lr": lr, "bits_per_byte": row["bits_per_byte"]})
    return found


_Form = Callable[[list[Tensor]], list[Read]]


def _scoring(model: LM, config: StreamConfig, precision: Precision) -> _Form:
    return lambda texts: score(model, texts, config.windows, precision, streams=config.streams)


def _adapting(model: LM, config: StreamConfig, precision: Precision, seed: int) -> _Form:
    def run(texts: list[Tensor]) -> list[Read]:
        with adapting(model) as adapters:
            return adapt(adapters, texts, config, precision, seed=seed)

    return run


def measure(name: str, documents: Sequence[Document], say: Callable[[str], None], form: _Form) -> dict[str, Any]:
    """{"name", "bits_per_byte", "low", "high", "seconds", "cpu_seconds", "reads"} of one form.

    low, high: 95 % over the documents. cpu_seconds: of all threads, which a busy machine does not lengthen.
    """
    start, cpu_start = time.perf_counter(), time.process_time()
    reads = form([document.tokens_N for document in documents])
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    bits, sizes = bits_of(reads), [float(document.bytes) for document in documents]
    low, high = ratio_interval(bits, sizes) or (None, None)
    row = {"name": name, "bits_per_byte": sum(bits) / sum(sizes), "low": low, "high": high, "seconds": seconds}
    row["cpu_seconds"] = cpu_seconds
    say(f"{row['bits_per_byte']:.4f} bits per byte, {name} ({seconds:.1f} s)")
    return {**row, "reads": reads}


def bits_of(reads: Sequence[Read]) -> list[float]:
    return [float(read.nats_N.sum()) / math.log(2) for read in reads]


def longer(
    model: LM,
    documents: Sequence[Document],
    config: StreamConfig,
    precision: Precision,
    seconds: float,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Twice the context, four times, ... without adapters, up to the first that takes at least these seconds."""
    found: list[dict[str, Any]] = []
    limit, windows = model.config.learned_positions, config.windows
    longest = max(len(document.tokens_N) for document in documents)
    spent, context = 0.0, windows.context or windows.chunk
    while spent < seconds and context < min(longest, LONGEST * (windows.context + windows.chunk)):
        context *= 2
        if limit is not None and context + windows.chunk > limit:
            break
        wide = replace(config, windows=replace(windows, context=context, past="recompute"))
        found.append(measure(f"context {context}", documents, say, _scoring(model, wide, precision)))
        spent = found[-1]["seconds"]
    return found


def summary(documents: Sequence[Document], forms: list[dict[str, Any]]) -> dict[str, Any]:
    """The first form is what the second, adapted one is compared with.

    "saved": the share of the bits that adapting saves, with its interval over the documents. "texts": the documents.
    "forms": all forms, with what their adapters did.
    """
    before, after = forms[0], forms[1]
    texts = []
    for document, plain, read in zip(documents, before["reads"], after["reads"], strict=True):
        old, new = (value / document.bytes for value in bits_of([plain, read]))
        row = {"name": document.name, "bytes": document.bytes, "before": old, "bits_per_byte": new}
        texts.append(row | {key: getattr(read, key) for key in ("chunks", "adapted", "learned", "rollbacks")})
    return {
        **{key: after[key] for key in ("bits_per_byte", "low", "high", "seconds")},
        "before": before["bits_per_byte"],
        **{f"saved{key}": value for key, value in _saved(before, after).items()},
        "rollbacks": sum(read.rollbacks for read in after["reads"]),
        "texts": texts,
        "forms": [_row(before, form) for form in forms],
    }


def _saved(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float | None]:
    old, new = bits_of(before["reads"]), bits_of(after["reads"])
    low, high = ratio_interval([a - b for a, b in zip(old, new, strict=True)], old) or (None, None)
    return {"": 1 - sum(new) / sum(old), "_low": low, "_high": high}


def _row(before: dict[str, Any], form: dict[str, Any]) -> dict[str, Any]:
    reads: list[Read] = form["reads"]
    done = {key: sum(getattr(r, key) for r in reads) for key in ("chunks", "adapted", "learned", "rollbacks")}
    saved = {f"saved{key}": value for key, value in _saved(before, form).items()}
    return {key: value for key, value in form.items() if key != "reads"} | saved | done


def lines(result: dict[str, Any]) -> list[str]:
    """The results in words."""
    texts = result["texts"]
    found = [f"{'before':>8} {'after':>8} {'saved':>7}  {'adapted':>8}  document"]
    for row in texts[:20]:
        saved, adapted = 1 - row["bits_per_byte"] / row["before"], row["adapted"] / row["chunks"]
        figures = f"{row['before']:8.4f} {row['bits_per_byte']:8.4f} {saved:7.1%}  {adapted:8.0%}"
        found.append(f"{figures}  {row['name']} ({row['bytes']:,} bytes)")
    if len(texts) > 20:
        found.append(f"... and {len(texts) - 20} more documents")
    found.append("")
    found.append(f"{'bits/byte':>9} {'saved, 95 % interval':>26} {'seconds':>8}  form")
    for row in result["forms"]:
        interval = "" if row["saved_low"] is None else f" [{row['saved_low']:.1%}, {row['saved_high']:.1%}]"
        saved = f"{row['saved']:.1%}{interval}" if row is not result["forms"][0] else ""
        undone = f", {row['rollbacks']} times taken back" if row["rollbacks"] else ""
        found.append(f"{row['bits_per_byte']:9.4f} {saved:>26} {row['seconds']:8.1f}  {row['name']}{undone}")
    return found
