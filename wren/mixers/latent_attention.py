"""Multi-head latent attention: keys and values are expanded from one small latent, all that is cached  (2405.04434).

    c_t = rmsnorm(W_c x_t),  r_t = rotate(W_r x_t),  k_t^h = [W_k^h c_t, r_t],  v_t^h = W_v^h c_t,
    q_t^h = [W_q^h z_t, rotate(W_p^h z_t)],  o_t^h = sum_{s <= t} softmax_s(q_t^h . k_s^h / sqrt(K + R)) v_s^h,
with z_t = x_t, or rmsnorm(W_z x_t) where q_rank is set (as in DeepSeek-V3, 2412.19437). The rotary key r_t is shared by
the heads, since a rotated key could not be expanded from a latent. Few queries over many cached tokens go the absorbed
way, equal in value: (W_k^T q) . c in place of q . (W_k c), and W_v after the sum, so that nothing is expanded.

B batch, T time, S cached tokens, D model width, H heads, K key width without and R with rotation, V value width,
L latent width, C = L + R what is cached of a token.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wren.cache import SlotState, positions
from wren.errors import ConfigError
from wren.mixer import Context, Mixer, check_tail, own_state, without_padding
from wren.ops.attention import cached_attention, causal_attention, check_heads
from wren.ops.norm import rms_norm
from wren.ops.rope import rotate, rotation
from wren.ops.settings import check_counts


@dataclass(frozen=True, kw_only=True)
class Config:
    """head_dim: key width without rotation, None = dim / num_heads. value_head_dim: None = head_dim.

    rope_dim: width of the shared rotary key, None = head_dim / 2. kv_rank: width of the latent, None = 4 head_dim or
    dim / 2, the smaller. q_rank: width of the queries' own latent, None = none. dropout acts on the attention weights
    in training.
    """

    num_heads: int
    head_dim: int | None = None
    value_head_dim: int | None = None
    rope_dim: int | None = None
    kv_rank: int | None = None
    q_rank: int | None = None
    rope_base: float = 10000.0
    norm_eps: float = 1e-6
    dropout: float = 0.0

    def build(self, dim: int) -> "LatentAttention":
        """Raises ConfigError for sizes that do not divide or are out of range."""
        check_heads("latent_attention", dim, self.num_heads, None, self.head_dim, "none")
        check_counts("latent_attention", self, "value_head_dim", "rope_dim", "kv_rank", "q_rank")
        if (self.rope_dim or 2) % 2:
            raise ConfigError(f"latent_attention.rope_dim is {self.rope_dim}; rotary positions need an even width.")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"latent_attention.dropout is {self.dropout}; it must lie in [0, 1).")
        return LatentAttention(dim, self)


EXAMPLES = (
    Config(num_heads=2),
    Config(num_heads=3, head_dim=6, value_head_dim=10, rope_dim=2, kv_rank=7, q_rank=5),
)


@dataclass
class LatentState(SlotState):
    """The latent and, beside it, the rotary key of every token."""

    latents_BSC: Tensor


class LatentAttention(Mixer):
    """Takes no added values: what is added to a head's values past the latent could not be read off the cache.

    flops_per_token counts a whole row at once, keys and values expanded.
    """

    values_dim = 0

    def __init__(self, dim: int, config: Config):
        super().__init__()
        self.config = config
        self.key_dim = config.head_dim or dim // config.num_heads
        self.value_dim = config.value_head_dim or self.key_dim
        self.rope_dim = config.rope_dim or max(2, self.key_dim // 4 * 2)
        self.latent_dim = config.kv_rank or max(1, min(4 * self.key_dim, dim // 2))
        H = config.num_heads
        self.q_down = self.q_norm = None
        if config.q_rank is not None:
            self.q_down = nn.Linear(dim, config.q_rank, bias=False)
            self.q_norm = nn.Parameter(torch.ones(config.q_rank))
        self.q = nn.Linear(config.q_rank or dim, H * (self.key_dim + self.rope_dim), bias=False)
        self.latent = nn.Linear(dim, self.latent_dim, bias=False)
        self.latent_norm = nn.Parameter(torch.ones(self.latent_dim))
        self.rotary_key = nn.Linear(dim, self.rope_dim, bias=False)
        self.k = nn.Linear(self.latent_dim, H * self.key_dim, bias=False)
        self.v = nn.Linear(self.latent_dim, H * self.value_dim, bias=False)
        self.out = nn.Linear(H * self.value_dim, dim, bias=False)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        state = own_state(context, LatentState, len(x_BTD))
        x_BTD = without_padding(x_BTD, context.valid_B)
        q_BTHK, latents_BTC = self._queries_and_latents(x_BTD, positions(x_BTD, context))
        if state is None:
            o_BTHV = self._whole_rows(q_BTHK, latents_BTC, context.documents_BT)
        else:
            check_tail("latents", state.latents_BSC[:, 0], (self.latent_dim + self.rope_dim,))
            o_BTHV = self._with_state(q_BTHK, latents_BTC, context.valid_B, state)
        return self.out(o_BTHV.flatten(2))

    def _queries_and_latents(self, x_BTD: Tensor, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, T, H, K + R) and what is cached (B, T, L + R), their rotary parts rotated."""
        z_BTD = x_BTD
        if self.q_down is not None and self.q_norm is not None:
            z_BTD = rms_norm(self.q_down(x_BTD), self.q_norm, self.config.norm_eps)
        q_BTHK = self.q(z_BTD).unflatten(-1, (self.config.num_heads, -1))
        by = rotation(positions_BT, self.rope_dim, self.config.rope_base, q_BTHK.dtype)
        plain_BTHK, rotary_BTHR = q_BTHK.split((self.key_dim, self.rope_dim), dim=-1)
        q_BTHK = torch.cat((plain_BTHK, rotate(rotary_BTHR, by)), dim=-1)
        latent_BTL = rms_norm(self.latent(x_BTD), self.latent_norm, self.config.norm_eps)
        key_BTR = rotate(self.rotary_key(x_BTD)[:, :, None], by)[:, :, 0]
        return q_BTHK, torch.cat((latent_BTL, key_BTR), dim=-1)

    def _whole_rows(self, q_BTHK: Tensor, latents_BTC: Tensor, documents_BT: Tensor | None) -> Tensor:
        q, k, v = self._expanded(q_BTHK, latents_BTC)
        dropout = self.config.dropout if self.training else 0.0
        return causal_attention(q, k, v, documents_BT=documents_BT, dropout=dropout)[..., : self.value_dim]

    def _with_state(self, q_BTHK: Tensor, latents_BTC: Tensor, valid_B: Tensor | None, state: LatentState) -> Tensor:
        longest_before = state.longest
        state.admit(q_BTHK.shape[1], valid_B)
        if longest_before == 0:  # the padding stands right of every valid token, where causality hides it
            state.append(valid_B, latents_BSC=latents_BTC)
            return self._whole_rows(q_BTHK, latents_BTC, None)
        query_BT, key_BS = state.append_and_place(valid_B, latents_BSC=latents_BTC)
        latents_BSC = state.latents_BSC[:, : key_BS.shape[1]].to(q_BTHK.dtype)
        whole = not (self.k._forward_hooks or self.v._forward_hooks)  # else the weights are not all of these layers
        if whole and self._absorbing_pays(q_BTHK.shape[1], key_BS.shape[1]):
            return self._absorbed(q_BTHK, latents_BSC, query_BT, key_BS)
        q, k, v = self._expanded(q_BTHK, latents_BSC)
        return cached_attention(q, k, v, query_BT, key_BS)[..., : self.value_dim]

    def _expanded(self, q_BTHK: Tensor, latents_BSC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v of one width, so that torch's fused attention takes them: the narrower end in zeros."""
        H, own, width = self.config.num_heads, self.key_dim + self.rope_dim, self._width()
        latent_BSL, key_BSR = latents_BSC.split((self.latent_dim, self.rope_dim), dim=-1)
        k_BSHK, v_BSHV = (up(latent_BSL).unflatten(-1, (H, -1)) for up in (self.k, self.v))
        k_BSHK = torch.cat((k_BSHK, key_BSR[:, :, None].expand(-1, -1, H, -1)), dim=-1)
        if own < width:  # and the scale 1 / sqrt(width) put right
            q_BTHK, k_BSHK = F.pad(q_BTHK * (width / own) ** 0.5, (0, width - own)), F.pad(k_BSHK, (0, width - own))
        return q_BTHK, k_BSHK, F.pad(v_BSHV, (0, width - self.value_dim)) if self.value_dim < width else v_BSHV

    def _absorbed(self, q_BTHK: Tensor, latents_BSC: Tensor, query_BT: Tensor, key_BS: Tensor) -> Tensor:
        """The cached latents are keys and values of one head, and the heads of a token are as many queries of it."""
        H, own, width = self.config.num_heads, self.key_dim + self.rope_dim, self.latent_dim + self.rope_dim
        k_HKL, v_HVL = (up.weight.unflatten(0, (H, -1)) for up in (self.k, self.v))
        plain_BTHK, rotary_BTHR = q_BTHK.split((self.key_dim, self.rope_dim), dim=-1)
        absorbed_BTHL = torch.einsum("bthk,hkl->bthl", plain_BTHK, k_HKL.to(plain_BTHK.dtype))
        q_BTHC = torch.cat((absorbed_BTHL, rotary_BTHR), dim=-1) * (width / own) ** 0.5
        cached_BS1C, query_BQ = latents_BSC[:, :, None], query_BT.repeat_interleave(H, dim=1)
        o_BQ1C = cached_attention(q_BTHC.flatten(1, 2)[:, :, None], cached_BS1C, cached_BS1C, query_BQ, key_BS)
        o_BTHL = o_BQ1C[:, :, 0, : self.latent_dim].unflatten(1, (-1, H))
        return torch.einsum("bthl,hvl->bthv", o_BTHL, v_HVL.to(o_BTHL.dtype))

    def _absorbing_pays(self, num_queries: int, num_keys: int) -> bool:
        """Whether the absorbed form takes fewer multiply-adds a head."""
        expanding = self.latent_dim * (self.key_dim + self.value_dim)  # of a key and its value, or of a query absorbed
        absorbed = num_queries * expanding + num_queries * num_keys * 2 * (self.latent_dim + self.rope_dim)
        return absorbed < num_keys * expanding + num_queries * num_keys * 2 * self._width()

    def _width(self) -> int:
        return max(self.key_dim + self.rope_dim, self.value_dim)

    def new_state(
        self, batch_size: int, max_len: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> LatentState:
        lengths_B = torch.zeros(batch_size, dtype=torch.long, device=device)
        shape = (batch_size, max_len, self.latent_dim + self.rope_dim)
        return LatentState(lengths_B, max_len, 0, torch.zeros(shape, dtype=dtype, device=device))

    def flops_per_token(self, context_len: int) -> float:
        """As counted for a whole row, without the masked scores."""
        layers = [self.q, self.latent, self.rotary_key, self.k, self.v, self.out]
        layers += [] if self.q_down is None else [self.q_down]
        projections = sum(2 * layer.weight.numel() for layer in layers)
        return projections + 4 * self.config.num_heads * self._width() * (context_len + 1) / 2

    def state_bytes(self, context_len: int) -> int:
        return 2 * (self.latent_dim + self.rope_dim) * context_len
