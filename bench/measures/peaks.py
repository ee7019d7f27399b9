"""Peak dense matrix throughput of GPUs in FLOP/s, the denominator of MFU: those of wren/gpus.py."""

import torch

from wren import gpus


def peak_flops(name: str, dtype: str) -> float | None:
    """Of the GPU of this name in fp32, fp16 or bf16; None where it is not known."""
    gpu = gpus.find(name)
    return None if gpu is None else gpu.flops.get(dtype)


def peak_of(device: torch.device, dtype: str) -> float | None:
    """None on a CPU."""
    return peak_flops(torch.cuda.get_device_name(device), dtype) if device.type == "cuda" else None
