"""DeltaProduct: S_t = a_t H_t S_{t-1} + writes,  H_t = (I - b_tn k_tn k_tn^T) ... (I - b_t1 k_t1 k_t1^T)  (2502.10297).

n steps of the delta rule a token, each with its own key, value and b, and then one reading: o_t = S_t^T q_t / sqrt(K).
A step with b = 2 is a reflection and two of them are a rotation, so two steps permute three things and one cannot.
a = exp(-exp(A_log) softplus(W_a x + dt_bias)) acts once a token. q, k, v pass a short convolution and SiLU; q and k are
made unit vectors; b = sigmoid(W_b x), or twice that; the output is silu(W_g x) * rmsnorm(o).

B batch, T time, N tokens x steps, D model width, H heads, K key width, V value width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wren import recurrent
from wren.mixer import Context, Mixer, valid_mask, without_padding
from wren.ops.decay import initial_A_log, inverse_softplus_of_times, log_decay
from wren.ops.gated_delta_rule import chunked_flops_per_token, gated_delta_rule
from wren.ops.norm import l2_normalised, rms_norm
from wren.ops.settings import check_conv_size, check_counts, check_split
from wren.ops.widen import widened


@dataclass(frozen=True, kw_only=True)
class Config:
    """num_steps: Householder steps a token. head_dim: None = dim / num_heads. value_head_dim: None = head_dim.

    conv_size: taps of the short convolution, None = none. decay: one scalar a head and token (the paper's Gated
    DeltaProduct). gate: an output gate. negative_eigenvalues: b in (0, 2), without which no step is a reflection.
    chunk_size trades speed only.
    """

    num_heads: int
    num_steps: int = 2
    head_dim: int | None = None
    value_head_dim: int | None = None
    conv_size: int | None = 4
    decay: bool = True
    gate: bool = True
    negative_eigenvalues: bool = True
    chunk_size: int = 32
    norm_eps: float = 1e-5

    def build(self, dim: int) -> "DeltaProduct":
        """Raises ConfigError for sizes that do not divide or are out of range."""
        check_counts("delta_product", self, "num_heads", "num_steps", "head_dim", "value_head_dim", "chunk_size")
        check_conv_size("delta_product", self.conv_size)
        check_split("delta_product", dim, self.num_heads, self.head_dim)
        return DeltaProduct(dim, self)


EXAMPLES = (
    Config(num_heads=2),
    Config(
        num_heads=1,
        num_steps=3,
        head_dim=6,
        value_head_dim=10,
        conv_size=None,
        decay=False,
        gate=False,
        negative_eigenvalues=False,
        chunk_size=16,
    ),
)


class DeltaProductState(recurrent.MemoryState):
    """The tail holds q and all steps' k and v beside one another."""


class DeltaProduct(Mixer):
    """values_BTD of the context is H*V wide and joins the values of every step before their convolution.

    The keys, values and b of a token are laid out step by step, each with its heads.
    flops_per_token counts a whole row at once, in chunks: it grows with the chunk size, not with the row.
    """

    def __init__(self, dim: int, config: Config):
        super().__init__()
        self.config = config
        heads, steps = config.num_heads, config.num_steps
        self.key_dim = config.head_dim or dim // heads
        self.value_dim = config.value_head_dim or self.key_dim
        self.values_dim = heads * self.value_dim
        self.widths = [heads * self.key_dim, steps * heads * self.key_dim, steps * self.values_dim]
        self.memory_shape = (config.num_heads, self.key_dim, self.value_dim)
        self.tail_shape = recurrent.tail_shape(sum(self.widths), config.conv_size)
        self.q, self.k, self.v = (nn.Linear(dim, width, bias=False) for width in self.widths)
        self.beta = nn.Linear(dim, steps * heads, bias=False)
        self.gate = nn.Linear(dim, self.values_dim, bias=False) if config.gate else None
        self.decay = None
        if config.decay:
            self.decay = nn.Linear(dim, heads, bias=False)
            self.A_log = nn.Parameter(initial_A_log(heads))
            self.dt_bias = nn.Parameter(inverse_softplus_of_times(heads))
        self.conv = recurrent.new_conv(sum(self.widths), config.conv_size)
        self.norm = nn.Parameter(torch.ones(self.value_dim))
        self.out = nn.Linear(self.values_dim, dim, bias=False)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        state = recurrent.own_memory_state(context, DeltaProductState, len(x_BTD), self.memory_shape, self.tail_shape)
        x_BTD = without_padding(x_BTD, context.valid_B)
        q_BTHK, k_BNHK, v_BNHV = self._queries_keys_values(x_BTD, context, state)
        log_decay_BTH, beta_BNH = self._gates(x_BTD, context.valid_B)
        o_BTHV, last_BHKV = gated_delta_rule(
            q_BTHK,
            k_BNHK,
            v_BNHV,
            log_decay_BTH,
            beta_BNH,
            memory_BHKV=None if state is None else state.memory_BHKV,
            documents_BT=context.documents_BT,
            boundaries=context.boundaries,
            chunk_size=self.config.chunk_size,
        )
        recurrent.carry_on(state, last_BHKV, x_BTD.shape[1], context.valid_B)
        normed_BTE = rms_norm(o_BTHV, self.norm, self.config.norm_eps).flatten(2).to(v_BNHV.dtype)
        return self.out(normed_BTE if self.gate is None else normed_BTE * F.silu(self.gate(x_BTD)))

    def _queries_keys_values(
        self, x_BTD: Tensor, context: Context, state: DeltaProductState | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Projected, convolved, activated; queries and keys as unit vectors; keys and values one after another."""
        q, k, v = self.q(x_BTD), self.k(x_BTD), self.v(x_BTD)
        if context.values_BTD is not None:
            v = v + context.values_BTD.to(v.dtype).repeat(1, 1, self.config.num_steps)
        q, k, v = (F.silu(y) for y in recurrent.convolved([q, k, v], self.conv, context, state))
        q_BTHK, k_BNHK = (l2_normalised(widened(self._by_step(y, self.key_dim))) for y in (q, k))
        return q_BTHK, k_BNHK, self._by_step(v, self.value_dim)

    def _by_step(self, x: Tensor, width: int) -> Tensor:
        """(B, T, steps x heads x width) as (B, N, H, width)."""
        return x.unflatten(-1, (-1, self.config.num_heads, width)).flatten(1, 2)

    def _gates(self, x_BTD: Tensor, valid_B: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """Log decay (B, T, H), None without, and beta (B, N, H), in fp32; padding decays and writes nothing."""
        beta_BTA = widened(self.beta(x_BTD)).sigmoid()
        if self.config.negative_eigenvalues:
            beta_BTA = 2 * beta_BTA
        log_decay_BTH = None
        if self.decay is not None:
            log_decay_BTH = log_decay(self.decay(x_BTD), self.A_log, self.dt_bias)
        valid_BT = valid_mask(valid_B, x_BTD.shape[1])
        if valid_BT is not None:
            beta_BTA = beta_BTA * valid_BT[:, :, None]
            log_decay_BTH = None if log_decay_BTH is None else log_decay_BTH * valid_BT[:, :, None]
        return log_decay_BTH, beta_BTA.unflatten(-1, (-1, self.config.num_heads)).flatten(1, 2)

    def new_state(
        self, batch_size: int, max_len: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> DeltaProductState:
        """max_len bounds nothing here: the state has one size for every length."""
        return recurrent.new_memory_state(
            DeltaProductState, batch_size, self.memory_shape, self.tail_shape, device=device, dtype=dtype
        )

    def flops_per_token(self, context_len: int) -> float:
        """As counted for a whole row."""
        layers = [self.q, self.k, self.v, self.beta, self.out]
        layers += [layer for layer in (self.gate, self.decay) if layer is not None]
        projections = sum(2 * layer.weight.numel() for layer in layers)
        convolution = 0 if self.conv is None else 2 * self.conv.numel()
        sizes = (self.config.chunk_size, self.key_dim, self.value_dim, self.config.num_steps)
        return projections + convolution + self.config.num_heads * chunked_flops_per_token(context_len, *sizes)

    def state_bytes(self, context_len: int) -> int:
        return recurrent.memory_state_bytes(self.memory_shape, self.tail_shape)
