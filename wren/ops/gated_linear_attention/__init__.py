"""Gated linear attention: S_t = diag(a_t) S_{t-1} + k_t v_t^T,  o_t = S_t^T q_t  (2312.06635)."""

from wren.ops.gated_linear_attention.chunked import chunked_flops_per_token, chunked_gated_linear_attention
from wren.ops.gated_linear_attention.fitting import gated_linear_attention
from wren.ops.gated_linear_attention.kernel import kernel_fits, kernel_gated_linear_attention
from wren.ops.gated_linear_attention.naive import naive_gated_linear_attention

__all__ = [
    "chunked_flops_per_token",
    "chunked_gated_linear_attention",
    "gated_linear_attention",
    "kernel_fits",
    "kernel_gated_linear_attention",
    "naive_gated_linear_attention",
]
