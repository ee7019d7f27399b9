"""Which vocabulary size is worth it: bytes per token against what the embedding and the output head cost.

Each size is trained on the same sample and measured on a part of it that no tokenizer saw. Training costs about 6 FLOPs
per token for every parameter that a token is multiplied with (2001.08361): the body of the model and its output head;
the embedding is only looked up. Divided by bytes per token this is the price of a byte, the number to compare.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from wren.errors import ConfigError, TokenizerError
from wren.files import atomic_writer
from wren.tokenizer import special
from wren.tokenizer.bpe import Tokenizer, first_bytes, training_pieces

_COLOURS = ("black on bright_cyan", "black on bright_yellow", "black on bright_green", "black on bright_magenta")
_HELD_OUT = 10  # one part in this many is measured, the others train


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One vocabulary size beside a model of `dim` and `depth`."""

    vocab_size: int
    num_unused: int  # ids that the sample had no merge for
    tokens: int  # of the held-out part
    bytes_per_token: float  # on the held-out part
    embedding_parameters: int  # the head's too if it is not tied to the embedding
    body_parameters: int  # all others
    embedding_share: float  # of all parameters
    flops_per_byte: float  # to train on one byte of text: forward and backward
    train_seconds: float  # to train the tokenizer


def parse_sizes(text: str) -> list[int]:
    """`1k,2k,32768` -> [1024, 2048, 32768], each once, ascending. Raises ConfigError."""
    sizes = set()
    for part in text.replace(" ", "").lower().split(","):
        digits, unit = (part[:-1], 1024) if part.endswith("k") else (part, 1)
        if not (digits.isascii() and digits.isdigit()):
            raise ConfigError(f"'{part}' is not a vocabulary size; write sizes as 1k,2k,32768 (1k is 1024).")
        size = int(digits) * unit
        if not special.MIN_VOCAB_SIZE <= size <= special.MAX_VOCAB_SIZE:
            raise ConfigError(
                f"A vocabulary of '{part}' is {size:,} ids; choose from {special.MIN_VOCAB_SIZE} "
                f"to {special.MAX_VOCAB_SIZE:,} (1k is 1024)."
            )
        sizes.add(size)
    return sorted(sizes)


def split_sample(texts: Iterable[str], max_bytes: int | None) -> tuple[list[str], list[str]]:
    """(training part, held-out part): every tenth document is held out, or every tenth passage of a few long ones.

    Raises TokenizerError when the sample is too small to hold anything out.
    """
    documents = [text for text in first_bytes(texts, max_bytes) if text]
    if len(documents) < 2 * _HELD_OUT:
        documents = list(training_pieces(documents))
    held_out = documents[_HELD_OUT - 1 :: _HELD_OUT]
    if not held_out:
        raise TokenizerError(
            "The sample is too small to compare vocabularies: a tenth of it is held out to measure on; "
            "name a source of at least 100 kB."
        )
    return [text for i, text in enumerate(documents) if i % _HELD_OUT != _HELD_OUT - 1], held_out


def compare(
    texts: Iterable[str],
    sizes: Sequence[int],
    *,
    dim: int,
    depth: int,
    tied: bool = True,
    body_parameters: int | None = None,
    max_bytes: int | None = 64_000_000,
    on_row: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Trains one tokenizer per size on the same sample of `texts` and measures each on the held-out tenth.

    dim, depth: the model to compare for; its body has 12 depth dim^2 parameters (attention 4, MLP 8) unless
    `body_parameters` says how many. tied: the output head shares the embedding. max_bytes: size of the sample, which
    is held in memory. on_row is told each row when it is ready (a progress bar). Raises ConfigError, TokenizerError.
    """
    if dim < 1 or depth < 1 or (body_parameters is not None and body_parameters < 1):
        raise ConfigError("The model to compare for needs a dim, a depth and body_parameters of at least 1.")
    training, held_out = split_sample(texts, max_bytes)
    body = 12 * depth * dim**2 if body_parameters is None else body_parameters
    rows = []
    for size in sizes:
        row = _measure(training, held_out, size, dim, body, tied)
        rows.append(row)
        if on_row is not None:
            on_row(row)
    return rows


def _measure(training: list[str], held_out: list[str], size: int, dim: int, body: int, tied: bool) -> Row:
    start = time.perf_counter()
    tokenizer = Tokenizer.train(training, size)
    seconds = time.perf_counter() - start
    tokens = sum(len(encoded) for encoded in tokenizer.encode_to_numpy(held_out))
    bytes_per_token = sum(len(text.encode()) for text in held_out) / tokens
    embedding = size * dim * (1 if tied else 2)
    return Row(
        vocab_size=size,
        num_unused=tokenizer.num_unused,
        tokens=tokens,
        bytes_per_token=bytes_per_token,
        embedding_parameters=embedding,
        body_parameters=body,
        embedding_share=embedding / (embedding + body),
        flops_per_byte=6 * (body + size * dim) / bytes_per_token,
        train_seconds=seconds,
    )


def to_json(rows: Sequence[Row]) -> list[dict[str, object]]:
    """One {name, vocab_size, bytes_per_token, ...} per row."""
    return [{"name": f"vocab_{row.vocab_size}", **dataclasses.asdict(row)} for row in rows]


def table(rows: Sequence[Row]) -> Table:
    """The rows for a terminal; the cheapest byte is marked."""
    result = Table(title="Vocabulary sizes on one held-out text")
    for column in ("vocabulary", "bytes/token", "tokens", "embedding", "share of model", "MFLOP/byte", "trained in"):
        result.add_column(column, justify="right")
    cheapest = min((row.flops_per_byte for row in rows), default=0.0)
    for row in rows:
        unused = f" ({row.num_unused:,} unused)" if row.num_unused else ""
        result.add_row(
            f"{row.vocab_size:,}{unused}",
            f"{row.bytes_per_token:.3f}",
            f"{row.tokens:,}",
            f"{row.embedding_parameters:,}",
            f"{row.embedding_share:.1%}",
            f"{row.flops_per_byte / 1e6:.3f}" + (" *" if row.flops_per_byte == cheapest else "  "),
            f"{row.train_seconds:.2f} s",
        )
    result.caption = "* the cheapest byte to train on; unused: the sample held too few pairs for more merges"
    return result


def plot(rows: Sequence[Row], path: Path | str) -> None:
    """A PNG of bytes per token, embedding share and cost per byte against the size. Raises DiskError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    sizes = [row.vocab_size for row in rows]
    panels = (
        ("bytes per token (held-out)", [row.bytes_per_token for row in rows]),
        ("embedding, % of parameters", [100 * row.embedding_share for row in rows]),
        ("MFLOP to train on one byte", [row.flops_per_byte / 1e6 for row in rows]),
    )
    for axes, (title, values) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.plot(sizes, values, marker="o")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [_short(size) for size in sizes], rotation=45)
        axes.minorticks_off()
        axes.set_title(title)
        axes.set_xlabel("vocabulary size")
        axes.grid(alpha=0.3)
    with atomic_writer(Path(path)) as file:
        FigureCanvasAgg(figure).print_png(file)


def _short(size: int) -> str:
    return f"{size // 1024}k" if size % 1024 == 0 else str(size)


def show(tokenizer: Tokenizer, text: str, console: Console, *, num_longest: int = 20) -> None:
    """Prints the text in coloured tokens, then each token with its id and bytes, then facts of the vocabulary."""
    tokens = tokenizer.encode(text)
    pieces = [tokenizer.decode_bytes([token]) for token in tokens]
    coloured, listed = Text(), Table(box=None, pad_edge=False)
    for column in ("id", "bytes", "token"):
        listed.add_column(column, justify="left" if column == "token" else "right")
    for i, (token, piece) in enumerate(zip(tokens, pieces, strict=True)):
        style = _COLOURS[i % len(_COLOURS)]
        coloured.append(_visible(piece), style=style)
        coloured.append("\n" if b"\n" in piece else "")
        listed.add_row(str(token), str(len(piece)), Text(_visible(piece), style=style))
    if tokens:
        size = sum(map(len, pieces))
        console.print(coloured)
        console.print(listed)
        console.print(f"{len(tokens):,} tokens, {size:,} bytes, {size / len(tokens):.3f} bytes per token")
    console.print(_facts(tokenizer, num_longest))


def _facts(tokenizer: Tokenizer, num_longest: int) -> Text:
    lengths = tokenizer.token_bytes()
    longest = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))[:num_longest]
    lines = [
        f"{tokenizer.vocab_size:,} ids: 256 bytes, {tokenizer.num_merges:,} merges, "
        f"{tokenizer.num_unused:,} unused, {len(tokenizer.special)} special",
        "special tokens: " + ", ".join(f"{name} {i}" for i, name in tokenizer.spellings.items()),
        "longest tokens (id, bytes):",
    ]
    for i in longest:
        shown = _visible(tokenizer.decode_bytes([i]))
        lines.append(f"{i:>8} {lengths[i]:>4}  {shown if len(shown) <= 60 else shown[:59] + '…'}")
    return Text("\n".join(lines))


def _visible(piece: bytes) -> str:
    """A token that a terminal can show: signs for what has no shape, and `\\xNN` for a part of a character."""
    signs = {"\n": "⏎", "\r": "␍", "\t": "⇥"}
    return "".join(
        signs.get(c, c if c.isprintable() else c.encode("unicode_escape").decode("ascii"))
        for c in piece.decode(errors="backslashreplace")
    )
