"""Linear attention with a decay for each head: S_t = a_t S_{t-1} + k_t v_t^T,  o_t = S_t^T q_t.

With a = 1 it is linear attention (2006.16236), with constants retention (2307.08621), and with a that depends on the
token the state space dual of Mamba-2 (2405.21060). Heads may share queries and keys in groups.
"""

from wren.ops.decay_attention.chunked import chunked_decay_attention, chunked_flops_per_token
from wren.ops.decay_attention.fitting import decay_attention
from wren.ops.decay_attention.kernel import kernel_decay_attention, kernel_fits
from wren.ops.decay_attention.naive import naive_decay_attention

__all__ = [
    "chunked_decay_attention",
    "chunked_flops_per_token",
    "decay_attention",
    "kernel_decay_attention",
    "kernel_fits",
    "naive_decay_attention",
]
