"""The kind of device by which an operation chooses its form: where the tensor lies, or what its place stands in for.

A plan for a GPU is made without one: fake tensors on the CPU go the ways that they would go there (memory/trace.py).
"""

import contextlib
from collections.abc import Iterator

from torch import Tensor

# plain globals: torch.compile reads them, which it does not a context variable
_stand_in: str | None = None
_planned = False


def kind(x: Tensor) -> str:
    """ "cpu", "cuda", ...: the type of the tensor's device, or of the one that the CPU stands in for."""
    return x.device.type if x.device.type != "cpu" else _stand_in or "cpu"


def is_stand_in() -> bool:
    return _stand_in is not None


def is_planned() -> bool:
    """Whether this is a plan's step, whose tensors have shapes and no values."""
    return _planned


@contextlib.contextmanager
def standing_in(device_type: str | None) -> Iterator[None]:
    """Inside, a step is planned; the CPU stands in for a device of this type, None = for nothing but itself. For one
    thread at a time."""
    global _stand_in, _planned
    before = _stand_in, _planned
    _stand_in, _planned = device_type, True
    try:
        yield
    finally:
        _stand_in, _planned = before
