"""In-context language of a random automaton: words of it are shown; how does this one go on?  (2401.12973)

    tokens         c a b b |  c a a |  c a b
    targets, test  . . . . .  . b . .  . b b        where the automaton can go on in one way alone, and was there before
    targets, train a b b |  c a a |  c a b b        every next token

A row has an automaton of its own, of 4 to 12 states and as many letters; a state has 1 to 3 ways out, each with a
letter of its own, to random states. Words begin in state 0, are of 1 to `word` letters and take each way out alike. In
the paper an answer is right that the automaton allows; a batch has one target a place, so tests take the places that
allow only one.
Who knows the automaton gets them all; the beginnings of the words shown before tell half of them (`cpu`) or a third.
"""

from dataclasses import dataclass

import numpy as np

from wren.batch import IGNORE, Batch
from wren.probe import Setting
from wren.probe_parts import demand, examples, large_setting, pick, small_setting


@dataclass(frozen=True, kw_only=True)
class Config:
    """letters: of all automata together; the token behind them ends a word. word: the most letters of one."""

    length: int
    letters: int = 18
    fewest_states: int = 4
    most_states: int = 12
    most_ways: int = 3
    word: int = 50

    def __post_init__(self) -> None:
        demand(self.length >= 2, f"dfa.length is {self.length}; it must be at least 2.")
        demand(self.word >= 1, f"dfa.word is {self.word}; it must be at least 1.")
        demand(
            1 <= self.fewest_states <= self.most_states <= self.letters,
            f"dfa needs 1 <= fewest_states <= most_states <= letters, not {self.fewest_states}, {self.most_states}, "
            f"{self.letters}.",
        )
        demand(
            1 <= self.most_ways <= self.fewest_states,
            f"dfa.most_ways is {self.most_ways}; it must lie between 1 and fewest_states, {self.fewest_states}.",
        )

    @property
    def vocab_size(self) -> int:
        return self.letters + 1

    def batch(self, count: int, rng: np.random.Generator, *, train: bool) -> Batch:
        next_BSL = self._automata(count, rng)
        ways_BS = (next_BSL >= 0).sum(axis=2)
        row_B = np.arange(count)
        state_B, left_B = np.zeros(count, dtype=np.int64), rng.integers(1, self.word + 1, size=count)
        left_before_BS = np.zeros(ways_BS.shape, dtype=bool)  # states whose ways out were seen in use
        rows_BT = np.empty((count, self.length + 1), dtype=np.int64)
        scored_BT = np.zeros((count, self.length + 1), dtype=bool)
        for t in range(self.length + 1):
            goes_B = left_B > 0
            letter_B = pick(rng, next_BSL[row_B, state_B] >= 0)
            rows_BT[:, t] = np.where(goes_B, letter_B, self.letters)
            scored_BT[:, t] = goes_B & (ways_BS[row_B, state_B] == 1) & left_before_BS[row_B, state_B]
            left_before_BS[row_B, state_B] |= goes_B
            state_B = np.where(goes_B, next_BSL[row_B, state_B, letter_B], 0)
            left_B = np.where(goes_B, left_B - 1, rng.integers(1, self.word + 1, size=count))
        targets_BT = rows_BT[:, 1:]
        return examples(rows_BT[:, :-1], targets_BT if train else np.where(scored_BT[:, 1:], targets_BT, IGNORE))

    def _automata(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count, states, letters): the state that a letter leads to, -1 where there is no way."""
        states, letters = self.most_states, self.letters
        states_B11 = rng.integers(self.fewest_states, states + 1, size=count)[:, None, None]
        rank_B1L = rng.random((count, 1, letters)).argsort(axis=2).argsort(axis=2)
        luck_BSL = np.where(rank_B1L < states_B11, rng.random((count, states, letters)), 2.0)  # 2: not its letter
        ways_BS1 = rng.integers(1, self.most_ways + 1, size=(count, states, 1))
        is_way_BSL = luck_BSL.argsort(axis=2).argsort(axis=2) < ways_BS1
        target_BSL = rng.integers(np.broadcast_to(states_B11, is_way_BSL.shape))
        return np.where(is_way_BSL, target_BSL, -1)


def _tests(word: int, *lengths: int) -> dict[str, Config]:
    return {f"{n} tokens": Config(length=n, word=word) for n in lengths}


SIZES: dict[str, Setting] = {
    "cpu": small_setting(
        Config(length=128, word=16),
        _tests(16, 128, 256, 512),
        num_heads=4,
        batch_size=16,
        lrs=(1e-3, 3e-3),
        chance=1 / 18,
        says="Words of 1 to 16 letters in 128 tokens; the curve is 2x and 4x.",
    ),
    "paper": large_setting(
        Config(length=512),
        _tests(50, 512, 1024, 2048, 4096, 8192),
        dim=128,
        num_heads=4,
        batch_size=32,
        chance=1 / 18,
        says="After 2401.12973 (RegBench): 18 letters, 4 to 12 states, words of 1 to 50 letters, 2 layers of width "
        "128; scored where one letter alone is allowed and the state was left before; tested up to 16x.",
    ),
}
