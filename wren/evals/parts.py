"""What a model needed for a text, in parts: by place in the row, by what the row repeats, by stretch."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Part:
    """Sums over a part of the text: bits per byte = nats / ln 2 / bytes; nats per token = nats / tokens."""

    name: str
    nats: float
    tokens: int
    bytes: int

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes if self.bytes else float("nan")

    @property
    def loss(self) -> float:
        return self.nats / self.tokens if self.tokens else float("nan")


@dataclass(frozen=True, kw_only=True)
class Detail:
    """A model on the validation split.

    places_in_row: by place in the row, buckets "0-15", "16-31", "32-63", ...; a row may hold several documents, so a
    token late in it may have a short context. repeats: "repeat-2" are the tokens that complete a pair (the token
    before, this one) seen earlier in the same document of the same row, "repeat-3" those that complete such a triple,
    "new" the tokens of neither. blocks: consecutive stretches of the split, for drawing the text anew.
    """

    whole: Part
    places_in_row: tuple[Part, ...] = ()
    repeats: tuple[Part, ...] = ()
    blocks: tuple[Part, ...] = ()
