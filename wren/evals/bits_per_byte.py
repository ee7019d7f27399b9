"""Bits per byte: how many bits a model needs for one byte of text, comparable between vocabularies and compressors.

    bits_per_byte = sum of -log2 p(token) over the text's tokens / number of UTF-8 bytes of these tokens

Special tokens (document starts) stand for no text: they are read but neither scored nor counted. Texts are laid end
to end, each behind its document start, and cut into windows of the context length; the first tokens of a window have
little context, so the figure is a slight over-estimate, the same for every model of that context length.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wren.batch import IGNORE, Batch
from wren.data.loader import TokenStream
from wren.data.sources import Source, open_sources
from wren.errors import DataError
from wren.evals.memory import by_halves
from wren.generate import Loaded
from wren.intervals import ratio_interval
from wren.loss import token_losses
from wren.model import LM
from wren.precision import Precision
from wren.tokenizer import Tokenizer


@torch.no_grad()
def bits_per_byte(
    model: LM,
    batches: Iterable[Batch],
    token_bytes_V: np.ndarray,
    precision: Precision,
    summed: Callable[[Tensor], Tensor] = lambda totals: totals,
    windows: list[tuple[float, int]] | None = None,
) -> dict[str, float]:
    """bits_per_byte, loss (nats per scored token), tokens, bytes over the batches; raises DataError for no text.

    summed: where each of several processes has its part of the batches, adds up their totals (float64). windows: gets
    the bits and the bytes of every row. A batch that does not fit the memory is gone through in halves.
    """

    def losses(part: Batch) -> Tensor:
        with precision.context():
            return token_losses(model, part.to(precision.device)).cpu().double()

    model.eval()
    sizes_V = torch.from_numpy(token_bytes_V)
    nats = torch.zeros((), dtype=torch.float64)
    num_bytes = num_tokens = 0
    for batch in batches:
        bytes_BT = _text_bytes(batch.targets_BT, sizes_V)
        losses_BT = torch.where(bytes_BT > 0, by_halves(losses, batch), 0.0)
        nats += losses_BT.sum()
        if windows is not None:
            windows += zip((losses_BT.sum(1) / math.log(2)).tolist(), bytes_BT.sum(1).tolist(), strict=True)
        num_bytes += int(bytes_BT.sum())
        num_tokens += int((bytes_BT > 0).sum())
    total, *counts = summed(torch.stack((nats, nats.new_tensor(num_bytes), nats.new_tensor(num_tokens)))).tolist()
    num_bytes, num_tokens = (int(count) for count in counts)
    if num_bytes == 0:
        raise DataError("There is no text to evaluate on; give a longer file or a data folder with a validation split.")
    return {
        "bits_per_byte": total / math.log(2) / num_bytes,
        "loss": total / num_tokens,
        "tokens": num_tokens,
        "bytes": num_bytes,
    }


def _text_bytes(targets_BT: Tensor, sizes_V: Tensor) -> Tensor:
    """Bytes of text each target stands for; 0 for what is not scored."""
    return torch.where(targets_BT == IGNORE, 0, sizes_V[targets_BT.clamp(min=0)])


def evaluate_texts(
    loaded: Loaded, precision: Precision, paths: Sequence[str], text_key: str, context_len: int
) -> dict[str, Any]:
    """Bits per byte of a model on files: {"bits_per_byte", "low", "high", "loss", ..., "texts": [{"name", ...}]}.

    Each named path is one text: its documents end to end, in windows of context_len. low, high: 95 % confidence, as if
    the windows were independent; None for a single one. Raises DataError.
    """
    token_bytes_V = loaded.tokenizer.token_bytes()
    rows: list[dict[str, Any]] = []
    every: list[tuple[float, int]] = []
    for source in open_sources(paths, text_key=text_key):
        stream = TokenStream([_tokens(source, loaded.tokenizer)], loaded.tokenizer.document_id, context_len)
        batches = stream.batches_in_order(max(1, 4096 // context_len))
        windows: list[tuple[float, int]] = []
        found = bits_per_byte(loaded.model, batches, token_bytes_V, precision, windows=windows)
        rows.append({"name": source.name, **found, **_interval(windows)})
        every += windows
    num_bytes, num_tokens = (sum(row[key] for row in rows) for key in ("bytes", "tokens"))
    return {
        "bits_per_byte": sum(row["bits_per_byte"] * row["bytes"] for row in rows) / num_bytes,
        **_interval(every),
        "loss": sum(row["loss"] * row["tokens"] for row in rows) / num_tokens,
        "tokens": num_tokens,
        "bytes": num_bytes,
        "texts": rows,
    }


def _interval(windows: Sequence[tuple[float, int]]) -> dict[str, float | None]:
    low, high = ratio_interval(*zip(*windows, strict=True)) or (None, None)
    return {"low": low, "high": high}


def _tokens(source: Source, tokenizer: Tokenizer) -> np.ndarray:
    """All documents of a source, each behind its document start."""
    pieces = [
        np.array([tokenizer.document_id, *tokenizer.encode(text)], dtype=np.uint32)
        for part in source.parts()
        for text in part.documents()
    ]
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.uint32)
