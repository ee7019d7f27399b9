"""Which tokens of an observation are one word of a model's row: alone, or where a row would be long, several together.

A row of Connect-4 is 46 places of cells, or 11 of columns: stones lie on each other, so a column can stand in 127 ways
and each is a word. Searches that wait for the model are quicker by as much as rows are shorter.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np

from wren.games.game import Game
from wren.games.rules import connect4

Word = tuple[int, ...]


class Words:
    """spans: the places of the observation that each word is made of. known: all words, whose numbers are their index.

    len(spans) is how many words the longest observation has.
    """

    def __init__(self, game: Game):
        self.spans: list[tuple[int, ...]] = [(place,) for place in range(game.observation_len)]
        self.known: list[Word] = [(token,) for token in range(len(game.tokens))]
        if isinstance(game, connect4.Rules):
            first, second, empty, mine, theirs = range(5)
            self.spans = [(0,), *(tuple(1 + 7 * row + column for row in range(6)) for column in range(7))]
            stacks = [stones for height in range(7) for stones in product((mine, theirs), repeat=height)]
            self.known = [(first,), (second,), *((empty,) * (6 - len(stones)) + stones for stones in stacks)]
        self._base = len(game.tokens) + 1
        longest = max(map(len, self.spans))
        self._powers = self._base ** np.arange(longest)
        self._numbers = np.full(self._base**longest, -1)
        for number, word in enumerate(self.known):
            self._numbers[(self._powers[: len(word)] * (np.array(word) + 1)).sum()] = number
        padded = [[*span, *[game.observation_len] * (longest - len(span))] for span in self.spans]
        self._places = np.array(padded)

    def numbers(self, observations: Sequence[Sequence[int]] | np.ndarray) -> np.ndarray:
        """(B, words) of whole observations."""
        seen = np.array(observations, dtype=np.int64) + 1
        padded = np.concatenate((seen, np.zeros((len(seen), 1), dtype=np.int64)), axis=1)
        return self._numbers[(padded[:, self._places] * self._powers).sum(-1)]

    def turned(self, observation: np.ndarray) -> np.ndarray:
        """A reordering of an observation's places as one of its words; raises ValueError where it tears words apart."""
        return np.array([self.spans.index(tuple(int(observation[place]) for place in span)) for span in self.spans])
