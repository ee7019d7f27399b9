"""Linear attention with a decay for each head: S_t = a_t S_{t-1} + k_t v_t^T,  o_t = S_t^T q_t.

decay "data" is Mamba-2 (2405.21060): u, k and q pass a short convolution and SiLU; dt = softplus(W_t x + dt_bias),
a = exp(-exp(A_log) dt), v = dt u; all heads of a group share q and k; the output is rmsnorm((o + D u) * silu(W_g x)).
decay "fixed" is retention (2307.08621) without its rotation: a = 1 - 2^(-5-h) in head h, output silu(W_g x) *
rmsnorm(o) with a norm for each head. decay "none" is linear attention (2006.16236): a = 1 and q, k = elu(.) + 1; what
it divides o by, one number for each head, its norm takes out (2210.10340).

B batch, T time, D model width, E all values, G groups, R heads of a group, H heads, K key width, V value width.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wren import recurrent
from wren.errors import ConfigError
from wren.mixer import Context, Mixer, valid_mask, with_values, without_padding
from wren.ops.decay import inverse_softplus_of_times
from wren.ops.decay_attention import chunked_flops_per_token, decay_attention
from wren.ops.settings import check_counts
from wren.ops.widen import widened


@dataclass(frozen=True, kw_only=True)
class Config:
    """None = as what the decay is from has it (in brackets: data; fixed and none).

    expand: width of all values in units of the model's (2; 1). state_dim: width of a query and of a key (128; that of
    a head's values). num_groups: sets of queries and keys, shared by the heads of a group, and groups of the norm (1;
    num_heads). conv_size: taps of the short convolution, 0 = none (4; 0). skip: adds D u to the output (yes; no).
    activation: silu of queries, keys and values, or elu(.) + 1 of queries and keys (silu; none for fixed, elu for
    none). norm_before_gate: the norm does not see the gate (no; yes). conv_bias, bias: of the convolution, and of the
    projections. chunk_size trades speed only.
    """

    num_heads: int
    decay: Literal["data", "fixed", "none"] = "data"
    expand: int | None = None
    state_dim: int | None = None
    num_groups: int | None = None
    conv_size: int | None = None
    conv_bias: bool = True
    bias: bool = False
    skip: bool | None = None
    activation: Literal["silu", "elu", "none"] | None = None
    norm_before_gate: bool | None = None
    chunk_size: int = 64
    norm_eps: float = 1e-5

    def build(self, dim: int) -> "LinearAttention":
        """Raises ConfigError for sizes that do not divide or are out of range."""
        check_counts("linear_attention", self, "num_heads", "expand", "state_dim", "num_groups", "chunk_size")
        if self.conv_size is not None and (self.conv_size == 1 or self.conv_size < 0):
            raise ConfigError(f"linear_attention.conv_size is {self.conv_size}; use 2 or more, or 0 for none.")
        if not 0 < self.norm_eps < math.inf:
            raise ConfigError(f"linear_attention.norm_eps is {self.norm_eps}; it must be a finite number above 0.")
        config = self.resolved(dim)
        if config.values_width(dim) % self.num_heads:
            raise ConfigError(
                f"A width of {dim} times {config.expand} cannot be split over {self.num_heads} linear_attention heads; "
                "choose num_heads that divides it."
            )
        if self.num_heads % (config.num_groups or 1):
            raise ConfigError(
                f"linear_attention.num_groups {config.num_groups} does not divide num_heads {self.num_heads}; "
                "every group needs as many heads as the next."
            )
        return LinearAttention(dim, config)

    def resolved(self, dim: int) -> "Config":
        """The same with what the decay's source has in place of every None."""
        mamba2 = self.decay == "data"
        own_state_dim = dim * (self.expand or 1) // self.num_heads
        source: dict[str, Any] = {
            "expand": 2 if mamba2 else 1,
            "state_dim": 128 if mamba2 else own_state_dim,
            "num_groups": 1 if mamba2 else self.num_heads,
            "conv_size": 4 if mamba2 else 0,
            "skip": mamba2,
            "activation": {"data": "silu", "fixed": "none", "none": "elu"}[self.decay],
            "norm_before_gate": not mamba2,
        }
        unset = [field.name for field in fields(self) if getattr(self, field.name) is None]
        return replace(self, **{name: source[name] for name in unset})

    def values_width(self, dim: int) -> int:
        return dim * (self.expand or 1)


EXAMPLES = (
    Config(num_heads=4, state_dim=6, num_groups=2, bias=True, chunk_size=16),
    Config(num_heads=2, decay="fixed", conv_size=3, conv_bias=False, expand=2, state_dim=5, skip=True),
    Config(num_heads=2, decay="none"),
)


class LinearAttentionState(recurrent.MemoryState):
    """The tail holds u, k and q beside one another."""


class LinearAttention(Mixer):
    """values_BTD of the context is E wide and joins u before its convolution.

    flops_per_token counts a whole row at once, in chunks: it grows with the chunk size, not with the row.
    """

    def __init__(self, dim: int, config: Config):
        """config: resolved, without None."""
        super().__init__()
        self.config = config
        self.num_groups, self.key_dim, self.conv_size = (
            value or 0 for value in (config.num_groups, config.state_dim, config.conv_size)
        )
        self.values_dim = config.values_width(dim)
        self.value_dim = self.values_dim // config.num_heads
        self.widths = [self.values_dim, self.num_groups * self.key_dim, self.num_groups * self.key_dim]
        self.memory_shape = (config.num_heads, self.key_dim, self.value_dim)
        self.tail_shape = recurrent.tail_shape(sum(self.widths), self.conv_size or None)
        self.v, self.k, self.q = (nn.Linear(dim, width, bias=config.bias) for width in self.widths)
        self.gate = nn.Linear(dim, self.values_dim, bias=config.bias)
        self.time = self.A_log = self.dt_bias = self.D = self.conv = self.conv_bias = None
        if config.decay == "data":
            self.time = nn.Linear(dim, config.num_heads, bias=config.bias)
            self.A_log = nn.Parameter(torch.empty(config.num_heads).uniform_(1.0, 16.0).log())
            self.dt_bias = nn.Parameter(inverse_softplus_of_times(config.num_heads))
        if config.skip:
            self.D = nn.Parameter(torch.ones(config.num_heads))
        if self.conv_size:
            self.conv = recurrent.new_conv(sum(self.widths), self.conv_size)
            if config.conv_bias:
                bound = self.conv_size**-0.5
                self.conv_bias = nn.Parameter(torch.empty(sum(self.widths)).uniform_(-bound, bound))
        self.norm = nn.Parameter(torch.ones(self.values_dim))
        self.out = nn.Linear(self.values_dim, dim, bias=config.bias)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        state = recurrent.own_memory_state(
            context, LinearAttentionState, len(x_BTD), self.memory_shape, self.tail_shape
        )
        x_BTD = without_padding(x_BTD, context.valid_B)
        u_BTHV, k_BTGK, q_BTGK = self._values_keys_queries(x_BTD, context, state)
        v_BTHV, log_decay_BTH = self._written(x_BTD, u_BTHV, context.valid_B)
        o_BTHV, last_BHKV = decay_attention(
            q_BTGK,
            k_BTGK,
            v_BTHV,
            log_decay_BTH,
            memory_BHKV=None if state is None else state.memory_BHKV,
            documents_BT=context.documents_BT,
            boundaries=context.boundaries,
            chunk_size=self.config.chunk_size,
        )
        recurrent.carry_on(state, last_BHKV, x_BTD.shape[1], context.valid_B)
        if self.D is not None:
            o_BTHV = torch.addcmul(o_BTHV, u_BTHV.to(o_BTHV.dtype), self.D.to(o_BTHV.dtype)[:, None])
        return self.out(self._gated_and_normed(o_BTHV.flatten(2), self.gate(x_BTD)))

    def _values_keys_queries(
        self, x_BTD: Tensor, context: Context, state: LinearAttentionState | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Projected, convolved, activated."""
        parts = [with_values(self.v(x_BTD), context), self.k(x_BTD), self.q(x_BTD)]
        parts = recurrent.convolved(parts, self.conv, context, state)
        if self.conv_bias is not None:
            biases = self.conv_bias.split(self.widths)
            parts = [part + bias.to(part.dtype) for part, bias in zip(parts, biases, strict=True)]
        u, k, q = parts
        if self.config.activation == "silu":
            u, k, q = F.silu(u), F.silu(k), F.silu(q)
        elif self.config.activation == "elu":
            k, q = F.elu(k) + 1, F.elu(q) + 1
        k_BTGK, q_BTGK = (y.unflatten(-1, (-1, self.key_dim)) for y in (k, q))
        return u.unflatten(-1, (-1, self.value_dim)), k_BTGK, q_BTGK

    def _written(self, x_BTD: Tensor, u_BTHV: Tensor, valid_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Values (B, T, H, V) as they are written, 0 in padding, and the log decay (B or 1, T, H) in fp32 at least."""
        valid_BT = valid_mask(valid_B, x_BTD.shape[1])
        log_decay_BTH = None
        if self.time is not None and self.A_log is not None and self.dt_bias is not None:
            times_BTH = F.softplus(widened(self.time(x_BTD)) + self.dt_bias)
            if valid_BT is not None:
                times_BTH = times_BTH * valid_BT[:, :, None]
            return (u_BTHV * times_BTH[..., None]).to(u_BTHV.dtype), -self.A_log.exp() * times_BTH
        if self.config.decay == "fixed":
            log_decay_BTH = _retention(self.config.num_heads, self.norm).expand(1, x_BTD.shape[1], -1)
        if valid_BT is None:
            return u_BTHV, log_decay_BTH
        if log_decay_BTH is not None:
            log_decay_BTH = log_decay_BTH * valid_BT[:, :, None]
        return u_BTHV * valid_BT[:, :, None, None], log_decay_BTH

    def _gated_and_normed(self, o_BTE: Tensor, gate_BTE: Tensor) -> Tensor:
        """Normed over each group's channels, in the dtype of the gate."""
        gate_BTE = F.silu(gate_BTE)
        if not self.config.norm_before_gate:
            o_BTE = o_BTE * gate_BTE
        width = self.values_dim // self.num_groups
        normed_BTE = F.rms_norm(o_BTE.unflatten(-1, (-1, width)), (width,), None, self.config.norm_eps).flatten(2)
        normed_BTE = (normed_BTE * self.norm).to(gate_BTE.dtype)
        return normed_BTE * gate_BTE if self.config.norm_before_gate else normed_BTE

    def new_state(
        self, batch_size: int, max_len: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> LinearAttentionState:
        """max_len bounds nothing here: the state has one size for every length."""
        return recurrent.new_memory_state(
            LinearAttentionState, batch_size, self.memory_shape, self.tail_shape, device=device, dtype=dtype
        )

    def flops_per_token(self, context_len: int) -> float:
        """As counted for a whole row."""
        projections = sum(2 * layer.weight.numel() for layer in self.children() if isinstance(layer, nn.Linear))
        convolution = 0 if self.conv is None else 2 * self.conv.numel()
        heads = self.config.num_heads
        sizes = (self.config.chunk_size, self.num_groups, heads, self.key_dim, self.value_dim)
        return projections + convolution + chunked_flops_per_token(context_len, *sizes)

    def state_bytes(self, context_len: int) -> int:
        return recurrent.memory_state_bytes(self.memory_shape, self.tail_shape)


def _retention(num_heads: int, like: Tensor) -> Tensor:
    """log(1 - 2^(-5-h)) for head h, in fp32 at least."""
    heads_H = torch.arange(num_heads, device=like.device, dtype=widened(like).dtype)
    return torch.log1p(-torch.exp2(-5 - heads_H))
