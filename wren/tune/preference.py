"""Learning which of two answers is better: DPO (2305.18290) and SPIN (2401.01335) are one loss.

    l = -log sigmoid(beta * ((log p(y+) - log q(y+)) - (log p(y-) - log q(y-))))

y+ and y- follow the same prompt, p is the model, and q is the one that tuning began with, frozen. In DPO people (or a
judge) chose y+ over y-; in SPIN y+ is the answer of the data and y- what q itself answered. The two lie in one row as
the documents 2k and 2k + 1, so that no micro-batch parts them.

B batch, T time, P pairs of a row, N tokens.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from wren.batch import IGNORE, Batch
from wren.errors import ConfigError
from wren.loss import token_losses
from wren.model import LM
from wren.precision import Precision
from wren.tune.examples import Examples
from wren.tune.loader import make_batch, pack


@dataclass(frozen=True, kw_only=True)
class PreferenceLoss:
    """beta: how fast preference turns into certainty; larger stays nearer to the frozen start."""

    beta: float = 0.1

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ConfigError(f"beta is {self.beta}; it must be above 0.")

    def __call__(self, model: LM, batch: Batch) -> Tensor:
        """The sum over the batch's pairs, each times its weight (see loader.make_batch): a scalar."""
        margin_BP, weight_BP = margins(-token_losses(model, batch), batch)
        return (weight_BP * -F.logsigmoid(self.beta * margin_BP)).sum()


def margins(logprobs_BT: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """How much more the model has come to prefer each pair's better answer, in nats, and the pairs' weights, both
    (B, P); a weight of 0 where there is no pair.

    logprobs_BT: of the targets, 0 where nothing is learned.
    """
    assert batch.documents_BT is not None
    assert batch.reference_logprobs_BT is not None
    learned_BT = batch.targets_BT != IGNORE
    change_BT = torch.where(learned_BT, logprobs_BT - batch.reference_logprobs_BT, 0.0)
    pair_BT, sign_BT = batch.documents_BT // 2, 1 - 2 * (batch.documents_BT % 2)
    # as many as a row can hold, so that nothing has to be asked of the device: every document takes a place
    shape = (len(pair_BT), pair_BT.shape[1] // 2 + 1)
    margin_BP = change_BT.new_zeros(shape).scatter_add(1, pair_BT, sign_BT * change_BT)
    weights_BT = torch.ones_like(change_BT) if batch.weights_BT is None else batch.weights_BT.to(change_BT.dtype)
    weight_BP = change_BT.new_zeros(shape).scatter_reduce(1, pair_BT, torch.where(learned_BT, weights_BT, 0.0), "amax")
    return margin_BP, weight_BP


@torch.no_grad()
def with_reference(model: LM, examples: Examples, context_len: int, pad_id: int, precision: Precision) -> Examples:
    """The examples with what `model`, the frozen start, makes of every learned token."""
    model.eval()
    reference_N = torch.zeros(len(examples.tokens_N))
    documents = replace(examples, documents=1, reference_N=None)
    order = torch.argsort(torch.from_numpy(documents.lengths()), stable=True).numpy()
    rows = pack(documents.lengths(), order, context_len)
    size = max(1, 4096 // context_len)
    for first in range(0, len(rows), size):
        chosen = rows[first : first + size]
        batch = make_batch(documents, chosen, context_len, pad_id)
        with precision.context():
            losses_BT = token_losses(model, batch.to(precision.device)).float().cpu()
        for row, in_row in enumerate(chosen):
            place = 0
            for document in in_row:
                start, stop = (int(x) for x in examples.starts[document : document + 2])
                reference_N[start + 1 : stop] = -losses_BT[row, place : place + stop - start - 1]
                place += stop - start - 1
    return replace(examples, reference_N=reference_N.numpy())


@torch.no_grad()
def preference_accuracy(model: LM, batches: Iterable[Batch], precision: Precision, beta: float) -> dict[str, float]:
    """Over all pairs: the mean loss, and the share whose better answer the model has come to prefer."""
    model.eval()
    loss, right, pairs = 0.0, 0, 0
    for batch in batches:
        with precision.context():
            logprobs_BT = -token_losses(model, batch.to(precision.device)).float().cpu()
        margin_BP, weight_BP = margins(logprobs_BT, batch)
        there = weight_BP > 0
        loss += float(-F.logsigmoid(beta * margin_BP[there]).sum())
        right += int((margin_BP[there] > 0).sum())
        pairs += int(there.sum())
    return {"preference_loss": loss / max(pairs, 1), "preference_accuracy": right / max(pairs, 1)}
