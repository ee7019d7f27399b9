"""TTT-Linear: the memory is a linear model with a norm, trained by a gradient step per mini-batch (2407.04620).

    f(x; W) = x + norm([x, 1] W),   W_t = W - sum_{s <= t} b_s grad |f(k_s; W) - v_s|^2 / 2,   o_t = f(q_t; W_t)

Inside a mini-batch all gradients are taken at W, the model before it; the sum is over its tokens so far. Mini-batches
are counted from a document's first token.
"""

from wren.ops.ttt_linear.chunked import chunked_flops_per_token, chunked_ttt_linear
from wren.ops.ttt_linear.naive import Model, naive_ttt_linear

__all__ = ["Model", "chunked_flops_per_token", "chunked_ttt_linear", "naive_ttt_linear"]
