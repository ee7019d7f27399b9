"""Peak dense matrix throughput of GPUs in FLOP/s, as their makers state it; the denominator of MFU.

Without sparsity (where a data sheet gives only the figure with 2:4 sparsity, half of it), in bf16 and fp16 with float32
accumulation, in fp32 on ordinary cores: with TF32 off, as torch has it by default.
"""

import re

import torch

Peaks = dict[str, float]  # by format

# By what the GPU's name must hold, the most particular first.
PEAKS: tuple[tuple[str, Peaks], ...] = (
    # NVIDIA H200 data sheet: 1,979 with sparsity; fp32 67
    (r"H200", {"bf16": 989.5e12, "fp16": 989.5e12, "fp32": 67e12}),
    # NVIDIA H100 data sheet: NVL 1,671 with sparsity, 60; PCIe 1,513 with sparsity, 51; SXM 1,979 with sparsity, 67
    (r"H100 NVL", {"bf16": 835.5e12, "fp16": 835.5e12, "fp32": 60e12}),
    (r"H100 PCIe", {"bf16": 756.5e12, "fp16": 756.5e12, "fp32": 51e12}),
    (r"H100", {"bf16": 989.5e12, "fp16": 989.5e12, "fp32": 67e12}),
    # NVIDIA A100 data sheet: 312 (624 with sparsity), 19.5
    (r"A100", {"bf16": 312e12, "fp16": 312e12, "fp32": 19.5e12}),
    # NVIDIA L40S data sheet: 362.05 (733 with sparsity), 91.6; L40: 181.05 (362.1), 90.5; L4: 242 with sparsity, 30.3
    (r"\bL40S\b", {"bf16": 362.05e12, "fp16": 362.05e12, "fp32": 91.6e12}),
    (r"\bL40\b", {"bf16": 181.05e12, "fp16": 181.05e12, "fp32": 90.5e12}),
    (r"\bL4\b", {"bf16": 121e12, "fp16": 121e12, "fp32": 30.3e12}),
    # NVIDIA Ada GPU Architecture white paper, appendix A: RTX 4090 165.2 with FP32 accumulate, 82.6
    (r"RTX 4090$", {"bf16": 165.2e12, "fp16": 165.2e12, "fp32": 82.6e12}),
    # NVIDIA Ampere GA102 white paper, appendix A: RTX 3090 71 with FP32 accumulate, 35.6
    (r"RTX 3090$", {"bf16": 71e12, "fp16": 71e12, "fp32": 35.6e12}),
    # NVIDIA T4 data sheet: 65 mixed precision, 8.1; V100 data sheet: SXM2 125 and 15.7, PCIe 112 and 14
    (r"\bT4\b", {"fp16": 65e12, "fp32": 8.1e12}),
    (r"V100-PCIE", {"fp16": 112e12, "fp32": 14e12}),
    (r"V100-SXM2", {"fp16": 125e12, "fp32": 15.7e12}),
    # NVIDIA Tesla P100 data sheet, no tensor cores: PCIe 18.7 and 9.3, SXM2 21.2 and 10.6
    (r"P100-SXM2", {"fp16": 21.2e12, "fp32": 10.6e12}),
    (r"P100-PCIE", {"fp16": 18.7e12, "fp32": 9.3e12}),
)


def peak_flops(name: str, dtype: str) -> float | None:
    """Of the GPU of this name in fp32, fp16 or bf16; None where it is not known."""
    return next((peaks.get(dtype) for pattern, peaks in PEAKS if re.search(pattern, name)), None)


def peak_of(device: torch.device, dtype: str) -> float | None:
    """None on a CPU."""
    return peak_flops(torch.cuda.get_device_name(device), dtype) if device.type == "cuda" else None
