"""Gated linear attention: S_t = diag(a_t) S_{t-1} + k_t v_t^T,  o_t = S_t^T q_t / sqrt(K)  (2312.06635).

q, k, v are projections, optionally passed through a short convolution and SiLU; every channel of a key decays by its
own a = sigmoid(W_2 W_1 x + b)^(1/16), W_1 of low rank; the output is silu(W_g x) * rmsnorm(o), its norm one for each
head.

B batch, T time, D model width, H heads, K key width, V value width.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wren.errors import ConfigError
from wren.mixer import Context, Mixer, State, advance, check_tail, own_state, valid_mask, without_padding
from wren.ops.gated_linear_attention import chunked_flops_per_token, gated_linear_attention, widened
from wren.ops.norm import rms_norm
from wren.ops.short_convolution.parts import convolve_parts


@dataclass(frozen=True, kw_only=True)
class Config:
    """expand_k, expand_v: width of all keys and of all values, in units of the model's.

    rank: inner width of the projection that makes the decay. log_decay_divisor: log a = logsigmoid(.) / it; the larger,
    the longer the memory that training begins with. conv_size: taps of the short convolution, None = none, as in the
    paper. chunk_size, a power of two, trades speed only.
    """

    num_heads: int
    expand_k: float = 0.5
    expand_v: float = 1.0
    rank: int = 16
    log_decay_divisor: float = 16.0
    conv_size: int | None = None
    chunk_size: int = 32
    norm_eps: float = 1e-5

    def build(self, dim: int) -> "GatedLinearAttention":
        """Raises ConfigError for sizes that do not divide or are out of range."""
        for name in ("num_heads", "rank"):
            if getattr(self, name) < 1:
                raise ConfigError(f"gla.{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("expand_k", "expand_v", "log_decay_divisor", "norm_eps"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ConfigError(f"gla.{name} is {value}; it must be a finite number above 0.")
        if self.chunk_size < 2 or self.chunk_size & (self.chunk_size - 1):
            raise ConfigError(f"gla.chunk_size is {self.chunk_size}; it must be a power of two from 2 on, such as 32.")
        if self.conv_size is not None and self.conv_size < 2:
            raise ConfigError(f"gla.conv_size is {self.conv_size}; use 2 or more, or none.")
        for name in ("expand_k", "expand_v"):
            width = dim * getattr(self, name)
            if width % self.num_heads or width < self.num_heads:
                raise ConfigError(
                    f"gla.{name} {getattr(self, name)} of a width of {dim} makes {width:g} channels, which "
                    f"{self.num_heads} heads cannot share evenly; choose num_heads that divides it, or another {name}."
                )
        return GatedLinearAttention(dim, self)


EXAMPLES = (
    Config(num_heads=2),
    Config(num_heads=1, expand_k=0.375, expand_v=1.5, rank=3, log_decay_divisor=1.0, conv_size=4, chunk_size=16),
)


@dataclass
class GatedLinearAttentionState(State):
    """The memory, in fp32, and the last inputs of the short convolution."""

    memory_BHKV: Tensor
    tail_BUC: Tensor  # (B, conv_size - 1, q, k and v beside one another); no rows without a convolution


class GatedLinearAttention(Mixer):
    """values_BTD of the context is H*V wide and joins the values before their convolution.

    flops_per_token counts a whole row at once, in chunks: it grows with the chunk size, not with the row.
    """

    def __init__(self, dim: int, config: Config):
        super().__init__()
        self.config = config
        keys, values = int(dim * config.expand_k), int(dim * config.expand_v)
        self.key_dim, self.value_dim = keys // config.num_heads, values // config.num_heads
        self.widths = [keys, keys, values]
        self.values_dim = values
        self.q, self.k, self.v = (nn.Linear(dim, width, bias=False) for width in self.widths)
        self.gate = nn.Linear(dim, values, bias=False)
        self.decay_down, self.decay_up = nn.Linear(dim, config.rank, bias=False), nn.Linear(config.rank, keys)
        self.conv = None
        if config.conv_size is not None:
            bound = config.conv_size**-0.5
            self.conv = nn.Parameter(torch.empty(sum(self.widths), config.conv_size).uniform_(-bound, bound))
        self.norm = nn.Parameter(torch.ones(self.value_dim))
        self.out = nn.Linear(values, dim, bias=False)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        state = own_state(context, GatedLinearAttentionState, len(x_BTD))
        if state is not None:
            check_tail("memories", state.memory_BHKV, (self.config.num_heads, self.key_dim, self.value_dim))
            check_tail("convolution tails", state.tail_BUC, self._tail_shape())
        x_BTD = without_padding(x_BTD, context.valid_B)
        q_BTHK, k_BTHK, v_BTHV = self._queries_keys_values(x_BTD, context, state)
        log_decay_BTHK = self._log_decay(x_BTD)
        valid_BT = valid_mask(context.valid_B, x_BTD.shape[1])
        if valid_BT is not None:
            k_BTHK, log_decay_BTHK = (y * valid_BT[:, :, None, None] for y in (k_BTHK, log_decay_BTHK))
        o_BTHV, last_BHKV = gated_linear_attention(
            q_BTHK,
            k_BTHK,
            v_BTHV,
            log_decay_BTHK,
            memory_BHKV=None if state is None else state.memory_BHKV,
            documents_BT=context.documents_BT,
            chunk_size=self.config.chunk_size,
        )
        if state is not None:
            if last_BHKV is not None:
                state.memory_BHKV = last_BHKV
            state.lengths_B = advance(state.lengths_B, x_BTD.shape[1], context.valid_B)
        gate_BTE = F.silu(self.gate(x_BTD))
        normed_BTHV = rms_norm(o_BTHV, self.norm, self.config.norm_eps)
        return self.out(normed_BTHV.flatten(2).to(gate_BTE.dtype) * gate_BTE)

    def _queries_keys_values(
        self, x_BTD: Tensor, context: Context, state: GatedLinearAttentionState | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Projected, convolved and activated where there is a convolution; queries divided by sqrt(K)."""
        q, k, v = self.q(x_BTD), self.k(x_BTD), self.v(x_BTD)
        if context.values_BTD is not None:
            v = v + context.values_BTD.to(v.dtype)
        if self.conv is not None:
            tail_BUC = None if state is None else state.tail_BUC
            parts, tail_BUC = convolve_parts(
                [q, k, v], self.conv, tail_BUA=tail_BUC, documents_BT=context.documents_BT, valid_B=context.valid_B
            )
            if state is not None and tail_BUC is not None:
                state.tail_BUC = tail_BUC
            q, k, v = (F.silu(part) for part in parts)
        q_BTHK, k_BTHK = (y.unflatten(-1, (-1, self.key_dim)) for y in (q * self.key_dim**-0.5, k))
        return q_BTHK, k_BTHK, v.unflatten(-1, (-1, self.value_dim))

    def _log_decay(self, x_BTD: Tensor) -> Tensor:
        """(B, T, H, K) in fp32 at least: it adds up over thousands of tokens."""
        logits_BTC = widened(self.decay_up(self.decay_down(x_BTD)))
        return F.logsigmoid(logits_BTC).unflatten(-1, (-1, self.key_dim)) / self.config.log_decay_divisor

    def _tail_shape(self) -> tuple[int, int]:
        return ((self.config.conv_size or 1) - 1, sum(self.widths))

    def new_state(
        self, batch_size: int, max_len: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> GatedLinearAttentionState:
        """max_len bounds nothing here: the state has one size for every length."""
        memory_shape = (batch_size, self.config.num_heads, self.key_dim, self.value_dim)
        return GatedLinearAttentionState(
            torch.zeros(batch_size, dtype=torch.long, device=device),
            torch.zeros(memory_shape, dtype=torch.promote_types(dtype, torch.float32), device=device),
            torch.zeros(batch_size, *self._tail_shape(), dtype=dtype, device=device),
        )

    def flops_per_token(self, context_len: int) -> float:
        """As counted for a whole row: chunks of C tokens, the last one padded."""
        projections = sum(2 * layer.weight.numel() for layer in self.children() if isinstance(layer, nn.Linear))
        convolution = 0 if self.conv is None else 2 * self.conv.numel()
        rule = chunked_flops_per_token(context_len, self.config.chunk_size, self.key_dim, self.value_dim)
        return projections + convolution + self.config.num_heads * rule

    def state_bytes(self, context_len: int) -> int:
        return 4 * self.config.num_heads * self.key_dim * self.value_dim + 2 * math.prod(self._tail_shape())
