"""TTT-Linear: a linear model per head that is trained while it reads, by a gradient step per mini-batch  (2407.04620).

    f(x; W) = x + norm([x, 1] W),   W_t = W - sum_{s <= t} b_s grad |f(k_s; W) - v_s|^2 / 2,   o_t = f(q_t; W_t)

W is the model before the mini-batch of token t, the sum is over its tokens so far, and the first W of a document is
learned. q, k, v pass a short convolution and SiLU; q and k are made unit vectors;
b = rate sigmoid(w_b x); the output is rmsnorm(o) for each head, times silu(W_g x) with a gate. The paper has no
convolution and no unit vectors in its Transformer form, and positions by rotation instead.

B batch, T time, D model width, H heads, K head width, J = K + 1.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wren import recurrent
from wren.errors import ConfigError
from wren.mixer import Context, Mixer, with_values, without_padding
from wren.ops.norm import l2_normalised, rms_norm
from wren.ops.settings import check_conv_size, check_counts, check_split
from wren.ops.ttt_linear import Model, chunked_flops_per_token, chunked_ttt_linear
from wren.ops.widen import widened


@dataclass(frozen=True, kw_only=True)
class Config:
    """head_dim: None = dim / num_heads. batch_size: tokens of a mini-batch, which all see the model before it.

    rate: the largest learning rate of a token. conv_size: taps of the short convolution, None = none. gate: an output
    gate.
    """

    num_heads: int
    head_dim: int | None = None
    batch_size: int = 16
    rate: float = 1.0
    conv_size: int | None = 4
    gate: bool = False
    norm_eps: float = 1e-5

    def build(self, dim: int) -> "TTTLinear":
        """Raises ConfigError for sizes that do not divide or are out of range."""
        check_counts("ttt_linear", self, "num_heads", "head_dim", "batch_size")
        check_conv_size("ttt_linear", self.conv_size)
        check_split("ttt_linear", dim, self.num_heads, self.head_dim)
        if not self.rate > 0:
            raise ConfigError(f"ttt_linear.rate is {self.rate}; it must be above 0.")
        return TTTLinear(dim, self)


EXAMPLES = (
    Config(num_heads=2),
    Config(num_heads=2, head_dim=6, batch_size=5, rate=0.5, conv_size=None, gate=True),
)


class TTTLinearState(recurrent.MemoryState):
    """The memory is (B, 2, H, J, K): how far the model before the mini-batch has come from the learned one, and the sum
    of the mini-batch's steps so far. The tail holds q, k and v beside one another."""


class TTTLinear(Mixer):
    """values_BTD of the context is H*K wide and joins the values before their convolution.

    flops_per_token counts a whole row at once, in mini-batches.
    """

    def __init__(self, dim: int, config: Config):
        super().__init__()
        self.config = config
        self.head_dim = config.head_dim or dim // config.num_heads
        H, K = config.num_heads, self.head_dim
        self.values_dim = H * K
        self.memory_shape = (2, H, K + 1, K)
        self.tail_shape = recurrent.tail_shape(3 * H * K, config.conv_size)
        self.q, self.k, self.v = (nn.Linear(dim, H * K, bias=False) for _ in range(3))
        self.beta = nn.Linear(dim, H, bias=False)
        self.gate = nn.Linear(dim, H * K, bias=False) if config.gate else None
        self.conv = recurrent.new_conv(3 * H * K, config.conv_size)
        weight_HJK = torch.randn(H, K + 1, K)  # on unit vectors: what the norm reads is about 1
        weight_HJK[:, -1] = 0.0
        self.start = nn.Parameter(weight_HJK)
        self.gain, self.bias = nn.Parameter(torch.ones(H, K)), nn.Parameter(torch.zeros(H, K))
        self.norm = nn.Parameter(torch.ones(K))
        self.out = nn.Linear(H * K, dim, bias=False)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        state = recurrent.own_memory_state(context, TTTLinearState, len(x_BTD), self.memory_shape, self.tail_shape)
        x_BTD = without_padding(x_BTD, context.valid_B)
        q_BTHK, k_BTHK, v_BTHK = self._queries_keys_values(x_BTD, context, state)
        o_BTHK, last = chunked_ttt_linear(
            q_BTHK,
            k_BTHK,
            v_BTHK,
            self.config.rate * widened(self.beta(x_BTD)).sigmoid(),
            Model(self.start, self.gain, self.bias),
            batch_size=self.config.batch_size,
            memory_B2HJK=None if state is None else state.memory_BHKV,
            lengths_B=None if state is None else state.lengths_B,
            documents_BT=context.documents_BT,
            valid_B=context.valid_B,
        )
        recurrent.carry_on(state, last, x_BTD.shape[1], context.valid_B)
        normed_BTE = rms_norm(o_BTHK, self.norm, self.config.norm_eps).flatten(2).to(x_BTD.dtype)
        return self.out(normed_BTE if self.gate is None else normed_BTE * F.silu(self.gate(x_BTD)))

    def _queries_keys_values(
        self, x_BTD: Tensor, context: Context, state: TTTLinearState | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Projected, convolved, activated; queries and keys as unit vectors, in fp32 at least."""
        parts = [self.q(x_BTD), self.k(x_BTD), with_values(self.v(x_BTD), context)]
        parts = [F.silu(y) for y in recurrent.convolved(parts, self.conv, context, state)]
        q, k, v = (widened(y).unflatten(-1, (-1, self.head_dim)) for y in parts)
        return l2_normalised(q), l2_normalised(k), v

    def new_state(
        self, batch_size: int, max_len: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> TTTLinearState:
        """max_len bounds nothing here: the state has one size for every length."""
        return recurrent.new_memory_state(
            TTTLinearState, batch_size, self.memory_shape, self.tail_shape, device=device, dtype=dtype
        )

    def flops_per_token(self, context_len: int) -> float:
        """As counted for a whole row."""
        layers = [self.q, self.k, self.v, self.beta, self.out] + ([] if self.gate is None else [self.gate])
        projections = sum(2 * layer.weight.numel() for layer in layers)
        convolution = 0 if self.conv is None else 2 * self.conv.numel()
        rule = chunked_flops_per_token(context_len, self.config.batch_size, self.head_dim)
        return projections + convolution + self.config.num_heads * rule

    def state_bytes(self, context_len: int) -> int:
        return recurrent.memory_state_bytes(self.memory_shape, self.tail_shape)
