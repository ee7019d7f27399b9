"""Kimi Delta Attention: S_t = (I - b_t k_t k_t^T) diag(a_t) S_{t-1} + b_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(K).

The attention of Kimi Linear (2510.26692).

q, k, v pass a short convolution and SiLU; q and k are made unit vectors; b = sigmoid(W_b x); every channel of a key
decays by its own a = exp(-exp(A_log) softplus(W_2 W_1 x + dt_bias)); the output is sigmoid(G_2 G_1 x) * rmsnorm(o), its
norm one for each head.

B batch, T time, D model width, H heads, K key width, V value width.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wren.errors import ConfigError
from wren.mixer import Context, Mixer, State, advance, check_tail, own_state, valid_mask, without_padding
from wren.ops.generalised_delta_rule import (
    chunked_flops_per_token,
    chunked_generalised_delta_rule,
    kernel_fits,
    kernel_kimi_delta_rule,
    naive_generalised_delta_rule,
    widened,
)
from wren.ops.norm import l2_normalised, rms_norm
from wren.ops.short_convolution import next_tail, short_convolution


@dataclass(frozen=True, kw_only=True)
class Config:
    """head_dim: of queries and keys, None = dim / num_heads. value_head_dim: None = head_dim.

    rank: inner width of the projections that make the decay and the output gate, None = value_head_dim.
    conv_size: taps of the short convolution, None = none. negative_eigenvalues: b in (0, 2), so that the memory can
    flip signs (2411.12537). chunk_size, a power of two, trades speed only.
    """

    num_heads: int
    head_dim: int | None = None
    value_head_dim: int | None = None
    rank: int | None = None
    conv_size: int | None = 4
    negative_eigenvalues: bool = False
    chunk_size: int = 64
    norm_eps: float = 1e-5

    def build(self, dim: int) -> "KimiDeltaAttention":
        """Raises ConfigError for sizes that do not divide or are out of range."""
        for name in ("num_heads", "head_dim", "value_head_dim", "rank", "chunk_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"kda.{name} is {value}; it must be at least 1.")
        if self.chunk_size & (self.chunk_size - 1):
            raise ConfigError(f"kda.chunk_size is {self.chunk_size}; it must be a power of two, such as 64.")
        if self.conv_size is not None and self.conv_size < 2:
            raise ConfigError(f"kda.conv_size is {self.conv_size}; use 2 or more, or none.")
        if not self.norm_eps > 0:
            raise ConfigError(f"kda.norm_eps is {self.norm_eps}; it must be above 0.")
        if self.head_dim is None and dim % self.num_heads:
            raise ConfigError(
                f"A width of {dim} cannot be split over {self.num_heads} kda heads; "
                "choose num_heads that divides it, or set head_dim."
            )
        return KimiDeltaAttention(dim, self)


EXAMPLES = (
    Config(num_heads=2),
    Config(num_heads=1, head_dim=6, value_head_dim=10, rank=3, negative_eigenvalues=True, chunk_size=16),
    Config(num_heads=2, conv_size=None, chunk_size=32),
)


@dataclass
class KimiDeltaState(State):
    """The memory, in fp32, and the last inputs of the short convolution."""

    memory_BHKV: Tensor
    tail_BUC: Tensor  # (B, conv_size - 1, q, k and v beside one another); no rows without a convolution


class KimiDeltaAttention(Mixer):
    """values_BTD of the context is H*V wide and joins the values before their convolution.

    flops_per_token counts a whole row at once, in chunks: it grows with the chunk size, not with the row.
    """

    def __init__(self, dim: int, config: Config):
        super().__init__()
        self.config = config
        self.key_dim = config.head_dim or dim // config.num_heads
        self.value_dim = config.value_head_dim or self.key_dim
        keys, values = config.num_heads * self.key_dim, config.num_heads * self.value_dim
        rank = config.rank or self.value_dim
        self.widths = [keys, keys, values]
        self.values_dim = values
        self.q, self.k, self.v = (nn.Linear(dim, width, bias=False) for width in self.widths)
        self.decay_down, self.decay_up = nn.Linear(dim, rank, bias=False), nn.Linear(rank, keys, bias=False)
        self.gate_down, self.gate_up = nn.Linear(dim, rank, bias=False), nn.Linear(rank, values, bias=False)
        self.beta = nn.Linear(dim, config.num_heads, bias=False)
        self.A_log = nn.Parameter(torch.empty(config.num_heads).uniform_(1.0, 16.0).log())
        self.dt_bias = nn.Parameter(_inverse_softplus_of_times(keys))
        self.conv = None
        if config.conv_size is not None:
            bound = config.conv_size**-0.5
            self.conv = nn.Parameter(torch.empty(sum(self.widths), config.conv_size).uniform_(-bound, bound))
        self.norm = nn.Parameter(torch.ones(self.value_dim))
        self.out = nn.Linear(values, dim, bias=False)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        state = own_state(context, KimiDeltaState, len(x_BTD))
        if state is not None:
            check_tail("memories", state.memory_BHKV, (self.config.num_heads, self.key_dim, self.value_dim))
            check_tail("convolution tails", state.tail_BUC, self._tail_shape())
        x_BTD = without_padding(x_BTD, context.valid_B)
        q_BTHK, k_BTHK, v_BTHV = self._queries_keys_values(x_BTD, context, state)
        log_decay_BTHK, beta_BTH = self._gates(x_BTD, context.valid_B)
        inputs = (q_BTHK, k_BTHK, v_BTHV, log_decay_BTHK, beta_BTH)
        o_BTHV = self._recur(inputs, context.documents_BT, state)
        if state is not None:
            state.lengths_B = advance(state.lengths_B, x_BTD.shape[1], context.valid_B)
        gate_BTE = self.gate_up(self.gate_down(x_BTD)).sigmoid()
        normed_BTHV = rms_norm(o_BTHV, self.norm, self.config.norm_eps)
        return self.out(normed_BTHV.flatten(2).to(gate_BTE.dtype) * gate_BTE)

    def _queries_keys_values(
        self, x_BTD: Tensor, context: Context, state: KimiDeltaState | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Projected, convolved, activated; keys as unit vectors, queries of length 1 / sqrt(K)."""
        q, k, v = self.q(x_BTD), self.k(x_BTD), self.v(x_BTD)
        if context.values_BTD is not None:
            v = v + context.values_BTD.to(v.dtype)
        if self.conv is not None:
            q, k, v = self._convolved([q, k, v], self.conv, context, state)
        q, k, v = F.silu(q), F.silu(k), F.silu(v)
        q, k = (l2_normalised(widened(y).unflatten(-1, (-1, self.key_dim))) for y in (q, k))
        return q * self.key_dim**-0.5, k, v.unflatten(-1, (-1, self.value_dim))

    def _convolved(
        self, parts: list[Tensor], weight_CW: Tensor, context: Context, state: KimiDeltaState | None
    ) -> list[Tensor]:
        weights, width = weight_CW.split(self.widths), weight_CW.shape[1]
        tails = [None] * 3 if state is None else state.tail_BUC.split(self.widths, dim=-1)
        convolved = [
            short_convolution(part, weight, tail_BUC=tail, documents_BT=context.documents_BT)
            for part, weight, tail in zip(parts, weights, tails, strict=True)
        ]
        if state is not None:
            state.tail_BUC = next_tail(torch.cat(parts, dim=-1), width, state.tail_BUC, context.valid_B)
        return convolved

    def _gates(self, x_BTD: Tensor, valid_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """Log decay (B, T, H, K) and beta (B, T, H) in fp32: the decay multiplies up over thousands of tokens."""
        beta_BTH = widened(self.beta(x_BTD)).sigmoid()
        if self.config.negative_eigenvalues:
            beta_BTH = 2 * beta_BTH
        times_BTC = F.softplus(widened(self.decay_up(self.decay_down(x_BTD))) + self.dt_bias)
        log_decay_BTHK = -self.A_log.exp()[:, None] * times_BTC.unflatten(-1, (-1, self.key_dim))
        valid_BT = valid_mask(valid_B, x_BTD.shape[1])
        if valid_BT is None:
            return log_decay_BTHK, beta_BTH
        return log_decay_BTHK * valid_BT[:, :, None, None], beta_BTH * valid_BT[:, :, None]

    def _recur(self, inputs: tuple[Tensor, ...], documents_BT: Tensor | None, state: KimiDeltaState | None) -> Tensor:
        """Runs the rule by the form that fits, and carries the memory on."""
        q, k, v, log_decay, beta = inputs
        memory = None if state is None else state.memory_BHKV
        if v.shape[1] == 1:
            o_BTHV, last = naive_generalised_delta_rule(q, beta[..., None] * k, v, log_decay, k, memory_BHKV=memory)
        elif kernel_fits(k, v, memory, documents_BT):
            o_BTHV, last = kernel_kimi_delta_rule(
                q, k, v, log_decay, beta, memory_BHKV=memory, documents_BT=documents_BT
            )
        else:
            written, size = beta[..., None] * k, self.config.chunk_size
            o_BTHV, last = chunked_generalised_delta_rule(
                q, written, v, log_decay, k, memory_BHKV=memory, documents_BT=documents_BT, chunk_size=size
            )
        if state is not None and last is not None:
            state.memory_BHKV = last
        return o_BTHV

    def _tail_shape(self) -> tuple[int, int]:
        return ((self.config.conv_size or 1) - 1, sum(self.widths))

    def new_state(
        self, batch_size: int, max_len: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> KimiDeltaState:
        """max_len bounds nothing here: the state has one size for every length."""
        memory_shape = (batch_size, self.config.num_heads, self.key_dim, self.value_dim)
        return KimiDeltaState(
            torch.zeros(batch_size, dtype=torch.long, device=device),
            torch.zeros(memory_shape, dtype=torch.promote_types(dtype, torch.float32), device=device),
            torch.zeros(batch_size, *self._tail_shape(), dtype=dtype, device=device),
        )

    def flops_per_token(self, context_len: int) -> float:
        """As counted for a whole row: chunks of C tokens, the last one padded."""
        projections = sum(2 * layer.weight.numel() for layer in self.children() if isinstance(layer, nn.Linear))
        convolution = 0 if self.conv is None else 2 * self.conv.numel()
        rule = chunked_flops_per_token(context_len, self.config.chunk_size, self.key_dim, self.value_dim, erases=False)
        return projections + convolution + self.config.num_heads * rule

    def state_bytes(self, context_len: int) -> int:
        return 4 * self.config.num_heads * self.key_dim * self.value_dim + 2 * math.prod(self._tail_shape())


def _inverse_softplus_of_times(count: int) -> Tensor:
    """softplus of it is log-uniform in [0.001, 0.1], the time steps that Mamba-2 begins with (2405.21060)."""
    times = torch.empty(count).uniform_(math.log(1e-3), math.log(1e-1)).exp()
    return times + torch.log(-torch.expm1(-times))
