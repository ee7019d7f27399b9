"""RWKV-7 time mixing: S_t = (diag(w_t) - (kappa_t * a_t) kappa_t^T) S_{t-1} + k_t v_t^T,  o_t = S_t^T r_t.

From "Goose" (2503.14456).

Every projection reads x mixed with the token before it, x_t + mu * (x_{t-1} - x_t), mu its own for r, w, k, v, a and g.
kappa = unit vector of k * k_k in each head; w = exp(-sigmoid(w_0 + W_2 tanh(W_1 x)) / sqrt(e)), so w > 0.545;
a = sigmoid(a_0 + A_2 A_1 x); k is then scaled by 1 + (a - 1) k_a; g = G_2 sigmoid(G_1 x). The output is
g * (groupnorm(o) + ((r * r_k) . k) v).

B batch, T time, D model width, H heads, K head width of keys and values, E = H K.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wren.errors import ConfigError
from wren.mixer import Context, Mixer, State, advance, check_tail, own_state, valid_mask, with_values, without_padding
from wren.ops.generalised_delta_rule import (
    chunked_flops_per_token,
    chunked_generalised_delta_rule,
    kernel_fits,
    kernel_generalised_delta_rule,
    naive_generalised_delta_rule,
)
from wren.ops.norm import l2_normalised
from wren.ops.settings import check_counts, check_split
from wren.ops.short_convolution import next_tail
from wren.ops.widen import wide_dtype, widened

LOWEST = -math.exp(-0.5)  # no log decay is below it


@dataclass(frozen=True, kw_only=True)
class Config:
    """head_dim: None = dim / num_heads. chunk_size, a power of two, trades speed only.

    decay_rank, rate_rank, gate_rank: inner widths of the projections that make w, a and g, None = near 2.5 sqrt(dim),
    2.5 sqrt(dim) and 5 sqrt(dim) in steps of 32, as published. norm_eps: times head_dim, the group norm's.
    """

    num_heads: int
    head_dim: int | None = None
    decay_rank: int | None = None
    rate_rank: int | None = None
    gate_rank: int | None = None
    chunk_size: int = 32
    norm_eps: float = 1e-5

    def build(self, dim: int) -> "Rwkv7":
        """Raises ConfigError for sizes that do not divide or are out of range."""
        check_counts("rwkv7", self, "num_heads", "head_dim", "decay_rank", "rate_rank", "gate_rank", "chunk_size")
        if self.chunk_size & (self.chunk_size - 1):
            raise ConfigError(f"rwkv7.chunk_size is {self.chunk_size}; it must be a power of two, such as 32.")
        if not self.norm_eps > 0:
            raise ConfigError(f"rwkv7.norm_eps is {self.norm_eps}; it must be above 0.")
        check_split("rwkv7", dim, self.num_heads, self.head_dim)
        return Rwkv7(dim, self)


EXAMPLES = (
    Config(num_heads=2),
    # a wide norm_eps: the norm of what an almost empty memory answers is steep, too steep to compare roundings
    Config(num_heads=3, head_dim=6, decay_rank=4, rate_rank=3, gate_rank=5, chunk_size=16, norm_eps=1e-3),
)


@dataclass
class Rwkv7State(State):
    """The memory, in fp32, and the last input of the token shift."""

    memory_BHKV: Tensor
    last_BUD: Tensor  # U = 1


class Rwkv7(Mixer):
    """values_BTD of the context is E wide and is added to the values.

    The published block mixes the first layer's values into every later layer's by a learned gate. A mixer knows no
    other layer, so that gate is left out here; a model that wants the skip gives those values as values_BTD.
    flops_per_token counts a whole row at once, in chunks: it grows with the chunk size, not with the row.
    """

    def __init__(self, dim: int, config: Config):
        super().__init__()
        self.config = config
        self.head_dim = config.head_dim or dim // config.num_heads
        width = self.values_dim = config.num_heads * self.head_dim
        self.r, self.k, self.v = (nn.Linear(dim, width, bias=False) for _ in range(3))
        step = 32 * max(1, round(2.5 * dim**0.5 / 32))
        decay_rank, rate_rank = config.decay_rank or step, config.rate_rank or step
        gate_rank = config.gate_rank or 32 * max(1, round(5 * dim**0.5 / 32))
        self.decay_down, self.decay_up = (
            nn.Linear(dim, decay_rank, bias=False),
            nn.Linear(decay_rank, width, bias=False),
        )
        self.rate_down, self.rate_up = nn.Linear(dim, rate_rank, bias=False), nn.Linear(rate_rank, width, bias=False)
        self.gate_down, self.gate_up = nn.Linear(dim, gate_rank, bias=False), nn.Linear(gate_rank, width, bias=False)
        place_D = torch.arange(dim) / dim
        for name, power in (("r", 0.1), ("w", 0.45), ("k", 0.35), ("v", 0.35), ("a", 0.45), ("g", 0.1)):
            self.register_parameter(f"mix_{name}", nn.Parameter(1 - place_D**power))  # as published, half way up
        decay_bias, rate_bias, key_scale = _starts(config.num_heads, self.head_dim)
        self.decay_bias, self.rate_bias = nn.Parameter(decay_bias), nn.Parameter(rate_bias)
        self.key_scale = nn.Parameter(key_scale)  # k_k
        self.key_rate = nn.Parameter(torch.full((width,), 1.02))  # k_a
        self.bonus = nn.Parameter(torch.full((width,), -0.04))  # r_k
        self.norm_weight, self.norm_bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.out = nn.Linear(width, dim, bias=False)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        state = own_state(context, Rwkv7State, len(x_BTD))
        if state is not None:
            check_tail("memories", state.memory_BHKV, (self.config.num_heads, self.head_dim, self.head_dim))
            check_tail("shifted inputs", state.last_BUD, (1, x_BTD.shape[2]))
        x_BTD = without_padding(x_BTD, context.valid_B)
        shift_BTD = self._previous(x_BTD, context, state) - x_BTD
        inputs = self._inputs(x_BTD, shift_BTD, context)
        o_BTHK = self._recur(inputs, context, state)
        if state is not None:
            state.lengths_B = advance(state.lengths_B, x_BTD.shape[1], context.valid_B)
        r, k, v = inputs[:3]
        bonus_BTHK = (r * k * self._by_head(self.bonus)).sum(-1, keepdim=True) * v
        normed_BTHK = F.layer_norm(widened(o_BTHK), (self.head_dim,), eps=self.head_dim * self.config.norm_eps)
        normed_BTHK = normed_BTHK * self._by_head(self.norm_weight) + self._by_head(self.norm_bias)
        gate_BTE = self.gate_up(self.gate_down(self._mixed(x_BTD, shift_BTD, "g")).sigmoid())
        return self.out((normed_BTHK + bonus_BTHK).flatten(2).to(gate_BTE.dtype) * gate_BTE)

    def _previous(self, x_BTD: Tensor, context: Context, state: Rwkv7State | None) -> Tensor:
        """The input one token earlier: 0 before a document, the state's before the row. Carries the last one on."""
        if state is None:
            previous_BTD = F.pad(x_BTD[:, :-1], (0, 0, 1, 0))
            if context.documents_BT is None:
                return previous_BTD
            same_BT = F.pad(context.documents_BT[:, 1:] == context.documents_BT[:, :-1], (1, 0))
            return previous_BTD * same_BT[:, :, None]
        previous_BTD = torch.cat((state.last_BUD.to(x_BTD.dtype), x_BTD[:, :-1]), dim=1)
        state.last_BUD = next_tail(x_BTD, 2, state.last_BUD, context.valid_B)
        return previous_BTD

    def _mixed(self, x_BTD: Tensor, shift_BTD: Tensor, name: str) -> Tensor:
        return torch.addcmul(x_BTD, shift_BTD, getattr(self, f"mix_{name}").to(x_BTD.dtype))

    def _inputs(self, x_BTD: Tensor, shift_BTD: Tensor, context: Context) -> list[Tensor]:
        """r, k, v, log decay, what is read and what is erased, (B, T, H, K); all but r and v in fp32 at least."""
        mix = {name: self._mixed(x_BTD, shift_BTD, name) for name in "rwkva"}
        r, k, v = self.r(mix["r"]), widened(self.k(mix["k"])), with_values(self.v(mix["v"]), context)
        decay = widened(self.decay_up(self.decay_down(mix["w"]).tanh())) + self.decay_bias
        rate = (widened(self.rate_up(self.rate_down(mix["a"]))) + self.rate_bias).sigmoid()
        log_decay = LOWEST * decay.sigmoid()
        kappa = l2_normalised((k * self.key_scale).unflatten(-1, (-1, self.head_dim)))
        k = k * (1 + (rate - 1) * self.key_rate)
        r, k, v, log_decay, rate = (y.unflatten(-1, (-1, self.head_dim)) for y in (r, k, v, log_decay, rate))
        erase = kappa * rate
        valid_BT = valid_mask(context.valid_B, x_BTD.shape[1])
        if valid_BT is not None:
            k, log_decay, erase = (y * valid_BT[:, :, None, None] for y in (k, log_decay, erase))
        # the rule reads after the decay, which is safely undone: it is never below 0.545
        return [r, k, v, log_decay, kappa * (-log_decay).exp(), erase]

    def _recur(self, inputs: list[Tensor], context: Context, state: Rwkv7State | None) -> Tensor:
        """Runs the rule by the form that fits, and carries the memory on."""
        r, k, v, log_decay, read, erase = inputs
        memory = None if state is None else state.memory_BHKV
        given = {"erase_BTHK": erase, "memory_BHKV": memory, "documents_BT": context.documents_BT}
        if v.shape[1] == 1:
            o_BTHK, last = naive_generalised_delta_rule(r, k, v, log_decay, read, **given)
        elif kernel_fits(k, v, memory, context.documents_BT):
            given |= {"boundaries": context.boundaries, "lowest": LOWEST}
            o_BTHK, last = kernel_generalised_delta_rule(r, k, v, log_decay, read, **given)
        else:
            size = self.config.chunk_size
            o_BTHK, last = chunked_generalised_delta_rule(r, k, v, log_decay, read, chunk_size=size, **given)
        if state is not None and last is not None:
            state.memory_BHKV = last
        return o_BTHK

    def _by_head(self, weight_E: Tensor) -> Tensor:
        return weight_E.view(-1, self.head_dim)

    def new_state(
        self, batch_size: int, max_len: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Rwkv7State:
        """max_len bounds nothing here: the state has one size for every length."""
        memory_shape = (batch_size, self.config.num_heads, self.head_dim, self.head_dim)
        return Rwkv7State(
            torch.zeros(batch_size, dtype=torch.long, device=device),
            torch.zeros(memory_shape, dtype=wide_dtype(dtype), device=device),
            torch.zeros(batch_size, 1, self.out.out_features, dtype=dtype, device=device),
        )

    def flops_per_token(self, context_len: int) -> float:
        """As counted for a whole row: chunks of C tokens, the last one padded."""
        projections = sum(2 * layer.weight.numel() for layer in self.children() if isinstance(layer, nn.Linear))
        K = self.head_dim
        rule = chunked_flops_per_token(context_len, self.config.chunk_size, K, K, erases=True)
        return projections + self.config.num_heads * rule

    def state_bytes(self, context_len: int) -> int:
        return 4 * self.values_dim * self.head_dim + 2 * self.out.out_features


def _starts(num_heads: int, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """First values of w_0, a_0 and k_k, (E,): as published for a layer half way up, slow channels to fast ones."""
    width = num_heads * head_dim
    line_E = torch.linspace(-0.5, 0.5, width)
    bend_K = torch.linspace(-1, 1, head_dim) if head_dim > 1 else torch.zeros(1)
    bend_E = (bend_K * bend_K.abs()).repeat(num_heads)
    speed_E = -5.5 + 6 * (line_E + 0.5) ** (1 + 0.5**0.3)
    return speed_E + 2.5 * bend_E, -0.19 + 0.3 * bend_E + 0.4 * line_E, 0.71 - 0.1 * line_E
