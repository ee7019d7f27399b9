"""Score, then learn: a text is scored chunk by chunk, and an adapter learns from each chunk after it was scored.

Dynamic evaluation (1709.07432, 1904.08378) with adapters instead of the model's weights: several texts at once, each
with an adapter, an optimizer and a gate of its own. What a chunk sees of the tokens before it: windows.py.

B batch, T time, N tokens of a text.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from wren.adapt.gate import Gate, GateConfig
from wren.adapt.learner import Learner, check_rate
from wren.adapt.windows import Scorer, Window, Windows, window
from wren.adapters.adapter import AdapterConfig
from wren.adapters.rows import Adapters
from wren.batch import IGNORE
from wren.errors import ConfigError, DataError
from wren.model import LM
from wren.precision import Precision


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """lr: of the adapters. rank: of each. gate: None = always the adapter. replay: the context is learned again too.

    streams: texts at once.
    """

    lr: float
    rank: int = 4
    windows: Windows = field(default_factory=Windows)
    gate: GateConfig | None = field(default_factory=GateConfig)
    replay: bool = False
    streams: int = 8

    def __post_init__(self) -> None:
        check_rate(self.lr)
        AdapterConfig(rank=self.rank)
        if self.streams < 1:
            raise ConfigError(f"{self.streams} streams cannot be read at once; ask for at least 1.")
        if self.replay and self.windows.past == "carry":
            raise ConfigError("With replay the context is gone through again, and with past 'carry' not; drop one.")


class Read(NamedTuple):
    """nats_N: -log p of the tokens after the first. chunks: how many; adapted: those scored with the adapter; learned:
    those that it learned from. rollbacks: how often it left the finite numbers and was taken back to its beginning.
    trusted: whether the gate would score what follows with the adapter. plain: the nats without it, in all; nan
    without a gate."""

    nats_N: Tensor
    chunks: int
    adapted: int = 0
    learned: int = 0
    rollbacks: int = 0
    trusted: bool = False
    plain: float = math.nan


class _Row:
    """One text that is being read."""

    def __init__(self, text_N: Tensor, learner: Learner | None = None, gate: Gate | None = None):
        self.text_N, self.learner, self.gate = text_N, learner, gate
        self.nats: list[Tensor] = []
        self.adapted = self.learned = self.rollbacks = 0
        self.plain = math.nan if gate is None else 0.0

    def rests(self) -> bool:
        return self.gate is not None and self.gate.rests > 0

    def number(self) -> int:
        """Of its adapter now, 0 = none."""
        return 0 if self.learner is None or self.rests() else self.learner.number

    def keep(self, nats_T: Tensor, *, adapted: bool = False) -> None:
        self.nats.append(nats_T)
        self.adapted += adapted

    def read(self) -> Read:
        trusted = self.gate is not None and self.gate.trusts
        counts = self.adapted, self.learned, self.rollbacks
        return Read(torch.cat(self.nats), len(self.nats), *counts, trusted, self.plain)


class _Chunk(NamedTuple):
    """The next chunk of some rows. plain_BT: its scores without adapters, None where no gate asks for them."""

    rows: list[_Row]
    window: Window
    plain_BT: Tensor | None
    anew: bool

    def only(self, index: list[int]) -> "_Chunk":
        plain_BT = None if self.plain_BT is None else self.plain_BT[index]
        return _Chunk([self.rows[i] for i in index], self.window.only(index), plain_BT, self.anew)


class _Learning(NamedTuple):
    adapters: Adapters
    config: StreamConfig
    scorer: Scorer


def score(
    model: LM, texts: Sequence[Tensor], windows: Windows, precision: Precision, *, streams: int = 8
) -> list[Read]:
    """The same windows without any adapter: what adapting is compared with.

    texts: tokens (N,) int64, the document's start first; raises DataError for one without a token after it.
    """
    model.eval()

    @torch.no_grad()
    def read(group: list[Tensor]) -> list[Read]:
        rows, scorer = [_Row(text) for text in group], Scorer(model, windows, precision)
        for chunk in _chunks(rows, windows, replay=False):
            _keep_plain(chunk._replace(plain_BT=scorer(chunk.window, anew=chunk.anew).double().cpu()))
        return [row.read() for row in rows]

    return _in_groups(texts, streams, read)


def adapt(
    adapters: Adapters,
    texts: Sequence[Tensor],
    config: StreamConfig,
    precision: Precision,
    *,
    seed: int = 0,
    learners: list[Learner] | None = None,
) -> list[Read]:
    """Each text scored with an adapter of its own that begins as no change; learner.adapting makes `adapters`.

    texts: as for score. seed: of the adapters' first factors, the same for every text. learners: those of an earlier
    call with the same rank, to be used again. Raises ConfigError for a learning rate that is none, and DataError.
    """
    learners = [] if learners is None else learners
    for _ in range(min(config.streams, len(texts)) - len(learners)):
        generator = torch.Generator().manual_seed(seed)
        learners.append(Learner(adapters, AdapterConfig(rank=config.rank), config.lr, generator))

    def read(group: list[Tensor]) -> list[Read]:
        *_, reads = steps(adapters, group, learners, config, precision)
        return reads

    return _in_groups(texts, config.streams, read)


def steps(
    adapters: Adapters, texts: Sequence[Tensor], learners: Sequence[Learner], config: StreamConfig, precision: Precision
) -> Iterator[list[Read]]:
    """As adapt, a chunk of every text at a time: after each, what has been read of them. The longest text comes first.

    learners: one for each text at least; they begin anew, and are left as the texts made them.
    """
    for learner in learners:
        learner.reset()
        learner.set_lr(config.lr)
    gates = [None if config.gate is None else Gate(config.gate) for _ in texts]
    rows = [_Row(*parts) for parts in zip(texts, learners, gates, strict=False)]
    plain = Scorer(adapters.model, config.windows, precision)
    learning = _Learning(adapters, config, Scorer(adapters.model, config.windows, precision))
    for chunk in _chunks(rows, config.windows, replay=config.replay):
        if config.gate is not None:
            with torch.no_grad():
                scored_BT = plain(chunk.window, anew=chunk.anew).double().cpu()
            for row, size, nats_T in zip(chunk.rows, chunk.window.sizes, scored_BT, strict=True):
                row.plain += float(nats_T[:size].sum())
            chunk = chunk._replace(plain_BT=scored_BT)
        _learn(chunk, learning)
        yield [row.read() for row in rows]


def _in_groups(texts: Sequence[Tensor], size: int, read: Callable[[list[Tensor]], list[Read]]) -> list[Read]:
    """Texts of like length are read together, the longest first; the answers come in the texts' own order."""
    if any(len(text) < 2 for text in texts):
        raise DataError("A text is empty: there is nothing to score in it; leave it out.")
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    found: dict[int, Read] = {}
    for first in range(0, len(order), size):
        group = order[first : first + size]
        found |= zip(group, read([texts[i] for i in group]), strict=True)
    return [found[i] for i in range(len(texts))]


def _chunks(rows: list[_Row], windows: Windows, *, replay: bool) -> Iterator[_Chunk]:
    """In lockstep, the rows that have one; the first text is the longest."""
    for start in range(1, len(rows[0].text_N), windows.chunk):
        active = [row for row in rows if len(row.text_N) > start]
        made = window([row.text_N for row in active], start, windows, replay=replay)
        yield _Chunk(active, made, None, windows.begins_anew(start))


def _learn(chunk: _Chunk, how: _Learning) -> None:
    """Scores the chunk with the adapters, keeps what the gates had chosen before, and lets the adapters learn."""
    recompute = how.config.windows.past == "recompute"
    if recompute:  # where no state has to be carried on, those that rest cost no second pass
        chunk = _without_resting(chunk)
    if not chunk.rows:
        return
    with how.adapters.rows([row.number() for row in chunk.rows]):
        losses_BT = how.scorer(chunk.window, anew=chunk.anew, every=how.config.replay)
        adapted_BT = losses_BT.detach()[:, chunk.window.first if how.config.replay else 0 :].double().cpu()
        finite = adapted_BT.isfinite().all(dim=1).tolist()
        learning = [i for i, row in enumerate(chunk.rows) if row.number()]
        if learning and all(finite):
            counts_B = (chunk.window.targets_BT != IGNORE).sum(1).to(losses_BT.device)
            (losses_BT.sum(1) / counts_B)[learning].sum().backward()
    if all(finite):
        _keep_chosen(chunk, adapted_BT)
        _step(chunk, adapted_BT, learning)
        return
    good, bad = ([i for i, ok in enumerate(finite) if ok is wanted] for wanted in (True, False))
    _lost(chunk.only(bad), how)
    if recompute:
        _learn(chunk.only(good), how)
    else:  # 0 times what is not finite is not 0: their gradients are of no use, and the other rows miss a step
        how.scorer.forget(bad)
        _keep_chosen(chunk.only(good), adapted_BT[good])


def _without_resting(chunk: _Chunk) -> _Chunk:
    """The rows that learn; the others keep the scores without adapter."""
    resting, learning = ([i for i, row in enumerate(chunk.rows) if row.rests() is wanted] for wanted in (True, False))
    if not resting:
        return chunk
    rest = chunk.only(resting)
    _keep_plain(rest)
    for row in rest.rows:
        assert row.gate is not None
        row.gate.rest()
    return chunk.only(learning)


def _keep_plain(chunk: _Chunk) -> None:
    assert chunk.plain_BT is not None
    for row, size, nats_T in zip(chunk.rows, chunk.window.sizes, chunk.plain_BT, strict=True):
        row.keep(nats_T[:size])


def _keep_chosen(chunk: _Chunk, adapted_BT: Tensor) -> None:
    """Of each row the scores with the adapter where its gate trusts it, else those without."""
    for i, (row, size) in enumerate(zip(chunk.rows, chunk.window.sizes, strict=True)):
        if chunk.plain_BT is None or row.gate is None or row.gate.trusts:
            row.keep(adapted_BT[i, :size], adapted=True)
        else:
            row.keep(chunk.plain_BT[i, :size])


def _step(chunk: _Chunk, adapted_BT: Tensor, learning: list[int]) -> None:
    """The gates see the chunk, and the adapters take their step or are taken back."""
    for i, row in enumerate(chunk.rows):
        gate, learner = row.gate, row.learner
        assert learner is not None
        if i not in learning:
            assert gate is not None
            gate.rest()
        elif (
            gate is not None
            and chunk.plain_BT is not None
            and not gate.learn_from(float(chunk.plain_BT[i].sum()), float(adapted_BT[i].sum()))
        ):
            learner.optimizer.zero_grad()
            learner.reset()
        elif learner.step():
            row.learned += 1
        else:
            row.rollbacks += 1
            if gate is not None:
                gate.give_up()


def _lost(chunk: _Chunk, how: _Learning) -> None:
    """Rows whose adapter makes the loss non-finite: it is taken back, and the chunk is scored without it."""
    if chunk.plain_BT is None:  # by itself where states are carried: those without adapter are not there
        alone = Scorer(how.adapters.model, Windows(), how.scorer.precision)
        with torch.no_grad():
            chunk = chunk._replace(plain_BT=alone(chunk.window, anew=True).double().cpu())
    _keep_plain(chunk)
    for row in chunk.rows:
        assert row.learner is not None
        row.learner.roll_back()
        row.rollbacks += 1
        if row.gate is not None:
            row.gate.give_up()
