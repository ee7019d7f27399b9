"""Head and cross-entropy in one: sum_n w_n -log softmax(cap(W h_n))[target_n], without keeping all logits."""

from wren.ops.linear_cross_entropy.chunked import chunk_size, chunked_linear_cross_entropy, chunked_token_losses
from wren.ops.linear_cross_entropy.naive import IGNORE, naive_linear_cross_entropy, naive_token_losses

__all__ = [
    "IGNORE",
    "chunk_size",
    "chunked_linear_cross_entropy",
    "chunked_token_losses",
    "naive_linear_cross_entropy",
    "naive_token_losses",
]
