"""LM = embedding + blocks + head:  x <- x + mixer(norm(x));  x <- x + mlp(norm(x));  logits = head(norm(x)).

What else may stand in and around the blocks is off by default: block.py (short convolutions, gated norms), tables.py
(lookup tables), skips.py (of stream and values), ahead.py (multi-token prediction), and here layers in a loop.

B batch, T time, D model width, V vocabulary.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn

from wren import mlp as mlps
from wren.ahead import AheadConfig, AheadHead
from wren.batch import positions_in_documents
from wren.block import Block, NearConfig, NearState, called, make_norm, norm_flops
from wren.errors import ConfigError
from wren.mixer import Context, Mixer, MixerConfig, State
from wren.mlp import MlpConfig
from wren.ops.fla import Boundaries
from wren.skips import Skips, SkipsConfig, Values
from wren.state import LMState
from wren.tables import Ngrams, RecentState, Table, TablesConfig


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What an LM is made of. The pattern of mixers repeats over depth.

    learned_positions: rows of the learned position table, None = no table.
    embedding_dropout: of the embedded tokens, None = as dropout.
    documents: whether packed documents are kept apart (False = they read each other, as in nanoGPT).
    logit_softcap: logits = c tanh(logits / c) (Gemma 2, 2408.00118). zero_outputs: blocks begin as the identity.
    norm_gain: whether norms scale channels by learned gains (without: OLMo, 2402.00838). norm_gate: the rank of a gate
        on every norm, None = none.
    loops: how often the blocks are gone through, with the same weights (1807.03819, 2502.05171); each time its own
        state. near, skips, tables, ahead: see there.
    """

    vocab_size: int
    dim: int
    depth: int
    mixers: tuple[MixerConfig, ...]
    mlp: MlpConfig
    norm: Literal["layer", "rms"] = "rms"
    norm_eps: float = 1e-5
    bias: bool = False
    learned_positions: int | None = None
    documents: bool = True
    tie_embeddings: bool = True
    dropout: float = 0.0
    embedding_dropout: float | None = None
    logit_softcap: float | None = None
    zero_outputs: bool = False
    init_std: float = 0.02
    norm_gain: bool = True
    norm_gate: int | None = None
    loops: int = 1
    near: NearConfig = field(default_factory=NearConfig)
    skips: SkipsConfig = field(default_factory=SkipsConfig)
    tables: TablesConfig = field(default_factory=TablesConfig)
    ahead: AheadConfig = field(default_factory=AheadConfig)

    def __post_init__(self) -> None:
        for name in ("vocab_size", "dim", "depth", "learned_positions", "norm_gate", "loops"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"model.{name} is {value}; it must be at least 1.")
        for name in ("logit_softcap", "init_std", "norm_eps"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"model.{name} is {value}; it must be above 0.")
        if not self.mixers:
            raise ConfigError("model.mixers is empty; name at least one mixer.")
        for name in ("dropout", "embedding_dropout"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value < 1.0:
                raise ConfigError(f"model.{name} is {value}; it must lie in [0, 1).")

    def build(self) -> "LM":
        return LM(self)


class Additions(Protocol):
    """What stands on a model and changes what it computes without changing its weights (adapters/rows.py)."""

    def rows(self, index_B: "int | Sequence[int] | Tensor") -> AbstractContextManager[None]: ...
    def head(self, hidden_BTD: Tensor) -> tuple[Tensor, Tensor]: ...


class LM(nn.Module):
    """A causal language model over token ids. adapters: those that stand on it.

    loss_chunk: tokens whose logits exist at once in the losses, None = what suits the device.
    """

    call_block: Callable[..., Tensor] = staticmethod(called)
    loss_chunk: int | None = None
    adapters: "Additions | None" = None

    def __init__(self, config: ModelConfig):
        """Raises ConfigError for settings that do not fit each other."""
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.positions = nn.Embedding(config.learned_positions, config.dim) if config.learned_positions else None
        self.dropout = nn.Dropout(config.dropout if config.embedding_dropout is None else config.embedding_dropout)
        self.blocks = nn.ModuleList(self._new_block(i) for i in range(config.depth))
        self.norm = self._new_norm()
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)
        self.ahead = nn.ModuleList(
            AheadHead(self._new_block(config.depth + i), self._new_norm()) for i in range(config.ahead.tokens)
        )
        self.skips = Skips(config.depth, config.skips) if config.skips.x0 or config.skips.unet else None
        tables = config.tables
        self.ngrams = Ngrams(config.dim, config.depth, tables) if tables.bigrams or tables.trigrams else None
        self.values = None
        if tables.values is not None or config.skips.values:
            widths = [mixer.values_dim for mixer in self.mixers()]
            skip = config.skips.values
            self.values = Values(config.vocab_size, config.dim, widths, tables, skip, config.init_std)
        self._initialise()
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight

    def _new_block(self, index: int) -> Block:
        config = self.config
        mixer = config.mixers[index % len(config.mixers)].build(config.dim)
        mlp = config.mlp.build(config.dim)
        place = min(index / config.depth, 1.0)
        return Block(mixer, mlp, config.near, config.dim, config.dropout, place, self._new_norm)

    def _new_norm(self) -> nn.Module:
        config = self.config
        options = {"eps": config.norm_eps, "gain": config.norm_gain, "bias": config.bias, "gate": config.norm_gate}
        return make_norm(config.dim, config.norm, **options)

    def _initialise(self) -> None:
        """Normal weights; outputs of blocks scaled by 1/sqrt(2 depth) so that the residual stream keeps its size."""
        std = self.config.init_std
        for name, module in self.named_modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=std)
            elif isinstance(module, nn.Linear):
                is_output = name.startswith(("blocks.", "ahead.")) and name.endswith(".out")
                scale = 1 / math.sqrt(2 * self.config.depth * self.config.loops) if is_output else 1.0
                nn.init.normal_(module.weight, std=std * scale)
                if is_output and self.config.zero_outputs:
                    nn.init.zeros_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self,
        tokens_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        valid_B: Tensor | None = None,
        state: LMState | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of the token after each one. A given state is advanced by valid_B (or T) tokens a row."""
        return self.logits(
            self.hidden(tokens_BT, positions_BT=positions_BT, documents_BT=documents_BT, valid_B=valid_B, state=state)
        )

    def hidden(
        self,
        tokens_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        valid_B: Tensor | None = None,
        state: LMState | None = None,
    ) -> Tensor:
        """The normed residual stream (B, T, D) that the head reads; arguments as for forward."""
        return self.norm(self._stream(Context(tokens_BT, positions_BT, documents_BT, valid_B), state)[0])

    def hiddens(
        self, tokens_BT: Tensor, *, positions_BT: Tensor | None = None, documents_BT: Tensor | None = None
    ) -> list[Tensor]:
        """hidden's answer, which predicts the next token, and one more (B, T, D) for every token further ahead."""
        x_BTD, context = self._stream(Context(tokens_BT, positions_BT, documents_BT), None)
        return [self.norm(x_BTD), *(self.call_block(head, x_BTD, context) for head in self.ahead)]

    def _stream(self, context: Context, state: LMState | None) -> tuple[Tensor, Context]:
        """The residual stream above the last block, and the context as the mixers saw it, without state and values."""
        if not self.config.documents:  # positions that begin anew with each document are dropped with them
            given = context.positions_BT if context.documents_BT is None else None
            context = context._replace(documents_BT=None, positions_BT=given)
        elif context.positions_BT is None and context.documents_BT is not None and state is None:
            context = context._replace(positions_BT=positions_in_documents(context.documents_BT))
        if context.documents_BT is not None:
            context = context._replace(boundaries=Boundaries(context.documents_BT))
        if state is not None:
            context = context._replace(shared={})
        calls = self._calls(state)
        x_BTD, ngrams_BTD = self._embedded(context, state)
        values = [None] * len(self.blocks) if self.values is None else self.values(context.tokens_BT, x_BTD)
        x0_BTD = x_BTD
        for _ in range(self.config.loops):
            read: list[Tensor] = []
            for i, block in enumerate(self.blocks):
                if ngrams_BTD is not None and self.ngrams is not None:
                    x_BTD = self.ngrams.joined(i, x_BTD, ngrams_BTD)
                if self.skips is not None:
                    x_BTD = self.skips(i, x_BTD, x0_BTD, read)
                read.append(x_BTD)
                own, tails = next(calls)
                x_BTD = self.call_block(block, x_BTD, context._replace(values_BTD=values[i], state=own), tails)
        return x_BTD, context

    def _calls(self, state: LMState | None) -> Iterator[tuple[State | None, NearState | None]]:
        """What each call of a block remembers; raises ConfigError for the state of a model with other calls."""
        count = self.config.loops * len(self.blocks)
        if state is None:
            return itertools.repeat((None, None), count)
        near = self.config.near
        state.check(count, bool(near.token_shift or near.canon), self.ngrams is not None)
        return zip(state.layers, state.tails or [None] * count, strict=True)

    def _embedded(self, context: Context, state: LMState | None) -> tuple[Tensor, Tensor | None]:
        """What the first block reads, and the n-grams' rows where every block reads them; counts the tokens."""
        tokens_BT, ngrams_BTD = cast(Tensor, context.tokens_BT), None
        x_BTD = self.embedding(tokens_BT)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions(self._table_positions(tokens_BT, context.positions_BT, state))
        if state is not None:
            state.advance(tokens_BT.shape[1], context.valid_B, self.config.learned_positions)
        if self.ngrams is not None:
            recent = None if state is None else state.recent
            ngrams_BTD = self.ngrams(tokens_BT, context.documents_BT, recent)
            if recent is not None:
                recent.append(tokens_BT, context.valid_B)
            if not self.config.tables.every_block:
                x_BTD, ngrams_BTD = x_BTD + ngrams_BTD, None
        return self.dropout(x_BTD), ngrams_BTD

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        logits_BTV = self.head(hidden_BTD)
        cap = self.config.logit_softcap
        return logits_BTV if cap is None else cap * torch.tanh(logits_BTV / cap)

    def head_product(self, hidden_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """What the losses multiply: the stream as (N, D) and the head's weight (V, D), both wider with adapters."""
        if self.adapters is None:
            return hidden_BTD.flatten(0, 1), self.head.weight
        return self.adapters.head(hidden_BTD)

    def _table_positions(self, tokens_BT: Tensor, positions_BT: Tensor | None, state: LMState | None) -> Tensor:
        """Rows of the position table: (T,) or (B, T)."""
        rows, length = self.config.learned_positions or 0, tokens_BT.shape[1]
        index_T = torch.arange(length, device=tokens_BT.device)
        if positions_BT is None and state is not None:  # only padding lies past the table: LMState.advance bounds it
            return (state.lengths_B[:, None] + index_T).clamp(max=rows - 1)
        if positions_BT is None:
            positions_BT, longest = index_T, length
        else:
            # a short row passes the table only by a caller's positions; asking a GPU would wait, and cut a graph in two
            cheap = positions_BT.device.type == "cpu" and positions_BT.numel() > 0 and not torch.compiler.is_compiling()
            longest = int(positions_BT.max()) + 1 if length > rows or cheap else 0
        if longest > rows:
            raise ConfigError(f"A row of {longest} tokens is longer than the {rows} learned positions; cut it shorter.")
        return positions_BT

    def new_state(
        self, batch_size: int, max_len: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> LMState:
        """An empty state for rows of up to max_len tokens; raises ConfigError past a learned position table."""
        rows = self.config.learned_positions
        if rows is not None and max_len > rows:
            raise ConfigError(f"{max_len} tokens do not fit this model's {rows} learned positions; ask for fewer.")
        blocks = [block for _ in range(self.config.loops) for block in self._blocks()]
        layers = [block.mixer.new_state(batch_size, max_len, device=device, dtype=dtype) for block in blocks]
        tails = [tail for block in blocks if (tail := block.new_tails(batch_size, device, dtype)) is not None]
        recent = None if self.ngrams is None else RecentState.new(batch_size, self.ngrams.num_before, device)
        lengths_B = torch.zeros(batch_size, dtype=torch.long, device=device)
        return LMState(layers, lengths_B, tails=tails, recent=recent)

    def mixers(self) -> list[Mixer]:
        """One for every block, however often it is gone through."""
        return [block.mixer for block in self._blocks()]

    def _blocks(self) -> list[Block]:
        return list(self.blocks)  # type: ignore[arg-type]

    def _ahead(self) -> list[AheadHead]:
        return list(self.ahead)  # type: ignore[arg-type]

    def num_params(self, *, embeddings: bool = True) -> int:
        """Parameters; without embeddings: neither lookup tables (table_params) nor the head."""
        total = sum(p.numel() for p in self.parameters())
        return total if embeddings else total - self.table_params() - self.head.weight.numel()

    def table_params(self) -> int:
        """Those of lookup tables, which cost no matrix product: of tokens (unless it is the head's too), positions,
        values, n-grams."""
        tables = [module for module in self.modules() if isinstance(module, (nn.Embedding, Table))]
        return sum(table.weight.numel() for table in tables if table.weight is not self.head.weight)

    def active_params(self) -> int:
        """num_params without the experts that do not serve a token."""
        layers = [block.mlp for block in (*self._blocks(), *(head.block for head in self._ahead()))]
        idle = sum(sum(p.numel() for p in mlp.parameters()) - mlps.active_params(mlp) for mlp in layers)
        return self.num_params() - idle

    def flops_per_token(self, context_len: int, *, training: bool = False) -> float:
        """Forward floating-point operations of one token in a row of context_len: matrix products, multiply-add = 2.

        training: with the heads that predict further ahead.
        """
        blocks = self.config.loops * sum(block.flops_per_token(context_len) for block in self._blocks())
        values = self.values.flops_per_token() if self.values is not None else 0
        head = 2 * self.head.weight.numel()
        ahead = sum(each.flops_per_token(context_len) + head for each in self._ahead()) if training else 0
        return blocks + values + norm_flops(self.norm) + head + ahead

    def state_bytes(self, context_len: int) -> int:
        """Bytes remembered per sequence after context_len tokens; the few token ids kept for n-grams are left out."""
        return self.config.loops * sum(block.state_bytes(context_len) for block in self._blocks())
