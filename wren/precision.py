"""Which device and number format to use: by compute capability, never by what a driver claims to emulate."""

import contextlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch

from wren.errors import ConfigError

DTypeName = Literal["auto", "fp32", "bf16", "fp16"]
_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Weights stay float32; matrix products run in `autocast` (None = float32). `scaler`: fp16 scales its loss."""

    device: torch.device
    autocast: torch.dtype | None
    why: str

    @property
    def scaler(self) -> bool:
        return self.autocast == torch.float16

    @property
    def name(self) -> str:
        return {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.autocast]

    def context(self) -> AbstractContextManager[object]:
        """Autocast for a forward pass, or nothing in float32."""
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)


def choose_device(name: str = "auto") -> torch.device:
    """The GPU if there is one, else Apple's, else the CPU; or the one named.

    Raises ConfigError if it is not there, and for a GPU that this PyTorch was not built for.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return _with_kernels(torch.device("cuda"))
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"Device '{name}' is unknown; use auto, cpu, cuda, cuda:1 or mps.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("No CUDA GPU can be used here; run `wren doctor` to see why, or use --device cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ConfigError(f"Device '{name}' is not there; the GPUs here are cuda:0 to cuda:{count - 1}.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("No Apple GPU can be used here; use --device cpu.")
    return _with_kernels(device) if device.type == "cuda" else device


def _with_kernels(device: torch.device) -> torch.device:
    architectures = torch.cuda.get_arch_list()
    if any("_" in name for name in architectures):  # of others, as ROCm's gfx90a, nothing is known
        capability = torch.cuda.get_device_capability(device)
        if (mend := missing_kernels(capability, architectures)) is not None:
            raise ConfigError(
                f"This PyTorch has no kernels for the {torch.cuda.get_device_name(device)} "
                f"(compute capability {_dots(capability)}); install {mend}, or use --device cpu."
            )
    return device


def missing_kernels(capability: tuple[int, int], architectures: list[str]) -> str | None:
    """What to install where a PyTorch built for `architectures` (as torch.cuda.get_arch_list) has no kernels for a GPU.

    Code for a GPU (sm_86) runs on those of the same major number that are not older, code to be translated
    (compute_86) on all that are not older.
    """
    for name in architectures:
        kind, _, number = name.rstrip("af").partition("_")
        built = divmod(int(number), 10)
        if built <= capability and (kind == "compute" or built[0] == capability[0]):
            return None
    old = capability < (7, 5)
    return "the CUDA 12.6 build of PyTorch (cu126), version 2.14 or older" if old else "a build for a newer CUDA"


def choose_precision(
    device: torch.device,
    dtype: DTypeName = "auto",
    *,
    capability: tuple[int, int] | None = None,
    cpu_bf16: bool | None = None,
) -> Precision:
    """The number format for a device, or the one asked for; raises ConfigError for one the device lacks.

    capability, cpu_bf16: what the GPU or the CPU can do; None = asked of the device itself.
    """
    if device.type == "cuda" and capability is None:
        capability = torch.cuda.get_device_capability(device)
    if dtype == "auto":
        return _automatic(device, capability, cpu_has_bf16() if cpu_bf16 is None else cpu_bf16)
    if dtype == "bf16" and capability is not None and capability < (8, 0):
        raise ConfigError(
            f"bf16 needs a GPU of compute capability 8.0 or newer; this one is {_dots(capability)}. Use fp16 or auto."
        )
    return Precision(device=device, autocast=_DTYPES[dtype], why="asked for")


def _automatic(device: torch.device, capability: tuple[int, int] | None, cpu_bf16: bool) -> Precision:
    if capability is not None:
        if capability >= (8, 0):
            why = f"compute capability {_dots(capability)} has bf16 tensor cores"
            return Precision(device=device, autocast=torch.bfloat16, why=why)
        if capability >= (7, 0) or capability == (6, 0):
            why = f"compute capability {_dots(capability)} has fast fp16 and no bf16"
            return Precision(device=device, autocast=torch.float16, why=why)
        why = f"compute capability {_dots(capability)} has neither fast fp16 nor bf16"
        return Precision(device=device, autocast=None, why=why)
    if device.type == "cpu" and cpu_bf16:
        return Precision(device=device, autocast=torch.bfloat16, why="the CPU multiplies bf16 matrices natively")
    return Precision(device=device, autocast=None, why="no faster format is known to be safe here")


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware (AMX, AVX512-BF16); without it fp32 is faster."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def has_native_bf16(device: torch.device) -> bool:
    """Whether a matrix product in bf16 on this device is no slower than one in fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and cpu_has_bf16()


def _dots(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device's memory is used up; only CUDA has a class of its own for it."""
    texts = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    )
