"""Sources to encoded documents, in order: one thread reads ahead per source, a pool of threads encodes.

Threads, because tiktoken, hashing and decompression let go of Python's lock; what is decided about a document is
decided by the one consumer, in the order of the sources, so the result does not depend on the number of workers.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from wren.data.dedup import Contamination, HashLog, NearHasher, exact_hash
from wren.data.holdout import Holdout, next_source
from wren.data.readers import MendedText
from wren.data.sources import Source, digest

BATCH = 1 << 18  # characters encoded at a time
AHEAD = 32 << 20  # characters read and not yet written, over all sources
REASONS = ("exact_duplicates", "near_duplicates", "contaminated", "empty")


class Encoder(Protocol):
    """What the preparation needs of a Tokenizer."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def document_id(self) -> int: ...
    def encode_to_numpy(self, texts: list[str], num_threads: int) -> list[np.ndarray]: ...


class Item(NamedTuple):
    """A document as read; `number` counts the documents of its part up to and with it."""

    part: int
    number: int
    text: str
    held_out: bool | None


class Encoded(NamedTuple):
    """A document as the workers see it; `tokens` begins with document_id, and is None where nobody wants it."""

    part: int
    number: int
    tokens: np.ndarray | None
    num_bytes: int
    replaced: int
    held_out: bool
    removed: str | None
    hashes: tuple[int, ...]


class Kept(NamedTuple):
    source: int
    split: str
    tokens: np.ndarray | None
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Worker:
    """All that can be said of a document by itself: its tokens, hashes, and whether it is held out or contaminated."""

    tokenizer: Encoder
    dtype: np.dtype
    threshold: int
    exact: bool = False
    near: NearHasher | None = None
    contamination: Contamination | None = None
    only: str | None = None  # encode this split's documents alone

    def __call__(self, items: Sequence[Item]) -> list[Encoded]:
        looked = [self._look(item) for item in items]
        wanted = [
            index
            for index, one in enumerate(looked)
            if one.removed is None and self.only in (None, "val" if one.held_out else "train")
        ]
        lists = self.tokenizer.encode_to_numpy([items[index].text for index in wanted], num_threads=1)
        for index, tokens in zip(wanted, lists, strict=True):
            array = np.empty(len(tokens) + 1, dtype=self.dtype)
            array[0] = self.tokenizer.document_id
            array[1:] = tokens
            looked[index] = looked[index]._replace(tokens=array)
        return looked

    def _look(self, item: Item) -> Encoded:
        text = item.text
        raw = text.encode("utf-8", "replace")
        replaced = text.replaced if isinstance(text, MendedText) else 0
        held_out = digest(raw) < self.threshold if item.held_out is None else item.held_out
        removed, hashes = None, ()
        if not text or text.isspace():
            removed = "empty"
        elif self.contamination is not None and not held_out and self.contamination(text):
            removed = "contaminated"
        elif self.exact:
            hashes = (exact_hash(text), *(self.near(text) if self.near else ()))
        return Encoded(item.part, item.number, None, len(raw), replaced, held_out, removed, hashes)


class Pipeline:
    """Iterates over what `work` makes of `items`, in order, while reading at most `ahead` characters ahead."""

    def __init__(self, items: Iterator[Item], work: Callable[[list[Item]], list[Encoded]], pool: Executor, ahead: int):
        self._items, self._work, self._pool, self._ahead = items, work, pool, ahead
        self._queue: queue.SimpleQueue[tuple[Future[list[Encoded]], int] | BaseException | None] = queue.SimpleQueue()
        self._room = threading.Condition()
        self._held, self._closed = 0, False
        # a daemon: a reader that waits for the network must not keep the program from ending
        threading.Thread(target=self._read, name="read", daemon=True).start()

    def __iter__(self) -> Iterator[Encoded]:
        while (entry := self._queue.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            future, size = entry
            yield from future.result()
            with self._room:
                self._held -= size
                self._room.notify()

    def close(self) -> None:
        with self._room:
            self._closed = True
            self._room.notify()

    def _read(self) -> None:
        try:
            batch: list[Item] = []
            size = 0
            for item in self._items:
                batch.append(item)
                size += len(item.text) + 64
                if size >= BATCH:
                    if not self._submit(batch, size):
                        return
                    batch, size = [], 0
            if batch:
                self._submit(batch, size)
            self._queue.put(None)
        except BaseException as error:  # noqa: BLE001  it is raised again by the consumer
            self._queue.put(error)

    def _submit(self, batch: list[Item], size: int) -> bool:
        with self._room:
            self._room.wait_for(lambda: self._closed or not self._held or self._held + size <= self._ahead)
            if self._closed:
                return False
            self._held += size
            self._queue.put((self._pool.submit(self._work, batch), size))
        return True


class Stream:
    """The documents to write, of all sources in their order or mixture, from `state` on.

    The first `num_given` sources are validation text, read first and whole. `state()` is exact after every document.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        worker: Worker,
        holdout: Holdout,
        *,
        num_given: int,
        weights: Sequence[float] | None,
        log: HashLog | None,
        num_workers: int,
        state: dict[str, Any] | None = None,
    ):
        self.sources, self.worker, self.holdout = sources, worker, holdout
        self.num_given, self.weights, self.log = num_given, weights, log
        state = state or initial_state(len(sources))
        self.places: list[list[int]] = [list(place) for place in state["position"]["places"]]
        self.train_bytes: list[int] = list(state["position"]["train_bytes"])
        self.counts: list[dict[str, int]] = [dict(counts) for counts in state["counts"]]
        self.removed: dict[str, int] = dict(state["removed"])
        self._pool = ThreadPoolExecutor(num_workers, "encode")
        open_at_once = len(sources) - num_given if weights else 1
        self._ahead = max(AHEAD // max(open_at_once, 1), 2 * BATCH)
        self._pipelines: dict[int, tuple[Pipeline, Iterator[Encoded]]] = {}
        self._ended: set[int] = set()

    def __iter__(self) -> Iterator[Kept]:
        while (source := self._choose()) is not None:
            encoded = next(self._encoded(source), None)
            if encoded is None:
                self._ended.add(source)
                continue
            self.places[source] = [encoded.part, encoded.number]
            given = source < self.num_given
            removed = encoded.removed or self._duplicate(encoded.hashes, keep=given)
            counts = self.counts[source]
            counts["replaced_characters"] += encoded.replaced
            if removed:
                self.removed[removed] += 1
                continue
            counts["documents"] += 1
            counts["bytes"] += encoded.num_bytes
            counts["tokens"] += 0 if encoded.tokens is None else len(encoded.tokens)
            if not encoded.held_out:
                self.train_bytes[source] += encoded.num_bytes
            yield Kept(source, "val" if encoded.held_out else "train", encoded.tokens, encoded.num_bytes)

    def position(self) -> dict[str, Any]:
        """Where the next document comes from: enough to begin again there."""
        places = [list(place) for place in self.places]
        return {"places": places, "train_bytes": list(self.train_bytes), "hashes": self.log.count if self.log else 0}

    def state(self) -> dict[str, Any]:
        counts = [dict(counts) for counts in self.counts]
        return {"position": self.position(), "counts": counts, "removed": dict(self.removed)}

    def close(self) -> None:
        for pipeline, _ in self._pipelines.values():
            pipeline.close()
        self._pool.shutdown(cancel_futures=True)

    def _choose(self) -> int | None:
        given = [source for source in range(self.num_given) if source not in self._ended]
        if given:
            return given[0]
        training = range(self.num_given, len(self.sources))
        if self.weights is None:
            return next((source for source in training if source not in self._ended), None)
        if not self._ended.isdisjoint(training):
            return None
        return self.num_given + next_source(self.train_bytes[self.num_given :], self.weights)

    def _encoded(self, source: int) -> Iterator[Encoded]:
        if source not in self._pipelines:
            pipeline = Pipeline(self._items(source), self.worker, self._pool, self._ahead)
            self._pipelines[source] = pipeline, iter(pipeline)
        return self._pipelines[source][1]

    def _items(self, source: int) -> Iterator[Item]:
        first_part, done = self.places[source]
        parts = self.sources[source].parts()
        for index in range(first_part, len(parts)):
            texts = parts[index].documents()
            if source < self.num_given:
                marked: Iterator[tuple[str, bool | None]] = ((text, True) for text in texts)
            else:
                marked = self.holdout.marked(source - self.num_given, index, texts)
            for number, (text, held_out) in enumerate(marked, 1):
                if index > first_part or number > done:
                    yield Item(index, number, text, held_out)

    def _duplicate(self, hashes: tuple[int, ...], keep: bool) -> str | None:
        if self.log is None:
            return None
        if not keep:
            if self.log.holds_any(hashes[:1]):
                return "exact_duplicates"
            if self.log.holds_any(hashes[1:]):
                return "near_duplicates"
        self.log.add(hashes)
        return None


def initial_state(num_sources: int) -> dict[str, Any]:
    """The state before the first document."""
    zeros = {"documents": 0, "bytes": 0, "tokens": 0, "replaced_characters": 0}
    position = {"places": [[0, 0]] * num_sources, "train_bytes": [0] * num_sources, "hashes": 0}
    return {"position": position, "counts": [zeros] * num_sources, "removed": dict.fromkeys(REASONS, 0)}
