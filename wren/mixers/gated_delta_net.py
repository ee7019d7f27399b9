"""Gated DeltaNet: S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(K)  (2412.06464).

q, k, v pass a short convolution and SiLU; q and k are made unit vectors; b = sigmoid(W_b x);
a = exp(-exp(A_log) softplus(W_a x + dt_bias)); the output is silu(W_g x) * rmsnorm(o), as in the block of Qwen3-Next.

B batch, T time, D model width, H value heads (several may share a key head), K key width, V value width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wren import recurrent
from wren.errors import ConfigError
from wren.mixer import Context, Mixer, valid_mask, with_values, without_padding
from wren.ops.decay import initial_A_log, inverse_softplus_of_times, log_decay
from wren.ops.gated_delta_rule import chunked_flops_per_token, gated_delta_rule
from wren.ops.norm import l2_normalised, rms_norm
from wren.ops.settings import check_conv_size, check_counts, check_split
from wren.ops.widen import widened


@dataclass(frozen=True, kw_only=True)
class Config:
    """num_heads: of queries and keys. num_value_heads: None = num_heads. head_dim: None = dim / num_heads.

    value_head_dim: None = head_dim. conv_size: taps of the short convolution, None = none. negative_eigenvalues: b in
    (0, 2), so that the memory can flip signs (2411.12537). chunk_size trades speed only.
    """

    num_heads: int
    num_value_heads: int | None = None
    head_dim: int | None = None
    value_head_dim: int | None = None
    conv_size: int | None = 4
    negative_eigenvalues: bool = False
    chunk_size: int = 64
    norm_eps: float = 1e-6

    def build(self, dim: int) -> "GatedDeltaNet":
        """Raises ConfigError for sizes that do not divide or are out of range."""
        check_counts(
            "gated_delta_net", self, "num_heads", "num_value_heads", "head_dim", "value_head_dim", "chunk_size"
        )
        check_conv_size("gated_delta_net", self.conv_size)
        check_split("gated_delta_net", dim, self.num_heads, self.head_dim)
        if (self.num_value_heads or self.num_heads) % self.num_heads:
            raise ConfigError(
                f"gated_delta_net.num_value_heads {self.num_value_heads} is no multiple of num_heads {self.num_heads}."
            )
        return GatedDeltaNet(dim, self)


EXAMPLES = (
    Config(num_heads=2),
    Config(num_heads=1, num_value_heads=2, head_dim=6, value_head_dim=10, negative_eigenvalues=True, chunk_size=16),
    Config(num_heads=2, conv_size=None, chunk_size=32),
)


class GatedDeltaNetState(recurrent.MemoryState):
    """The tail holds q, k and v beside one another."""


class GatedDeltaNet(Mixer):
    """values_BTD of the context is H*V wide and joins the values before their convolution.

    flops_per_token counts a whole row at once, in chunks: it grows with the chunk size, not with the row.
    """

    def __init__(self, dim: int, config: Config):
        super().__init__()
        self.config = config
        self.key_dim = config.head_dim or dim // config.num_heads
        self.value_dim = config.value_head_dim or self.key_dim
        self.num_value_heads = config.num_value_heads or config.num_heads
        self.widths = [config.num_heads * self.key_dim] * 2 + [self.num_value_heads * self.value_dim]
        self.values_dim = self.widths[2]
        self.memory_shape = (self.num_value_heads, self.key_dim, self.value_dim)
        self.tail_shape = recurrent.tail_shape(sum(self.widths), config.conv_size)
        self.q, self.k, self.v = (nn.Linear(dim, width, bias=False) for width in self.widths)
        self.gate = nn.Linear(dim, self.widths[2], bias=False)
        self.beta = nn.Linear(dim, self.num_value_heads, bias=False)
        self.decay = nn.Linear(dim, self.num_value_heads, bias=False)
        self.A_log = nn.Parameter(initial_A_log(self.num_value_heads))
        self.dt_bias = nn.Parameter(inverse_softplus_of_times(self.num_value_heads))
        self.conv = recurrent.new_conv(sum(self.widths), config.conv_size)
        self.norm = nn.Parameter(torch.ones(self.value_dim))
        self.out = nn.Linear(self.widths[2], dim, bias=False)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        state = recurrent.own_memory_state(context, GatedDeltaNetState, len(x_BTD), self.memory_shape, self.tail_shape)
        x_BTD = without_padding(x_BTD, context.valid_B)
        q_BTHK, k_BTHK, v_BTHV = self._queries_keys_values(x_BTD, context, state)
        log_decay_BTH, beta_BTH = self._gates(x_BTD, context.valid_B)
        o_BTHV, last_BHKV = gated_delta_rule(
            q_BTHK,
            k_BTHK,
            v_BTHV,
            log_decay_BTH,
            beta_BTH,
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
        self, x_BTD: Tensor, context: Context, state: GatedDeltaNetState | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Projected, convolved, activated; queries and keys as unit vectors, one for every value head."""
        q, k, v = self.q(x_BTD), self.k(x_BTD), with_values(self.v(x_BTD), context)
        q, k, v = (F.silu(y) for y in recurrent.convolved([q, k, v], self.conv, context, state))
        shared = self.num_value_heads // self.config.num_heads
        units = [l2_normalised(widened(y).unflatten(-1, (-1, self.key_dim))) for y in (q, k)]
        if shared > 1:
            units = [y.repeat_interleave(shared, dim=2) for y in units]
        return units[0], units[1], v.unflatten(-1, (-1, self.value_dim))

    def _gates(self, x_BTD: Tensor, valid_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """Log decay and beta, (B, T, H) in fp32: the decay multiplies up over thousands of tokens."""
        beta_BTH = widened(self.beta(x_BTD)).sigmoid()
        if self.config.negative_eigenvalues:
            beta_BTH = 2 * beta_BTH
        log_decay_BTH = log_decay(self.decay(x_BTD), self.A_log, self.dt_bias)
        valid_BT = valid_mask(valid_B, x_BTD.shape[1])
        if valid_BT is None:
            return log_decay_BTH, beta_BTH
        return log_decay_BTH * valid_BT[:, :, None], beta_BTH * valid_BT[:, :, None]

    def new_state(
        self, batch_size: int, max_len: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> GatedDeltaNetState:
        """max_len bounds nothing here: the state has one size for every length."""
        return recurrent.new_memory_state(
            GatedDeltaNetState, batch_size, self.memory_shape, self.tail_shape, device=device, dtype=dtype
        )

    def flops_per_token(self, context_len: int) -> float:
        """As counted for a whole row."""
        layers = (self.q, self.k, self.v, self.gate, self.beta, self.decay, self.out)
        projections = sum(2 * layer.weight.numel() for layer in layers)
        convolution = 0 if self.conv is None else 2 * self.conv.numel()
        rule = chunked_flops_per_token(context_len, self.config.chunk_size, self.key_dim, self.value_dim)
        return projections + convolution + self.num_value_heads * rule

    def state_bytes(self, context_len: int) -> int:
        return recurrent.memory_state_bytes(self.memory_shape, self.tail_shape)
