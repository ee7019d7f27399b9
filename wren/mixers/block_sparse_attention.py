"""Block sparse attention: o_t = sum_{s in A_t} softmax_s(q_t . k_s / sqrt(K)) v_s over a few blocks of keys.

A_t is the query's own block of block_size tokens up to itself, and the top_k blocks before it of the largest
q_t . mean(k of the block), chosen by each query head, without a gradient through the choice: MoBA (2502.13189), which
is the selection branch of NSA (2502.11089) with plain means. Blocks are cut from the start of a row or document.

B batch, T time, S cache slots, N blocks, D model width, H query heads, J key-value heads, K head width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wren.cache import SlotState, positions
from wren.errors import ConfigError
from wren.mixer import (
    Context,
    Mixer,
    State,
    check_tail,
    may_write,
    own_state,
    put_rows,
    valid_mask,
    with_values,
    without_padding,
)
from wren.ops.attention import Gate, check_heads, gate_width, gated
from wren.ops.block_sparse_attention import cached_block_sparse_attention, chunked_block_sparse_attention
from wren.ops.norm import rms_norm
from wren.ops.rope import rotate, rotation
from wren.ops.settings import check_counts
from wren.ops.widen import wide_dtype


@dataclass(frozen=True, kw_only=True)
class Config:
    """block_size: tokens of a block. top_k: earlier blocks that a query reads besides its own.

    num_kv_heads: None = num_heads. head_dim: None = dim / num_heads. gate: sigmoid, on the output, one number a head or
    one a channel.
    """

    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    block_size: int = 64
    top_k: int = 4
    positions: Literal["rope", "none"] = "rope"
    rope_base: float = 10000.0
    qk_norm: bool = False
    gate: Gate = "none"

    def build(self, dim: int) -> "BlockSparseAttention":
        """Raises ConfigError for sizes that do not divide or are out of range."""
        check_heads("block_sparse_attention", dim, self.num_heads, self.num_kv_heads, self.head_dim, self.positions)
        check_counts("block_sparse_attention", self, "block_size", "top_k")
        return BlockSparseAttention(dim, self)


EXAMPLES = (  # blocks that bf16 rounding alone seldom makes a query choose otherwise
    Config(num_heads=2, block_size=16, top_k=1),
    Config(num_heads=4, num_kv_heads=2, head_dim=6, block_size=11, top_k=3, qk_norm=True, gate="channel"),
    Config(num_heads=2, num_kv_heads=1, block_size=12, top_k=2, positions="none", gate="head"),
)


@dataclass
class BlockSparseState(SlotState):
    """Keys and values by slots, and the sum of each block's keys, in fp32 at least."""

    keys_BSJK: Tensor
    values_BSJK: Tensor
    sums_BNJK: Tensor
    block_size: int

    def slots(self) -> dict[str, Tensor]:
        return {"keys_BSJK": self.keys_BSJK, "values_BSJK": self.values_BSJK}

    def write(self, rows_B: Tensor, other: State) -> None:
        if isinstance(other, BlockSparseState):
            check_block_size(other.block_size, self.block_size)
        super().write(rows_B, other)
        if isinstance(other, BlockSparseState):  # else super().write has refused it
            more = self.sums_BNJK.shape[1] - other.sums_BNJK.shape[1]  # F.pad cuts where it is negative
            self.sums_BNJK = put_rows(self.sums_BNJK, rows_B, F.pad(other.sums_BNJK, (0, 0, 0, 0, 0, more)))

    def add_to_blocks(self, k_BTJK: Tensor, valid_B: Tensor | None) -> None:
        """Adds the keys that are appended next to the sums of their blocks."""
        block_BT = self.next_places(k_BTJK.shape[1]) // self.block_size
        keys = k_BTJK.to(self.sums_BNJK.dtype)
        valid_BT = valid_mask(valid_B, k_BTJK.shape[1])
        if valid_BT is not None:
            keys = torch.where(valid_BT[:, :, None, None], keys, 0.0)
        index = block_BT.clamp(max=self.sums_BNJK.shape[1] - 1)[:, :, None, None].expand_as(keys)
        add = self.sums_BNJK.scatter_add_ if may_write(self.sums_BNJK, keys) else self.sums_BNJK.scatter_add
        self.sums_BNJK = add(1, index, keys)


class BlockSparseAttention(Mixer):
    """values_BTD of the context is J*K wide. flops_per_token counts token by token: whole blocks, as they are read."""

    def __init__(self, dim: int, config: Config):
        super().__init__()
        self.config = config
        self.num_kv_heads = config.num_kv_heads or config.num_heads
        self.head_dim = config.head_dim or dim // config.num_heads
        self.values_dim = self.num_kv_heads * self.head_dim
        self.q = nn.Linear(dim, config.num_heads * self.head_dim, bias=False)
        self.k = nn.Linear(dim, self.values_dim, bias=False)
        self.v = nn.Linear(dim, self.values_dim, bias=False)
        self.q_norm = nn.Parameter(torch.ones(self.head_dim)) if config.qk_norm else None
        self.k_norm = nn.Parameter(torch.ones(self.head_dim)) if config.qk_norm else None
        gates = config.num_heads * gate_width(config.gate, self.head_dim)
        self.gate = nn.Linear(dim, gates, bias=False) if gates else None
        self.out = nn.Linear(config.num_heads * self.head_dim, dim, bias=False)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        state = own_state(context, BlockSparseState, len(x_BTD))
        if state is not None:
            check_tail("keys", state.keys_BSJK[:, 0], (self.num_kv_heads, self.head_dim))
            check_block_size(state.block_size, self.config.block_size)
        x_BTD = without_padding(x_BTD, context.valid_B)
        o_BTHK = self._attend(*self._queries_keys_values(x_BTD, context), context, state)
        if self.gate is not None:
            o_BTHK = gated(o_BTHK, self.gate(x_BTD))
        return self.out(o_BTHK.flatten(2))

    def _queries_keys_values(self, x_BTD: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        v_BTE = with_values(self.v(x_BTD), context)
        q_BTHK, k_BTJK, v_BTJK = (y.unflatten(-1, (-1, self.head_dim)) for y in (self.q(x_BTD), self.k(x_BTD), v_BTE))
        if self.q_norm is not None and self.k_norm is not None:
            q_BTHK, k_BTJK = rms_norm(q_BTHK, self.q_norm, 1e-6), rms_norm(k_BTJK, self.k_norm, 1e-6)
        if self.config.positions == "rope":
            by = rotation(positions(x_BTD, context), self.head_dim, self.config.rope_base, q_BTHK.dtype)
            q_BTHK, k_BTJK = rotate(q_BTHK, by), rotate(k_BTJK, by)
        return q_BTHK.to(v_BTJK.dtype), k_BTJK.to(v_BTJK.dtype), v_BTJK

    def _attend(
        self, q_BTHK: Tensor, k_BTJK: Tensor, v_BTJK: Tensor, context: Context, state: BlockSparseState | None
    ) -> Tensor:
        sizes = {"block_size": self.config.block_size, "top_k": self.config.top_k}
        if state is not None:
            # rows that begin here have their padding right of every valid token, where causality hides it
            whole_rows = state.longest == 0 and q_BTHK.shape[1] > 1
            state.admit(q_BTHK.shape[1], context.valid_B)
            state.add_to_blocks(k_BTJK, context.valid_B)
            query_BT, key_BU = state.append_and_place(context.valid_B, keys_BSJK=k_BTJK, values_BSJK=v_BTJK)
            if not whole_rows:
                used = key_BU.shape[1]
                k_BUJK, v_BUJK = (x[:, :used].to(q_BTHK.dtype) for x in (state.keys_BSJK, state.values_BSJK))
                return cached_block_sparse_attention(q_BTHK, k_BUJK, v_BUJK, state.sums_BNJK, query_BT, **sizes)
        return chunked_block_sparse_attention(q_BTHK, k_BTJK, v_BTJK, documents_BT=context.documents_BT, **sizes)

    def new_state(
        self, batch_size: int, max_len: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> BlockSparseState:
        tail = (self.num_kv_heads, self.head_dim)
        lengths_B = torch.zeros(batch_size, dtype=torch.long, device=device)
        keys, values = (torch.zeros(batch_size, max_len, *tail, dtype=dtype, device=device) for _ in range(2))
        wide = wide_dtype(dtype)
        sums = torch.zeros(batch_size, -(-max_len // self.config.block_size), *tail, dtype=wide, device=device)
        return BlockSparseState(lengths_B, max_len, 0, keys, values, sums, self.config.block_size)

    def flops_per_token(self, context_len: int) -> float:
        layers = (self.q, self.k, self.v, self.gate, self.out)
        projections = sum(2 * layer.weight.numel() for layer in layers if layer is not None)
        size, width = self.config.block_size, self.config.num_heads * self.head_dim
        blocks = [t // size for t in range(context_len)]  # complete ones before each token
        read = sum(min(self.config.top_k, n) + 1 for n in blocks) * size
        return projections + width * (4 * read + 2 * sum(blocks)) / context_len

    def state_bytes(self, context_len: int) -> int:
        width = self.num_kv_heads * self.head_dim
        return 2 * 2 * width * context_len + 4 * width * -(-context_len // self.config.block_size)


def check_block_size(found: int, expected: int) -> None:
    """Raises ConfigError for a state whose keys were summed over blocks of another size."""
    if found != expected:
        raise ConfigError(
            f"The state holds sums over blocks of {found} tokens and this mixer's blocks have {expected}: the state "
            "belongs to other settings; make it with this mixer's own new_state."
        )
