"""The losses: sums over the learned targets of a `Batch`; the loop divides by their number in the global batch.

B batch, T time, V vocabulary.
"""

from torch import Tensor

from wren.ahead import ahead_targets
from wren.batch import Batch
from wren.model import LM
from wren.ops.linear_cross_entropy import chunked_linear_cross_entropy, chunked_token_losses


def token_losses(model: LM, batch: Batch) -> Tensor:
    """-log p(target) in nats for every place (B, T), float32 at least; 0 where nothing is learned.

    Holds the logits of a chunk of tokens at a time, in the backward pass too, which computes them anew.
    """
    hidden_BTD = model.hidden(batch.tokens_BT, positions_BT=batch.positions_BT, documents_BT=batch.documents_BT)
    targets_N = batch.targets_BT.flatten()
    product, cap = model.head_product(hidden_BTD), model.config.logit_softcap
    losses_N = chunked_token_losses(*product, targets_N, cap, chunk=model.loss_chunk)
    return losses_N.view_as(batch.targets_BT)


def cross_entropy(model: LM, batch: Batch) -> Tensor:
    """The weighted sum of -log p(target) in nats over the learned targets: a scalar, float32 at least.

    A sum, since micro-batches and ranks must add up to the loss of the whole global batch. The logits are made and
    used a chunk of tokens at a time: the memory of a step does not grow with the vocabulary. In training mode the mean
    loss of the heads that predict further ahead joins with its weight (ahead.py).
    """
    hiddens = _hiddens(model, batch)
    loss = _summed(model, hiddens[0], batch.targets_BT, batch.weights_BT)
    if len(hiddens) == 1:
        return loss
    if not model.config.documents:
        batch = batch._replace(documents_BT=None)
    ahead = [_summed(model, x, *ahead_targets(batch, steps)) for steps, x in enumerate(hiddens[1:], 1)]
    return loss + model.config.ahead.weight / len(ahead) * sum(ahead[1:], start=ahead[0])


def _hiddens(model: LM, batch: Batch) -> list[Tensor]:
    """The stream that each head reads: in training also those that predict further ahead."""
    run = model.hiddens if model.training else lambda *args, **options: [model.hidden(*args, **options)]
    return run(batch.tokens_BT, positions_BT=batch.positions_BT, documents_BT=batch.documents_BT)


def _summed(model: LM, hidden_BTD: Tensor, targets_BT: Tensor, weights_BT: Tensor | None) -> Tensor:
    return chunked_linear_cross_entropy(
        *model.head_product(hidden_BTD),
        targets_BT.flatten(),
        None if weights_BT is None else weights_BT.flatten(),
        model.config.logit_softcap,
        chunk=model.loss_chunk,
    )
