"""The gated delta rule by flash-linear-attention's Triton kernel, where that is installed and the GPU can run it.

B batch, T time, H heads, N tokens x steps, M rows x tokens, K key width, V value width.
"""

import functools
import importlib.util
from typing import Any

import torch
from torch import Tensor


def kernel_fits(v_BNHV: Tensor, memory_BHKV: Tensor | None, documents_BT: Tensor | None) -> bool:
    """Whether the kernel can take this call: bf16 or fp16 on a GPU of capability 8.0 or more, with fla installed.

    fp32 and fp64 stay with the chunked form, and so does a memory together with packed documents.
    """
    if v_BNHV.device.type != "cuda" or v_BNHV.dtype not in (torch.bfloat16, torch.float16):
        return False
    if memory_BHKV is not None and documents_BT is not None:
        return False
    return _installed() and torch.cuda.get_device_capability(v_BNHV.device) >= (8, 0)


def kernel_gated_delta_rule(
    q_BTHK: Tensor,
    k_BNHK: Tensor,
    v_BNHV: Tensor,
    log_decay_BTH: Tensor | None,
    beta_BNH: Tensor,
    *,
    memory_BHKV: Tensor | None = None,
    documents_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """As naive_gated_delta_rule, in the dtype of v; packed documents give no last memory (None)."""
    inputs = [q_BTHK.to(v_BNHV.dtype), k_BNHK.to(v_BNHV.dtype), v_BNHV, log_decay_BTH, beta_BNH]
    num_steps = k_BNHK.shape[1] // q_BTHK.shape[1]
    if documents_BT is None:
        return _fla(inputs, num_steps, initial_state=memory_BHKV, output_final_state=True)
    rows = [None if x is None else x.flatten(0, 1)[None] for x in inputs]  # fla packs all rows into one long row
    o_1MHV, _ = _fla(rows, num_steps, cu_seqlens=_boundaries(documents_BT))
    return o_1MHV[0].unflatten(0, documents_BT.shape), None


def _fla(inputs: list[Tensor | None], num_steps: int, **settings: Any) -> tuple[Tensor, Tensor | None]:
    """By fla's kernel for one decayed step, one undecayed step, or several, whose boundaries count tokens too."""
    if num_steps > 1:
        from fla.ops.gated_delta_product import chunk_gated_delta_product  # type: ignore[import-not-found]

        return chunk_gated_delta_product(*inputs, num_householder=num_steps, **settings)
    if inputs[3] is None:
        from fla.ops.delta_rule import chunk_delta_rule  # type: ignore[import-not-found]

        return chunk_delta_rule(*inputs[:3], inputs[4], **settings)
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule  # type: ignore[import-not-found]

    return chunk_gated_delta_rule(*inputs, **settings)


def _boundaries(documents_BT: Tensor) -> Tensor:
    """int64: where in the flattened batch each document begins, and the total length at the end."""
    begins_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    begins_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    starts = begins_BT.flatten().nonzero().flatten()
    return torch.cat((starts, starts.new_tensor([documents_BT.numel()])))


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("fla") is not None
