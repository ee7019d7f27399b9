"""What a model says of positions, a batch of them in one pass, and the players that it makes.

B batch, T time, D model width, V vocabulary, M moves of the game.
"""

from collections.abc import Sequence
from random import Random

import numpy as np
import torch
from torch import Tensor

from wren.games.players import ManyPlayer
from wren.games.state import State
from wren.model import LM
from wren.rl.game_search import Evaluation, SearchConfig, search, softmax
from wren.rl.game_tokens import GameTokens

_ROWS = 1024  # of one pass
_KEPT = 400_000  # positions whose evaluation is remembered


def answers(model: LM, tokens_BT: Tensor) -> Tensor:
    """logits_B2V in the last two places: of the worth and of the move."""
    return model.logits(model.hidden(tokens_BT)[:, -2:])


class Net:
    """A model as a judge of positions; it remembers what it said until forget(), for a model that is learning."""

    def __init__(self, model: LM, tokens: GameTokens):
        self.model, self.tokens = model, tokens
        self._known: dict[State, Evaluation] = {}

    def forget(self) -> None:
        self._known.clear()

    def evaluate(self, states: Sequence[State]) -> list[Evaluation]:
        """Log-probabilities of each position's legal moves, and its worth to the player to move."""
        missing = [state for state in dict.fromkeys(states) if state not in self._known]
        if len(self._known) + len(missing) > _KEPT:
            self._known.clear()
            missing = list(dict.fromkeys(states))
        for first in range(0, len(missing), _ROWS):
            some = missing[first : first + _ROWS]
            logprobs_BM, worths_B = self._asked(self.tokens.rows(some))
            for state, row, worth in zip(some, logprobs_BM.tolist(), worths_B.tolist(), strict=True):
                self._known[state] = [row[move] for move in state.legal()], worth
        return [self._known[state] for state in states]

    @torch.inference_mode()
    def _asked(self, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
        training = self.model.training
        if training:  # to change it walks through all modules, as long as a small pass takes
            self.model.eval()
        logits_B2V = answers(self.model, tokens_BT.to(next(self.model.parameters()).device)).float().cpu()
        if training:
            self.model.train()
        worths_B3 = logits_B2V[:, 0, self.tokens.worths].softmax(-1)
        return logits_B2V[:, 1, self.tokens.moves].log_softmax(-1), worths_B3[:, 2] - worths_B3[:, 0]

    def logprobs(self, states: Sequence[State]) -> np.ndarray:
        """(B, M), of all moves, legal or not."""
        parts = [self._asked(self.tokens.rows(states[i : i + _ROWS]))[0] for i in range(0, len(states), _ROWS)]
        return torch.cat(parts).numpy()


class PolicyPlayer(ManyPlayer):
    """Plays what the model finds likeliest of the legal moves, or draws at a temperature."""

    def __init__(self, net: Net, temperature: float = 0.0):
        self.net, self.temperature = net, temperature

    def choose_many(self, states: Sequence[State], rngs: Sequence[Random]) -> list[int]:
        chosen = []
        for state, (logits, _), rng in zip(states, self.net.evaluate(states), rngs, strict=True):
            moves = state.legal()
            if self.temperature:
                weights = softmax([logit / self.temperature for logit in logits])
                chosen.append(rng.choices(moves, weights)[0])
            else:
                chosen.append(moves[max(range(len(moves)), key=logits.__getitem__)])
        return chosen


class SearchPlayer(ManyPlayer):
    """Searches so many simulations before each move; the same position gets the same move."""

    def __init__(self, net: Net, config: SearchConfig):
        self.net, self.config = net, config

    def choose_many(self, states: Sequence[State], rngs: Sequence[Random]) -> list[int]:
        return [found.move for found in search(states, self.net.evaluate, self.config, None)]
