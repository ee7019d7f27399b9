"""Model FLOPs utilisation: the share of a device's matrix products a second that training makes use of  (2204.02311).

    MFU = (FLOPs of the model per token) x (tokens a second) / (FLOPs a second of all devices together)

FLOPs per token are those of the model's matrix products, forward and backward; what activation checkpointing computes
again and what the optimizer multiplies is no use to the model and does not count. A GPU's peak is its maker's figure
for the run's number format (gpus.py); of a GPU that is not listed there and of a CPU it is the speed of large matrix
products, measured for a moment before training: on a machine that does other work too a share of that can exceed 1.
"""

import functools
import time
from dataclasses import dataclass

import torch

from wren import gpus
from wren.precision import Precision


@dataclass(frozen=True)
class Peak:
    """flops: matrix products a second of one device in a number format. measured: here, not its maker's figure."""

    flops: float
    measured: bool

    def __str__(self) -> str:
        return f"{self.flops / 1e12:.3g} TFLOP/s{' (measured)' if self.measured else ''}"


@dataclass(frozen=True)
class Utilisation:
    """flops_per_token: of a training step, backward pass included. peak: of one of the devices."""

    flops_per_token: float
    peak: Peak

    def of(self, num_tokens: int, seconds: float, num_devices: int = 1) -> float:
        """The MFU of so many tokens, padding included, in so many seconds."""
        return self.flops_per_token * num_tokens / max(seconds, 1e-9) / (self.peak.flops * num_devices)


def peak(precision: Precision) -> Peak:
    """That of the device in the number format of a run."""
    device = precision.device
    gpu = gpus.find(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if gpu is not None and precision.name in gpu.flops:
        return Peak(gpu.flops[precision.name], False)
    return Peak(_measured(precision, torch.get_num_threads()), True)


@functools.cache
def _measured(precision: Precision, num_threads: int) -> float:
    return product_flops(precision, size=1024 if precision.device.type == "cpu" else 4096)


def product_flops(precision: Precision, seconds: float = 0.2, size: int = 1024) -> float:
    """Floating-point operations a second of large matrix products in this precision, measured."""
    dtype = precision.autocast or torch.float32
    x, y = (torch.ones(size, size, dtype=dtype, device=precision.device) for _ in range(2))
    torch.mm(x, y)
    _wait(precision.device)
    count, start = 0, time.perf_counter()
    while (now := time.perf_counter()) - start < seconds:
        for _ in range(4):
            torch.mm(x, y)
        _wait(precision.device)
        count += 4
    return count * 2 * size**3 / (now - start)


def _wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if device.type == "mps":
        torch.mps.synchronize()
