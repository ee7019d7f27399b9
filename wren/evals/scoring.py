"""How likely a model finds one text after another: sums of log-probabilities of tokens, in nats.

B batch, T time, D model width, N scored tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wren.errors import DataError
from wren.evals.memory import in_halves
from wren.generate import Loaded
from wren.model import LM
from wren.precision import Precision
from wren.tokenizer import Tokenizer

_BATCH_TOKENS = 4096
_CHUNK = 512  # scored tokens whose logits are held at once


class Scored(NamedTuple):
    """log p(continuation | context) in nats; how many tokens and bytes of text that is; whether each token was the
    likeliest one at its place."""

    logprob: float
    tokens: int
    bytes: int
    greedy: bool


class Request(NamedTuple):
    """Token ids: what is read, and what is scored. At least one of each."""

    context: list[int]
    continuation: list[int]


def request(tokenizer: Tokenizer, context: str, continuation: str) -> Request:
    """The tokens of both as one text behind a document's start; those that the context alone has too are only read.

    Where the two grow together into other tokens, those count as continuation. Raises DataError for an empty one.
    """
    whole = tokenizer.encode(context + continuation)
    alone = tokenizer.encode(context)
    same = 0
    while same < min(len(alone), len(whole)) and alone[same] == whole[same]:
        same += 1
    if same == len(whole):
        raise DataError(f"There is nothing to score behind {context[-40:]!r}; give a longer continuation.")
    return Request([tokenizer.document_id, *whole[:same]], whole[same:])


@torch.no_grad()
def score(
    loaded: Loaded, precision: Precision, requests: Sequence[Request], *, max_len: int | None = None
) -> list[Scored]:
    """One result a request, in their order. max_len: of a row; what goes beyond it is cut off at the context's start.

    Raises DataError where a continuation alone is longer. Rows of like length share a batch.
    """
    loaded.model.eval()
    positions = loaded.model.config.learned_positions
    limit = min(x for x in (max_len, positions, 1 << 40) if x is not None)
    cut = [_cut(each, limit) for each in requests]
    order = sorted(range(len(cut)), key=lambda i: -_length(cut[i]))
    sizes = loaded.tokenizer.token_bytes()
    results: dict[int, Scored] = {}
    start = 0
    while start < len(order):
        count = max(1, _BATCH_TOKENS // _length(cut[order[start]]))
        group = order[start : start + count]
        found = in_halves(lambda rows: _score([cut[i] for i in rows], loaded.model, precision), group)
        for i, (logprob, greedy) in zip(group, found, strict=True):
            ids = cut[i].continuation
            results[i] = Scored(logprob, len(ids), int(sizes[ids].sum()), greedy)
        start += count
    return [results[i] for i in range(len(cut))]


def _length(each: Request) -> int:
    return len(each.context) + len(each.continuation) - 1  # the last token is read by nobody


def _cut(each: Request, limit: int) -> Request:
    if not each.context or not each.continuation:
        raise DataError("A request has no context or no continuation; give at least a token of each.")
    if len(each.continuation) > limit:
        raise DataError(
            f"A continuation of {len(each.continuation):,} tokens does not fit the model's {limit:,}; cut it shorter."
        )
    room = limit + 1 - len(each.continuation)
    return Request(each.context[-room:], each.continuation)


def _score(requests: Sequence[Request], model: LM, precision: Precision) -> list[tuple[float, bool]]:
    rows = [torch.tensor([*each.context, *each.continuation]) for each in requests]
    tokens_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)[:, :-1].to(precision.device)
    valid_B = torch.tensor([len(row) - 1 for row in rows], device=precision.device)
    row_N = torch.cat([torch.full((len(each.continuation),), i) for i, each in enumerate(requests)])
    place_N = torch.cat([torch.arange(len(each.context) - 1, _length(each)) for each in requests])
    target_N = torch.cat([torch.tensor(each.continuation) for each in requests])
    with precision.context():
        hidden_BTD = model.hidden(tokens_BT, valid_B=valid_B)
        hidden_ND = hidden_BTD[row_N.to(hidden_BTD.device), place_N.to(hidden_BTD.device)]
        parts = [_chosen(model, x, y) for x, y in zip(hidden_ND.split(_CHUNK), target_N.split(_CHUNK), strict=True)]
    logprob_N, greedy_N = (torch.cat(x) for x in zip(*parts, strict=True))
    sums = torch.zeros(len(rows), dtype=torch.float64).index_add_(0, row_N, logprob_N)
    misses = torch.zeros(len(rows)).index_add_(0, row_N, (~greedy_N).float())
    return [(total, missed == 0) for total, missed in zip(sums.tolist(), misses.tolist(), strict=True)]


def _chosen(model: LM, hidden_ND: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
    """log p of the targets in float64, and whether each was the likeliest; both on the CPU."""
    logits_NV = model.logits(hidden_ND).float()
    target_N = target_N.to(logits_NV.device)
    logprob_N = logits_NV.log_softmax(-1).gather(1, target_N[:, None])[:, 0]
    return logprob_N.cpu().double(), (logits_NV.argmax(-1) == target_N).cpu()
