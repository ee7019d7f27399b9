"""Forgetting attention: o_t = sum_{s<=t} softmax_s(q_t . k_s / sqrt(K) + sum_{s<l<=t} log f_l) v_s  (2503.02130)."""

from wren.ops.forgetting_attention.chunked import cached_forgetting_attention, chunked_forgetting_attention
from wren.ops.forgetting_attention.kernel import kernel_fits, kernel_forgetting_attention
from wren.ops.forgetting_attention.naive import naive_forgetting_attention

__all__ = [
    "cached_forgetting_attention",
    "chunked_forgetting_attention",
    "kernel_fits",
    "kernel_forgetting_attention",
    "naive_forgetting_attention",
]
