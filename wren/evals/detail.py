"""Where a model's bits go: by place in the row, on what the row repeats, and along the text.

The place is that in the row, not in the document: rows are cut from the text without regard to where documents begin.

A token completes a pair when the token before it and itself stood side by side earlier in the same document of the
same row; a triple likewise. Those are what a model can copy from its context: real-text recall ("Zoology", 2312.04927,
finds most of the gap between recurrent models and attention on them).

B batch, T time.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from wren.batch import IGNORE, Batch
from wren.data.loader import TokenStream
from wren.errors import DataError
from wren.evals.parts import Detail, Part
from wren.loss import token_losses
from wren.model import LM
from wren.precision import Precision

NUM_BLOCKS = 20
_FIRST_BUCKET = 16
_REPEATS = ("new", "repeat-2", "repeat-3")


@torch.no_grad()
def detail(
    model: LM, stream: TokenStream, token_bytes_V: np.ndarray, precision: Precision, *, batch_size: int | None = None
) -> Detail:
    """What the model needs for the whole stream, and for its parts; raises DataError for a stream without text.

    batch_size: rows at once, None = about 4,096 tokens. Every triple is a pair too and counts as both.
    """
    model.eval()
    sums = _Sums(stream.context_len, stream.num_windows)
    row = 0
    for batch in stream.batches_in_order(batch_size or max(1, 4096 // stream.context_len)):
        with precision.context():
            losses_BT = token_losses(model, batch.to(precision.device)).cpu().double().numpy()
        targets_BT = batch.targets_BT.numpy()
        bytes_BT = np.where(targets_BT == IGNORE, 0, token_bytes_V[np.maximum(targets_BT, 0)])
        sums.add(row, losses_BT, bytes_BT, completed(batch))
        row += len(targets_BT)
    if not sums.whole[2]:
        raise DataError("There is no text in the validation split; prepare the data with --val FILE or more text.")
    return sums.detail()


class _Sums:
    """Nats, tokens and bytes of every part, as rows of arrays."""

    def __init__(self, context_len: int, num_windows: int):
        self.bounds = bucket_bounds(context_len)
        self.bucket_T = np.searchsorted(self.bounds, np.arange(context_len), side="right") - 1
        self.num_blocks = max(1, min(NUM_BLOCKS, num_windows))
        self.num_windows, self.context_len = max(1, num_windows), context_len
        self.places_in_row = np.zeros((len(self.bounds), 3))
        self.blocks = np.zeros((self.num_blocks, 3))
        self.repeats = np.zeros((len(_REPEATS), 3))
        self.whole = np.zeros(3)

    def add(self, row: int, losses_BT: np.ndarray, bytes_BT: np.ndarray, completed_BT: np.ndarray) -> None:
        """row: the number of the first window of this batch in the stream."""
        scored_BT = bytes_BT > 0
        values_BT3 = np.stack([np.where(scored_BT, losses_BT, 0.0), scored_BT, bytes_BT], axis=-1).astype(np.float64)
        self.whole += values_BT3.sum((0, 1))
        np.add.at(self.places_in_row, self.bucket_T, values_BT3.sum(0))
        windows_B = row + np.arange(len(losses_BT))
        np.add.at(self.blocks, windows_B * self.num_blocks // self.num_windows, values_BT3.sum(1))
        for index, chosen_BT in enumerate((completed_BT == 0, completed_BT >= 2, completed_BT >= 3)):
            self.repeats[index] += values_BT3[chosen_BT].sum(0)

    def detail(self) -> Detail:
        stops = [*self.bounds[1:], self.context_len]
        buckets = [f"{start}-{stop - 1}" for start, stop in zip(self.bounds, stops, strict=True)]
        blocks = [str(number) for number in range(self.num_blocks)]
        return Detail(
            whole=_parts(["whole"], self.whole[None])[0],
            places_in_row=_parts(buckets, self.places_in_row),
            repeats=_parts(_REPEATS, self.repeats),
            blocks=_parts(blocks, self.blocks),
        )


def _parts(names: Sequence[str], sums: np.ndarray) -> tuple[Part, ...]:
    return tuple(
        Part(name=name, nats=float(nats), tokens=round(tokens), bytes=round(num_bytes))
        for name, (nats, tokens, num_bytes) in zip(names, sums, strict=True)
    )


def bucket_bounds(context_len: int) -> list[int]:
    """Where the buckets of places begin: 0, 16, 32, 64, ... below context_len."""
    doublings = max(0, math.ceil(math.log2(max(context_len, 1) / _FIRST_BUCKET)))
    return [0, *(_FIRST_BUCKET << i for i in range(doublings))]


def completed(batch: Batch) -> np.ndarray:
    """(B, T): 3 where the target completes a triple seen before, 2 where only a pair, 0 where neither.

    Seen before: wholly inside the same document of the same row. Padding completes nothing.
    """
    targets_BT = batch.targets_BT.numpy()
    # place 0 is the first input, place t + 1 the target of place t
    text_BS = np.concatenate([batch.tokens_BT[:, :1].numpy(), targets_BT], axis=1)
    documents_BS = _documents(batch, text_BS)
    pairs_BT = _seen(text_BS, documents_BS, 2)
    triples_BT = _seen(text_BS, documents_BS, 3)
    return np.where(triples_BT, 3, np.where(pairs_BT, 2, 0))[:, 1:]


def _documents(batch: Batch, text_BS: np.ndarray) -> np.ndarray:
    """The document of every place of text_BS: that of the inputs; the last target's is its input's."""
    if batch.documents_BT is None:
        return np.zeros_like(text_BS)
    documents_BT = batch.documents_BT.numpy()
    return np.concatenate([documents_BT, documents_BT[:, -1:]], axis=1)


def _seen(text_BS: np.ndarray, documents_BS: np.ndarray, length: int) -> np.ndarray:
    """Whether the `length` tokens that end at a place stood in its row and document before."""
    num_rows, size = text_BS.shape
    seen_BS = np.zeros((num_rows, size), dtype=bool)
    if size < length:
        return seen_BS
    spans = [slice(i, size - length + 1 + i) for i in range(length)]
    rows = np.repeat(np.arange(num_rows)[:, None], size - length + 1, axis=1)
    keys = [rows, documents_BS[:, spans[-1]], *(text_BS[:, span] for span in spans)]
    whole = (documents_BS[:, spans[0]] == documents_BS[:, spans[-1]]) & np.all(
        [text_BS[:, span] != IGNORE for span in spans], axis=0
    )
    table = np.stack([key[whole] for key in keys], axis=1)  # in the order of the text
    if not len(table):
        return seen_BS
    _, first, index = np.unique(table, axis=0, return_index=True, return_inverse=True)
    repeated = np.arange(len(table)) != first[index.reshape(-1)]
    ends_BS = seen_BS[:, length - 1 :]
    ends_BS[whole] = repeated
    return seen_BS
