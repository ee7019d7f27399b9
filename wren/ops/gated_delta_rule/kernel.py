"""The gated delta rule by flash-linear-attention's Triton kernel, where that is installed and the GPU can run it.

B batch, T time, H heads, K key width, V value width.
"""

import functools
import importlib.util

import torch
from torch import Tensor


def kernel_fits(v_BTHV: Tensor, memory_BHKV: Tensor | None, documents_BT: Tensor | None) -> bool:
    """Whether the kernel can take this call: bf16 or fp16 on a GPU of capability 8.0 or more, with fla installed.

    fp32 and fp64 stay with the chunked form, and so does a memory together with packed documents.
    """
    if v_BTHV.device.type != "cuda" or v_BTHV.dtype not in (torch.bfloat16, torch.float16):
        return False
    if memory_BHKV is not None and documents_BT is not None:
        return False
    return _installed() and torch.cuda.get_device_capability(v_BTHV.device) >= (8, 0)


def kernel_gated_delta_rule(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTH: Tensor,
    beta_BTH: Tensor,
    *,
    memory_BHKV: Tensor | None = None,
    documents_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """As naive_gated_delta_rule, in the dtype of v; packed documents give no last memory (None)."""
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule  # type: ignore[import-not-found]

    inputs = [q_BTHK.to(v_BTHV.dtype), k_BTHK.to(v_BTHV.dtype), v_BTHV, log_decay_BTH, beta_BTH]
    if documents_BT is None:
        return chunk_gated_delta_rule(*inputs, initial_state=memory_BHKV, output_final_state=True)
    rows = [x.flatten(0, 1)[None] for x in inputs]  # fla packs documents of all rows into one long row
    o_1NHV, _ = chunk_gated_delta_rule(*rows, cu_seqlens=_boundaries(documents_BT))
    return o_1NHV[0].unflatten(0, documents_BT.shape), None


def _boundaries(documents_BT: Tensor) -> Tensor:
    """int64: where in the flattened batch each document begins, and the total length at the end."""
    begins_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    begins_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    starts = begins_BT.flatten().nonzero().flatten()
    return torch.cat((starts, starts.new_tensor([documents_BT.numel()])))


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("fla") is not None
