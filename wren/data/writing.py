"""One pass over the sources that writes shards and keeps the journal, and the making again of a damaged shard."""

import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wren.data.dedup import Contamination, HashLog, NearHasher
from wren.data.folder import HASHES, PROGRESS
from wren.data.holdout import Holdout
from wren.data.pipeline import Stream, Worker, initial_state
from wren.data.settings import Settings
from wren.data.shards import SPLITS, Manifest, ShardWriter, damaged_shards, dtype_for
from wren.data.sources import Source
from wren.errors import DataError
from wren.files import atomic_writer, disk_errors, write_json
from wren.tokenizer.bpe import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Task:
    """All that a pass needs to know; the first `num_given` sources are the validation text."""

    out: Path
    sources: Sequence[Source]
    num_given: int
    settings: Settings
    holdout: Holdout
    tokenizer: Tokenizer
    contamination: Contamination | None
    near: NearHasher | None
    num_workers: int
    tell: Callable[[str, Stream], None]

    def open_log(self, path: Path, count: int) -> HashLog | None:
        return HashLog(path, count) if self.settings.dedup != "none" else None

    def stream(self, log: HashLog | None, state: dict[str, Any], only: str | None = None) -> Stream:
        worker = Worker(
            tokenizer=self.tokenizer,
            dtype=dtype_for(self.tokenizer.vocab_size),
            threshold=self.holdout.threshold,
            exact=self.settings.dedup != "none",
            near=self.near,
            contamination=self.contamination,
            only=only,
        )
        return Stream(
            self.sources,
            worker,
            self.holdout,
            num_given=self.num_given,
            weights=self.settings.weights,
            log=log,
            num_workers=self.num_workers,
            state=state,
        )


class ShardRun:
    """Writes all shards from a state on; `positions` say where each split's shards began. A context manager."""

    def __init__(self, task: Task, state: dict[str, Any] | None):
        start = initial_state(len(task.sources))
        state = state or {
            "stream": start,
            "writers": dict.fromkeys(SPLITS),
            "positions": {split: [start["position"]] for split in SPLITS},
        }
        self.task = task
        self.positions: dict[str, list[Any]] = {split: list(state["positions"][split]) for split in SPLITS}
        self.writers: dict[str, ShardWriter] = {}
        dtype, size = dtype_for(task.tokenizer.vocab_size), task.settings.shard_tokens
        with contextlib.ExitStack() as stack:
            self.log = task.open_log(task.out / HASHES, state["stream"]["position"]["hashes"])
            if self.log is not None:
                stack.callback(self.log.close)
            for split in SPLITS:
                self.writers[split] = ShardWriter(task.out, split, dtype, size, state["writers"][split])
                stack.callback(self.writers[split].close)
            self.stream = task.stream(self.log, state["stream"])
            stack.callback(self.stream.close)
            self._stack = stack.pop_all()

    def __enter__(self) -> "ShardRun":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def write(self, journal: dict[str, Any]) -> None:
        """All documents, or those up to `max_tokens`; the journal follows every closed shard."""
        limit, train = self.task.settings.max_tokens, self.writers["train"]
        if limit is not None and train.tokens >= limit:
            return
        for kept in self.stream:
            assert kept.tokens is not None
            if self.writers[kept.split].write(kept.tokens, kept.num_bytes):
                self.positions[kept.split].append(self.stream.position())
                journal["state"] = self._durable_state()
                write_json(self.task.out / PROGRESS, journal)
            self.task.tell("shards", self.stream)
            if limit is not None and train.tokens >= limit:
                return

    def finish(self) -> None:
        for split in SPLITS:
            self.writers[split].close_shard()
        if self.log is not None:
            self.log.sync()

    def _durable_state(self) -> dict[str, Any]:
        writers = {split: self.writers[split].sync() for split in SPLITS}
        if self.log is not None:
            self.log.sync()
        return {"stream": self.stream.state(), "writers": writers, "positions": self.positions}


def mend(task: Task, manifest: Manifest, say: Callable[[str], None]) -> list[str]:
    """Makes the damaged shards again and returns their names; raises DataError where the sources give other tokens."""
    damaged = damaged_shards(task.out, manifest, check=True)
    for split in SPLITS:
        for index, shard in enumerate(manifest.splits[split].shards):
            if shard.file in damaged:
                say(f"{task.out / shard.file} is damaged or missing; making it again.")
                _rebuild(task, manifest, split, index)
    return damaged


def _rebuild(task: Task, manifest: Manifest, split: str, index: int) -> None:
    shard = manifest.splits[split].shards[index]
    state = {**initial_state(len(task.sources)), "position": manifest.positions[split][index]}
    copy = task.out / ".dedup.tmp"  # the log itself still serves the other shards
    with disk_errors(copy), contextlib.ExitStack() as stack:
        stack.callback(copy.unlink, missing_ok=True)
        if (task.out / HASHES).exists():
            shutil.copyfile(task.out / HASHES, copy)
        log = task.open_log(copy, state["position"]["hashes"])
        if log is not None:
            stack.callback(log.close)
        stream = task.stream(log, state, only=split)
        stack.callback(stream.close)
        with atomic_writer(task.out / shard.file) as file:
            left = shard.tokens
            for kept in stream:
                if kept.split == split and kept.tokens is not None:
                    file.write(kept.tokens.data)
                    left -= len(kept.tokens)
                task.tell("rebuild", stream)
                if left <= 0:
                    break
    if shard.file in damaged_shards(task.out, manifest, check=True):
        raise DataError(f"{task.out / shard.file} came out differently: its sources changed; start over with --fresh.")
