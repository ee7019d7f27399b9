"""Training and encoding beside `tokenizers`: same text, same pattern, same vocabulary size, same threads, one run.

    python bench/tokenizer.py [--corpus FILE.jsonl.zst] [--vocab-size 32768] [--json FILE]

The two take turns, and each repeat gives a ratio of two neighbouring times, so that a busy machine slows both. Both
encode the same batches; the tokens must be equal, else the command fails. "lists" ends in Python lists of ids on both
sides; "arrays" is what `wren data` uses, beside the bare `encode_batch_fast` of `tokenizers`, ids not yet taken out.
"""

import argparse
import io
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zstandard
from rich.console import Console
from rich.table import Table

from wren.errors import DataError
from wren.exits import exit_code
from wren.files import write_json
from wren.tokenizer import SPLIT_PATTERN, Tokenizer

OUT = Path(__file__).parent / "out" / "tokenizer.json"
BATCH_BYTES = 4_000_000
TARGETS = {"train": 2.4, "encode, lists": 2.5, "encode, arrays": 2.5}


def read_texts(path: Path) -> Iterator[str]:
    """The "text" of each line of a .jsonl or .jsonl.zst file."""
    try:
        with open(path, "rb") as file:
            stream = zstandard.ZstdDecompressor().stream_reader(file) if path.suffix == ".zst" else file
            for line in io.TextIOWrapper(stream, encoding="utf-8"):
                yield json.loads(line)["text"]
    except (OSError, ValueError, KeyError, TypeError, zstandard.ZstdError) as error:
        raise DataError(f'{path} cannot be read as lines of JSON with a "text": {error}.') from error


def generated_texts(num_bytes: int, seed: int) -> Iterator[str]:
    """Documents of made-up words whose frequencies fall as in natural text."""
    rng = random.Random(seed)
    syllables = [a + b for a in "bcdfghklmnprstvw" for b in ("a", "e", "i", "o", "u", "an", "er", "ing", "st")]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(50_000)]
    frequencies = [1 / (rank + 3) for rank in range(len(words))]
    done = 0
    while done < num_bytes:
        chosen = rng.choices(words, frequencies, k=rng.randint(50, 800))
        text = " ".join(word + rng.choices(("", ",", ".", ".\n"), (20, 2, 1, 1))[0] for word in chosen)
        done += len(text)
        yield text


def batches(texts: list[str], limit: int) -> list[list[str]]:
    """The texts up to `limit` bytes, in batches of about BATCH_BYTES: tokenizers' results need 50 times their text."""
    result: list[list[str]] = [[]]
    size = total = 0
    for text in texts:
        if total >= limit:
            break
        if size >= BATCH_BYTES:
            result.append([])
            size = 0
        result[-1].append(text)
        size += len(text)
        total += len(text)
    return result


def train_reference(texts: list[str], vocab_size: int) -> Any:
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(tokenizers.Regex(SPLIT_PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(texts, trainer, length=len(texts))
    return tokenizer


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> list[tuple[float, float]]:
    """(our seconds, their seconds) per repeat; who goes first alternates."""
    pairs = []
    for i in range(repeats):
        if i % 2:
            second = timed(theirs)
            pairs.append((timed(ours), second))
        else:
            pairs.append((timed(ours), timed(theirs)))
    return pairs


def check_equal(tokenizer: Tokenizer, reference: Any, parts: list[list[str]], num_threads: int) -> int:
    """The number of tokens compared. Raises SystemExit at the first text whose tokens differ."""
    compared = 0
    for part in parts:
        theirs = reference.encode_batch_fast(part, add_special_tokens=False)
        for text, ours, other in zip(part, tokenizer.encode_batch(part, num_threads), theirs, strict=True):
            if ours != other.ids:
                raise SystemExit(f"tokens differ in the text that starts {text[:80]!r}")
            compared += len(ours)
    return compared


def measure(texts: list[str], options: argparse.Namespace) -> dict[str, Any]:
    import tokenizers

    tokenizer = Tokenizer.train(texts, options.vocab_size)
    path = options.out / "bench_tokenizer.json"
    tokenizer.save(path)
    reference = tokenizers.Tokenizer.from_file(str(path))
    path.unlink()
    parts = batches(texts, options.encode_mb * 1_000_000)
    threads = options.threads
    compared = check_equal(tokenizer, reference, parts, threads)
    train_bytes = sum(len(text.encode()) for text in texts)
    encode_bytes = sum(len(text.encode()) for part in parts for text in part)

    def lists() -> None:
        for part in parts:
            tokenizer.encode_batch(part, threads)

    def their_lists() -> None:
        for part in parts:
            [encoding.ids for encoding in reference.encode_batch_fast(part, add_special_tokens=False)]

    def arrays() -> None:
        for part in parts:
            tokenizer.encode_documents(part, threads)

    def their_encodings() -> None:
        for part in parts:
            reference.encode_batch_fast(part, add_special_tokens=False)

    jobs = {
        "train": (
            lambda: Tokenizer.train(texts, options.vocab_size),
            lambda: train_reference(texts, options.vocab_size),
            options.train_repeats,
            train_bytes,
        ),
        "encode, lists": (lists, their_lists, options.repeats, encode_bytes),
        "encode, arrays": (arrays, their_encodings, options.repeats, encode_bytes),
    }
    rows = []
    for name, (ours, theirs, repeats, num_bytes) in jobs.items():
        rows.append(summary(name, in_turns(ours, theirs, repeats), num_bytes))
        print(f"{name}: {rows[-1]['ratio']:.2f}x", file=sys.stderr, flush=True)
    return {"vocab_size": options.vocab_size, "threads": threads, "tokens_equal": compared, "rows": rows}


def summary(name: str, pairs: list[tuple[float, float]], num_bytes: int) -> dict[str, Any]:
    ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = [second / first for first, second in pairs]
    return {
        "name": name,
        "bytes": num_bytes,
        "wren_seconds": ours,
        "tokenizers_seconds": theirs,
        "wren_mb_per_second": num_bytes / 1e6 / ours,
        "tokenizers_mb_per_second": num_bytes / 1e6 / theirs,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "target": TARGETS[name],
    }


def table(result: dict[str, Any]) -> Table:
    title = f"{result['vocab_size']:,} ids, {result['threads']} threads, {result['tokens_equal']:,} tokens equal"
    output = Table(title=title)
    for column in ("", "wren", "tokenizers", "ratio (all)", "target"):
        output.add_column(column, justify="right")
    for row in result["rows"]:
        ratios = " ".join(f"{ratio:.2f}" for ratio in row["ratios"])
        output.add_row(
            row["name"],
            f"{row['wren_seconds']:.2f} s, {row['wren_mb_per_second']:.1f} MB/s",
            f"{row['tokenizers_seconds']:.2f} s, {row['tokenizers_mb_per_second']:.1f} MB/s",
            f"{row['ratio']:.2f} ({ratios})",
            f">= {row['target']}",
        )
    return output


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--corpus", type=Path, help=".jsonl or .jsonl.zst; generated words if left out")
    parser.add_argument("--generate-mb", type=int, default=40, help="size of the generated text")
    parser.add_argument("--vocab-size", type=int, default=32_768)
    parser.add_argument("--encode-mb", type=int, default=32, help="text to encode per repeat")
    parser.add_argument("--threads", type=int, default=2, help="for both sides")
    parser.add_argument("--train-repeats", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5, help="repeats of encoding")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for a temporary file")
    parser.add_argument("--json", type=Path, default=OUT, help="write the figures here")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    # Both libraries read this when their first thread starts.
    os.environ["RAYON_NUM_THREADS"] = str(options.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    source = read_texts(options.corpus) if options.corpus else generated_texts(options.generate_mb * 1_000_000, seed=0)
    result = {"corpus": options.corpus.name if options.corpus else "generated", **measure(list(source), options)}
    write_json(options.json, result)
    Console(width=120).print(table(result))


if __name__ == "__main__":
    sys.exit(exit_code("tokenizer.py", main))
