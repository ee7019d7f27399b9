"""Leduc poker: two jacks, two queens, two kings; a card each, bets, a card for both, bets again.  (1207.1411)

Each pays 1. The first player begins both rounds; a raise adds 2 in the first round and 4 in the second, at most two
raises a round; fold only where the other has paid more. A pair with the common card wins, then the higher card; equal
cards share. Uniform play has an exploitability of 2.374.

Suits decide nothing, so chance deals ranks, each by how many of it are left.
"""

from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from wren.games.game import Game
from wren.games.state import CHANCE, OVER, illegal, name_of

MOVES = ("fold", "call", "raise")
FOLD, CALL, RAISE = 0, 1, 2
CARDS = ("J", "Q", "K")  # chance's outcomes are their numbers
TOKENS = ("first", "second", *CARDS, *MOVES, "common")
_CARD, _MOVE, _COMMON = 2, 5, 8
_RAISES = 2  # a round
_STEP = (2, 4)  # coins a raise adds, by round


class State(NamedTuple):
    """cards: dealt so far, the common one last. rounds: the moves of each round. paid: coins of each player."""

    cards: tuple[int, ...] = ()
    rounds: tuple[tuple[int, ...], ...] = ((),)
    paid: tuple[int, int] = (1, 1)
    player: int = CHANCE

    def legal(self) -> tuple[int, ...]:
        if self.player == CHANCE:
            return tuple(card for card in range(3) if self.cards.count(card) < 2)
        if self.player == OVER:
            return ()
        fold = (FOLD,) if self.paid[self.player] < self.paid[1 - self.player] else ()
        raised = (RAISE,) if self.rounds[-1].count(RAISE) < _RAISES else ()
        return (*fold, CALL, *raised)

    def play(self, move: int) -> "State":
        if move not in self.legal():
            names = CARDS if self.player == CHANCE else MOVES
            raise illegal(name_of(names, move), (names[m] for m in self.legal()))
        if self.player == CHANCE:
            cards = (*self.cards, move)
            return self._replace(cards=cards, player=CHANCE if len(cards) == 1 else 0)
        moves = (*self.rounds[-1], move)
        rounds = (*self.rounds[:-1], moves)
        if move == FOLD:
            return self._replace(rounds=rounds, player=OVER)
        paid = self._pay(max(self.paid) + (_STEP[len(rounds) - 1] if move == RAISE else 0))
        if move == RAISE or len(moves) == 1:
            return State(self.cards, rounds, paid, 1 - self.player)
        if len(rounds) == 2:
            return State(self.cards, rounds, paid, OVER)
        return State(self.cards, (*rounds, ()), paid, CHANCE)

    def _pay(self, coins: int) -> tuple[int, int]:
        return (coins, self.paid[1]) if self.player == 0 else (self.paid[0], coins)

    def chances(self) -> tuple[tuple[int, float], ...]:
        outcomes = self.legal() if self.player == CHANCE else ()
        return tuple((card, (2 - self.cards.count(card)) / (6 - len(self.cards))) for card in outcomes)

    def returns(self) -> tuple[float, float] | None:
        if self.player != OVER:
            return None
        if self.rounds[-1][-1] == FOLD:  # only who has paid less folds
            first, lost = self.paid[0] > self.paid[1], float(min(self.paid))
            return (lost, -lost) if first else (-lost, lost)
        mine, theirs, common = self.cards
        if mine == theirs:
            return 0.0, 0.0
        pot = float(self.paid[0])
        first = mine == common or (theirs != common and mine > theirs)
        return (pot, -pot) if first else (-pot, pot)

    def observation(self, player: int) -> tuple[int, ...]:
        seen = [player]
        if player < len(self.cards):
            seen.append(_CARD + self.cards[player])
        seen += [_MOVE + move for move in self.rounds[0]]
        if len(self.cards) == 3:
            seen += [_COMMON, _CARD + self.cards[2], *[_MOVE + move for move in self.rounds[1]]]
        return tuple(seen)

    def text(self, player: int) -> str:
        seat = ("first", "second")[player]
        card = CARDS[self.cards[player]] if player < len(self.cards) else "none yet"
        lines = [f"You are the {seat} player. Your card: {card}. You have paid {self.paid[player]}, the other player "]
        lines[0] += f"{self.paid[1 - player]}."
        lines.append("First round: " + (", ".join(MOVES[move] for move in self.rounds[0]) or "nothing yet") + ".")
        if len(self.cards) == 3:
            moves = ", ".join(MOVES[move] for move in self.rounds[1]) or "nothing yet"
            lines.append(f"Common card: {CARDS[self.cards[2]]}. Second round: {moves}.")
        returns = self.returns()
        if returns is not None:
            folded = self.rounds[-1][-1] == FOLD
            won = returns[player]
            how = f"You win {won:g}." if won > 0 else f"You lose {-won:g}." if won < 0 else "The pot is shared."
            other = "not shown" if folded else CARDS[self.cards[1 - player]]
            lines.append(f"The other card: {other}. {how}")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Rules(Game[State]):
    """No settings."""

    hidden = True
    worst = -13.0  # 1, two raises of 2, two of 4
    exact = ("exploitability",)

    @property
    def name(self) -> str:
        return "leduc"

    @property
    def moves(self) -> tuple[str, ...]:
        return MOVES

    @property
    def tokens(self) -> tuple[str, ...]:
        return TOKENS

    @property
    def observation_len(self) -> int:
        return 12

    def start(self, rng: Random | None = None) -> State:
        return State()
