"""The generalised delta rule by flash-linear-attention's Triton kernels, where the GPU can run them.

B batch, T time, H heads, K key width, V value width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wren.ops import gated_delta_rule

_WIDEST = 256  # of a key, in fla


def kernel_fits(k_BTHK: Tensor, v_BTHV: Tensor, memory_BHKV: Tensor | None, documents_BT: Tensor | None) -> bool:
    """Whether the kernels can take this call: as for the gated delta rule, with keys of up to 256 channels."""
    return k_BTHK.shape[-1] <= _WIDEST and gated_delta_rule.kernel_fits(v_BTHV, memory_BHKV, documents_BT)


def kernel_kimi_delta_rule(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTHK: Tensor,
    beta_BTH: Tensor,
    *,
    memory_BHKV: Tensor | None = None,
    documents_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """As naive_generalised_delta_rule of keys beta k, read k and no erase; in the dtype of v.

    Packed documents give no last memory (None).
    """
    from fla.ops.kda import chunk_kda  # type: ignore[import-not-found]

    given = {"q": q_BTHK, "k": k_BTHK, "v": v_BTHV}
    inputs = {name: x.to(v_BTHV.dtype) for name, x in given.items()} | {"g": log_decay_BTHK, "beta": beta_BTH}
    return _call(chunk_kda, inputs, memory_BHKV, documents_BT)


def kernel_generalised_delta_rule(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTHK: Tensor,
    read_BTHK: Tensor,
    *,
    erase_BTHK: Tensor | None = None,
    memory_BHKV: Tensor | None = None,
    documents_BT: Tensor | None = None,
    lowest: float | None = None,
) -> tuple[Tensor, Tensor | None]:
    """As naive_generalised_delta_rule, in the dtype of v; packed documents give no last memory (None).

    lowest: a bound that no log decay is below; above -2 it lets the kernel take chunks of 64 instead of 16.
    """
    from fla.ops.generalized_delta_rule import chunk_dplr_delta_rule  # type: ignore[import-not-found]

    removed = -read_BTHK * log_decay_BTHK.exp()  # the kernel reads the memory before its decay
    erase = k_BTHK if erase_BTHK is None else erase_BTHK
    given = {"q": q_BTHK, "k": k_BTHK, "v": v_BTHV, "a": removed, "b": erase}
    inputs = {name: x.to(v_BTHV.dtype) for name, x in given.items()} | {"gk": log_decay_BTHK}
    bound = {} if lowest is None or lowest <= -2 else {"lower_bound": lowest, "safe_gate": True, "chunk_size": 64}
    return _call(chunk_dplr_delta_rule, inputs, memory_BHKV, documents_BT, **bound)


def _call(
    kernel: Callable, inputs: dict[str, Tensor], memory_BHKV: Tensor | None, documents_BT: Tensor | None, **more: Any
) -> tuple[Tensor, Tensor | None]:
    if documents_BT is None:
        return kernel(**inputs, scale=1.0, initial_state=memory_BHKV, output_final_state=True, **more)
    rows = {name: x.flatten(0, 1)[None] for name, x in inputs.items()}  # all rows as one long row of documents
    o_1NHV, _ = kernel(**rows, scale=1.0, cu_seqlens=_boundaries(documents_BT), **more)
    return o_1NHV[0].unflatten(0, documents_BT.shape), None


def _boundaries(documents_BT: Tensor) -> Tensor:
    """int64: where in the flattened batch each document begins, and the total length at the end."""
    begins_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    begins_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    starts = begins_BT.flatten().nonzero().flatten()
    return torch.cat((starts, starts.new_tensor([documents_BT.numel()])))
