"""From a dataset on the hub to a folder of token shards: what `python download_data.py` does.

flags -> files at a pinned commit -> a plan, its disk need checked -> prepare() while the files come in
"""

import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, arg

from wren import units
from wren.data import show
from wren.data.hub import HubSource
from wren.data.hub_client import HubClient, Retry
from wren.data.hub_locate import FINEWEB_EDU, Located, Wanted, look_up, pin, pinned
from wren.data.hub_plan import AHEAD, Plan, check_disk, free_bytes, make_plan
from wren.data.hub_progress import Display
from wren.data.prepare import SHARD_TOKENS, TOKENIZER_BYTES, prepare
from wren.data.shards import Manifest
from wren.errors import ConfigError
from wren.exits import exit_code
from wren.files import write_json
from wren.run import peak_memory_bytes
from wren.tokenizer.bpe import Tokenizer, check_vocab_size


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Fetch a dataset from the Hugging Face hub and write it as token shards.

    With no flag: 1B tokens of FineWeb-Edu into data/fineweb-edu. Interrupt it anywhere: the same command goes on where
    it stopped. HF_TOKEN opens gated datasets, HF_ENDPOINT names another hub.
    """

    dataset: str = FINEWEB_EDU
    """Name of the dataset on the hub, owner/name."""
    config: str | None = None
    """Config of the dataset (for FineWeb-Edu sample-10BT); by default the one that the dataset marks."""
    split: str = "train"
    """Split of the dataset to read."""
    column: Annotated[str, arg(aliases=("--text-key",))] = "text"
    """The parquet column or JSON key that holds the text."""
    path_glob: str | None = None
    """Choose files by path instead, such as 'en/*.parquet' (** crosses folders)."""
    revision: str | None = None
    """Branch, tag or commit; by default main. The commit is pinned by the first run."""
    tokens: str = "1B"
    """Stop after about so many training tokens, such as 300M or 1B, or all."""
    tokenizer: Path | None = None
    """A tokenizer.json to use; by default one is trained on the first part of the text."""
    vocab_size: str = "32768"
    """Entries of a new tokenizer."""
    out: Path | None = None
    """The folder for shards, manifest and tokenizer; by default data/NAME."""
    val_fraction: float = 0.005
    """Share of the documents, chosen by their content, that become the validation split."""
    shard_tokens: str = str(SHARD_TOKENS)
    """Tokens in a shard."""
    strict: bool = False
    """Refuse broken UTF-8 instead of replacing and counting it."""
    keep_raw: bool = False
    """Leave the downloaded files in OUT/raw instead of removing each once it is used."""
    fresh: bool = False
    """Begin anew although the folder holds other or unfinished shards."""
    workers: int | None = None
    """Threads that tokenize; by default one a core."""
    retries: int = 8
    """Failures in a row, without one new byte, after which a request is given up."""
    retry_wait: float = 1.0
    """Seconds to wait after the first failure; each further one doubles it, up to a minute."""
    timeout: float = 30.0
    """Seconds without an answer after which a connection is given up."""
    dry_run: bool = False
    """Only say which files, bytes, disk, tokens and time it takes."""
    json: Path | None = None
    """Write the result (with --dry-run, the plan) here for a program to read."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """The flags' words as values; `max_tokens` is None for all."""

    wanted: Wanted
    out: Path
    max_tokens: int | None
    shard_tokens: int
    tokenizer: Tokenizer | None
    vocab_size: int


def run(
    flags: Flags,
    *,
    endpoint: str | None = None,
    rng: random.Random | None = None,
    free: Callable[[Path], int] = free_bytes,
    every_s: float = 10.0,
) -> int:
    """Does what the flags say; returns the exit code 0 or raises a WrenError.

    endpoint: address of the hub (None: HF_ENDPOINT); rng: jitter of the waits between retries; free: free bytes of a
    folder; every_s: seconds between lines of progress where there is no terminal.
    """
    began = time.monotonic()
    order = _read(flags)
    retry = Retry(attempts=flags.retries, first_s=flags.retry_wait)
    client = HubClient(rng or random.Random(), _line, endpoint=endpoint, retry=retry, timeout_s=flags.timeout)
    located = None if flags.fresh else pinned(order.wanted, order.out)
    located = located or look_up(client, order.wanted)
    plan = make_plan(
        located,
        order.out,
        max_tokens=order.max_tokens,
        vocab_size=order.vocab_size,
        tokenizer_bytes=0 if order.tokenizer else TOKENIZER_BYTES,
        val_fraction=flags.val_fraction,
        keep_raw=flags.keep_raw,
        workers=flags.workers,
    )
    print("\n".join(plan.lines()), flush=True)
    if flags.dry_run:
        return _write(flags.json, {**asdict(plan), "free_bytes": free(order.out)})
    check_disk(plan, order.out, free(order.out))
    pin(located, order.out)
    with Display(plan.tokens, plan.download_bytes, every_s=every_s) as display:
        client.report = display.line
        manifest = _prepare(client, located, plan, flags, order, display)
    result = _result(plan, manifest, display.downloaded, time.monotonic() - began)
    print(_summary(manifest, result, order))
    return _write(flags.json, result)


def _prepare(client: HubClient, located: Located, plan: Plan, flags: Flags, order: Order, display: Display) -> Manifest:
    source = HubSource(
        client,
        located,
        order.out / "raw",
        keep_raw=flags.keep_raw,
        strict=flags.strict,
        ahead=AHEAD,
        num_needed=plan.num_files_needed,
        progress=display.raw,
    )
    with source:
        manifest = prepare(
            [source],
            order.out,
            tokenizer=order.tokenizer,
            vocab_size=order.vocab_size,
            val_fraction=flags.val_fraction,
            max_tokens=order.max_tokens,
            shard_tokens=order.shard_tokens,
            workers=flags.workers,
            fresh=flags.fresh,
            progress=display.prepared,
            say=display.line,
        )
        source.remove_raw()
    return manifest


def _line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None, *, endpoint: str | None = None) -> int:
    """`python download_data.py`: 0 done, 2 a mistake that the printed sentence names, 130 Ctrl-C."""
    program = "download_data.py"
    flags = (FlagCreatePairsOff,)
    return exit_code(
        program, lambda: run(tyro.cli(Flags, prog=program, args=arguments, config=flags), endpoint=endpoint)
    )


def _read(flags: Flags) -> Order:
    """The flags' values, checked before anything is asked of the hub."""
    wanted = Wanted(
        repo=flags.dataset,
        config=flags.config,
        split=flags.split,
        column=flags.column,
        revision=flags.revision,
        path_glob=flags.path_glob,
    )
    for name, least in (("retries", 1), ("retry_wait", 0), ("timeout", 0.001), ("workers", 1)):
        value = getattr(flags, name)
        if value is not None and not least <= value < float("inf"):
            raise ConfigError(f"--{name.replace('_', '-')} is {value}; it must be at least {least}.")
    if not 0 <= flags.val_fraction < 1:
        raise ConfigError(f"--val-fraction is {flags.val_fraction}; it must be from 0 to below 1, such as 0.005.")
    max_tokens = None if flags.tokens == "all" else units.count(flags.tokens, "number of tokens")
    tokenizer = Tokenizer.load(flags.tokenizer) if flags.tokenizer else None
    vocab_size = tokenizer.vocab_size if tokenizer else units.count(flags.vocab_size, "vocabulary size")
    check_vocab_size(vocab_size)
    name = "-".join(filter(None, [flags.dataset.rpartition("/")[2], (flags.config or "").replace("/", "-")]))
    return Order(
        wanted=wanted,
        out=flags.out or Path("data") / name,
        max_tokens=max_tokens,
        shard_tokens=units.count(flags.shard_tokens, "number of tokens"),
        tokenizer=tokenizer,
        vocab_size=vocab_size,
    )


def _result(plan: Plan, manifest: Manifest, downloaded: int, seconds: float) -> dict[str, Any]:
    splits = {
        name: {"tokens": split.tokens, "documents": split.documents, "bytes": split.bytes, "shards": len(split.shards)}
        for name, split in manifest.splits.items()
    }
    return {
        "out": plan.out,
        "dataset": plan.dataset,
        "config": plan.config,
        "revision": plan.revision,
        "vocab_size": manifest.vocab_size,
        "splits": splits,
        "downloaded_bytes": downloaded,
        "seconds": seconds,
        "peak_memory_bytes": peak_memory_bytes(),
    }


def _summary(manifest: Manifest, result: dict[str, Any], order: Order) -> str:
    text = f"Downloaded {units.size(result['downloaded_bytes'])} in {units.duration(result['seconds'])}"
    if result["peak_memory_bytes"] is not None:
        text += f", peak memory {units.size(result['peak_memory_bytes'])}"
    if order.max_tokens is not None and result["splits"]["train"]["tokens"] < order.max_tokens:
        text += f"; the dataset holds no more, so --tokens {units.short(order.max_tokens)} was not reached"
    return f"{show.summary(manifest, order.out)}\n{text}.\nNext: wren train --data {order.out}"


def _write(path: Path | None, result: dict[str, Any]) -> int:
    if path is not None:
        write_json(path, result)
    return 0
