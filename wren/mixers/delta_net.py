"""DeltaNet: S_t = (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(K)  (2102.11174, 2406.06484).

The memory is a table that is corrected, never forgotten: what key k answers is moved by b towards v. q, k, v pass a
short convolution and SiLU; q and k are made unit vectors; b = sigmoid(W_b x); the output is rmsnorm(o) for each head,
times silu(W_g x) with a gate.

B batch, T time, D model width, H heads, K key width, V value width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wren import recurrent
from wren.mixer import Context, Mixer, valid_mask, with_values, without_padding
from wren.ops.gated_delta_rule import chunked_flops_per_token, gated_delta_rule
from wren.ops.norm import l2_normalised, rms_norm
from wren.ops.settings import check_conv_size, check_counts, check_split
from wren.ops.widen import widened


@dataclass(frozen=True, kw_only=True)
class Config:
    """head_dim: None = dim / num_heads. value_head_dim: None = head_dim.

    conv_size: taps of the short convolution, None = none. gate: an output gate. negative_eigenvalues: b in (0, 2), so
    that the memory can flip signs (2411.12537). chunk_size trades speed only.
    """

    num_heads: int
    head_dim: int | None = None
    value_head_dim: int | None = None
    conv_size: int | None = 4
    gate: bool = False
    negative_eigenvalues: bool = False
    chunk_size: int = 64
    norm_eps: float = 1e-5

    def build(self, dim: int) -> "DeltaNet":
        """Raises ConfigError for sizes that do not divide or are out of range."""
        check_counts("delta_net", self, "num_heads", "head_dim", "value_head_dim", "chunk_size")
        check_conv_size("delta_net", self.conv_size)
        check_split("delta_net", dim, self.num_heads, self.head_dim)
        return DeltaNet(dim, self)


EXAMPLES = (
    Config(num_heads=2),
    Config(
        num_heads=2,
        head_dim=6,
        value_head_dim=10,
        conv_size=None,
        gate=True,
        negative_eigenvalues=True,
        chunk_size=16,
    ),
)


class DeltaNetState(recurrent.MemoryState):
    """The tail holds q, k and v beside one another."""


class DeltaNet(Mixer):
    """values_BTD of the context is H*V wide and joins the values before their convolution.

    flops_per_token counts a whole row at once, in chunks: it grows with the chunk size, not with the row.
    """

    def __init__(self, dim: int, config: Config):
        super().__init__()
        self.config = config
        self.key_dim = config.head_dim or dim // config.num_heads
        self.value_dim = config.value_head_dim or self.key_dim
        self.values_dim = config.num_heads * self.value_dim
        self.widths = [config.num_heads * self.key_dim] * 2 + [self.values_dim]
        self.memory_shape = (config.num_heads, self.key_dim, self.value_dim)
        self.tail_shape = recurrent.tail_shape(sum(self.widths), config.conv_size)
        self.q, self.k, self.v = (nn.Linear(dim, width, bias=False) for width in self.widths)
        self.beta = nn.Linear(dim, config.num_heads, bias=False)
        self.gate = nn.Linear(dim, self.values_dim, bias=False) if config.gate else None
        self.conv = recurrent.new_conv(sum(self.widths), config.conv_size)
        self.norm = nn.Parameter(torch.ones(self.value_dim))
        self.out = nn.Linear(self.values_dim, dim, bias=False)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        state = recurrent.own_memory_state(context, DeltaNetState, len(x_BTD), self.memory_shape, self.tail_shape)
        x_BTD = without_padding(x_BTD, context.valid_B)
        q_BTHK, k_BTHK, v_BTHV = self._queries_keys_values(x_BTD, context, state)
        o_BTHV, last_BHKV = gated_delta_rule(
            q_BTHK,
            k_BTHK,
            v_BTHV,
            None,
            self._strengths(x_BTD, context.valid_B),
            memory_BHKV=None if state is None else state.memory_BHKV,
            documents_BT=context.documents_BT,
            boundaries=context.boundaries,
            chunk_size=self.config.chunk_size,
        )
        recurrent.carry_on(state, last_BHKV, x_BTD.shape[1], context.valid_B)
        normed_BTE = rms_norm(o_BTHV, self.norm, self.config.norm_eps).flatten(2).to(v_BTHV.dtype)
        return self.out(normed_BTE if self.gate is None else normed_BTE * F.silu(self.gate(x_BTD)))

    def _queries_keys_values(
        self, x_BTD: Tensor, context: Context, state: DeltaNetState | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Projected, convolved, activated; queries and keys as unit vectors."""
        q, k, v = self.q(x_BTD), self.k(x_BTD), with_values(self.v(x_BTD), context)
        q, k, v = (F.silu(y) for y in recurrent.convolved([q, k, v], self.conv, context, state))
        q, k = (l2_normalised(widened(y).unflatten(-1, (-1, self.key_dim))) for y in (q, k))
        return q, k, v.unflatten(-1, (-1, self.value_dim))

    def _strengths(self, x_BTD: Tensor, valid_B: Tensor | None) -> Tensor:
        """b, (B, T, H) in fp32: 0 where padding must write nothing."""
        beta_BTH = widened(self.beta(x_BTD)).sigmoid()
        if self.config.negative_eigenvalues:
            beta_BTH = 2 * beta_BTH
        valid_BT = valid_mask(valid_B, x_BTD.shape[1])
        return beta_BTH if valid_BT is None else beta_BTH * valid_BT[:, :, None]

    def new_state(
        self, batch_size: int, max_len: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> DeltaNetState:
        """max_len bounds nothing here: the state has one size for every length."""
        return recurrent.new_memory_state(
            DeltaNetState, batch_size, self.memory_shape, self.tail_shape, device=device, dtype=dtype
        )

    def flops_per_token(self, context_len: int) -> float:
        """As counted for a whole row."""
        layers = [self.q, self.k, self.v, self.beta, self.out] + ([] if self.gate is None else [self.gate])
        projections = sum(2 * layer.weight.numel() for layer in layers)
        convolution = 0 if self.conv is None else 2 * self.conv.numel()
        rule = chunked_flops_per_token(context_len, self.config.chunk_size, self.key_dim, self.value_dim)
        return projections + convolution + self.config.num_heads * rule

    def state_bytes(self, context_len: int) -> int:
        return recurrent.memory_state_bytes(self.memory_shape, self.tail_shape)
