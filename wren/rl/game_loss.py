"""Cross-entropy to the distributions that self-play found: -sum_k w_k sum_v p_kv log q_kv over the last places of rows.

B batch, K last places, V vocabulary.
"""

from torch import Tensor

from wren.batch import Batch
from wren.model import LM
from wren.rl.game_net import answers


def distribution_loss(model: LM, batch: Batch) -> Tensor:
    """The weighted sum over Batch.probs_BKV, a scalar; what the distributions' entropy makes of it is no loss.

    Raises ValueError for a batch without distributions.
    """
    if batch.probs_BKV is None or batch.weights_BT is None:
        raise ValueError("the batch carries no distributions to learn")
    probs_BKV = batch.probs_BKV.float()
    logprobs_BKV = answers(model, batch.tokens_BT).float().log_softmax(-1)
    lost_BKV = probs_BKV * (probs_BKV.clamp(min=1e-12).log() - logprobs_BKV)
    return (lost_BKV.sum(-1) * batch.weights_BT[:, -probs_BKV.shape[1] :]).sum()
