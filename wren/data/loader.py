"""From token shards to batches: every token once per epoch, in a seeded order, with the document of each token known.

The stream of a split (its shards laid end to end) is cut into windows of `context_len` inputs; a window's targets are
the tokens one place further. No token is dropped: the last window is padded, and its padding is not learned. The order
of the windows is a keyed permutation that is computed, not stored, so that a resumed loader needs only a counter.

B batch, T time.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from wren.batch import IGNORE, Batch, positions_in_documents
from wren.errors import CheckpointError, ConfigError, DataError


class TokenStream:
    """Shards laid end to end and cut into windows; `document_id` is the token that starts every document."""

    def __init__(self, shards: Sequence[np.ndarray], document_id: int, context_len: int):
        self.shards = [shard for shard in shards if len(shard)]
        self.document_id = document_id
        self.context_len = context_len
        self.starts = np.cumsum([0, *(len(shard) for shard in self.shards)])
        self.num_tokens = int(self.starts[-1])
        self.num_windows = -(-max(self.num_tokens - 1, 0) // context_len)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens start..stop-1 of the stream (fewer at its end) as int64, also across the edge of two shards."""
        pieces, stop = [], min(stop, self.num_tokens)
        shard = int(np.searchsorted(self.starts, start, side="right")) - 1
        while start < stop:
            offset = start - int(self.starts[shard])
            piece = self.shards[shard][offset : offset + stop - start]
            pieces.append(piece)
            start, shard = start + len(piece), shard + 1
        return np.concatenate(pieces).astype(np.int64)

    def batch(self, windows: Sequence[int]) -> Batch:
        """The windows of the given numbers, one a row."""
        tokens_BT = np.full((len(windows), self.context_len), self.document_id, dtype=np.int64)
        targets_BT = np.full((len(windows), self.context_len), IGNORE, dtype=np.int64)
        for row, window in enumerate(windows):
            start = window * self.context_len
            piece = self.read(start, start + self.context_len + 1)
            tokens_BT[row, : len(piece) - 1] = piece[:-1]
            targets_BT[row, : len(piece) - 1] = piece[1:]
        documents_BT = torch.from_numpy((tokens_BT == self.document_id).cumsum(axis=1))
        return Batch(
            torch.from_numpy(tokens_BT),
            torch.from_numpy(targets_BT),
            documents_BT=documents_BT,
            positions_BT=positions_in_documents(documents_BT),
        )

    def batches_in_order(self, batch_size: int, max_tokens: int | None = None) -> Iterator[Batch]:
        """All windows from the first on, for evaluation; stops after about max_tokens."""
        count = self.num_windows
        if max_tokens is not None:
            count = min(count, -(-max_tokens // self.context_len))
        for start in range(0, count, batch_size):
            yield self.batch(range(start, min(start + batch_size, count)))


class TokenLoader:
    """Batches for training from a stream: shuffled anew every epoch by `seed`; remembers only a row counter.

    rank, num_ranks: of the processes that train together, each of which gets its own rows of the same batch; their
    number divides batch_size. Raises DataError when the stream is shorter than one batch, ConfigError for a seed
    below 0.
    """

    def __init__(self, stream: TokenStream, *, batch_size: int, seed: int, rank: int = 0, num_ranks: int = 1):
        needed = batch_size * stream.context_len
        if stream.num_tokens - 1 < needed:
            raise DataError(
                f"The training split has {stream.num_tokens:,} tokens, less than one batch of {batch_size} x "
                f"{stream.context_len} = {needed:,}; add text, or lower the batch size or the context length."
            )
        if not 0 <= seed < 1 << 63:
            raise ConfigError(f"The seed is {seed}; it must be from 0 to 2^63 - 1.")
        self.stream, self.batch_size, self.seed = stream, batch_size, seed
        self.num_rows = batch_size // num_ranks
        self.first_row = rank * self.num_rows
        self.row = 0

    @property
    def epoch(self) -> float:
        """How often the data has been gone through."""
        return self.row / self.stream.num_windows

    def next_batch(self) -> Batch:
        num_windows = self.stream.num_windows
        first = self.row + self.first_row
        rows = np.arange(first, first + self.num_rows)
        windows = [
            int(window)
            for epoch in np.unique(rows // num_windows)
            for window in permute(
                rows[rows // num_windows == epoch] % num_windows, num_windows, (self.seed, int(epoch))
            )
        ]
        self.row += self.batch_size
        return self.stream.batch(windows)

    def state(self) -> dict[str, Any]:
        return {"row": self.row, "seed": self.seed, "num_windows": self.stream.num_windows}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken; raises CheckpointError when it belongs to other data."""
        if (state["seed"], state["num_windows"]) != (self.seed, self.stream.num_windows):
            raise CheckpointError("The checkpoint was trained on other data or with another seed; use the same --data.")
        self.row = state["row"]


def permute(indices: np.ndarray, size: int, key: tuple[int, int]) -> np.ndarray:
    """A keyed permutation of 0..size-1 at the given places, without storing it.

    A four-round Feistel network on the smallest even number of bits that holds `size`; results outside are walked on
    (cycle walking: Black & Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    shift = np.uint64(half)
    rounds = np.random.SeedSequence(key).generate_state(4, dtype=np.uint64)
    values = indices.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    while outside.any():
        left, right = values[outside] >> shift, values[outside] & mask
        for round_key in rounds:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        values[outside] = (left << shift) | right
        outside = values >= size
    return values.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """A 64-bit finaliser that spreads every bit (Steele et al. 2014, SplitMix)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
