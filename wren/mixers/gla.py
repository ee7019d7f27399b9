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

from wren import recurrent
from wren.errors import ConfigError
from wren.mixer import Context, Mixer, valid_mask, with_values, without_padding
from wren.ops.gated_linear_attention import chunked_flops_per_token, gated_linear_attention
from wren.ops.norm import rms_norm
from wren.ops.settings import check_conv_size, check_counts
from wren.ops.widen import widened


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
        check_counts("gla", self, "num_heads", "rank")
        for name in ("expand_k", "expand_v", "log_decay_divisor", "norm_eps"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ConfigError(f"gla.{name} is {value}; it must be a finite number above 0.")
        if self.chunk_size < 2 or self.chunk_size & (self.chunk_size - 1):
            raise ConfigError(f"gla.chunk_size is {self.chunk_size}; it must be a power of two from 2 on, such as 32.")
        check_conv_size("gla", self.conv_size)
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


class GatedLinearAttentionState(recurrent.MemoryState):
    """The tail holds q, k and v beside one another."""


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
        self.memory_shape = (config.num_heads, self.key_dim, self.value_dim)
        self.tail_shape = recurrent.tail_shape(sum(self.widths), config.conv_size)
        self.q, self.k, self.v = (nn.Linear(dim, width, bias=False) for width in self.widths)
        self.gate = nn.Linear(dim, values, bias=False)
        self.decay_down, self.decay_up = nn.Linear(dim, config.rank, bias=False), nn.Linear(config.rank, keys)
        self.conv = recurrent.new_conv(sum(self.widths), config.conv_size)
        self.norm = nn.Parameter(torch.ones(self.value_dim))
        self.out = nn.Linear(values, dim, bias=False)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        state = recurrent.own_memory_state(
            context, GatedLinearAttentionState, len(x_BTD), self.memory_shape, self.tail_shape
        )
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
            boundaries=context.boundaries,
            chunk_size=self.config.chunk_size,
        )
        recurrent.carry_on(state, last_BHKV, x_BTD.shape[1], context.valid_B)
        gate_BTE = F.silu(self.gate(x_BTD))
        normed_BTHV = rms_norm(o_BTHV, self.norm, self.config.norm_eps)
        return self.out(normed_BTHV.flatten(2).to(gate_BTE.dtype) * gate_BTE)

    def _queries_keys_values(
        self, x_BTD: Tensor, context: Context, state: GatedLinearAttentionState | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Projected, convolved and activated where there is a convolution; queries divided by sqrt(K)."""
        q, k, v = self.q(x_BTD), self.k(x_BTD), with_values(self.v(x_BTD), context)
        if self.conv is not None:
            q, k, v = (F.silu(y) for y in recurrent.convolved([q, k, v], self.conv, context, state))
        q_BTHK, k_BTHK = (y.unflatten(-1, (-1, self.key_dim)) for y in (q * self.key_dim**-0.5, k))
        return q_BTHK, k_BTHK, v.unflatten(-1, (-1, self.value_dim))

    def _log_decay(self, x_BTD: Tensor) -> Tensor:
        """(B, T, H, K) in fp32 at least: it adds up over thousands of tokens."""
        logits_BTC = widened(self.decay_up(self.decay_down(x_BTD)))
        return F.logsigmoid(logits_BTC).unflatten(-1, (-1, self.key_dim)) / self.config.log_decay_divisor

    def new_state(
        self, batch_size: int, max_len: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> GatedLinearAttentionState:
        """max_len bounds nothing here: the state has one size for every length."""
        return recurrent.new_memory_state(
            GatedLinearAttentionState, batch_size, self.memory_shape, self.tail_shape, device=device, dtype=dtype
        )

    def flops_per_token(self, context_len: int) -> float:
        """As counted for a whole row: chunks of C tokens, the last one padded."""
        projections = sum(2 * layer.weight.numel() for layer in self.children() if isinstance(layer, nn.Linear))
        convolution = 0 if self.conv is None else 2 * self.conv.numel()
        rule = chunked_flops_per_token(context_len, self.config.chunk_size, self.key_dim, self.value_dim)
        return projections + convolution + self.config.num_heads * rule

    def state_bytes(self, context_len: int) -> int:
        return recurrent.memory_state_bytes(self.memory_shape, self.tail_shape)
