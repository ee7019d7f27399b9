"""What is left out of training: exact copies, near copies (MinHash LSH) and documents that hold evaluation text.

Exact: a 64-bit hash of the text in NFC with its white space evened out. Near: MinHash signatures (Broder 1997) of
5-word shingles by `datasketch`, cut into bands (Leskovec et al., Mining of Massive Datasets, ch. 3); a document that
shares a band with an earlier kept one is dropped. Contaminated: a document that shares 13 words in a row with an
evaluation text (2005.14165, appendix C), or holds all of a shorter one of at least 5 words.

Memory: 8 bytes per kept document for exact copies, 8 * (1 + bands) for near ones, twice that for a moment while the
table grows, and about 50 MB for its newest entries.
"""

import importlib
import itertools
import json
import os
import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wren.data.readers import read_lines
from wren.data.sources import digest, find_files, format_of
from wren.errors import ConfigError, DataError
from wren.files import disk_errors, sha256_file

SHINGLE = 5  # words
NUM_PERM = 128
SIMILARITY = 0.8  # Jaccard similarity at which half or more of the pairs are found
NGRAM = 13  # words
SHORTEST = 5  # words; shorter evaluation texts ("all of the above") are in too many innocent documents
_WORD = re.compile(r"\w+")
_NEWEST = 1 << 19
_FACTORS = np.frombuffer(np.random.default_rng(13).bytes(8 * NGRAM), dtype="<u8") | np.uint64(1)


class HashLog:
    """A set of 64-bit hashes with a log on disk, so that the set can be put back to any earlier length."""

    def __init__(self, path: Path, count: int = 0):
        """Opens the log and cuts it to its first `count` hashes; raises DataError when it holds fewer."""
        self.path, self.count = path, count
        with disk_errors(path):
            path.touch()
            old = np.fromfile(path, dtype="<u8", count=count)
            if len(old) < count:
                raise DataError(f"{path} was cut; run the same command with --fresh.")
            self._file = open(path, "r+b")  # noqa: SIM115
            self._file.truncate(8 * count)
            self._file.seek(8 * count)
        self._sorted = np.sort(old)
        self._newest: set[int] = set()

    def holds_any(self, hashes: Sequence[int]) -> bool:
        if not self._newest.isdisjoint(hashes):
            return True
        return bool(len(hashes)) and bool(contained(np.array(hashes, dtype=np.uint64), self._sorted).any())

    def add(self, hashes: Sequence[int]) -> None:
        with disk_errors(self.path):
            self._file.write(np.array(hashes, dtype="<u8").tobytes())
        self.count += len(hashes)
        self._newest.update(hashes)
        if len(self._newest) >= _NEWEST:
            newest = np.fromiter(self._newest, dtype=np.uint64, count=len(self._newest))
            self._sorted = np.concatenate([self._sorted, newest])
            self._sorted.sort(kind="stable")
            self._newest.clear()

    def sync(self) -> int:
        """The number of hashes, all of them durable."""
        with disk_errors(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
        return self.count

    def close(self) -> None:
        with disk_errors(self.path):
            self._file.close()


class NearHasher:
    """Band hashes of a document: two documents that share one are taken for near copies."""

    def __init__(self, similarity: float = SIMILARITY, num_perm: int = NUM_PERM):
        try:
            datasketch = importlib.import_module("datasketch")
        except ImportError as error:
            raise ConfigError(
                "Removing near duplicates needs the package datasketch: pip install -e '.[dedup]' in Wren's folder."
            ) from error
        self._empty = datasketch.MinHash(num_perm=num_perm, hashfunc=int)
        lsh = datasketch.MinHashLSH(threshold=similarity, num_perm=num_perm)
        self.num_bands, self.rows = lsh.b, lsh.r

    def __call__(self, text: str) -> list[int]:
        """One hash per band; none for a document of fewer words than a shingle."""
        words = _words(text)
        if len(words) < SHINGLE:
            return []
        ids = np.fromiter(map(zlib.crc32, map(str.encode, words)), np.uint64, len(words))
        *_, shingles = ngram_hashes(ids, SHINGLE)
        values = np.unique(shingles >> np.uint64(32))
        minhash = self._empty.copy()
        for start in range(0, len(values), 4096):  # a step holds 4096 x num_perm hashes in memory
            minhash.update_batch(values[start : start + 4096].tolist())
        signature = np.asarray(minhash.hashvalues, dtype="<u8")
        bands = (signature[band * self.rows : (band + 1) * self.rows] for band in range(self.num_bands))
        return [digest(bytes([band]) + rows.tobytes()) for band, rows in enumerate(bands)]


class Contamination:
    """Finds documents that hold text of evaluation files: all strings of a .jsonl, lines and paragraphs of a .txt."""

    def __init__(self, files: Sequence[str]):
        self.paths = [path for file in files for path in find_files(file)]
        self._words: dict[str, int] = {}
        found: dict[int, set[int]] = {}
        for path in self.paths:
            for text in _strings_of(path):
                self._learn(text, found)
        if not found:
            names = ", ".join(files)
            raise DataError(f"{names}: no text of {SHORTEST} words or more to decontaminate with; name another file.")
        self._ngrams = {n: np.sort(np.fromiter(hashes, np.uint64, len(hashes))) for n, hashes in found.items()}

    def fingerprint(self) -> list[dict[str, str]]:
        return [{"file": path.name, "sha256": sha256_file(path)} for path in self.paths]

    def __call__(self, text: str) -> bool:
        """Whether `text` holds a piece of an evaluation text."""
        words = _words(text)
        ids = np.fromiter(map(self._words.get, words, itertools.repeat(0)), np.uint64, len(words))
        unknown = np.flatnonzero(ids == 0)
        longest = int(np.diff(unknown, prepend=-1, append=len(ids)).max()) - 1  # run of words that evaluation texts use
        for n, hashes in enumerate(ngram_hashes(ids, min(longest, NGRAM)), 1):
            wanted = self._ngrams.get(n)
            if wanted is not None and contained(hashes, wanted).any():
                return True
        return False

    def _learn(self, text: str, found: dict[int, set[int]]) -> None:
        words = _words(text)
        if len(words) < SHORTEST:
            return
        for word in words:
            self._words.setdefault(word, digest(word.encode()) | 1)
        ids = np.array([self._words[word] for word in words], dtype=np.uint64)
        n = min(len(words), NGRAM)
        *_, hashes = ngram_hashes(ids, n)
        found.setdefault(n, set()).update(hashes.tolist())


def _words(text: str) -> list[str]:
    """The words in one case, without half characters."""
    return _WORD.findall(text.encode("utf-8", "replace").decode().casefold())


def ngram_hashes(ids: np.ndarray, longest: int) -> Iterator[np.ndarray]:
    """Hashes (uint64) of all runs of 1, 2, ... `longest` ids; ends early when the ids do."""
    hashes = ids * _FACTORS[0]
    for n in range(1, min(longest, len(ids)) + 1):
        if n > 1:
            hashes = hashes[:-1] + ids[n - 1 :] * _FACTORS[n - 1]
        yield hashes


def contained(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Which of `values` are in the sorted array `ordered`."""
    if not len(ordered):
        return np.zeros(len(values), dtype=bool)
    places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return ordered[places] == values


def exact_hash(text: str) -> int:
    """A hash that does not see differences of white space or of Unicode composition."""
    return digest(unicodedata.normalize("NFC", " ".join(text.split())).encode("utf-8", "replace"))


def _strings_of(path: Path) -> Iterator[str]:
    format, compression = format_of(path)
    if format == ".parquet":
        raise DataError(f"{path}: evaluation texts are read from .txt and .jsonl only; convert it.")
    paragraph: list[str] = []
    for number, raw in enumerate(read_lines(path, compression), 1):
        line = raw.decode("utf-8", "replace")
        if format == ".jsonl":
            if line.strip():
                yield from _strings_in(_parse(line, path, number))
            continue
        if line.strip():
            yield line
            paragraph.append(line)
        elif paragraph:
            yield " ".join(paragraph)
            paragraph = []
    yield " ".join(paragraph)


def _parse(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}:{number} is not valid JSON; mend or remove that line.") from error


def _strings_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings_in(item)
