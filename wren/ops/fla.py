"""What all calls of flash-linear-attention (fla), the library of Triton kernels, share: whether it can run, and how.

B batch, T time, H heads, K key width, V value width, N rows x tokens.
"""

import functools
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

CAPABILITY = (8, 0)  # of the GPU, at least


@functools.cache
def is_installed() -> bool:
    """Whether fla can be imported; it is not imported for that."""
    return importlib.util.find_spec("fla") is not None


def can_take(x: Tensor) -> bool:
    """bf16 or fp16 on a GPU of capability 8.0 or more, with fla installed: fp32 and fp64 stay with the other forms."""
    if x.device.type != "cuda" or x.dtype not in (torch.bfloat16, torch.float16):
        return False
    return is_installed() and torch.cuda.get_device_capability(x.device) >= CAPABILITY


def can_recur(v_BTHV: Tensor, memory_BHKV: Tensor | None, documents_BT: Tensor | None) -> bool:
    """As can_take, for a rule with a memory: a memory together with packed documents stays with the other forms."""
    return can_take(v_BTHV) and (memory_BHKV is None or documents_BT is None)


class Boundaries:
    """Where the documents of a packed batch begin: found once, when a layer first asks, for all that share this."""

    def __init__(self, documents_BT: Tensor):
        self.documents_BT = documents_BT
        self._found: Tensor | None = None

    @property
    def cu_seqlens(self) -> Tensor:
        """int64: where in the flattened batch each document begins, and the total length at the end.

        It waits for the device once, which alone knows how many there are. fla keeps what it derives of it by identity.
        """
        if self._found is None:
            begins_BT = torch.ones_like(self.documents_BT, dtype=torch.bool)
            begins_BT[:, 1:] = self.documents_BT[:, 1:] != self.documents_BT[:, :-1]
            starts = begins_BT.flatten().nonzero().flatten()
            self._found = torch.cat((starts, starts.new_tensor([self.documents_BT.numel()])))
        return self._found


def as_one_row(inputs: Mapping[str, Tensor], documents_BT: Tensor, shared: Boundaries | None) -> dict[str, Tensor]:
    """Inputs (B, T, ...) as one row (1, N, ...), which is how fla takes packed documents, with its cu_seqlens.

    shared: these documents' boundaries; those of others are not used.
    """
    if shared is None or shared.documents_BT is not documents_BT:
        shared = Boundaries(documents_BT)
    rows = {name: x.flatten(0, 1)[None] for name, x in inputs.items()}
    return rows | {"cu_seqlens": shared.cu_seqlens}


def recur(
    kernel: Callable[..., Any],
    inputs: Mapping[str, Tensor],
    memory_BHKV: Tensor | None,
    documents_BT: Tensor | None,
    boundaries: Boundaries | None,
    **settings: Any,
) -> tuple[Tensor, Tensor | None]:
    """Outputs (B, T, H, V) and last memory of one of fla's rules, called with its own names for inputs and settings.

    Packed documents give no last memory (None), and take no first one.
    """
    if documents_BT is None:
        return kernel(**inputs, initial_state=memory_BHKV, output_final_state=True, **settings)
    o_1NHV, _ = kernel(**as_one_row(inputs, documents_BT, boundaries), **settings)
    return o_1NHV[0].unflatten(0, documents_BT.shape), None
