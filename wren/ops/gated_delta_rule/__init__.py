"""Gated delta rule: S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(K)  (2412.06464).

Without decay it is the delta rule (2102.11174, 2406.06484); with several steps a token, each of its own key, value and
b, it is the delta product (2502.10297).
"""

from wren.ops.gated_delta_rule.chunked import chunked_gated_delta_rule
from wren.ops.gated_delta_rule.fitting import chunked_flops_per_token, gated_delta_rule
from wren.ops.gated_delta_rule.kernel import kernel_fits, kernel_gated_delta_rule
from wren.ops.gated_delta_rule.naive import naive_gated_delta_rule

__all__ = [
    "chunked_flops_per_token",
    "chunked_gated_delta_rule",
    "gated_delta_rule",
    "kernel_fits",
    "kernel_gated_delta_rule",
    "naive_gated_delta_rule",
]
