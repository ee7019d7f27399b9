"""Head and cross-entropy in one: sum_n w_n -log softmax(cap(W h_n))[target_n], without keeping all logits."""

from wren.ops.linear_cross_entropy.chunked import chunked_linear_cross_entropy
from wren.ops.linear_cross_entropy.naive import IGNORE, naive_linear_cross_entropy

__all__ = ["IGNORE", "chunked_linear_cross_entropy", "naive_linear_cross_entropy"]
