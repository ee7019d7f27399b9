"""The scalar decay of Mamba-2: log a = -exp(A_log) softplus(x + dt_bias)  (2405.21060)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wren.ops.widen import widened


def log_decay(x_BTH: Tensor, A_log_H: Tensor, dt_bias_H: Tensor) -> Tensor:
    """Log decay <= 0 (B, T, H) in fp32 at least: it multiplies up over thousands of tokens."""
    return -A_log_H.exp() * F.softplus(widened(x_BTH) + dt_bias_H)


def initial_A_log(num_heads: int) -> Tensor:
    """The log of rates uniform in [0.001, 16]."""
    return torch.empty(num_heads).uniform_(1e-3, 16.0).log()


def inverse_softplus_of_times(count: int) -> Tensor:
    """softplus of it is log-uniform in [0.001, 0.1], the time steps that Mamba-2 begins with (2405.21060)."""
    times = torch.empty(count).uniform_(math.log(1e-3), math.log(1e-1)).exp()
    return times + torch.log(-torch.expm1(-times))
