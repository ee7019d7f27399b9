"""A game in a model's vocabulary, which is that of bytes: one byte for each word, move and outcome.

    <document> <observation, filled up with blanks on its left> ? -> loss, draw or win   ! -> a move

Read as text, an observation and "?!" ask a run for its move, so that the run samples, serves and exports like any
other. Both answers stand in the last two places of a row, so one pass over a row of a game's fixed length gives both.

B batch, T time.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from wren.errors import ConfigError
from wren.games.game import Game
from wren.games.state import State
from wren.rl.game_words import Words
from wren.tokenizer import Tokenizer
from wren.tokenizer.special import MIN_CHAT_VOCAB_SIZE, NUM_BYTES

OUTCOMES = ("loss", "draw", "win")
_BLANK, _WORTH, _MOVE = ord(" "), ord("?"), ord("!")


class GameTokens:
    """The ids of one game. seen: of words.known; worths: of OUTCOMES; moves: of Game.moves; row_len: T.

    Raises ConfigError for a game with more names than there are bytes, or not of two players.
    """

    def __init__(self, game: Game):
        if game.num_players != 2:
            raise ConfigError(f"Self-play learns games of two; {game.name} has {game.num_players} players.")
        free = [c for c in (*range(48, 127), *range(33, 48), *range(128, NUM_BYTES)) if c not in (_WORTH, _MOVE)]
        self.words = Words(game)
        known = len(self.words.known)
        count = known + len(game.moves) + len(OUTCOMES)
        if count > len(free):
            raise ConfigError(f"The game {game.name} has {count:,} names; self-play has room for {len(free)}.")
        outcomes = [ord(c) for c in "-=+"]
        free = [c for c in free if c not in outcomes]
        self.game = game
        self.worths = torch.tensor(outcomes)
        moves = len(game.moves)
        if known > len(game.tokens):  # the last bytes are no text by themselves; the moves are, in every game
            free = [*free[moves : moves + known], *free[:moves]]
        self.seen = np.array(free[:known])
        self.moves = torch.tensor(free[known : known + moves])
        self.row_len = len(self.words.spans) + 3

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Bytes alone."""
        return Tokenizer([bytes([i]) for i in range(NUM_BYTES)], MIN_CHAT_VOCAB_SIZE)

    @property
    def vocab_size(self) -> int:
        return MIN_CHAT_VOCAB_SIZE

    def rows(self, states: Sequence[State]) -> Tensor:
        """tokens_BT of what the player to move sees."""
        return self.rows_of([state.observation(state.player) for state in states])

    def rows_of(self, observations: Sequence[Sequence[int]]) -> Tensor:
        """tokens_BT of observations."""
        rows_BT = np.full((len(observations), self.row_len), _BLANK, dtype=np.int64)
        rows_BT[:, 0] = self.tokenizer.document_id
        rows_BT[:, -2], rows_BT[:, -1] = _WORTH, _MOVE
        longest = self.game.observation_len
        if observations and all(len(seen) == longest for seen in observations):
            rows_BT[:, 1:-2] = self.seen[self.words.numbers(observations)]
        else:
            for row_T, seen in zip(rows_BT, observations, strict=True):
                row_T[1 + longest - len(seen) : -2] = self.seen[list(seen)]
        return torch.from_numpy(rows_BT)
