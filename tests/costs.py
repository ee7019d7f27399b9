"""What a computation costs besides time: operations, the largest tensor, and what autograd keeps of it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Watch(TorchDispatchMode):
    """Counts the operations inside `with`, and notes the bytes of the largest tensor that one of them makes."""

    def __init__(self):
        super().__init__()
        self.operations, self.largest = 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.operations += 1
        made = [x for x in (result if isinstance(result, tuple | list) else (result,)) if isinstance(x, Tensor)]
        self.largest = max([self.largest, *(x.untyped_storage().nbytes() for x in made)])
        return result


def kept_bytes(compute: Callable[[], Tensor | tuple[Tensor, ...]]) -> int:
    """Bytes that autograd keeps for the backward pass of `compute`."""
    storages: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = compute()
    assert (result if isinstance(result, Tensor) else result[0]).requires_grad
    return sum(storages.values())
