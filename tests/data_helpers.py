"""What the tests of the data preparation share: sources made of lists, a byte tokenizer, and reading shards back."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wren.data.shards import open_shards
from wren.tokenizer.bpe import Tokenizer

# Ids 0-255 are the bytes, so a shard can be read back without trusting the code under test.
BYTES = Tokenizer([bytes([value]) for value in range(256)], 258)
WIDE = Tokenizer([bytes([value]) for value in range(256)], 70_000)


class ListPart:
    def __init__(self, name: str, texts: Sequence[str], stop: tuple[int, BaseException] | None = None):
        self.name, self.texts, self.stop = name, texts, stop

    def documents(self) -> Iterator[str]:
        for number, text in enumerate(self.texts):
            if self.stop is not None and number == self.stop[0]:
                raise self.stop[1]
            yield text


class ListSource:
    """Parts given as lists; `stop` = (part, number, error): reading that document raises the error.

    The first `readings` times that the source is read, it does not.
    """

    def __init__(
        self,
        parts: Sequence[Sequence[str]],
        name: str = "list",
        stop: tuple[int, int, Any] | None = None,
        readings: int = 0,
    ):
        self.name, self._parts, self._stop, self._readings = name, parts, stop, readings

    def fingerprint(self) -> dict[str, Any]:
        return {"texts": [list(part) for part in self._parts]}

    def parts(self) -> list[ListPart]:
        self._readings -= 1
        stops = {self._stop[0]: self._stop[1:]} if self._stop and self._readings < 0 else {}
        return [ListPart(f"{self.name}/{i}", texts, stops.get(i)) for i, texts in enumerate(self._parts)]

    def approximate_bytes(self) -> int | None:
        return sum(len(text.encode()) for part in self._parts for text in part)


def read_back(folder: Path, split: str, document_id: int = BYTES.document_id) -> list[str]:
    """The documents of a split, in order."""
    shards = open_shards(folder, split, check=True)
    tokens = np.concatenate([*shards, np.zeros(0, dtype=np.int64)]).astype(np.int64)
    if not len(tokens):
        return []
    assert tokens[0] == document_id
    starts = np.flatnonzero(tokens == document_id)
    return [bytes(piece[1:].tolist()).decode() for piece in np.split(tokens, starts[1:])]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a prepared folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def write_jsonl(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def words(seed: int, count: int) -> str:
    """`count` made-up words, different for every seed."""
    rng = np.random.default_rng(seed)
    return " ".join("".join(map(chr, rng.integers(97, 123, size))) for size in rng.integers(2, 9, count))
