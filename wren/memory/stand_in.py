"""A CPU that stands in for the device of a plan: forms of operations, and number formats, as they would be there."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from wren.memory.job import Job
from wren.ops.place import standing_in

# What CUDA's autocast computes in float32 of narrow inputs and a CPU's does not; the second ones take a dtype instead.
_WIDENED = frozenset(
    ("exp", "expm1", "log", "log1p", "pow", "rsqrt", "softplus", "layer_norm", "rms_norm", "logsumexp")
)
_SUMMED = frozenset(("softmax", "log_softmax", "cumsum", "sum", "prod"))
_NARROW = (torch.bfloat16, torch.float16)


@contextlib.contextmanager
def as_on(job: Job) -> Iterator[None]:
    """As if on the device of the job."""
    away = job.device_type if job.device_type != "cpu" else None
    with standing_in(away), _CudaAutocast() if away == "cuda" else contextlib.nullcontext():
        yield


class _CudaAutocast(TorchFunctionMode):
    """Widens, inside a CPU's autocast, what CUDA's widens."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name in _WIDENED | _SUMMED and args and isinstance(args[0], Tensor) and args[0].dtype in _NARROW:
            if torch.is_autocast_enabled("cpu") and name in _WIDENED:
                args, kwargs = tuple(_widened(x) for x in args), {key: _widened(x) for key, x in kwargs.items()}
            elif torch.is_autocast_enabled("cpu") and kwargs.get("dtype") is None:
                kwargs = {**kwargs, "dtype": torch.float32}
        return func(*args, **kwargs)


def _widened(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) and x.dtype in _NARROW else x
