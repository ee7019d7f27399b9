"""From examples to batches: every example once per epoch, packed so that few places stay empty.

Best fit, longest first: an example goes into the fullest row that still has room for it (Johnson 1974). An epoch's
examples are shuffled, packed in windows of several thousand, and their rows are shuffled again, all by the seed; only
the number of the epoch and of the row are remembered.

B batch, T time, N tokens.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from wren.batch import IGNORE, Batch
from wren.errors import CheckpointError, ConfigError
from wren.tune.examples import Examples

_WINDOW = 8192  # examples packed at once: enough to fill rows, few enough that like lengths stay apart

Rows = list[list[int]]  # the examples of each row


def pack(lengths: np.ndarray, order: np.ndarray, room: int) -> Rows:
    """The examples of `order` in rows of `room` places; raises ConfigError for one that is longer."""
    if len(order) and int(lengths[order].max()) > room:
        raise ConfigError(f"An example of {int(lengths[order].max())} tokens does not fit a row of {room}.")
    rows: Rows = []
    by_room: dict[int, list[int]] = {}  # rows by the places left in them
    free = 0  # bit r is set where by_room[r] holds a row: the fullest row with room for n is one shift away
    for example in order[np.argsort(-lengths[order], kind="stable")].tolist():
        size = int(lengths[example])
        above = free >> size
        if above:
            left = size + (above & -above).bit_length() - 1
            row = by_room[left].pop()
            if not by_room[left]:
                free ^= 1 << left
        else:
            left, row = room, len(rows)
            rows.append([])
        rows[row].append(example)
        if left > size:  # a document takes a place at least, so a full row takes no more
            by_room.setdefault(left - size, []).append(row)
            free |= 1 << (left - size)
    return rows


def epoch_rows(lengths: np.ndarray, room: int, seed: int, epoch: int, *, packed: bool = True) -> Rows:
    """The rows of one epoch, in its order."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch))))
    order = rng.permutation(len(lengths))
    if not packed:
        return [[int(example)] for example in order]
    windows = [pack(lengths, order[i : i + _WINDOW], room) for i in range(0, len(order), _WINDOW)]
    rows = [row for window in windows for row in window]
    return [rows[i] for i in rng.permutation(len(rows))]


def make_batch(examples: Examples, rows: Sequence[Sequence[int]], context_len: int, pad_id: int) -> Batch:
    """One row of examples each. Documents are numbered along the row, so that a pair is 2k and 2k + 1.

    Of pairs, a token's weight is the number of learned tokens divided by that of pairs: what the loop's division by the
    former leaves is the mean over pairs.
    """
    size = (len(rows), context_len)
    tokens_BT, targets_BT = np.full(size, pad_id, dtype=np.int64), np.full(size, IGNORE, dtype=np.int64)
    documents_BT, positions_BT = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    reference_BT = None if examples.reference_N is None else np.zeros(size, dtype=np.float32)
    for row, chosen in enumerate(rows):
        place = number = 0
        for document in (d for e in chosen for d in range(e * examples.documents, (e + 1) * examples.documents)):
            start, stop = int(examples.starts[document]), int(examples.starts[document + 1]) - 1
            span = slice(place, place + stop - start)
            tokens_BT[row, span] = examples.tokens_N[start:stop]
            following = slice(start + 1, stop + 1)
            targets = examples.tokens_N[following].astype(np.int64)  # unsigned numbers have no IGNORE
            targets_BT[row, span] = np.where(examples.learned_N[following], targets, IGNORE)
            documents_BT[row, span], positions_BT[row, span] = number, np.arange(stop - start)
            if reference_BT is not None and examples.reference_N is not None:
                reference_BT[row, span] = examples.reference_N[following]
            place, number = span.stop, number + 1
        number += number % 2  # padding is a document of its own, and never half of a pair
        documents_BT[row, place:], positions_BT[row, place:] = number, np.arange(context_len - place)
    batch = Batch(
        torch.from_numpy(tokens_BT),
        torch.from_numpy(targets_BT),
        documents_BT=torch.from_numpy(documents_BT),
        positions_BT=torch.from_numpy(positions_BT),
        reference_logprobs_BT=None if reference_BT is None else torch.from_numpy(reference_BT),
    )
    if examples.documents == 1:
        return batch
    weight = batch.num_targets() / max(1, sum(map(len, rows)))
    return batch._replace(weights_BT=torch.full(size, weight, dtype=torch.float32))


class ExampleLoader:
    """Batches for training: epochs without end, shuffled and packed anew by `seed`.

    packed: several examples a row. rank, num_ranks: of the processes that train together, each of which gets its own
    rows of the same batch. Raises ConfigError for a seed below 0 or a batch that the processes cannot share.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        context_len: int,
        batch_size: int,
        seed: int,
        pad_id: int,
        packed: bool = True,
        rank: int = 0,
        num_ranks: int = 1,
    ):
        if not 0 <= seed < 1 << 63:
            raise ConfigError(f"The seed is {seed}; it must be from 0 to 2^63 - 1.")
        if batch_size % num_ranks:
            raise ConfigError(f"A batch of {batch_size} rows cannot be shared by {num_ranks} processes.")
        self.examples, self.context_len, self.batch_size = examples, context_len, batch_size
        self.seed, self.pad_id, self.packed = seed, pad_id, packed
        self.rank, self.num_ranks = rank, num_ranks
        self.epoch, self.row = 0, 0
        self._fingerprint = examples.fingerprint()
        self._lengths = examples.lengths()
        self._rows: tuple[int, Rows] | None = None

    def _epoch(self, epoch: int) -> Rows:
        if self._rows is None or self._rows[0] != epoch:
            rows = epoch_rows(self._lengths, self.context_len, self.seed, epoch, packed=self.packed)
            self._rows = epoch, rows
        return self._rows[1]

    def num_batches(self, epochs: float) -> int:
        """Batches that `epochs` of the examples make, at least one."""
        whole = int(epochs)
        rows = sum(self._num_rows(epoch) for epoch in range(whole))
        if epochs > whole:
            rows += (epochs - whole) * self._num_rows(whole)
        return max(1, round(rows / self.batch_size))

    def _num_rows(self, epoch: int) -> int:
        return len(epoch_rows(self._lengths, self.context_len, self.seed, epoch, packed=self.packed))

    def next_batch(self) -> Batch:
        rows: Rows = []
        while len(rows) < self.batch_size:
            left = self._epoch(self.epoch)[self.row : self.row + self.batch_size - len(rows)]
            rows += left
            self.row += len(left)
            if self.row >= len(self._epoch(self.epoch)):
                self.epoch, self.row = self.epoch + 1, 0
        batch = make_batch(self.examples, rows, self.context_len, self.pad_id)
        share = self.batch_size // self.num_ranks
        return batch.rows(self.rank * share, (self.rank + 1) * share)

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "row": self.row, "seed": self.seed, "examples": self._fingerprint}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken; raises CheckpointError when it belongs to other data."""
        if (state.get("seed"), state.get("examples")) != (self.seed, self._fingerprint):
            raise CheckpointError("The checkpoint was tuned on other data or with another seed; use the same --data.")
        self.epoch, self.row = state["epoch"], state["row"]


def batches_in_order(
    examples: Examples, *, context_len: int, batch_size: int, pad_id: int, max_tokens: int | None = None
) -> Iterator[Batch]:
    """All examples once, packed, always in the same batches, for evaluation; stops after about max_tokens places."""
    rows = pack(examples.lengths(), np.arange(len(examples)), context_len)
    if max_tokens is not None and max_tokens < len(rows) * context_len:
        rows = epoch_rows(examples.lengths(), context_len, 0, 0)[: max(1, max_tokens // context_len)]
    for start in range(0, len(rows), batch_size):
        yield make_batch(examples, rows[start : start + batch_size], context_len, pad_id)
