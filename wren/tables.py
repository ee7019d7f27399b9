"""Lookup tables by token and by n-gram: parameters that cost a lookup and no matrix product.

An n-gram's row is chosen by a hash of the last n tokens of its document (over-encoding, 2501.16975; bigram tables of
modded-nanogpt, github.com/KellerJordan/modded-nanogpt). Different n-grams may share a row.

B batch, T time, D width of a row, N tokens before the present one, L layers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wren.errors import ConfigError
from wren.mixer import State, advance
from wren.ops.short_convolution import next_tail
from wren.ops.widen import wide_dtype

_PRIME = 2**31 - 1  # products of two numbers below it fit into int64
_MULTIPLIER = 950706376  # a primitive root of it whose powers spread well (Fishman & Moore 1986)
START = -1  # stands for a token before the document's first


@dataclass(frozen=True, kw_only=True)
class TablesConfig:
    """values: layers with a table of their own whose row joins the mixer's values, by number, "all", or "alternate"
    (the last layer and every second one before it; modded-nanogpt, in the line of 2410.17897).

    bigrams, trigrams: rows of the hashed tables, 0 = no table; their rows join the embedding.
    every_block: n-gram rows join the input of every block by a learned factor, not of the first alone (modded-nanogpt).
    on_cpu: these tables, their gradients and so their optimizer's moments stay in main memory, and only the rows of a
        batch go to the device. All are asked for before the first block, from pinned memory, and the device may go on
        while they travel; that asks for the token ids, one wait for the device a forward pass. Gradients are dense.
    """

    values: Literal["all", "alternate"] | tuple[int, ...] | None = None
    bigrams: int = 0
    trigrams: int = 0
    every_block: bool = False
    on_cpu: bool = False

    def __post_init__(self) -> None:
        for name in ("bigrams", "trigrams"):
            if not 0 <= getattr(self, name) <= _PRIME:
                raise ConfigError(f"tables.{name} is {getattr(self, name)}; it must lie in 0 to {_PRIME} rows.")
        if self.every_block and not (self.bigrams or self.trigrams):
            raise ConfigError("tables.every_block needs an n-gram table; set tables.bigrams or tables.trigrams.")


class Table(nn.Module):
    """Rows looked up by number; with on_cpu they stay in main memory wherever the model goes.

    sparse_gradient: it holds the rows that were read and no others, where the table lies in main memory.
    """

    sparse_gradient = False

    def __init__(self, num_rows: int, dim: int, *, on_cpu: bool = False):
        super().__init__()
        self.on_cpu = on_cpu
        self.weight = nn.Parameter(torch.zeros(num_rows, dim))

    def forward(self, index_BT: Tensor) -> Tensor:
        if index_BT.device == self.weight.device:
            sparse = self.sparse_gradient and self.weight.device.type == "cpu"
            return F.embedding(index_BT, self.weight, sparse=sparse)
        return gathered(self.weight, index_BT, sparse=self.sparse_gradient)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What moves and converts a module: here the number format changes and the place does not."""

        def stay(x: Tensor) -> Tensor:
            return fn(x) if x.is_meta else x.to(fn(x.new_empty(0)).dtype)

        return super()._apply(stay if self.on_cpu else fn, recurse)


def gathered(weight: Tensor, index_BT: Tensor, *, sparse: bool = False) -> Tensor:
    """Rows of a table in main memory, on the device of the index; the gradient goes back to main memory."""
    return _Gathered.apply(weight, index_BT, sparse)  # type: ignore[return-value]


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, index_BT: Tensor, sparse: bool) -> Tensor:
        index = index_BT.to(weight.device)
        ctx.save_for_backward(index)
        ctx.sparse = sparse
        ctx.weight = weight.shape, weight.dtype, weight.device
        rows = F.embedding(index, weight)
        if index_BT.device.type == "cuda":
            rows = rows.pin_memory()  # the copy need not be waited for
        return rows.to(index_BT.device, non_blocking=True)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (index,), (shape, dtype, device) = ctx.saved_tensors, ctx.weight
        if ctx.sparse:
            rows = grad_outputs[0].to(device, wide_dtype(dtype)).flatten(0, -2)
            grad = torch.sparse_coo_tensor(index.flatten()[None], rows, shape, check_invariants=False)
            return grad.coalesce().to(dtype), None, None
        grad = torch.zeros(shape, dtype=wide_dtype(dtype), device=device)  # a common token's sum is long
        grad.index_add_(0, index.flatten(), grad_outputs[0].to(device, grad.dtype).flatten(0, -2))
        return grad.to(dtype), None, None


@dataclass
class RecentState(State):
    """The last N tokens of each row, START where it has fewer."""

    tokens_BN: Tensor

    @classmethod
    def new(cls, batch_size: int, count: int, device: torch.device | str) -> Self:
        lengths_B = torch.zeros(batch_size, dtype=torch.long, device=device)
        return cls(lengths_B, torch.full((batch_size, count), START, device=device))

    def append(self, tokens_BT: Tensor, valid_B: Tensor | None) -> None:
        count = self.tokens_BN.shape[1]
        self.tokens_BN = next_tail(tokens_BT[:, :, None], count + 1, self.tokens_BN[:, :, None], valid_B)[:, :, 0]
        self.lengths_B = advance(self.lengths_B, tokens_BT.shape[1], valid_B)


class Ngrams(nn.Module):
    """The sum of a bigram's and a trigram's row for every token. Rows begin at zero: a rare n-gram stays silent."""

    def __init__(self, dim: int, depth: int, config: TablesConfig):
        super().__init__()
        sizes = {"bigrams": config.bigrams, "trigrams": config.trigrams}
        self.tables = nn.ModuleDict({n: Table(rows, dim, on_cpu=config.on_cpu) for n, rows in sizes.items() if rows})
        self.num_before = 2 if config.trigrams else 1
        # the first block's factor is one, as if the rows joined the embedding
        self.scale_L = nn.Parameter(torch.eye(depth)[0]) if config.every_block else None

    def forward(self, tokens_BT: Tensor, documents_BT: Tensor | None, recent: RecentState | None) -> Tensor:
        """Rows (B, T, D); recent: the tokens before these, None = there are none."""
        recent_BN = None if recent is None else recent.tokens_BN
        before = tokens_before(tokens_BT, self.num_before, documents_BT, recent_BN)
        count = {"bigrams": 1, "trigrams": 2}
        rows = [
            table(ngram_index(tokens_BT, before[: count[name]], len(table.weight)))  # type: ignore[arg-type]
            for name, table in self.tables.items()
        ]
        return rows[0] if len(rows) == 1 else rows[0] + rows[1]

    def joined(self, layer: int, x_BTD: Tensor, rows_BTD: Tensor) -> Tensor:
        """What a block reads where every block reads the rows."""
        return x_BTD if self.scale_L is None else x_BTD + self.scale_L[layer] * rows_BTD


def tokens_before(tokens_BT: Tensor, count: int, documents_BT: Tensor | None, recent_BN: Tensor | None) -> list[Tensor]:
    """The token one place back, two places back, ... `count`, each (B, T); START where its document has none there."""
    if recent_BN is None:
        recent_BN = tokens_BT.new_full((len(tokens_BT), count), START)
    padded = torch.cat((recent_BN, tokens_BT), dim=1)
    T, found = tokens_BT.shape[1], []
    for back in range(1, count + 1):
        start = recent_BN.shape[1] - back
        before_BT = padded[:, start : start + T]
        if documents_BT is not None:
            same_BT = F.pad(documents_BT[:, back:] == documents_BT[:, :-back], (min(back, T), 0))
            before_BT = torch.where(same_BT, before_BT, START)
        found.append(before_BT)
    return found


def ngram_index(tokens_BT: Tensor, before: list[Tensor], num_rows: int) -> Tensor:
    """The row of each n-gram: a polynomial of its tokens modulo a prime (Karp & Rabin 1987), modulo the rows."""
    hash_BT = tokens_BT + 2
    for token_BT in before:
        hash_BT = (hash_BT * _MULTIPLIER + token_BT + 2) % _PRIME
    return (hash_BT * _MULTIPLIER % _PRIME) % num_rows
