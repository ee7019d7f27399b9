"""Causal softmax attention: o_t = sum_{s <= t} softmax_s(q_t . k_s / sqrt(K)) v_s  (Vaswani et al., 1706.03762).

Grouped key-value heads (2305.13245), rotary positions (2104.09864), a window (2004.05150), QK-norm (2302.05442).

B batch, T time, S cache slots, D model width, H query heads, J key-value heads, K head width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from wren.errors import ConfigError
from wren.mixer import (
    Context,
    Mixer,
    State,
    advance,
    as_kind,
    check_tail,
    may_write,
    own_state,
    put_rows,
    without_padding,
)
from wren.ops.attention import cached_attention, causal_attention
from wren.ops.norm import rms_norm
from wren.ops.rope import rotate, rotation


@dataclass(frozen=True, kw_only=True)
class Config:
    """num_kv_heads: None = num_heads. head_dim: None = dim / num_heads. window: tokens a query sees, itself included.

    dropout acts on the attention weights in training. Learned positions belong to the model, not here.
    """

    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    positions: Literal["rope", "none"] = "rope"
    rope_base: float = 10000.0
    qk_norm: bool = False
    window: int | None = None
    bias: bool = False
    dropout: float = 0.0

    def build(self, dim: int) -> "Attention":
        """Raises ConfigError for sizes that do not divide or are out of range."""
        for name in ("num_heads", "num_kv_heads", "head_dim", "window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"attention.{name} is {value}; it must be at least 1.")
        if self.head_dim is None and dim % self.num_heads:
            raise ConfigError(
                f"A width of {dim} cannot be split over {self.num_heads} attention heads; "
                "choose num_heads that divides it, or set head_dim."
            )
        if self.num_heads % (self.num_kv_heads or self.num_heads):
            raise ConfigError(
                f"attention.num_heads {self.num_heads} is no multiple of num_kv_heads {self.num_kv_heads}."
            )
        if self.positions == "rope" and (self.head_dim or dim // self.num_heads) % 2:
            raise ConfigError("Rotary positions need an even head_dim; change it, or set positions to 'none'.")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"attention.dropout is {self.dropout}; it must lie in [0, 1).")
        return Attention(dim, self)


EXAMPLES = (
    Config(num_heads=2, bias=True),
    Config(num_heads=4, num_kv_heads=2, head_dim=6, qk_norm=True),
    Config(num_heads=2, num_kv_heads=1, positions="none", window=5),
    Config(num_heads=2, window=40),
)


@dataclass
class AttentionState(State):
    """Keys and values at slot (place in row) mod S; S = max_len, or the window if that is shorter."""

    keys_BSJK: Tensor
    values_BSJK: Tensor
    max_len: int | None  # None: old tokens leave through the window, so any length fits
    longest: int  # no row is longer: known without asking the device

    def write(self, rows_B: Tensor, other: State) -> None:
        """As State.write; `other` may be made for another max_len as long as its rows fit."""
        other = as_kind(other, type(self))
        check_tail("keys", other.keys_BSJK[:, 0], self.keys_BSJK.shape[2:])
        longest = int(other.lengths_B.max()) if len(other.lengths_B) else 0
        if self.max_len is not None and longest > self.max_len:
            raise ConfigError(_too_long(longest, self.max_len))
        place_BS = _slot_places(other.lengths_B, self.keys_BSJK.shape[1])
        source_BS = place_BS.clamp(min=0) % other.keys_BSJK.shape[1]
        rows = torch.arange(len(source_BS), device=source_BS.device)[:, None]
        self.keys_BSJK = put_rows(self.keys_BSJK, rows_B, other.keys_BSJK[rows, source_BS])
        self.values_BSJK = put_rows(self.values_BSJK, rows_B, other.values_BSJK[rows, source_BS])
        self.lengths_B = put_rows(self.lengths_B, rows_B, other.lengths_B)
        self.longest = int(self.lengths_B.max())

    def admit(self, num_tokens: int, valid_B: Tensor | None) -> None:
        """Makes sure that the next tokens fit; raises ConfigError past max_len."""
        self.longest += num_tokens
        if self.max_len is not None and self.longest > self.max_len:  # rows that were replaced or padded: ask
            self.longest = int(advance(self.lengths_B, num_tokens, valid_B).max())
            if self.longest > self.max_len:
                raise ConfigError(_too_long(self.longest, self.max_len))

    def append(self, k_BTJK: Tensor, v_BTJK: Tensor, valid_B: Tensor | None) -> None:
        """Stores the last tokens before valid_B that the slots can hold, and advances the lengths."""
        B, T = k_BTJK.shape[:2]
        S = self.keys_BSJK.shape[1]
        end_B = self.lengths_B.new_full((B,), T) if valid_B is None else valid_B.to(self.lengths_B)
        index_BT = end_B[:, None] - min(T, S) + torch.arange(min(T, S), device=end_B.device)
        slots_BT = (self.lengths_B[:, None] + index_BT) % S
        rows_B1 = torch.arange(B, device=end_B.device)[:, None]
        new_BT = (index_BT >= 0)[:, :, None, None]
        in_place = may_write(self.keys_BSJK, self.values_BSJK, k_BTJK, v_BTJK)
        stored = []
        for cache, x in ((self.keys_BSJK, k_BTJK), (self.values_BSJK, v_BTJK)):
            x = x[:, -S:].to(cache.dtype) if valid_B is None else x[rows_B1, index_BT.clamp(min=0)].to(cache.dtype)
            if valid_B is not None:  # where padding leaves too few tokens, a slot gets back what it held
                x = torch.where(new_BT, x, cache[rows_B1, slots_BT])
            put = cache.index_put_ if in_place else cache.index_put
            stored.append(put((rows_B1, slots_BT), x))
        self.keys_BSJK, self.values_BSJK = stored
        self.lengths_B = advance(self.lengths_B, T, valid_B)


class Attention(Mixer):
    """Softmax attention; values_BTD of the context is J*K wide. flops_per_token counts what the mask lets through."""

    def __init__(self, dim: int, config: Config):
        super().__init__()
        self.config = config
        self.num_kv_heads = config.num_kv_heads or config.num_heads
        self.head_dim = config.head_dim or dim // config.num_heads
        self.values_dim = self.num_kv_heads * self.head_dim
        self.q = nn.Linear(dim, config.num_heads * self.head_dim, bias=config.bias)
        self.k = nn.Linear(dim, self.num_kv_heads * self.head_dim, bias=config.bias)
        self.v = nn.Linear(dim, self.num_kv_heads * self.head_dim, bias=config.bias)
        self.q_norm = nn.Parameter(torch.ones(self.head_dim)) if config.qk_norm else None
        self.k_norm = nn.Parameter(torch.ones(self.head_dim)) if config.qk_norm else None
        self.out = nn.Linear(config.num_heads * self.head_dim, dim, bias=config.bias)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        state = own_state(context, AttentionState, len(x_BTD))
        x_BTD = without_padding(x_BTD, context.valid_B)
        v_BTE = self.v(x_BTD)
        if context.values_BTD is not None:
            v_BTE = v_BTE + context.values_BTD.to(v_BTE.dtype)
        q_BTHK, k_BTJK, v_BTJK = (y.unflatten(-1, (-1, self.head_dim)) for y in (self.q(x_BTD), self.k(x_BTD), v_BTE))
        if self.q_norm is not None and self.k_norm is not None:
            q_BTHK, k_BTJK = rms_norm(q_BTHK, self.q_norm, 1e-6), rms_norm(k_BTJK, self.k_norm, 1e-6)
        if self.config.positions == "rope":
            by = rotation(_positions(x_BTD, context), self.head_dim, self.config.rope_base, q_BTHK.dtype)
            q_BTHK, k_BTJK = rotate(q_BTHK, by), rotate(k_BTJK, by)
        if state is None:
            o_BTHK = self._whole_rows(q_BTHK, k_BTJK, v_BTJK, context.documents_BT)
        else:
            check_tail("keys", state.keys_BSJK[:, 0], (self.num_kv_heads, self.head_dim))
            o_BTHK = self._with_state(q_BTHK, k_BTJK, v_BTJK, context.valid_B, state)
        return self.out(o_BTHK.flatten(2))

    def _whole_rows(self, q_BTHK: Tensor, k_BTJK: Tensor, v_BTJK: Tensor, documents_BT: Tensor | None) -> Tensor:
        dropout = self.config.dropout if self.training else 0.0
        window = self.config.window
        return causal_attention(q_BTHK, k_BTJK, v_BTJK, documents_BT=documents_BT, window=window, dropout=dropout)

    def _with_state(
        self, q_BTHK: Tensor, k_BTJK: Tensor, v_BTJK: Tensor, valid_B: Tensor | None, state: AttentionState
    ) -> Tensor:
        T, longest_before = q_BTHK.shape[1], state.longest
        state.admit(T, valid_B)
        if longest_before == 0:  # the padding stands right of every valid token, where causality hides it
            state.append(k_BTJK, v_BTJK, valid_B)
            return self._whole_rows(q_BTHK, k_BTJK, v_BTJK, None)
        if T == 1 or state.max_len is not None:
            return self._over_slots(q_BTHK, k_BTJK, v_BTJK, valid_B, state)
        outputs = []
        for start in range(0, T, self.config.window or T):  # pieces of a window: never T x T scores
            piece = slice(start, start + (self.config.window or T))
            valid = None if valid_B is None else (valid_B - start).clamp(min=0, max=q_BTHK[:, piece].shape[1])
            outputs.append(self._over_ring(q_BTHK[:, piece], k_BTJK[:, piece], v_BTJK[:, piece], valid, state))
        return torch.cat(outputs, dim=1)

    def _over_slots(
        self, q_BTHK: Tensor, k_BTJK: Tensor, v_BTJK: Tensor, valid_B: Tensor | None, state: AttentionState
    ) -> Tensor:
        """Stores first, then reads the slots in use: right where no token of this call pushes another one out."""
        query_BT = state.lengths_B[:, None] + torch.arange(q_BTHK.shape[1], device=q_BTHK.device)
        state.append(k_BTJK, v_BTJK, valid_B)
        used = min(state.longest, state.keys_BSJK.shape[1])
        k_BSJK, v_BSJK = (x[:, :used].to(q_BTHK.dtype) for x in (state.keys_BSJK, state.values_BSJK))
        key_BS = _slot_places(state.lengths_B, state.keys_BSJK.shape[1])[:, :used]
        key_BS[:, 0] = key_BS[:, 0].clamp(min=0)  # a row of padding alone sees something, so that it is no NaN
        query_BT = query_BT.clamp(max=(state.lengths_B - 1).clamp(min=0)[:, None])
        return cached_attention(q_BTHK, k_BSJK, v_BSJK, query_BT, key_BS, window=self.config.window)

    def _over_ring(
        self, q_BTHK: Tensor, k_BTJK: Tensor, v_BTJK: Tensor, valid_B: Tensor | None, state: AttentionState
    ) -> Tensor:
        """Reads the window's slots beside the new tokens, then stores."""
        key_BS = _slot_places(state.lengths_B, state.keys_BSJK.shape[1])
        query_BT = state.lengths_B[:, None] + torch.arange(q_BTHK.shape[1], device=q_BTHK.device)
        k_BSJK = torch.cat((state.keys_BSJK.to(k_BTJK.dtype), k_BTJK), dim=1)
        v_BSJK = torch.cat((state.values_BSJK.to(v_BTJK.dtype), v_BTJK), dim=1)
        keys_BS = torch.cat((key_BS, query_BT), dim=1)
        state.append(k_BTJK, v_BTJK, valid_B)
        return cached_attention(q_BTHK, k_BSJK, v_BSJK, query_BT, keys_BS, window=self.config.window)

    def new_state(
        self, batch_size: int, max_len: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> AttentionState:
        window = self.config.window
        rolls = window is not None and window <= max_len
        shape = (batch_size, window if rolls and window else max_len, self.num_kv_heads, self.head_dim)
        lengths_B = torch.zeros(batch_size, dtype=torch.long, device=device)
        keys, values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        return AttentionState(lengths_B, keys, values, None if rolls else max_len, 0)

    def flops_per_token(self, context_len: int) -> float:
        """As counted token by token: a query meets the keys that it sees, not the masked ones."""
        window = min(self.config.window or context_len, context_len)
        seen = (window * (window + 1) / 2 + (context_len - window) * window) / context_len
        projections = sum(2 * layer.weight.numel() for layer in (self.q, self.k, self.v, self.out))
        return projections + 4 * self.config.num_heads * self.head_dim * seen

    def state_bytes(self, context_len: int) -> int:
        slots = min(self.config.window or context_len, context_len)
        return 2 * 2 * self.num_kv_heads * self.head_dim * slots


def _positions(x_BTD: Tensor, context: Context) -> Tensor:
    if context.positions_BT is not None:
        return context.positions_BT
    index_1T = torch.arange(x_BTD.shape[1], device=x_BTD.device)[None]
    return index_1T if context.state is None else context.state.lengths_B[:, None] + index_1T


def _slot_places(lengths_B: Tensor, num_slots: int) -> Tensor:
    """(B, S): which place of its row each slot holds, the newest that falls on it; below 0 where it is empty."""
    last_B1 = lengths_B[:, None] - 1
    return last_B1 - (last_B1 - torch.arange(num_slots, device=lengths_B.device)) % num_slots


def _too_long(length: int, max_len: int) -> str:
    return f"A row of {length} tokens does not fit a state made for {max_len}; make it with a larger max_len."
