"""Causal softmax attention: o_t = sum_{s <= t} softmax_s(q_t . k_s / sqrt(K)) v_s, within a window and a document."""

from wren.ops.attention.fused import cached_attention, causal_attention, one_query_attention
from wren.ops.attention.heads import Gate, check_heads, gate_width, gated
from wren.ops.attention.naive import naive_attention

__all__ = [
    "Gate",
    "cached_attention",
    "causal_attention",
    "check_heads",
    "gate_width",
    "gated",
    "naive_attention",
    "one_query_attention",
]
