"""Kimi Delta Attention: S_t = (I - b_t k_t k_t^T) diag(a_t) S_{t-1} + b_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(K).

The attention of Kimi Linear (2510.26692).

q, k, v pass a short convolution and SiLU; q and k are made unit vectors; b = sigmoid(W_b x); every channel of a key
decays by its own a = exp(-exp(A_log) softplus(W_2 W_1 x + dt_bias)); the output is sigmoid(G_2 G_1 x) * rmsnorm(o), its
norm one for each head.

B batch, T time, D model width, H heads, K key width, V value width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wren import recurrent
from wren.errors import ConfigError
from wren.mixer import Context, Mixer, valid_mask, with_values, without_padding
from wren.ops.decay import inverse_softplus_of_times
from wren.ops.generalised_delta_rule import (
    chunked_flops_per_token,
    chunked_generalised_delta_rule,
    kernel_fits,
    kernel_kimi_delta_rule,
    naive_generalised_delta_rule,
)
from wren.ops.norm import l2_normalised, rms_norm
from wren.ops.settings import check_conv_size, check_counts, check_split
from wren.ops.widen import widened


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
        check_counts("kda", self, "num_heads", "head_dim", "value_head_dim", "rank", "chunk_size")
        if self.chunk_size & (self.chunk_size - 1):
            raise ConfigError(f"kda.chunk_size is {self.chunk_size}; it must be a power of two, such as 64.")
        check_conv_size("kda", self.conv_size)
        if not self.norm_eps > 0:
            raise ConfigError(f"kda.norm_eps is {self.norm_eps}; it must be above 0.")
        check_split("kda", dim, self.num_heads, self.head_dim)
        return KimiDeltaAttention(dim, self)


EXAMPLES = (
    Config(num_heads=2),
    Config(num_heads=1, head_dim=6, value_head_dim=10, rank=3, negative_eigenvalues=True, chunk_size=16),
    Config(num_heads=2, conv_size=None, chunk_size=32),
)


class KimiDeltaState(recurrent.MemoryState):
    """The tail holds q, k and v beside one another."""


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
        self.memory_shape = (config.num_heads, self.key_dim, self.value_dim)
        self.tail_shape = recurrent.tail_shape(sum(self.widths), config.conv_size)
        self.q, self.k, self.v = (nn.Linear(dim, width, bias=False) for width in self.widths)
        self.decay_down, self.decay_up = nn.Linear(dim, rank, bias=False), nn.Linear(rank, keys, bias=False)
        self.gate_down, self.gate_up = nn.Linear(dim, rank, bias=False), nn.Linear(rank, values, bias=False)
        self.beta = nn.Linear(dim, config.num_heads, bias=False)
        self.A_log = nn.Parameter(torch.empty(config.num_heads).uniform_(1.0, 16.0).log())
        self.dt_bias = nn.Parameter(inverse_softplus_of_times(keys))
        self.conv = recurrent.new_conv(sum(self.widths), config.conv_size)
        self.norm = nn.Parameter(torch.ones(self.value_dim))
        self.out = nn.Linear(values, dim, bias=False)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        state = recurrent.own_memory_state(context, KimiDeltaState, len(x_BTD), self.memory_shape, self.tail_shape)
        x_BTD = without_padding(x_BTD, context.valid_B)
        q_BTHK, k_BTHK, v_BTHV = self._queries_keys_values(x_BTD, context, state)
        log_decay_BTHK, beta_BTH = self._gates(x_BTD, context.valid_B)
        inputs = (q_BTHK, k_BTHK, v_BTHV, log_decay_BTHK, beta_BTH)
        o_BTHV, last_BHKV = self._recur(inputs, context, state)
        recurrent.carry_on(state, last_BHKV, x_BTD.shape[1], context.valid_B)
        gate_BTE = self.gate_up(self.gate_down(x_BTD)).sigmoid()
        normed_BTHV = rms_norm(o_BTHV, self.norm, self.config.norm_eps)
        return self.out(normed_BTHV.flatten(2).to(gate_BTE.dtype) * gate_BTE)

    def _queries_keys_values(
        self, x_BTD: Tensor, context: Context, state: KimiDeltaState | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Projected, convolved, activated; keys as unit vectors, queries of length 1 / sqrt(K)."""
        q, k, v = self.q(x_BTD), self.k(x_BTD), with_values(self.v(x_BTD), context)
        q, k, v = (F.silu(y) for y in recurrent.convolved([q, k, v], self.conv, context, state))
        q, k = (l2_normalised(widened(y).unflatten(-1, (-1, self.key_dim))) for y in (q, k))
        return q * self.key_dim**-0.5, k, v.unflatten(-1, (-1, self.value_dim))

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

    def _recur(
        self, inputs: tuple[Tensor, ...], context: Context, state: KimiDeltaState | None
    ) -> tuple[Tensor, Tensor | None]:
        """Outputs and the last memory, by the form of the rule that fits; that is None from packed documents."""
        q, k, v, log_decay, beta = inputs
        memory = None if state is None else state.memory_BHKV
        if v.shape[1] == 1:
            return naive_generalised_delta_rule(q, beta[..., None] * k, v, log_decay, k, memory_BHKV=memory)
        given = {"memory_BHKV": memory, "documents_BT": context.documents_BT}
        if kernel_fits(k, v, memory, context.documents_BT):
            return kernel_kimi_delta_rule(q, k, v, log_decay, beta, boundaries=context.boundaries, **given)
        written, size = beta[..., None] * k, self.config.chunk_size
        return chunked_generalised_delta_rule(q, written, v, log_decay, k, chunk_size=size, **given)

    def new_state(
        self, batch_size: int, max_len: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> KimiDeltaState:
        """max_len bounds nothing here: the state has one size for every length."""
        return recurrent.new_memory_state(
            KimiDeltaState, batch_size, self.memory_shape, self.tail_shape, device=device, dtype=dtype
        )

    def flops_per_token(self, context_len: int) -> float:
        """As counted for a whole row: chunks of C tokens, the last one padded."""
        projections = sum(2 * layer.weight.numel() for layer in self.children() if isinstance(layer, nn.Linear))
        convolution = 0 if self.conv is None else 2 * self.conv.numel()
        rule = chunked_flops_per_token(context_len, self.config.chunk_size, self.key_dim, self.value_dim, erases=False)
        return projections + convolution + self.config.num_heads * rule

    def state_bytes(self, context_len: int) -> int:
        return recurrent.memory_state_bytes(self.memory_shape, self.tail_shape)
