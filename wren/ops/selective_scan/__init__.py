"""Selective scan: h_t = exp(dt_t A) h_{t-1} + b_t (dt_t x_t)^T,  y_t = c_t h_t  (2312.00752).

There is no kernel.py: flash-linear-attention, the one kernel library that Wren calls, has none for this rule.
"""

from wren.ops.selective_scan.chunked import block_length, chunked_selective_scan
from wren.ops.selective_scan.naive import naive_selective_scan

__all__ = ["block_length", "chunked_selective_scan", "naive_selective_scan"]
