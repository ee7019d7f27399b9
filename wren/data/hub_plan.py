"""What fetching a dataset will need: files, bytes on the disk at once, tokens, time; and whether the disk has it."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from wren import units
from wren.data.hub import SPENT_BYTES
from wren.data.hub_locate import Located
from wren.data.shards import dtype_for
from wren.errors import DiskError
from wren.tokenizer.bpe import num_cores

AHEAD = 2  # files fetched beyond the one that is read
MOST_TEXT_PER_TOKEN = 5.0  # bytes: so that enough files are fetched in time
LEAST_TEXT_PER_TOKEN = 3.5  # bytes: so that the disk is not full before the end
ENCODE_BYTES_PER_S = 6e6  # of text on one core
NETWORK_BYTES_PER_S = 12.5e6  # 100 Mbit/s


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


def make_plan(
    located: Located,
    out: Path,
    *,
    max_tokens: int | None,
    vocab_size: int,
    tokenizer_bytes: int,
    val_fraction: float,
    keep_raw: bool,
    workers: int | None,
) -> Plan:
    """Files, bytes, tokens and time, from the sizes of the files; `max_tokens` is None for all.

    tokenizer_bytes: of text that a tokenizer is trained on first.
    """
    text_bytes = sum(file.size for file in located.files) * located.text_per_byte
    tokens = min(int(text_bytes / LEAST_TEXT_PER_TOKEN), max_tokens or sys.maxsize)
    needed = located.num_files(max(tokens * MOST_TEXT_PER_TOKEN / (1 - val_fraction), tokenizer_bytes))
    sizes = [file.size for file in located.files[:needed]]
    # on the disk at once: one that was read, one that is being read, those ahead
    width = len(sizes) if keep_raw else AHEAD + 2
    raw = max(sum(sizes[start : start + width]) for start in range(max(1, len(sizes) - width + 1)))
    raw = min(sum(sizes), raw + SPENT_BYTES)
    shards = int(tokens / (1 - val_fraction)) * dtype_for(vocab_size).itemsize
    encoding_s = min(text_bytes, tokens * MOST_TEXT_PER_TOKEN) / (ENCODE_BYTES_PER_S * (workers or num_cores()))
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
