"""Token shards and their manifest.

A shard is raw little-endian uint16 (uint32 when the vocabulary needs it) tokens: every document is `document_id`
followed by its tokens, and none is cut between two shards. `manifest.json` is written last: a folder without it is
unfinished.
"""

import hashlib
import os
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wren.errors import DataError
from wren.files import disk_errors, fsync_dir, read_json, sha256_file, write_json

MANIFEST = "manifest.json"
FORMAT = 1
SPLITS = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file; `bytes` counts the UTF-8 bytes of its text."""

    file: str
    tokens: int
    documents: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Split:
    """A named set of documents."""

    name: str
    shards: tuple[Shard, ...] = ()

    @property
    def tokens(self) -> int:
        return sum(shard.tokens for shard in self.shards)

    @property
    def documents(self) -> int:
        return sum(shard.documents for shard in self.shards)

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    def as_json(self) -> dict[str, Any]:
        totals = {"documents": self.documents, "tokens": self.tokens, "bytes": self.bytes}
        return {"name": self.name, **totals, "shards": [asdict(shard) for shard in self.shards]}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder of shards holds and where it came from; `positions` say where in the sources each shard began."""

    tokenizer: str
    vocab_size: int
    dtype: str
    document_id: int
    splits: dict[str, Split]
    sources: list[dict[str, Any]]
    removed: dict[str, int]
    settings: dict[str, Any]
    holdout: dict[str, Any] = field(default_factory=dict)
    positions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        splits = {name: split.as_json() for name, split in self.splits.items()}
        write_json(folder / MANIFEST, {"format": FORMAT, **vars(self), "splits": splits})

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Raises DataError when the folder is missing, unfinished, or its manifest is damaged or of another format."""
        path = folder / MANIFEST
        if not path.exists():
            raise DataError(_no_manifest(folder))
        value = read_json(path)
        try:
            if value["format"] != FORMAT:
                raise DataError(f"{path} is of format {value['format']}, not {FORMAT}; prepare the data anew.")
            splits = {
                name: Split(name=split["name"], shards=tuple(Shard(**shard) for shard in split["shards"]))
                for name, split in value["splits"].items()
            }
            rest = {key: value[key] for key in cls.__dataclass_fields__ if key != "splits"}
            return cls(splits=splits, **rest)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is damaged ({error!r}); run the same `wren data` command with --fresh.") from error


def dtype_for(vocab_size: int) -> np.dtype:
    """Two bytes a token where they suffice; little-endian on every machine."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def shard_name(split: str, index: int) -> str:
    return f"{split}_{index:06d}.bin"


def partial_name(split: str, index: int) -> str:
    """The name of a shard that still grows."""
    return f".{shard_name(split, index)}.partial"


def open_shards(folder: Path, split: str, check: bool = False) -> list[np.memmap]:
    """The shards of a split, memory-mapped in order; sizes are always checked, checksums with `check`.

    Raises DataError that names a damaged shard.
    """
    manifest = Manifest.load(folder)
    if split not in manifest.splits:
        raise DataError(f"{folder} has no split '{split}'; it has {', '.join(manifest.splits)}.")
    shards = manifest.splits[split].shards
    damaged = damaged_shards(folder, manifest, check, splits=(split,))
    if damaged:
        raise DataError(f"{_names(folder, damaged)} damaged; run the same `wren data` command again to rebuild.")
    return [
        np.memmap(folder / shard.file, dtype=np.dtype(manifest.dtype).newbyteorder("<"), mode="r") for shard in shards
    ]


def verify(folder: Path) -> list[str]:
    """File names of the shards that are missing, of the wrong size or whose checksum fails."""
    return damaged_shards(folder, Manifest.load(folder), check=True)


def damaged_shards(folder: Path, manifest: Manifest, check: bool, splits: Collection[str] | None = None) -> list[str]:
    """Names of the shards (of `splits`, or all) that are missing, of the wrong size or, with `check`, changed."""
    itemsize = np.dtype(manifest.dtype).itemsize
    chosen = [split for name, split in manifest.splits.items() if splits is None or name in splits]
    shards = [shard for split in chosen for shard in split.shards]

    def is_damaged(shard: Shard) -> bool:
        path = folder / shard.file
        if not path.is_file() or path.stat().st_size != shard.tokens * itemsize:
            return True
        return check and sha256_file(path) != shard.sha256

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return [shard.file for shard, bad in zip(shards, pool.map(is_damaged, shards), strict=True) if bad]


class ShardWriter:
    """Writes the documents of one split into shards that close at the first document end past `shard_tokens`.

    The open shard grows in a `.partial` file. `sync()` makes everything so far durable and returns a state; a writer
    made from that state cuts off whatever was written later.
    """

    def __init__(
        self, folder: Path, split: str, dtype: np.dtype, shard_tokens: int, state: dict[str, Any] | None = None
    ):
        self.folder, self.split, self.dtype, self.shard_tokens = folder, split, dtype, shard_tokens
        state = state or {"shards": [], "open": [0, 0, 0]}
        self.shards = [Shard(**shard) for shard in state["shards"]]
        self._closed_tokens = sum(shard.tokens for shard in self.shards)
        self._open_shard(*state["open"])

    @property
    def tokens(self) -> int:
        return self._closed_tokens + self._tokens

    def write(self, tokens: np.ndarray, num_bytes: int) -> bool:
        """Adds a document; True when this closed a shard."""
        data = tokens.data.cast("B")
        with disk_errors(self._partial):
            self._file.write(data)
        self._sha256.update(data)
        self._tokens += len(tokens)
        self._documents += 1
        self._bytes += num_bytes
        if self._tokens < self.shard_tokens:
            return False
        self.close_shard()
        return True

    def close_shard(self) -> None:
        """Gives the open shard, if it holds anything, its final name, durably, and begins the next."""
        if not self._tokens:
            return
        name = shard_name(self.split, len(self.shards))
        self._flush()
        with disk_errors(self.folder / name):
            self._file.close()
            os.replace(self._partial, self.folder / name)
            fsync_dir(self.folder)
        counts = {"tokens": self._tokens, "documents": self._documents, "bytes": self._bytes}
        self.shards.append(Shard(file=name, **counts, sha256=self._sha256.hexdigest()))
        self._closed_tokens += self._tokens
        self._open_shard(0, 0, 0)

    def sync(self) -> dict[str, Any]:
        """The state to go on from; all it counts is on the disk when this returns."""
        self._flush()
        self._durable = self._tokens
        counts = [self._tokens, self._documents, self._bytes]
        return {"shards": [asdict(shard) for shard in self.shards], "open": counts}

    def close(self) -> None:
        """Ends writing; what was not made durable by `sync` goes."""
        try:
            self._file.close()
        except OSError:  # the disk is full: the buffer that could not be written is given up, as intended
            self._durable = min(self._durable, self._partial.stat().st_size // self.dtype.itemsize)
        if self._durable:
            os.truncate(self._partial, self._durable * self.dtype.itemsize)
        else:
            self._partial.unlink(missing_ok=True)

    def _open_shard(self, tokens: int, documents: int, num_bytes: int) -> None:
        self._partial = self.folder / partial_name(self.split, len(self.shards))
        self._tokens, self._documents, self._bytes = tokens, documents, num_bytes
        self._durable = tokens
        size = tokens * self.dtype.itemsize
        with disk_errors(self._partial):
            if not size:
                self._sha256 = hashlib.sha256()
            elif not self._partial.exists() or self._partial.stat().st_size < size:
                raise DataError(f"{self._partial} was removed or cut; run the same command with --fresh.")
            else:
                os.truncate(self._partial, size)
                self._sha256 = _sha256(self._partial)
            self._file = open(self._partial, "ab" if size else "wb", buffering=1 << 20)  # noqa: SIM115

    def _flush(self) -> None:
        if self._durable == self._tokens:
            return
        with disk_errors(self._partial):
            self._file.flush()
            os.fsync(self._file.fileno())


def _sha256(path: Path) -> Any:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256")


def _names(folder: Path, files: Iterable[str]) -> str:
    names = [str(folder / file) for file in files]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more + (" is" if len(names) == 1 else " are")


def _no_manifest(folder: Path) -> str:
    if folder.is_file():
        return f"{folder} is a file, not a folder of shards; make one with `wren data --source {folder} --out FOLDER`."
    if not folder.is_dir():
        return f"{folder} does not exist; prepare data there with `wren data --source PATH --out {folder}`."
    if any(folder.glob(".progress.json")):
        return f"{folder} is unfinished; run the same `wren data` command again and it goes on where it stopped."
    return f"{folder} holds no {MANIFEST}; prepare data there with `wren data --source PATH --out {folder}`."
