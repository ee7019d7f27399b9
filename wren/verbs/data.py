"""The verbs before training: data and tokenizers, and the problems of tasks.

Argument types and calls, nothing else: the heavy imports happen inside, so that `--help` answers at once.
"""

import sys
import time
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from wren.errors import ConfigError
from wren.flags import Json, check_json, write


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
