"""What decides about a prepared data set besides its sources, and how its making is reported."""

from dataclasses import dataclass
from typing import NamedTuple

from wren.errors import ConfigError
from wren.tokenizer.bpe import check_vocab_size


class Progress(NamedTuple):
    """How far it is: `stage` is "tokenizer", "shards" or "rebuild"; `total_bytes` of text are expected, if known."""

    stage: str
    documents: int
    bytes: int
    tokens: int
    total_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides about the bytes of the shards, besides the sources."""

    tokenizer: str | None  # fingerprint of the given one
    vocab_size: int
    val_fraction: float | None
    val_tokens: int
    max_tokens: int | None
    shard_tokens: int
    weights: tuple[float, ...] | None
    dedup: str
    decontaminate: tuple[dict[str, str], ...]

    def __post_init__(self) -> None:
        if self.tokenizer is None:
            check_vocab_size(self.vocab_size)
        if self.dedup not in ("none", "exact", "near"):
            raise ConfigError(f"dedup can be none, exact or near, not '{self.dedup}'.")
        if self.val_fraction is not None and not 0 <= self.val_fraction < 1:
            raise ConfigError(f"The validation fraction {self.val_fraction} must be from 0 to below 1; try 0.005.")
        for name in ("val_tokens", "shard_tokens", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value:,}; it must be 1 or more.")
        if self.weights is not None and not all(0 < weight < float("inf") for weight in self.weights):
            raise ConfigError("The weights of a mixture must be numbers above 0.")
