"""From a dataset on the hub to a folder of token shards: what `python download_data.py` does.

flags -> files at a pinned commit -> a plan, its disk need checked -> prepare() while the files come in
"""

import random
import resource
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import arg

from wren import units
from wren.data.hub import SPENT_BYTES, HubSource
from wren.data.hub_client import AGAIN, HubClient, Retry
from wren.data.hub_locate import FINEWEB_EDU, Located, Wanted, look_up, pin, pinned
from wren.data.hub_progress import Display
from wren.data.prepare import SHARD_TOKENS, prepare
from wren.data.shards import Manifest, dtype_for
from wren.errors import ConfigError, DiskError, WrenError
from wren.files import describe, write_json
from wren.tokenizer.bpe import Tokenizer, check_vocab_size, num_cores

AHEAD = 2  # files fetched beyond the one that is read
MOST_TEXT_PER_TOKEN = 5.0  # bytes: so that enough files are fetched in time
LEAST_TEXT_PER_TOKEN = 3.5  # bytes: so that the disk is not full before the end
ENCODE_BYTES_PER_S = 6e6  # of text on one core
NETWORK_BYTES_PER_S = 12.5e6  # 100 Mbit/s


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
class Plan:
    """What a run will need; all but the number of files in the dataset is an estimate."""

    dataset: str
    config: str | None
    revision: str
    out: str
    num_files: int
    num_files_needed: int
    download_bytes: int
    raw_bytes_at_once: int
    shard_bytes: int
    disk_bytes: int  # at once
    tokens: int
    seconds: float

    def lines(self) -> list[str]:
        config = f" ({self.config})" if self.config else ""
        return [
            f"{self.dataset}{config} at commit {self.revision[:12]} into {self.out}",
            f"files     {self.num_files_needed} of {self.num_files}, {units.size(self.download_bytes)} to download",
            f"tokens    about {units.short(self.tokens)}",
            f"disk      {units.size(self.disk_bytes)}: {units.size(self.raw_bytes_at_once)} of raw files at once, "
            f"{units.size(self.shard_bytes)} of shards",
            f"time      about {units.duration(self.seconds)} (download at {NETWORK_BYTES_PER_S * 8e-6:.0f} Mbit/s, "
            f"tokenizing at {units.size(ENCODE_BYTES_PER_S)}/s a core on {num_cores()} cores)",
        ]


def make_plan(located: Located, flags: Flags, out: Path, max_tokens: int | None, vocab_size: int) -> Plan:
    """Files, bytes, tokens and time for these flags."""
    text_bytes = sum(file.size for file in located.files) * located.text_per_byte
    tokens = int(text_bytes / LEAST_TEXT_PER_TOKEN)
    if max_tokens is not None:
        tokens = min(tokens, max_tokens)
    needed = located.num_files(tokens * MOST_TEXT_PER_TOKEN / (1 - flags.val_fraction))
    sizes = [file.size for file in located.files[:needed]]
    # on the disk at once: one that was read, one that is being read, those ahead
    width = len(sizes) if flags.keep_raw else AHEAD + 2
    raw = max(sum(sizes[start : start + width]) for start in range(max(1, len(sizes) - width + 1)))
    raw = min(sum(sizes), raw + SPENT_BYTES)
    shards = int(tokens / (1 - flags.val_fraction)) * dtype_for(vocab_size).itemsize
    encoding_s = min(text_bytes, tokens * MOST_TEXT_PER_TOKEN) / (ENCODE_BYTES_PER_S * (flags.workers or num_cores()))
    return Plan(
        dataset=located.wanted.repo,
        config=located.config,
        revision=located.revision,
        out=str(out),
        num_files=len(located.files),
        num_files_needed=needed,
        download_bytes=sum(sizes),
        raw_bytes_at_once=raw,
        shard_bytes=shards,
        disk_bytes=raw + shards,
        tokens=tokens,
        seconds=max(encoding_s, sum(sizes) / NETWORK_BYTES_PER_S),
    )


def free_bytes(path: Path) -> int:
    """Free space where `path` is or would be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def check_disk(plan: Plan, out: Path, free: int) -> None:
    """Raises DiskError when what is still missing of the disk need is more than the `free` bytes."""
    there = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) if out.exists() else 0
    missing = max(0, plan.disk_bytes - there)
    if missing > free:
        raise DiskError(
            f"{out} needs {units.size(missing)} more and its disk has {units.size(free)} free; free some space, choose "
            "another --out or ask for fewer --tokens."
        )


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
    max_tokens, tokenizer, vocab_size, wanted, out = _read(flags)
    display: Display | None = None

    def report(line: str) -> None:
        display.line(line) if display else print(line, file=sys.stderr, flush=True)

    retry = Retry(attempts=flags.retries, first_s=flags.retry_wait)
    client = HubClient(rng or random.Random(), report, endpoint=endpoint, retry=retry, timeout_s=flags.timeout)
    located = None if flags.fresh else pinned(wanted, out)
    located = located or look_up(client, wanted)
    plan = make_plan(located, flags, out, max_tokens, vocab_size)
    print("\n".join(plan.lines()), flush=True)
    if flags.dry_run:
        return _write(flags.json, {**asdict(plan), "free_bytes": free(out)})
    check_disk(plan, out, free(out))
    pin(located, out)
    with Display(plan.tokens, plan.download_bytes, every_s=every_s) as display:
        source = HubSource(
            client,
            located,
            out / "raw",
            keep_raw=flags.keep_raw,
            strict=flags.strict,
            ahead=AHEAD,
            num_needed=plan.num_files_needed,
            progress=display.raw,
        )
        with source:
            manifest = prepare(
                [source],
                out,
                tokenizer=tokenizer,
                vocab_size=vocab_size,
                val_fraction=flags.val_fraction,
                max_tokens=max_tokens,
                shard_tokens=units.count(flags.shard_tokens, "number of tokens"),
                workers=flags.workers,
                fresh=flags.fresh,
                progress=display.prepared,
                say=display.line,
            )
            source.remove_raw()
    result = _result(plan, manifest, display.downloaded, time.monotonic() - began)
    print(_summary(result, max_tokens))
    return _write(flags.json, result)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python download_data.py`: 0 done, 2 a mistake that the printed sentence names, 130 Ctrl-C."""
    try:
        return run(tyro.cli(Flags, prog="download_data.py", args=arguments))
    except KeyboardInterrupt:
        print(f"download_data.py: Interrupted; {AGAIN}.", file=sys.stderr)
        return 130
    except WrenError as error:
        print(f"download_data.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"download_data.py: {describe(error)}", file=sys.stderr)
        return 2


def _read(flags: Flags) -> tuple[int | None, Tokenizer | None, int, Wanted, Path]:
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
    return max_tokens, tokenizer, vocab_size, wanted, flags.out or Path("data") / name


def _result(plan: Plan, manifest: Manifest, downloaded: int, seconds: float) -> dict[str, Any]:
    splits = {
        name: {"tokens": split.tokens, "documents": split.documents, "bytes": split.bytes, "shards": len(split.shards)}
        for name, split in manifest.splits.items()
    }
    scale = 1 if sys.platform == "darwin" else 1024
    return {
        "out": plan.out,
        "dataset": plan.dataset,
        "config": plan.config,
        "revision": plan.revision,
        "vocab_size": manifest.vocab_size,
        "splits": splits,
        "downloaded_bytes": downloaded,
        "seconds": seconds,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale,
    }


def _summary(result: dict[str, Any], max_tokens: int | None) -> str:
    train, val = result["splits"]["train"], result["splits"]["val"]
    text = (
        f"{units.short(train['tokens'])} training tokens in {train['shards']} shards and {units.short(val['tokens'])} "
        f"for validation; downloaded {units.size(result['downloaded_bytes'])} in {units.duration(result['seconds'])}, "
        f"peak memory {units.size(result['peak_memory_bytes'])}"
    )
    if max_tokens is not None and train["tokens"] < max_tokens:
        text += f"; the dataset holds no more, so --tokens {units.short(max_tokens)} was not reached"
    return f"{text}.\nNext: wren train --data {result['out']}"


def _write(path: Path | None, result: dict[str, Any]) -> int:
    if path is not None:
        write_json(path, result)
    return 0
