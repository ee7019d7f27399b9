"""The machine that a plan is for: one that is here, or one that is only named."""

import os
import sys
import time
from dataclasses import dataclass

import torch

from wren import gpus, units
from wren.errors import ConfigError
from wren.gpus import Gpu
from wren.precision import DTypeName, Precision, choose_device, choose_precision, has_native_bf16

CONTEXT_BYTES = 500_000_000  # CUDA's context, its kernels and cuBLAS's workspace
PROCESS_BYTES = 500_000_000  # Python and torch themselves, on a CPU
_CPU_WATTS = 65


@dataclass(frozen=True, kw_only=True)
class Machine:
    """memory: bytes that training may take, allowance included: what is taken before the first tensor.

    flops: matrix products a second at the precision; None = unknown. measured: whether that was measured here. link:
    bytes a second between device and main memory. assumed: sentences on what is taken for granted.
    """

    name: str
    kind: str
    memory: int
    allowance: int
    precision: Precision
    narrow_muon: bool
    flops: float | None
    measured: bool
    watts: int
    link: float
    assumed: tuple[str, ...] = ()

    @property
    def room(self) -> int:
        """Bytes for tensors."""
        return max(0, self.memory - self.allowance)


def machine(gpu: str | None, device: str, dtype: DTypeName, *, measure: bool = True) -> Machine:
    """The GPU asked for, else the device that is here; raises ConfigError for one that is unknown or not there."""
    if gpu is not None:
        found, assumption = gpus.asked(gpu)
        precision = choose_precision(torch.device("cuda"), dtype, capability=found.capability)
        return _gpu(found, precision, found.memory, None, (assumption,) if assumption else ())
    here = choose_device(device)
    precision = choose_precision(here, dtype)
    flops = product_flops(precision) if measure else None
    if here.type == "cuda":
        properties = torch.cuda.get_device_properties(here)
        free, _ = torch.cuda.mem_get_info(here)
        known = gpus.find(properties.name) or Gpu(properties.name, "", 0, (properties.major, properties.minor), {}, 250)
        capability = (properties.major, properties.minor)
        named = known._replace(name=properties.name, capability=capability)
        return _gpu(named, precision, free + CONTEXT_BYTES, flops, ())
    memory = memory_bytes()
    if memory is None:
        raise ConfigError(f"How much memory this {here.type} has is not known here; name it, as in --gpu 16GB.")
    return Machine(
        name="this CPU" if here.type == "cpu" else "this Apple GPU",
        kind=here.type,
        memory=memory,
        allowance=PROCESS_BYTES,
        precision=precision,
        narrow_muon=has_native_bf16(here),
        flops=flops,
        measured=measure,
        watts=_CPU_WATTS,
        link=float("inf"),
        assumed=(f"{_CPU_WATTS} W for this machine",),
    )


def _gpu(gpu: Gpu, precision: Precision, memory: int, flops: float | None, assumed: tuple[str, ...]) -> Machine:
    context = units.size(CONTEXT_BYTES)
    return Machine(
        name=gpu.name,
        kind="cuda",
        memory=memory,
        allowance=CONTEXT_BYTES,
        precision=precision,
        narrow_muon=gpu.capability >= (8, 0),
        flops=flops or gpu.flops.get(precision.name),
        measured=flops is not None,
        watts=gpu.watts,
        link=gpu.link,
        assumed=(*assumed, f"{context} for CUDA's context and cuBLAS", f"{gpu.watts} W, the card's limit"),
    )


def memory_bytes() -> int | None:
    """Main memory of this machine; None where the platform does not say."""
    if sys.platform.startswith("linux") or sys.platform == "darwin":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def product_flops(precision: Precision, seconds: float = 0.2, size: int = 1024) -> float:
    """Floating-point operations a second of large matrix products in this precision, measured."""
    dtype = precision.autocast or torch.float32
    x, y = (torch.ones(size, size, dtype=dtype, device=precision.device) for _ in range(2))
    torch.mm(x, y)
    count, start = 0, time.perf_counter()
    while (now := time.perf_counter()) - start < seconds:
        for _ in range(4):
            torch.mm(x, y)
        if precision.device.type == "cuda":
            torch.cuda.synchronize(precision.device)
        count += 4
    return count * 2 * size**3 / (now - start)
