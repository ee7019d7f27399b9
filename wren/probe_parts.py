"""What several probes share: draws without replacement, rows of a question and its answer, and two benchmarks' parts.

B batch (examples), T time, N items of a row.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypedDict, Unpack

import numpy as np
import torch

from wren.batch import IGNORE, Batch
from wren.errors import ConfigError
from wren.probe import ProbeConfig, Setting


def demand(condition: bool, sentence: str) -> None:
    """Raises ConfigError with that sentence unless the condition holds."""
    if not condition:
        raise ConfigError(sentence)


def examples(tokens_BT: np.ndarray, targets_BT: np.ndarray) -> Batch:
    """A Batch of int64 tensors; the two may be views."""
    tokens, targets = (np.ascontiguousarray(x, dtype=np.int64) for x in (tokens_BT, targets_BT))
    return Batch(tokens_BT=torch.from_numpy(tokens), targets_BT=torch.from_numpy(targets))


def distinct(rng: np.random.Generator, rows: int, choices: int, size: int) -> np.ndarray:
    """(rows, size) numbers below `choices`, in random order, no two alike in a row."""
    if choices < 2 * size:  # few are left out: shuffling is cheaper than drawing until new ones turn up
        return rng.random((rows, choices)).argsort(axis=1)[:, :size]
    drawn_BN = rng.integers(choices, size=(rows, size))
    for i in range(1, size):
        again = np.flatnonzero((drawn_BN[:, :i] == drawn_BN[:, i, None]).any(axis=1))
        while len(again):
            drawn_BN[again, i] = rng.integers(choices, size=len(again))
            again = again[(drawn_BN[again, :i] == drawn_BN[again, i, None]).any(axis=1)]
    return drawn_BN


def weighted_distinct(rng: np.random.Generator, rows: int, weights: np.ndarray, size: int) -> np.ndarray:
    """(rows, size) places, drawn one after another without replacement with these chances.

    Exponential clocks: that of weight w rings after an Exp(1) / w time, and the first ones to ring are the draw.
    """
    clock_BN = rng.exponential(size=(rows, len(weights))) / weights
    return clock_BN.argsort(axis=1)[:, :size]


def pick(rng: np.random.Generator, allowed_BN: np.ndarray) -> np.ndarray:
    """One place of each row that is allowed there, each with the same chance."""
    return (rng.random(allowed_BN.shape) * allowed_BN).argmax(axis=1)


def mark_places(count: int, length: int) -> np.ndarray:
    """Targets of which none is set yet."""
    return np.full((count, length), IGNORE, dtype=np.int64)


def transcription(
    source_BN: np.ndarray, answer_BN: np.ndarray, sizes_B: np.ndarray, *, begin: int, mark: int, end: int, pad: int
) -> Batch:
    """Rows `begin source mark answer`, of which the answer and the end after it are to be told, filled up with pads.

    source_BN, answer_BN: their first sizes_B[b] items count. T = 2 N + 2.
    """
    count, items = source_BN.shape
    length = 2 * items + 2
    tokens_BT = np.full((count, length + 1), pad)  # the last column takes what lies past a row's end
    targets_BT = mark_places(count, length + 1)
    sizes_B1, place_N = sizes_B[:, None], np.arange(items)
    here_BN = place_N < sizes_B1
    tokens_BT[:, 0] = begin
    np.put_along_axis(tokens_BT, np.where(here_BN, 1 + place_N, length), source_BN, axis=1)
    np.put_along_axis(tokens_BT, 1 + sizes_B1, mark, axis=1)
    np.put_along_axis(tokens_BT, np.where(here_BN, sizes_B1 + 2 + place_N, length), answer_BN, axis=1)
    np.put_along_axis(targets_BT, np.where(here_BN, sizes_B1 + 1 + place_N, length), answer_BN, axis=1)
    np.put_along_axis(targets_BT, 2 * sizes_B1 + 1, end, axis=1)
    return examples(tokens_BT[:, :-1], targets_BT[:, :-1])


@dataclass(frozen=True, kw_only=True)
class TranscriptionConfig(ABC):
    """The Config of a probe whose rows are those of `transcription`: `size` letters, then what is to be made of them.

    name: of the probe, for its sentences. size: letters in the longest row; training draws sizes from smallest (None =
    all of that size), tests do not. letters: different ones; behind them come the tokens for the beginning, the mark,
    the end and the filling.
    """

    name: ClassVar[str]
    size: int
    smallest: int | None = None
    letters: int = 26

    def __post_init__(self) -> None:
        smallest = self.size if self.smallest is None else self.smallest
        demand(
            1 <= smallest <= self.size,
            f"{self.name}.smallest is {smallest}; it must lie between 1 and size, {self.size}.",
        )
        demand(self.letters >= 2, f"{self.name}.letters is {self.letters}; it must be at least 2.")

    @property
    def vocab_size(self) -> int:
        return self.letters + 4

    @property
    def length(self) -> int:
        return 2 * self.size + 2

    @abstractmethod
    def answer(self, source_BN: np.ndarray, sizes_B: np.ndarray) -> np.ndarray:
        """(B, N): what is to be told of the first sizes_B[b] letters of each row; what stands behind counts nothing."""

    def batch(self, count: int, rng: np.random.Generator, *, train: bool) -> Batch:
        smallest = self.smallest if train and self.smallest is not None else self.size
        sizes_B = rng.integers(smallest, self.size + 1, size=count)
        source_BN = rng.integers(self.letters, size=(count, self.size))
        answer_BN, begin = self.answer(source_BN, sizes_B), self.letters
        return transcription(source_BN, answer_BN, sizes_B, begin=begin, mark=begin + 1, end=begin + 2, pad=begin + 3)


def mad_recall(
    count: int, rng: np.random.Generator, *, pairs: int, vocab_size: int, noise_vocab: int, noise: float, train: bool
) -> Batch:
    """Pairs `key value`, the values fixed by a map drawn anew for each row, some places given to two noise tokens.

    Keys are the first half of the tokens that are no noise, values the second, noise the last. The final pair is one
    of those shown before. A test scores the values of keys that were shown before; training takes every next token.
    """
    plain = vocab_size - noise_vocab
    key_count = plain // 2
    map_BK = rng.integers(key_count, plain, size=(count, key_count))
    keys_BN = rng.integers(key_count, size=(count, pairs))
    is_noise_BN = rng.random((count, pairs)) < noise
    is_noise_BN[np.arange(count), rng.integers(pairs, size=count)] = False  # this one is a pair in any case
    is_noise_BN[:, -1] = False
    is_noise_BN[is_noise_BN[:, :-1].all(axis=1), 0] = False

    last_BK = np.full((count, key_count), -1)  # where a key was last shown
    repeat_BN = np.zeros((count, pairs), dtype=bool)
    rows = np.arange(count)
    for i in range(pairs):
        if i == pairs - 1:
            keys_BN[:, i] = pick(rng, last_BK >= 0)
        shown_B = ~is_noise_BN[:, i]
        repeat_BN[:, i] = shown_B & (last_BK[rows, keys_BN[:, i]] >= 0)
        last_BK[rows[shown_B], keys_BN[shown_B, i]] = i

    rows_BT = np.empty((count, 2 * pairs), dtype=np.int64)
    rows_BT[:, 0::2] = keys_BN
    rows_BT[:, 1::2] = np.take_along_axis(map_BK, keys_BN, axis=1)
    if noise_vocab:
        other_BT = rng.integers(plain, vocab_size, size=rows_BT.shape)
        rows_BT = np.where(is_noise_BN.repeat(2, axis=1), other_BT, rows_BT)
    targets_BT = rows_BT[:, 1:].copy()
    if not train:
        targets_BT[:, 1::2] = IGNORE
        targets_BT[:, 0::2][~repeat_BN] = IGNORE
    return examples(rows_BT[:, :-1], targets_BT)


def mad_setting(
    train: ProbeConfig, tests: Mapping[str, ProbeConfig], *, chance: float, says: str, train_examples: int = 12_800
) -> Setting:
    """How MAD trains every task (2403.17844; athms/mad-lab 0f49a45): 200 epochs, three rates x two weight decays."""
    epoch = -(-train_examples // 128)
    return Setting(
        train=train,
        tests=dict(tests),
        score="macro",
        dim=128,
        num_heads=16,
        mlp="swiglu",
        mlp_hidden=512,
        tie_embeddings=False,
        train_examples=train_examples,
        test_examples=1280,
        steps=200 * epoch,
        batch_size=128,
        lrs=(1e-4, 5e-4, 1e-3),
        weight_decays=(0.0, 0.1),
        betas=(0.9, 0.98),
        warmup=0.0,
        final=0.002,  # the cosine ends at 1e-6, of the middle one of the rates
        eval_every=10 * epoch,
        stop_at=1.0,
        chance=chance,
        says=f"MAD (2403.17844, athms/mad-lab 0f49a45): {says} The best of the runs counts, as there.",
    )


class Choices(TypedDict, total=False):
    """What a probe chooses in both sizes below, by the names that Setting has for it."""

    score: Literal["token", "macro", "exact"]
    depth: int
    num_heads: int
    batch_size: int
    lrs: tuple[float, ...]
    learned_positions: bool


def small_setting(
    train: ProbeConfig,
    tests: Mapping[str, ProbeConfig],
    *,
    chance: float,
    says: str,
    steps: int = 800,
    mlp: Literal["none", "swiglu"] = "swiglu",
    **choices: Unpack[Choices],
) -> Setting:
    """A size for two CPU cores: about a minute or two a training, fresh examples for every batch."""
    chosen: Choices = {"num_heads": 2, "batch_size": 32, "lrs": (1e-3, 3e-3, 1e-2), **choices}
    return Setting(
        train=train,
        tests=dict(tests),
        dim=64,
        mlp=mlp,
        mlp_hidden=None if mlp == "none" else 2 * 64,
        test_examples=256,
        steps=steps,
        eval_every=max(25, steps // 16),
        says=f"Cut to two CPU cores. {says}",
        chance=chance,
        **chosen,
    )


def large_setting(
    train: ProbeConfig,
    tests: Mapping[str, ProbeConfig],
    *,
    chance: float,
    says: str,
    dim: int = 256,
    mlp: Literal["none", "swiglu"] = "swiglu",
    **choices: Unpack[Choices],
) -> Setting:
    """A size for one GPU, where no paper's row is to be met: four learning rates, fresh examples for every batch."""
    chosen: Choices = {"num_heads": 2, "batch_size": 64, "lrs": (1e-4, 3e-4, 1e-3, 3e-3), **choices}
    return Setting(
        train=train,
        tests=dict(tests),
        dim=dim,
        mlp=mlp,
        mlp_hidden=None if mlp == "none" else 4 * dim,
        steps=20_000,
        eval_every=500,
        stop_at=0.999,
        says=says,
        chance=chance,
        **chosen,
    )
