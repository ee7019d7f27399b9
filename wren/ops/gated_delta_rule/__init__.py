"""Gated delta rule: S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(K)  (2412.06464)."""

from wren.ops.gated_delta_rule.chunked import chunked_gated_delta_rule
from wren.ops.gated_delta_rule.kernel import kernel_fits, kernel_gated_delta_rule
from wren.ops.gated_delta_rule.naive import naive_gated_delta_rule

__all__ = ["chunked_gated_delta_rule", "kernel_fits", "kernel_gated_delta_rule", "naive_gated_delta_rule"]
