"""The contract of a probe: a synthetic task that asks for one computational property, and the settings to test it by.

A probe's file `wren/probes/<name>.py` opens with the task drawn as a line of tokens and its source, and holds its
frozen `Config` (a ProbeConfig) and `SIZES`: {"cpu": Setting, "paper": Setting}.

B batch (examples), T time.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, Self

import numpy as np

from wren.batch import Batch


class ProbeConfig(Protocol):
    """A task at one length and difficulty: a frozen keyword-only dataclass named `Config` in its probe's file."""

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        ...

    @property
    def length(self) -> int:
        """Tokens in a row, T."""
        ...

    def batch(self, count: int, rng: np.random.Generator, *, train: bool) -> Batch:
        """`count` examples as tokens_BT and targets_BT (int64); a target of IGNORE is neither learned nor scored.

        targets_BT[b, t] is what the model is to answer at place t, having read tokens_BT[b, : t + 1]. train: the
        targets that training uses where they differ from those that a test scores. The same generator state gives the
        same examples.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One size of a probe: what is trained and tested on, by what model and with how much tuning.

    tests: by name; the first one is the score of the table, the rest are the curve against length.
    score: accuracy over scored places ("token"), mean over the classes of the targets ("macro"), or the share of
        examples right at every scored place ("exact").
    mlp: "none", or the module of wren.mlps that follows each mixer, with mlp_hidden units (None = its default).
    learned_positions: a learned position table for attention (mixers with no positions of their own).
    steps: optimizer steps; examples are drawn anew for every batch when train_examples is None, else they are a fixed
        set that is gone through in shuffled epochs.
    stop_at: training ends once the first test's score reaches it. chance: what guessing scores. levels: what answers
        that know something, and not the answer, score in the first test, by words such as "any value of the row".
    says: the setting's source and where it differs from that, for the report.
    """

    train: ProbeConfig
    tests: dict[str, ProbeConfig]
    score: Literal["token", "macro", "exact"] = "token"
    dim: int = 64
    depth: int = 2
    num_heads: int = 1
    mlp: Literal["none", "swiglu", "gelu", "relu2"] = "none"
    mlp_hidden: int | None = None
    learned_positions: bool = False
    embedding_dropout: float = 0.0
    tie_embeddings: bool = True
    train_examples: int | None = None
    test_examples: int = 1000
    steps: int = 1000
    batch_size: int = 64
    lrs: tuple[float, ...] = (1e-3,)
    weight_decays: tuple[float, ...] = (0.1,)
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = 0.1
    final: float = 0.0
    eval_every: int = 100
    stop_at: float | None = 0.99
    chance: float = 0.0
    levels: dict[str, float] = field(default_factory=dict)
    says: str = ""

    def with_levels(self, levels: dict[str, float]) -> Self:
        """The setting with what answers score that know something."""
        return replace(self, levels=levels)
