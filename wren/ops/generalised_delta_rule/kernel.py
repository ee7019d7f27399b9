"""The generalised delta rule by flash-linear-attention's Triton kernels, where the GPU can run them.

B batch, T time, H heads, K key width, V value width.
"""

from torch import Tensor

from wren.ops import fla

_WIDEST = 256  # of a key, in fla


def kernel_fits(k_BTHK: Tensor, v_BTHV: Tensor, memory_BHKV: Tensor | None, documents_BT: Tensor | None) -> bool:
    """Whether the kernels can take this call: as fla.can_recur, with keys of up to 256 channels."""
    return k_BTHK.shape[-1] <= _WIDEST and fla.can_recur(v_BTHV, memory_BHKV, documents_BT)


def kernel_kimi_delta_rule(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTHK: Tensor,
    beta_BTH: Tensor,
    *,
    memory_BHKV: Tensor | None = None,
    documents_BT: Tensor | None = None,
    boundaries: fla.Boundaries | None = None,
) -> tuple[Tensor, Tensor | None]:
    """As naive_generalised_delta_rule of keys beta k, read k and no erase; in the dtype of v.

    Packed documents give no last memory (None).
    """
    from fla.ops.kda import chunk_kda  # type: ignore[import-not-found]

    given = {"q": q_BTHK, "k": k_BTHK, "v": v_BTHV}
    inputs = {name: x.to(v_BTHV.dtype) for name, x in given.items()} | {"g": log_decay_BTHK, "beta": beta_BTH}
    return fla.recur(chunk_kda, inputs, memory_BHKV, documents_BT, boundaries, scale=1.0)


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
    boundaries: fla.Boundaries | None = None,
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
    return fla.recur(chunk_dplr_delta_rule, inputs, memory_BHKV, documents_BT, boundaries, scale=1.0, **bound)
