"""Causal softmax attention: o_t = sum_{s <= t} softmax_s(q_t . k_s / sqrt(K)) v_s  (Vaswani et al., 1706.03762).

Grouped key-value heads (2305.13245), rotary positions (2104.09864), a window (2004.05150), QK-norm (2302.05442),
a sigmoid gate y = out(sigmoid(W_g x) * o) (2505.06708), values that are the keys (one projection and half the cache).

B batch, T time, S cache slots, D model width, H query heads, J key-value heads, K head width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from wren.cache import SlotState, positions, slot_places
from wren.errors import ConfigError
from wren.mixer import Context, Mixer, check_tail, once, own_state, with_values, without_padding
from wren.ops.attention import (
    Gate,
    cached_attention,
    causal_attention,
    check_heads,
    gate_width,
    gated,
    one_query_attention,
)
from wren.ops.norm import rms_norm
from wren.ops.rope import Llama3Scaling, Rotation, rotate, rotation


@dataclass(frozen=True, kw_only=True)
class Config:
    """num_kv_heads: None = num_heads. head_dim: None = dim / num_heads. window: tokens a query sees, itself included.

    dropout acts on the attention weights in training. gate: sigmoid, on the output, one number a head or one a channel.
    values: "own", a projection; "keys", the (normalised) keys themselves, which then carry no positions: a state holds
    one tensor instead of two. Learned positions belong to the model, not here. rope_scaling: for rows longer than
    those first trained on. out_bias: of the last layer alone, None = as bias (without: Qwen2, 2407.10671).
    """

    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    positions: Literal["rope", "none"] = "rope"
    rope_base: float = 10000.0
    rope_scaling: Llama3Scaling | None = None
    qk_norm: bool = False
    window: int | None = None
    bias: bool = False
    out_bias: bool | None = None
    dropout: float = 0.0
    gate: Gate = "none"
    values: Literal["own", "keys"] = "own"

    def build(self, dim: int) -> "Attention":
        """Raises ConfigError for sizes that do not divide or are out of range."""
        check_heads("attention", dim, self.num_heads, self.num_kv_heads, self.head_dim, self.positions)
        if self.window is not None and self.window < 1:
            raise ConfigError(f"attention.window is {self.window}; it must be at least 1.")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"attention.dropout is {self.dropout}; it must lie in [0, 1).")
        if self.values == "keys" and self.positions != "none":
            raise ConfigError(
                "attention.values is 'keys', which positions would turn; set attention.positions to none as well."
            )
        return Attention(dim, self)


EXAMPLES = (
    Config(num_heads=2, bias=True),
    Config(num_heads=4, num_kv_heads=2, head_dim=6, qk_norm=True, gate="channel"),
    Config(num_heads=2, num_kv_heads=1, positions="none", window=5, gate="head"),
    Config(num_heads=2, window=40, bias=True, out_bias=False, rope_scaling=Llama3Scaling(original_context_len=16)),
    Config(num_heads=4, num_kv_heads=2, positions="none", qk_norm=True, values="keys"),
)


@dataclass
class AttentionState(SlotState):
    """Keys and values; S = max_len, or the window if that is shorter."""

    keys_BSJK: Tensor
    values_BSJK: Tensor


@dataclass
class KeyState(SlotState):
    """Keys that are the values too; S as in AttentionState."""

    keys_BSJK: Tensor

    @property
    def values_BSJK(self) -> Tensor:
        return self.keys_BSJK


class Attention(Mixer):
    """Softmax attention; values_BTD of the context is J*K wide, 0 where the keys are the values.

    flops_per_token counts what the mask lets through.
    """

    def __init__(self, dim: int, config: Config):
        super().__init__()
        self.config = config
        self.num_kv_heads = config.num_kv_heads or config.num_heads
        self.head_dim = config.head_dim or dim // config.num_heads
        self.shared = config.values == "keys"
        self.values_dim = 0 if self.shared else self.num_kv_heads * self.head_dim
        self.q = nn.Linear(dim, config.num_heads * self.head_dim, bias=config.bias)
        self.k = nn.Linear(dim, self.num_kv_heads * self.head_dim, bias=config.bias)
        self.v = None if self.shared else nn.Linear(dim, self.num_kv_heads * self.head_dim, bias=config.bias)
        self.q_norm = nn.Parameter(torch.ones(self.head_dim)) if config.qk_norm else None
        self.k_norm = nn.Parameter(torch.ones(self.head_dim)) if config.qk_norm else None
        gates = config.num_heads * gate_width(config.gate, self.head_dim)
        self.gate = nn.Linear(dim, gates, bias=config.bias) if gates else None
        out_bias = config.bias if config.out_bias is None else config.out_bias
        self.out = nn.Linear(config.num_heads * self.head_dim, dim, bias=out_bias)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        state = own_state(context, KeyState if self.shared else AttentionState, len(x_BTD))
        x_BTD = without_padding(x_BTD, context.valid_B)
        v_BTJK = None
        if self.v is not None:
            v_BTJK = with_values(self.v(x_BTD), context).unflatten(-1, (-1, self.head_dim))
        q_BTHK, k_BTJK = (y.unflatten(-1, (-1, self.head_dim)) for y in (self.q(x_BTD), self.k(x_BTD)))
        if self.q_norm is not None and self.k_norm is not None:
            q_BTHK, k_BTJK = rms_norm(q_BTHK, self.q_norm, 1e-6), rms_norm(k_BTJK, self.k_norm, 1e-6)
        if self.config.positions == "rope":
            by = self._rotation(x_BTD, context, q_BTHK.dtype)
            q_BTHK, k_BTJK = rotate(q_BTHK, by), rotate(k_BTJK, by)
        v_BTJK = k_BTJK if v_BTJK is None else v_BTJK
        if state is None:
            o_BTHK = self._whole_rows(q_BTHK, k_BTJK, v_BTJK, context.documents_BT)
        else:
            check_tail("keys", state.keys_BSJK[:, 0], (self.num_kv_heads, self.head_dim))
            o_BTHK = self._with_state(q_BTHK, k_BTJK, v_BTJK, context, state)
        if self.gate is not None:
            o_BTHK = gated(o_BTHK, self.gate(x_BTD))
        return self.out(o_BTHK.flatten(2))

    def _rotation(self, x_BTD: Tensor, context: Context, dtype: torch.dtype) -> Rotation:
        """Worked out once for all layers of a call of the model."""
        config = self.config
        name = ("rotation", self.head_dim, config.rope_base, config.rope_scaling, dtype, x_BTD.shape[1])

        def make() -> Rotation:
            return rotation(positions(x_BTD, context), self.head_dim, config.rope_base, dtype, config.rope_scaling)

        return once(context.shared, name, make)

    def _whole_rows(self, q_BTHK: Tensor, k_BTJK: Tensor, v_BTJK: Tensor, documents_BT: Tensor | None) -> Tensor:
        dropout = self.config.dropout if self.training else 0.0
        window = self.config.window
        return causal_attention(q_BTHK, k_BTJK, v_BTJK, documents_BT=documents_BT, window=window, dropout=dropout)

    def _with_state(
        self, q_BTHK: Tensor, k_BTJK: Tensor, v_BTJK: Tensor, context: Context, state: AttentionState | KeyState
    ) -> Tensor:
        T, longest_before, valid_B = q_BTHK.shape[1], state.longest, context.valid_B
        state.admit(T, valid_B)
        if T == 1 and valid_B is None:
            return self._one_token(q_BTHK, self._kept(k_BTJK, v_BTJK), context, state)
        if longest_before == 0:  # the padding stands right of every valid token, where causality hides it
            state.append(valid_B, **self._kept(k_BTJK, v_BTJK))
            return self._whole_rows(q_BTHK, k_BTJK, v_BTJK, None)
        if T == 1 or state.max_len is not None:
            return self._over_slots(q_BTHK, k_BTJK, v_BTJK, valid_B, state)
        outputs = []
        for start in range(0, T, self.config.window or T):  # pieces of a window: never T x T scores
            piece = slice(start, start + (self.config.window or T))
            valid = None if valid_B is None else (valid_B - start).clamp(min=0, max=q_BTHK[:, piece].shape[1])
            outputs.append(self._over_ring(q_BTHK[:, piece], k_BTJK[:, piece], v_BTJK[:, piece], valid, state))
        return torch.cat(outputs, dim=1)

    def _one_token(
        self, q_B1HK: Tensor, kept: dict[str, Tensor], context: Context, state: AttentionState | KeyState
    ) -> Tensor:
        """_over_slots for the next token of every row, its places and mask shared by all layers."""
        slot = state.append_one(context.shared, self.config.window, **kept)
        k_BSJK, v_BSJK = (x[:, : slot.used].to(q_B1HK.dtype) for x in (state.keys_BSJK, state.values_BSJK))
        return one_query_attention(q_B1HK, k_BSJK, v_BSJK, slot.seen_BS)

    def _kept(self, k_BTJK: Tensor, v_BTJK: Tensor) -> dict[str, Tensor]:
        return {"keys_BSJK": k_BTJK} if self.shared else {"keys_BSJK": k_BTJK, "values_BSJK": v_BTJK}

    def _over_slots(
        self, q_BTHK: Tensor, k_BTJK: Tensor, v_BTJK: Tensor, valid_B: Tensor | None, state: AttentionState | KeyState
    ) -> Tensor:
        """Stores first, then reads the slots in use: right where no token of this call pushes another one out."""
        query_BT, key_BS = state.append_and_place(valid_B, **self._kept(k_BTJK, v_BTJK))
        used = key_BS.shape[1]
        k_BSJK, v_BSJK = (x[:, :used].to(q_BTHK.dtype) for x in (state.keys_BSJK, state.values_BSJK))
        return cached_attention(q_BTHK, k_BSJK, v_BSJK, query_BT, key_BS, window=self.config.window)

    def _over_ring(
        self, q_BTHK: Tensor, k_BTJK: Tensor, v_BTJK: Tensor, valid_B: Tensor | None, state: AttentionState | KeyState
    ) -> Tensor:
        """Reads the window's slots beside the new tokens, then stores."""
        key_BS = slot_places(state.lengths_B, state.num_slots)
        query_BT = state.next_places(q_BTHK.shape[1])
        k_BSJK = torch.cat((state.keys_BSJK.to(k_BTJK.dtype), k_BTJK), dim=1)
        v_BSJK = torch.cat((state.values_BSJK.to(v_BTJK.dtype), v_BTJK), dim=1)
        keys_BS = torch.cat((key_BS, query_BT), dim=1)
        state.append(valid_B, **self._kept(k_BTJK, v_BTJK))
        return cached_attention(q_BTHK, k_BSJK, v_BSJK, query_BT, keys_BS, window=self.config.window)

    def new_state(
        self, batch_size: int, max_len: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> AttentionState | KeyState:
        window = self.config.window
        rolls = window is not None and window <= max_len
        shape = (batch_size, window if rolls and window else max_len, self.num_kv_heads, self.head_dim)
        lengths_B = torch.zeros(batch_size, dtype=torch.long, device=device)
        keys = torch.zeros(shape, dtype=dtype, device=device)
        max_len_or_none = None if rolls else max_len
        if self.shared:
            return KeyState(lengths_B, max_len_or_none, 0, keys)
        return AttentionState(lengths_B, max_len_or_none, 0, keys, torch.zeros_like(keys))

    def flops_per_token(self, context_len: int) -> float:
        """As counted token by token: a query meets the keys that it sees, not the masked ones."""
        window = min(self.config.window or context_len, context_len)
        seen = (window * (window + 1) / 2 + (context_len - window) * window) / context_len
        projections = sum(2 * layer.weight.numel() for layer in (self.q, self.k, self.v, self.gate, self.out) if layer)
        return projections + 4 * self.config.num_heads * self.head_dim * seen

    def state_bytes(self, context_len: int) -> int:
        slots = min(self.config.window or context_len, context_len)
        return 2 * (1 if self.shared else 2) * self.num_kv_heads * self.head_dim * slots
