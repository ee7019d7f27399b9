"""Where a tensor lies: whole in this process, or sharded over several (a DTensor of torch.distributed.tensor)."""

import sys
from typing import Any

from torch import Tensor


def is_sharded(x: Any) -> bool:
    module = sys.modules.get("torch.distributed.tensor")  # as long as nobody loaded it, nothing is sharded
    return module is not None and isinstance(x, module.DTensor)


def local(x: Tensor) -> Tensor:
    """The part of a tensor that lies in this process: itself unless it is sharded. Shares its memory."""
    return x.to_local() if is_sharded(x) else x  # type: ignore[attr-defined]
