"""Kuhn poker: three cards, one each, a coin in the pot from both; pass or bet one more coin.  (Kuhn 1950)

    pass pass        the higher card wins 1        bet pass           the first wins 1
    pass bet pass    the second wins 1             bet bet            the higher card wins 2
                                                   pass bet bet       the higher card wins 2

The first player loses 1/18 of a coin per game when both play perfectly; uniform play has an exploitability of 0.458.
"""

from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from wren.games.game import Game
from wren.games.state import CHANCE, OVER, illegal, name_of

MOVES = ("pass", "bet")
PASS, BET = 0, 1
CARDS = ("J", "Q", "K")  # chance's outcomes are their numbers
TOKENS = ("first", "second", *CARDS, *MOVES)
_ENDS = {(PASS, PASS), (PASS, BET, PASS), (PASS, BET, BET), (BET, PASS), (BET, BET)}


class State(NamedTuple):
    """cards: those dealt so far, the first player's first. bets: the moves so far."""

    cards: tuple[int, ...] = ()
    bets: tuple[int, ...] = ()
    player: int = CHANCE

    def legal(self) -> tuple[int, ...]:
        if self.player == CHANCE:
            return tuple(card for card in range(3) if card not in self.cards)
        return () if self.player == OVER else (PASS, BET)

    def play(self, move: int) -> "State":
        if move not in self.legal():
            names = CARDS if self.player == CHANCE else MOVES
            raise illegal(name_of(names, move), (names[m] for m in self.legal()))
        if self.player == CHANCE:
            cards = (*self.cards, move)
            return State(cards, (), CHANCE if len(cards) < 2 else 0)
        bets = (*self.bets, move)
        return State(self.cards, bets, OVER if bets in _ENDS else 1 - self.player)

    def chances(self) -> tuple[tuple[int, float], ...]:
        outcomes = self.legal() if self.player == CHANCE else ()
        return tuple((card, 1 / len(outcomes)) for card in outcomes)

    def returns(self) -> tuple[float, float] | None:
        if self.player != OVER:
            return None
        won = 2.0 if self.bets[-2:] == (BET, BET) else 1.0
        if self.bets[-2:] == (BET, PASS):  # who bet takes the pot
            first_wins = len(self.bets) == 2
        else:
            first_wins = self.cards[0] > self.cards[1]
        return (won, -won) if first_wins else (-won, won)

    def observation(self, player: int) -> tuple[int, ...]:
        card = [2 + self.cards[player]] if player < len(self.cards) else []
        return player, *card, *[5 + bet for bet in self.bets]

    def text(self, player: int) -> str:
        card = CARDS[self.cards[player]] if player < len(self.cards) else "none yet"
        seat = ("first", "second")[player]
        so_far = ", ".join(MOVES[bet] for bet in self.bets) or "nothing"
        lines = [f"You are the {seat} player. Your card: {card}. So far: {so_far}."]
        if self.player == OVER:
            other = CARDS[self.cards[1 - player]] if self.bets[-2:] != (BET, PASS) else "not shown"
            won = (self.returns() or (0.0, 0.0))[player]
            lines.append(f"The other card: {other}. You {'win' if won > 0 else 'lose'} {abs(won):g}.")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Rules(Game[State]):
    """No settings."""

    hidden = True
    worst = -2.0
    exact = ("exploitability",)

    @property
    def name(self) -> str:
        return "kuhn"

    @property
    def moves(self) -> tuple[str, ...]:
        return MOVES

    @property
    def tokens(self) -> tuple[str, ...]:
        return TOKENS

    @property
    def observation_len(self) -> int:
        return 5

    def start(self, rng: Random | None = None) -> State:
        return State()
