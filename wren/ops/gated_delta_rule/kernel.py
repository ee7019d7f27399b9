"""The gated delta rule by flash-linear-attention's Triton kernels, where those are installed and the GPU can run them.

B batch, T time, H heads, N tokens x steps, K key width, V value width.
"""

from torch import Tensor

from wren.ops import fla

kernel_fits = fla.can_recur


def kernel_gated_delta_rule(
    q_BTHK: Tensor,
    k_BNHK: Tensor,
    v_BNHV: Tensor,
    log_decay_BTH: Tensor | None,
    beta_BNH: Tensor,
    *,
    memory_BHKV: Tensor | None = None,
    documents_BT: Tensor | None = None,
    boundaries: fla.Boundaries | None = None,
) -> tuple[Tensor, Tensor | None]:
    """As naive_gated_delta_rule, in the dtype of v; packed documents give no last memory (None)."""
    inputs = {"q": q_BTHK.to(v_BNHV.dtype), "k": k_BNHK.to(v_BNHV.dtype), "v": v_BNHV, "beta": beta_BNH}
    if log_decay_BTH is not None:
        inputs["g"] = log_decay_BTH
    num_steps = k_BNHK.shape[1] // q_BTHK.shape[1]
    if num_steps > 1:  # the boundaries of documents count tokens here too, not steps
        from fla.ops.gated_delta_product import chunk_gated_delta_product  # type: ignore[import-not-found]

        steps = {"g": None, "num_householder": num_steps} if log_decay_BTH is None else {"num_householder": num_steps}
        return fla.recur(chunk_gated_delta_product, inputs, memory_BHKV, documents_BT, boundaries, **steps)
    if log_decay_BTH is None:
        from fla.ops.delta_rule import chunk_delta_rule  # type: ignore[import-not-found]

        return fla.recur(chunk_delta_rule, inputs, memory_BHKV, documents_BT, boundaries)
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule  # type: ignore[import-not-found]

    return fla.recur(chunk_gated_delta_rule, inputs, memory_BHKV, documents_BT, boundaries)
