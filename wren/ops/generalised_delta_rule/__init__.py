"""Generalised delta rule: S_t = (I - e_t r_t^T) diag(a_t) S_{t-1} + k_t v_t^T,  o_t = S_t^T q_t  (after 2503.14456).

The decay a is one for every key channel; e, r and k are vectors of their own. With r = k and, for both e and k, b k it
is Kimi Delta Attention (2510.26692), S_t = (I - b_t k_t k_t^T) diag(a_t) S_{t-1} + b_t k_t v_t^T; with r = kappa / a
and e = kappa * eta it is RWKV-7, S_t = (diag(a_t) - (kappa_t * eta_t) kappa_t^T) S_{t-1} + k_t v_t^T.
"""

from wren.ops.generalised_delta_rule.chunked import chunked_flops_per_token, chunked_generalised_delta_rule
from wren.ops.generalised_delta_rule.kernel import (
    kernel_fits,
    kernel_generalised_delta_rule,
    kernel_kimi_delta_rule,
)
from wren.ops.generalised_delta_rule.naive import naive_generalised_delta_rule

__all__ = [
    "chunked_flops_per_token",
    "chunked_generalised_delta_rule",
    "kernel_fits",
    "kernel_generalised_delta_rule",
    "kernel_kimi_delta_rule",
    "naive_generalised_delta_rule",
]
