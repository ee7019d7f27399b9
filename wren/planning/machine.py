"""The machine that a plan is for: one that is here, or one that is only named."""

from dataclasses import dataclass

import torch

from wren import gpus, units
from wren.errors import ConfigError
from wren.gpus import Gpu
from wren.precision import DTypeName, Precision, choose_device, choose_precision, has_native_bf16
from wren.run import memory_bytes
from wren.utilisation import product_flops

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
