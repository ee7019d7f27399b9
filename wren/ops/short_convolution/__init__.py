"""Short causal convolution of each channel: y_t = sum_i w_i x_{t-(W-1)+i}, never reaching into another document."""

from wren.ops.short_convolution.fused import next_tail, short_convolution
from wren.ops.short_convolution.naive import naive_short_convolution

__all__ = ["naive_short_convolution", "next_tail", "short_convolution"]
