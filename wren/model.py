"""LM = embedding + blocks + head:  x <- x + mixer(norm(x));  x <- x + mlp(norm(x));  logits = head(norm(x)).

B batch, T time, D model width, V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol, Self

import torch
from torch import Tensor, nn

from wren.batch import positions_in_documents
from wren.errors import ConfigError
from wren.mixer import Context, Mixer, MixerConfig, State, advance


class MlpConfig(Protocol):
    """A feed-forward layer's settings: a frozen dataclass named `Config` in `wren/mlps/<name>.py`."""

    def build(self, dim: int) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What an LM is made of. The pattern of mixers repeats over depth.

    learned_positions: rows of the learned position table, None = no table.
    documents: whether packed documents are kept apart (False = they read each other, as in nanoGPT).
    logit_softcap: logits = c tanh(logits / c) (Gemma 2, 2408.00118). zero_outputs: blocks begin as the identity.
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
    logit_softcap: float | None = None
    zero_outputs: bool = False
    init_std: float = 0.02

    def __post_init__(self) -> None:
        for name in ("vocab_size", "dim", "depth", "learned_positions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"model.{name} is {value}; it must be at least 1.")
        for name in ("logit_softcap", "init_std", "norm_eps"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"model.{name} is {value}; it must be above 0.")
        if not self.mixers:
            raise ConfigError("model.mixers is empty; name at least one mixer.")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"model.dropout is {self.dropout}; it must lie in [0, 1).")

    def build(self) -> "LM":
        return LM(self)


class LMState:
    """What an LM remembers of each row: a State per mixer, and how many tokens each row has seen.

    longest: no row has seen more; known without asking the device.
    """

    def __init__(self, layers: list[State], lengths_B: Tensor, longest: int = 0):
        self.layers = layers
        self.lengths_B = lengths_B
        self.longest = longest

    def select(self, rows_B: Tensor) -> Self:
        """A copy of the given rows: repeats fork a sample, a permutation reorders beams."""
        return type(self)([layer.select(rows_B) for layer in self.layers], self.lengths_B[rows_B], self.longest)

    def write(self, rows_B: Tensor, other: Self) -> None:
        """Puts the rows of `other` in place of `rows_B`: admits new rows into a running batch."""
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine.write(rows_B, theirs)
        self.lengths_B = self.lengths_B.index_copy(0, rows_B, other.lengths_B)
        self.longest = max(self.longest, other.longest)

    def detach(self) -> Self:
        return type(self)([layer.detach() for layer in self.layers], self.lengths_B, self.longest)

    def advance(self, num_tokens: int, valid_B: Tensor | None, limit: int | None) -> None:
        """Counts the next tokens; raises ConfigError where a row would pass `limit`, the learned positions."""
        lengths_B = advance(self.lengths_B, num_tokens, valid_B)
        longest = self.longest + num_tokens
        if limit is not None and longest > limit:  # rows that were replaced or padded: ask
            longest = int(lengths_B.max())
            if longest > limit:
                raise ConfigError(f"A row of {longest} tokens is longer than the {limit} learned positions.")
        self.lengths_B, self.longest = lengths_B, longest


class Block(nn.Module):
    def __init__(self, config: ModelConfig, mixer: Mixer):
        super().__init__()
        self.mixer_norm = _norm(config)
        self.mixer = mixer
        self.mlp_norm = _norm(config)
        self.mlp = config.mlp.build(config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        x_BTD = x_BTD + self.dropout(self.mixer(_narrow(self.mixer_norm(x_BTD)), context))
        return x_BTD + self.dropout(self.mlp(_narrow(self.mlp_norm(x_BTD))))


class LM(nn.Module):
    """A causal language model over token ids."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.positions = nn.Embedding(config.learned_positions, config.dim) if config.learned_positions else None
        self.dropout = nn.Dropout(config.dropout)
        pattern = config.mixers
        self.blocks = nn.ModuleList(
            Block(config, pattern[i % len(pattern)].build(config.dim)) for i in range(config.depth)
        )
        self.norm = _norm(config)
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)
        self._initialise()
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight

    def _initialise(self) -> None:
        """Normal weights; outputs of blocks scaled by 1/sqrt(2 depth) so that the residual stream keeps its size."""
        std = self.config.init_std
        for name, module in self.named_modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=std)
            elif isinstance(module, nn.Linear):
                is_output = name.startswith("blocks.") and name.endswith(".out")
                scale = 1 / math.sqrt(2 * self.config.depth) if is_output else 1.0
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
        if not self.config.documents:
            documents_BT = None
        elif positions_BT is None and documents_BT is not None and state is None:
            positions_BT = positions_in_documents(documents_BT)
        x_BTD = self.embedding(tokens_BT)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions(self._table_positions(tokens_BT, positions_BT, state))
        if state is not None:
            state.advance(tokens_BT.shape[1], valid_B, self.config.learned_positions)
        x_BTD = self.dropout(x_BTD)
        layers = state.layers if state is not None else [None] * len(self.blocks)
        for block, layer in zip(self.blocks, layers, strict=True):
            x_BTD = block(x_BTD, Context(tokens_BT, positions_BT, documents_BT, valid_B, None, layer))
        return self.norm(x_BTD)

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        logits_BTV = self.head(hidden_BTD)
        cap = self.config.logit_softcap
        return logits_BTV if cap is None else cap * torch.tanh(logits_BTV / cap)

    def _table_positions(self, tokens_BT: Tensor, positions_BT: Tensor | None, state: LMState | None) -> Tensor:
        """Rows of the position table: (T,) or (B, T)."""
        rows, length = self.config.learned_positions or 0, tokens_BT.shape[1]
        index_T = torch.arange(length, device=tokens_BT.device)
        if state is not None:  # only padding lies past the table: LMState.advance bounds the rest
            return (state.lengths_B[:, None] + index_T).clamp(max=rows - 1) if positions_BT is None else positions_BT
        if positions_BT is None:
            positions_BT = index_T
        if length > rows and int(positions_BT.max()) >= rows:
            longest = int(positions_BT.max()) + 1
            raise ConfigError(f"A row of {longest} tokens is longer than the {rows} learned positions; cut it shorter.")
        return positions_BT

    def new_state(
        self, batch_size: int, max_len: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> LMState:
        """An empty state for rows of up to max_len tokens; raises ConfigError past a learned position table."""
        rows = self.config.learned_positions
        if rows is not None and max_len > rows:
            raise ConfigError(f"{max_len} tokens do not fit this model's {rows} learned positions; ask for fewer.")
        layers = [m.new_state(batch_size, max_len, device=device, dtype=dtype) for m in self.mixers()]
        return LMState(layers, torch.zeros(batch_size, dtype=torch.long, device=device))

    def mixers(self) -> list[Mixer]:
        return [block.mixer for block in self.blocks]  # type: ignore[union-attr,misc]

    def num_params(self, *, embeddings: bool = True) -> int:
        """Parameters; without embeddings: neither token table, position table nor untied head."""
        total = sum(p.numel() for p in self.parameters())
        if embeddings:
            return total
        tables = {
            id(self.embedding.weight): self.embedding.weight.numel(),
            id(self.head.weight): self.head.weight.numel(),
        }
        return total - sum(tables.values()) - (self.positions.weight.numel() if self.positions is not None else 0)

    def flops_per_token(self, context_len: int) -> float:
        """Forward floating-point operations of one token in a row of context_len: matrix products, multiply-add = 2."""
        mlp = sum(2 * p.numel() for block in self.blocks for p in block.mlp.parameters() if p.dim() == 2)  # type: ignore[union-attr]
        return sum(m.flops_per_token(context_len) for m in self.mixers()) + mlp + 2 * self.head.weight.numel()

    def state_bytes(self, context_len: int) -> int:
        """Bytes remembered per sequence after context_len tokens."""
        return sum(m.state_bytes(context_len) for m in self.mixers())


def _narrow(x_BTD: Tensor) -> Tensor:
    """x in autocast's format: cast once, not again by every projection that reads it."""
    kind = x_BTD.device.type
    return x_BTD.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x_BTD


def _norm(config: ModelConfig) -> nn.Module:
    if config.norm == "layer":
        return nn.LayerNorm(config.dim, eps=config.norm_eps, bias=config.bias)
    return nn.RMSNorm(config.dim, eps=config.norm_eps)
