"""Replies that were drawn, as rows that a policy learns from.

B rows, T time.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from wren.batch import IGNORE, Batch
from wren.generate.settings import Completion, Drawn


def drawn_in(completion: Completion) -> list[Drawn]:
    """Every token that was drawn, the one that stopped it too."""
    return [*completion.drawn, *([] if completion.ended_by is None else [completion.ended_by])]


def length_of(completion: Completion) -> int:
    """Tokens that were drawn, with the one that stopped it."""
    return len(drawn_in(completion))


def policy_batch(rows: Sequence[tuple[Sequence[int], Completion]], weights_B: Tensor, pad_id: int) -> Batch:
    """A row for each prompt and reply to it, whose tokens are learned. weights_B: of each reply's tokens."""
    longest = max(len(prompt) + length_of(reply) for prompt, reply in rows) - 1
    tokens_BT = torch.full((len(rows), longest), pad_id)
    targets_BT = torch.full((len(rows), longest), IGNORE)
    logprobs_BT = torch.zeros(len(rows), longest)
    for row, (prompt, reply) in enumerate(rows):
        drawn = drawn_in(reply)
        whole = torch.tensor([*prompt, *(each.token for each in drawn)])
        tokens_BT[row, : len(whole) - 1] = whole[:-1]
        own = slice(len(prompt) - 1, len(whole) - 1)
        targets_BT[row, own] = whole[len(prompt) :]
        logprobs_BT[row, own] = torch.tensor([each.sampled_logprob for each in drawn])
    weights_BT = weights_B[:, None].expand(-1, longest).clone()
    return Batch(tokens_BT, targets_BT, weights_BT, logprobs_BT=logprobs_BT)
