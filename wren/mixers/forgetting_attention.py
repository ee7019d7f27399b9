"""Forgetting attention: o_t = sum_{s <= t} softmax_s(q_t . k_s / sqrt(K) + sum_{s < l <= t} log f_l) v_s.

f_t = sigmoid(w_f x_t + b_f) is one number a head: softmax attention that can let go of the past, and that needs no
positions, since a key's age shows in its score (FoX, 2503.02130). The "pro" block of the paper is qk_norm, output_norm
and gate="channel" together, and a learned mix of each key and value with the one before it, which is left out here.

B batch, T time, S cache slots, D model width, H query heads, J key-value heads, K head width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wren.cache import SlotState, positions
from wren.mixer import Context, Mixer, check_tail, own_state, with_values, without_padding
from wren.ops.attention import Gate, check_heads, gate_width, gated
from wren.ops.forgetting_attention import (
    cached_forgetting_attention,
    chunked_forgetting_attention,
    kernel_fits,
    kernel_forgetting_attention,
)
from wren.ops.norm import rms_norm
from wren.ops.rope import rotate, rotation
from wren.ops.settings import check_counts
from wren.ops.widen import wide_dtype, widened


@dataclass(frozen=True, kw_only=True)
class Config:
    """num_kv_heads: None = num_heads. head_dim: None = dim / num_heads. output_norm: of each head, before the gate.

    gate: sigmoid, on the output, one number a head or one a channel. block_size: queries at once, trades speed only.
    """

    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    positions: Literal["rope", "none"] = "none"
    rope_base: float = 10000.0
    qk_norm: bool = False
    output_norm: bool = False
    gate: Gate = "none"
    block_size: int = 128

    def build(self, dim: int) -> "ForgettingAttention":
        """Raises ConfigError for sizes that do not divide or are out of range."""
        check_heads("forgetting_attention", dim, self.num_heads, self.num_kv_heads, self.head_dim, self.positions)
        check_counts("forgetting_attention", self, "block_size")
        return ForgettingAttention(dim, self)


EXAMPLES = (
    Config(num_heads=2),
    Config(num_heads=4, num_kv_heads=2, qk_norm=True, output_norm=True, gate="channel", block_size=16),
    Config(num_heads=2, head_dim=6, positions="rope", gate="head", block_size=64),
)


@dataclass
class ForgettingAttentionState(SlotState):
    """Keys, values and log forgets; the last as they are, not summed, so that a long row takes no digits from them."""

    keys_BSJK: Tensor
    values_BSJK: Tensor
    log_forget_BSH: Tensor  # fp32 or, for an fp64 state, fp64


class ForgettingAttention(Mixer):
    """values_BTD of the context is J*K wide. flops_per_token counts token by token: what the mask lets through."""

    def __init__(self, dim: int, config: Config):
        super().__init__()
        self.config = config
        self.num_kv_heads = config.num_kv_heads or config.num_heads
        self.head_dim = config.head_dim or dim // config.num_heads
        self.values_dim = self.num_kv_heads * self.head_dim
        self.q = nn.Linear(dim, config.num_heads * self.head_dim, bias=False)
        self.k = nn.Linear(dim, self.values_dim, bias=False)
        self.v = nn.Linear(dim, self.values_dim, bias=False)
        self.forget = nn.Linear(dim, config.num_heads)
        self.q_norm = nn.Parameter(torch.ones(self.head_dim)) if config.qk_norm else None
        self.k_norm = nn.Parameter(torch.ones(self.head_dim)) if config.qk_norm else None
        self.o_norm = nn.Parameter(torch.ones(self.head_dim)) if config.output_norm else None
        gates = config.num_heads * gate_width(config.gate, self.head_dim)
        self.gate = nn.Linear(dim, gates, bias=False) if gates else None
        self.out = nn.Linear(config.num_heads * self.head_dim, dim, bias=False)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        state = own_state(context, ForgettingAttentionState, len(x_BTD))
        if state is not None:
            check_tail("keys", state.keys_BSJK[:, 0], (self.num_kv_heads, self.head_dim))
            check_tail("log forgets", state.log_forget_BSH[:, 0], (self.config.num_heads,))
        x_BTD = without_padding(x_BTD, context.valid_B)
        o_BTHK = self._attend(*self._projected(x_BTD, context), context, state)
        if self.o_norm is not None:
            o_BTHK = rms_norm(o_BTHK, self.o_norm, 1e-6)
        if self.gate is not None:
            o_BTHK = gated(o_BTHK, self.gate(x_BTD))
        return self.out(o_BTHK.flatten(2))

    def _projected(self, x_BTD: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and values of one dtype, and log f in fp32 at least: it adds up over thousands of tokens."""
        v_BTE = with_values(self.v(x_BTD), context)
        q_BTHK, k_BTJK, v_BTJK = (y.unflatten(-1, (-1, self.head_dim)) for y in (self.q(x_BTD), self.k(x_BTD), v_BTE))
        if self.q_norm is not None and self.k_norm is not None:
            q_BTHK, k_BTJK = rms_norm(q_BTHK, self.q_norm, 1e-6), rms_norm(k_BTJK, self.k_norm, 1e-6)
        if self.config.positions == "rope":
            by = rotation(positions(x_BTD, context), self.head_dim, self.config.rope_base, q_BTHK.dtype)
            q_BTHK, k_BTJK = rotate(q_BTHK, by), rotate(k_BTJK, by)
        log_forget_BTH = F.logsigmoid(widened(self.forget(x_BTD)))
        return q_BTHK.to(v_BTJK.dtype), k_BTJK.to(v_BTJK.dtype), v_BTJK, log_forget_BTH

    def _attend(
        self,
        q_BTHK: Tensor,
        k_BTJK: Tensor,
        v_BTJK: Tensor,
        log_forget_BTH: Tensor,
        context: Context,
        state: ForgettingAttentionState | None,
    ) -> Tensor:
        if state is not None:
            first = state.longest == 0  # then padding stands right of every valid token, where causality hides it
            state.admit(q_BTHK.shape[1], context.valid_B)
            query_BT, key_BU = state.append_and_place(
                context.valid_B, keys_BSJK=k_BTJK, values_BSJK=v_BTJK, log_forget_BSH=log_forget_BTH
            )
            if not first:
                used = key_BU.shape[1]
                k_BUJK, v_BUJK = (x[:, :used].to(q_BTHK.dtype) for x in (state.keys_BSJK, state.values_BSJK))
                return cached_forgetting_attention(q_BTHK, k_BUJK, v_BUJK, state.log_forget_BSH[:, :used], query_BT)
        inputs = (q_BTHK, k_BTJK, v_BTJK, log_forget_BTH)
        if kernel_fits(q_BTHK):
            return kernel_forgetting_attention(
                *inputs, documents_BT=context.documents_BT, boundaries=context.boundaries
            )
        return chunked_forgetting_attention(
            *inputs, documents_BT=context.documents_BT, block_size=self.config.block_size
        )

    def new_state(
        self, batch_size: int, max_len: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> ForgettingAttentionState:
        shape = (batch_size, max_len, self.num_kv_heads, self.head_dim)
        lengths_B = torch.zeros(batch_size, dtype=torch.long, device=device)
        keys, values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        wide = wide_dtype(dtype)
        log_forget_BSH = torch.zeros(batch_size, max_len, self.config.num_heads, dtype=wide, device=device)
        return ForgettingAttentionState(lengths_B, max_len, 0, keys, values, log_forget_BSH)

    def flops_per_token(self, context_len: int) -> float:
        layers = (self.q, self.k, self.v, self.forget, self.gate, self.out)
        projections = sum(2 * layer.weight.numel() for layer in layers if layer is not None)
        return projections + 4 * self.config.num_heads * self.head_dim * (context_len + 1) / 2

    def state_bytes(self, context_len: int) -> int:
        return context_len * (2 * 2 * self.num_kv_heads * self.head_dim + 4 * self.config.num_heads)
