"""GPUs that people train on: memory, speed, power. Figures are their makers'; what a plan makes of them is assumed.

flops: dense matrix products a second without sparsity, in bf16 and fp16 with float32 accumulation, in fp32 on ordinary
cores. memory: what torch reports as total, a little less than what is printed on the box.
"""

import re
from typing import NamedTuple

from wren import units
from wren.errors import ConfigError

_GIB = 2**30


class Gpu(NamedTuple):
    """pattern: what its name holds. memory: bytes. capability: compute capability. flops: by format. watts: its limit
    at full load. link: bytes a second to and from main memory, in practice."""

    name: str
    pattern: str
    memory: int
    capability: tuple[int, int]
    flops: dict[str, float]
    watts: int
    link: float = 12e9


def _tensor(narrow: float, fp32: float) -> dict[str, float]:
    return {"bf16": narrow * 1e12, "fp16": narrow * 1e12, "fp32": fp32 * 1e12}


def _old(fp16: float, fp32: float) -> dict[str, float]:
    return {"fp16": fp16 * 1e12, "fp32": fp32 * 1e12}


# The most particular pattern first. FLOP/s from NVIDIA's data sheets, where they are given with sparsity half of that;
# with float32 accumulation from the white papers' appendices: RTX 4090 Ada GPU Architecture, RTX 3090 Ampere GA102. T4
# 65 mixed precision; P100 has no tensor cores. RTX 4060 and 3060: cores x 2 x boost clock, twice that in 16 bits.
GPUS: tuple[Gpu, ...] = (
    Gpu("H200", r"H200", int(139.8 * _GIB), (9, 0), _tensor(989.5, 67), 700, 40e9),
    Gpu("H100 NVL", r"H100 NVL", int(93.1 * _GIB), (9, 0), _tensor(835.5, 60), 400, 40e9),
    Gpu("H100 PCIe", r"H100 PCIe", int(79.1 * _GIB), (9, 0), _tensor(756.5, 51), 350, 40e9),
    Gpu("H100", r"H100", int(79.1 * _GIB), (9, 0), _tensor(989.5, 67), 700, 40e9),
    Gpu("A100 80GB", r"A100.*80", int(79.1 * _GIB), (8, 0), _tensor(312, 19.5), 400, 20e9),
    Gpu("A100", r"A100", int(39.4 * _GIB), (8, 0), _tensor(312, 19.5), 400, 20e9),
    Gpu("L40S", r"\bL40S\b", int(44.4 * _GIB), (8, 9), _tensor(362.05, 91.6), 350, 20e9),
    Gpu("L40", r"\bL40\b", int(44.4 * _GIB), (8, 9), _tensor(181.05, 90.5), 300, 20e9),
    Gpu("L4", r"\bL4\b", int(22.0 * _GIB), (8, 9), _tensor(121, 30.3), 72),
    Gpu("RTX 4090", r"\b4090\b(?!.*(Laptop|D))", int(23.6 * _GIB), (8, 9), _tensor(165.2, 82.6), 450, 20e9),
    Gpu("RTX 3090", r"\b3090\b(?!.*Ti)", int(23.6 * _GIB), (8, 6), _tensor(71, 35.6), 350, 20e9),
    Gpu("RTX 4060", r"\b4060\b(?!.*(Ti|Laptop))", int(7.6 * _GIB), (8, 9), _tensor(30.2, 15.1), 115),
    Gpu("RTX 3060 Laptop", r"\b3060\b.*Laptop", int(5.8 * _GIB), (8, 6), _tensor(21.8, 10.9), 80),
    Gpu("RTX 3060", r"\b3060\b(?!.*Ti)", int(11.6 * _GIB), (8, 6), _tensor(25.5, 12.7), 170),
    Gpu("T4", r"\bT4\b", int(14.6 * _GIB), (7, 5), _old(65, 8.1), 70),
    Gpu("V100-PCIE", r"V100-PCIE", int(15.7 * _GIB), (7, 0), _old(112, 14), 250),
    Gpu("V100", r"V100", int(15.7 * _GIB), (7, 0), _old(125, 15.7), 300),
    Gpu("P100-SXM2", r"P100-SXM2", int(15.9 * _GIB), (6, 0), _old(21.2, 10.6), 300),
    Gpu("P100", r"P100", int(15.9 * _GIB), (6, 0), _old(18.7, 9.3), 250),
)
# What a card of so many GB is taken for where only its size is given: a common one.
_TYPICAL = ((7e9, "RTX 3060 Laptop"), (9e9, "RTX 4060"), (13e9, "RTX 3060"), (20e9, "V100"), (30e9, "RTX 3090"))
_LARGER = ((45e9, "A100"), (float("inf"), "H100"))


def find(name: str) -> Gpu | None:
    """The GPU of a name such as "NVIDIA GeForce RTX 3090" or "3090"; None for an unknown one."""
    return next((gpu for gpu in GPUS if re.search(gpu.pattern, name, re.IGNORECASE)), None)


def asked(text: str) -> tuple[Gpu, str]:
    """What --gpu names, and what is assumed of it: a name, or a size such as 6GB of a common card.

    Raises ConfigError for an unknown name and a size that is none.
    """
    size = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(gi?b?)\s*", text.lower())
    if size is None:
        if (gpu := find(text)) is not None:
            return gpu, ""
        if re.match(r"\s*[0-9.,-]+\s*([a-z]{0,3})\s*$", text.lower()):
            raise ConfigError(f"--gpu {text} is no size; write gigabytes such as 6GB, or a name such as T4 or 3090.")
        names = ", ".join(gpu.name for gpu in GPUS)
        raise ConfigError(f"GPU '{text}' is unknown; name one of {names}, or give its memory, such as 6GB.")
    memory = float(size[1]) * (_GIB if "i" in size[2] else 1e9)
    if not 0.5e9 <= memory <= 2e12:
        raise ConfigError(f"--gpu {text} is no memory of a GPU; write for example 6GB, 16GB or 80GB.")
    typical = next(name for most, name in (*_TYPICAL, *_LARGER) if memory <= most)
    gpu = next(gpu for gpu in GPUS if gpu.name == typical)
    if gpu.capability < (8, 0):  # a size alone does not say that a card is old
        gpu = gpu._replace(capability=(8, 0), flops={**gpu.flops, "bf16": gpu.flops["fp16"]})
    return gpu._replace(name=f"a GPU of {units.size(memory)}", memory=int(memory)), f"as fast as {gpu.name}"


def holding(num_bytes: float) -> Gpu | None:
    """The GPU of the least memory that holds so many bytes; None where none of them does."""
    return min((gpu for gpu in GPUS if gpu.memory >= num_bytes), key=lambda gpu: gpu.memory, default=None)
