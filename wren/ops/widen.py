"""The precision of what adds or multiplies up over thousands of tokens: fp32, or fp64 for inputs of that."""

import torch
from torch import Tensor


def widened(x: Tensor) -> Tensor:
    """In fp32 at least: a memory that sums thousands of tokens would lose the small ones."""
    return x.to(wide_dtype(x.dtype))


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp32, or the wider dtype that is given."""
    return torch.promote_types(dtype, torch.float32)


def widest(x: Tensor) -> Tensor:
    """In fp64, for sums over thousands of tokens whose differences count; in fp32 where the device has no fp64."""
    return x.to(widest_dtype(x.device.type))


def widest_dtype(device_type: str) -> torch.dtype:
    return torch.float32 if device_type == "mps" else torch.float64
