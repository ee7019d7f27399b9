"""Where text comes from: files, folders, globs and standard input, as ordered parts that stream their documents.

A source is what `prepare` reads; another kind (a dataset on the hub) is one more class with these four methods.
"""

import contextlib
import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from wren.data.readers import BLOCK, COMPRESSIONS, FORMATS, read_blocks, read_jsonl, read_parquet, read_text
from wren.errors import ConfigError, DataError
from wren.files import disk_errors, sha256_file

# What a byte of such a file holds in bytes of text, roughly: only sizes of splits and progress bars rest on it.
_EXPANSION = {".gz": 2.8, ".zst": 3.5, ".parquet": 1.7}


class Part(Protocol):
    """An independent piece of a source, such as a file."""

    @property
    def name(self) -> str: ...

    def documents(self) -> Iterator[str]:
        """The texts in order, the same on every call; raises DataError for damaged input. Memory stays bounded."""
        ...


class Source(Protocol):
    @property
    def name(self) -> str:
        """For the manifest and for error messages."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """JSON that identifies the content: a resumed run refuses a source whose fingerprint changed."""
        ...

    def parts(self) -> Sequence[Part]:
        """The pieces in their fixed order."""
        ...

    def approximate_bytes(self) -> int | None:
        """About how many bytes of text there are, or None; must not read the source."""
        ...


class FilePart:
    """One file."""

    def __init__(self, path: Path, text_key: str = "text", strict: bool = False):
        self.path, self.text_key, self.strict = path, text_key, strict
        self.format, self.compression = format_of(path)

    @property
    def name(self) -> str:
        return str(self.path)

    def documents(self) -> Iterator[str]:
        match self.format:
            case ".txt":
                return read_text(self.path, self.compression, self.strict)
            case ".jsonl":
                return read_jsonl(self.path, self.text_key, self.compression, self.strict)
            case _:
                return read_parquet(self.path, self.text_key, self.compression, self.strict)


class FileSource:
    """Files on disk in a fixed order, under one name."""

    def __init__(self, name: str, paths: Sequence[Path], text_key: str = "text", strict: bool = False):
        self._name, self._text_key = name, text_key
        self._parts = [FilePart(path, text_key, strict) for path in paths]

    @property
    def name(self) -> str:
        return self._name

    def fingerprint(self) -> dict[str, Any]:
        """Path, size and time of change of every file, and the text key."""
        files = []
        for part in self._parts:
            stat = _stat(part.path)
            files.append({"path": str(part.path.resolve()), "bytes": stat.st_size, "modified_ns": stat.st_mtime_ns})
        return {"files": files, "text_key": self._text_key}

    def parts(self) -> Sequence[FilePart]:
        return self._parts

    def approximate_bytes(self) -> int | None:
        return sum(int(_stat(part.path).st_size * _expansion(part.path)) for part in self._parts)


class StdinSource:
    """Standard input, copied into `folder` before anything else so that a killed run can go on.

    The same command again either pipes the same bytes again (they are compared), or nothing (the copy is used). A run
    that is killed while it still copies starts anew. Text, JSON lines and parquet, also compressed, are told apart by
    their first bytes. `discard()` removes the copy.
    """

    name = "-"

    def __init__(self, stream: IO[bytes], folder: Path, text_key: str = "text", strict: bool = False):
        self._stream, self._text_key, self._strict = stream, text_key, strict
        self._copy = folder / ".stdin"
        self._sha256: str | None = None

    def fingerprint(self) -> dict[str, Any]:
        self._receive()
        return {"sha256": self._sha256, "text_key": self._text_key}

    def parts(self) -> Sequence[Part]:
        self._receive()
        return [_StdinPart(self._copy, self._text_key, self._strict)]

    def approximate_bytes(self) -> int | None:
        self._receive()
        return self._copy.stat().st_size

    def discard(self) -> None:
        self._copy.unlink(missing_ok=True)

    def _receive(self) -> None:
        if self._sha256 is not None:
            return
        arriving = self._copy.with_name(".stdin.tmp")
        with disk_errors(arriving):
            arriving.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(arriving, "wb") as file:
                    while block := self._stream.read(BLOCK):
                        file.write(block)
                    file.flush()
                    os.fsync(file.fileno())
                if arriving.stat().st_size:
                    os.replace(arriving, self._copy)
            finally:
                arriving.unlink(missing_ok=True)
        if not self._copy.exists():
            raise DataError("Standard input is empty; pipe text into it or name a file with --source.")
        self._sha256 = sha256_file(self._copy)


class _StdinPart:
    name = "standard input"

    def __init__(self, path: Path, text_key: str, strict: bool):
        self.path, self.text_key, self.strict = path, text_key, strict

    def documents(self) -> Iterator[str]:
        with open(self.path, "rb") as file:
            head = file.read(4)
        compression = "gzip" if head.startswith(b"\x1f\x8b") else "zstd" if head == b"\x28\xb5\x2f\xfd" else None
        start = next(read_blocks(self.path, compression), b"")
        if start.startswith(b"PAR1"):
            return read_parquet(self.path, self.text_key, compression, self.strict)
        if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
            return read_jsonl(self.path, self.text_key, compression, self.strict)
        return read_text(self.path, compression, self.strict)


def open_sources(
    paths: Sequence[str], *, text_key: str = "text", strict: bool = False, stdin: StdinSource | None = None
) -> list[Source]:
    """A source for every file, folder (searched recursively, in sorted order) or glob; '-' stands for `stdin`.

    Raises DataError for what is missing, empty or of an unknown kind.
    """
    sources: list[Source] = []
    for path in paths:
        if path != "-":
            sources.append(FileSource(path, find_files(path), text_key, strict))
        elif stdin is None:
            raise DataError("Standard input ('-') cannot be read here; name a file.")
        elif stdin in sources:
            raise DataError("Standard input ('-') is named twice; name it once.")
        else:
            sources.append(stdin)
    return sources


def texts_of(sources: Sequence[Source]) -> Iterator[str]:
    """All documents of all sources, in order."""
    for source in sources:
        for part in source.parts():
            yield from part.documents()


def find_files(path: str) -> list[Path]:
    """The files that a path, folder or glob stands for, sorted."""
    here = Path(path).expanduser()
    if here.is_dir():
        found = _walk(here)
        if not found:
            raise DataError(f"{path} holds no text files; it should have {', '.join(FORMATS)} (plain, .gz or .zst).")
        return found
    if here.exists():
        format_of(here)
        if here.is_file() and not _stat(here).st_size:
            raise DataError(f"{path} is empty; give a file with text in it.")
        return [here]
    if not glob.has_magic(path):
        raise DataError(f"{path} does not exist; check the path.")
    matches = [Path(match) for match in sorted(glob.glob(str(here), recursive=True))]
    found = sorted({file for match in matches for file in (_walk(match) if match.is_dir() else [match])}, key=str)
    if not found:
        raise DataError(f"No file matches {path}; check the pattern.")
    for file in found:
        format_of(file)
    return found


def format_of(path: Path) -> tuple[str, str | None]:
    """(.txt, .jsonl or .parquet; gzip, zstd or None) by the file's name; raises DataError for another name."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    compression = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    if compression is not None:
        suffixes.pop()
    if not suffixes or suffixes[-1] not in FORMATS:
        raise DataError(f"{path} is of an unknown kind; name it {', '.join(FORMATS)}, with .gz or .zst if compressed.")
    return suffixes[-1], compression


def parse_mix(mix: str) -> list[tuple[str, float]]:
    """'a.jsonl:0.7,b.jsonl:0.3' -> [('a.jsonl', 0.7), ('b.jsonl', 0.3)]; raises ConfigError."""
    pairs = []
    for item in mix.split(","):
        path, colon, number = item.strip().rpartition(":")
        weight = 0.0
        with contextlib.suppress(ValueError):
            weight = float(number)
        if not colon or not path or not 0 < weight < float("inf"):
            raise ConfigError(f"--mix: '{item.strip()}' is not PATH:WEIGHT; write it like a.jsonl:0.7,b.jsonl:0.3.")
        pairs.append((path, weight))
    return pairs


def digest(value: bytes) -> int:
    """A 64-bit hash of bytes that is the same on every machine."""
    return int.from_bytes(hashlib.blake2b(value, digest_size=8).digest(), "little")


def _walk(folder: Path) -> list[Path]:
    """The text files under `folder`, hidden ones and others left out."""
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(root, name)
            with contextlib.suppress(DataError):
                format_of(path)
                if not name.startswith("."):
                    found.append(path)
    return sorted(found, key=str)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path.") from error


def _expansion(path: Path) -> float:
    format, _ = format_of(path)
    return _EXPANSION.get(path.suffix.lower(), _EXPANSION.get(format, 1.0))
