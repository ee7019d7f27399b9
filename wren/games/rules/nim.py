"""Nim: take any number of things from one heap; who takes the last one wins, or loses with misere.  (Bouton 1901)

    heaps 3 4 5    a2: two from heap a    ->    1 4 5

Perfect play: leave heaps whose binary digits, added without carry (the nim-sum), give 0.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import xor
from random import Random
from typing import NamedTuple

from wren.errors import ConfigError
from wren.games.board import heading
from wren.games.game import Game
from wren.games.state import OVER, illegal

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class State(NamedTuple):
    """heaps: things left in each. most: the largest heap of the game, which numbers the moves."""

    heaps: tuple[int, ...]
    most: int
    misere: bool = False
    player: int = 0
    mover: int = 0  # who moved last, once it is over

    def legal(self) -> tuple[int, ...]:
        return tuple(h * self.most + n for h, heap in enumerate(self.heaps) for n in range(heap))

    def play(self, move: int) -> "State":
        heap, taken = divmod(move, self.most)
        if not 0 <= heap < len(self.heaps) or taken >= self.heaps[heap]:
            raise illegal(move_name(self.most, move), (move_name(self.most, m) for m in self.legal()))
        heaps = (*self.heaps[:heap], self.heaps[heap] - taken - 1, *self.heaps[heap + 1 :])
        return State(heaps, self.most, self.misere, 1 - self.player if any(heaps) else OVER, self.player)

    def chances(self) -> tuple[tuple[int, float], ...]:
        return ()

    def returns(self) -> tuple[float, float] | None:
        if self.player != OVER:
            return None
        return (1.0, -1.0) if (self.mover == 0) != self.misere else (-1.0, 1.0)

    def observation(self, player: int) -> tuple[int, ...]:
        """The heaps in binary digits, the highest first: a size never seen is made of digits that were."""
        places = range(self.most.bit_length() - 1, -1, -1)
        return tuple(heap >> place & 1 for heap in self.heaps for place in places)

    def text(self, player: int) -> str:
        goal = "loses" if self.misere else "wins"
        heaps = "   ".join(f"{_LETTERS[h]}: {heap}" for h, heap in enumerate(self.heaps))
        head = heading(player, self.player, self.returns(), ("the first player", "the second player"))
        return f"{head}\nWhoever takes the last one {goal}; a2 takes two from heap a.\n{heaps}"


@dataclass(frozen=True, kw_only=True)
class Rules(Game[State]):
    """heaps: what the game begins with, and, where the start is drawn, the largest each can be.

    hold_out: the share of positions that no drawn start is one of, the same however the heaps are ordered; they are
    for tests, others for another hold_out_seed. Play may pass through them: whoever trains leaves out those that
    is_held_out() names.
    """

    heaps: tuple[int, ...] = (3, 4, 5)
    misere: bool = False
    hold_out: float = 0.0
    hold_out_seed: int = 0

    exact = ("solver", "lines")

    def __post_init__(self) -> None:
        if not 1 <= len(self.heaps) <= len(_LETTERS) or not all(1 <= heap <= 1000 for heap in self.heaps):
            raise ConfigError(f"nim.heaps is {self.heaps}; give 1 to {len(_LETTERS)} heaps of 1 to 1,000 things.")
        if not 0 <= self.hold_out <= 0.9:
            raise ConfigError(f"nim.hold_out is {self.hold_out}; it must lie in 0 to 0.9.")

    @property
    def name(self) -> str:
        return "nim"

    @property
    def most(self) -> int:
        """The largest heap."""
        return max(self.heaps)

    @property
    def moves(self) -> tuple[str, ...]:
        return tuple(move_name(self.most, move) for move in range(len(self.heaps) * self.most))

    @property
    def tokens(self) -> tuple[str, ...]:
        return ("0", "1")

    @property
    def observation_len(self) -> int:
        return len(self.heaps) * self.most.bit_length()

    def start(self, rng: Random | None = None) -> State:
        if rng is None:
            return self.position(self.heaps)
        for _ in range(1000):
            state = self.position(tuple(rng.randint(0, heap) for heap in self.heaps))
            if any(state.heaps) and not self.is_held_out(state):
                return state
        raise ConfigError(f"nim.hold_out of {self.hold_out} leaves no start for the heaps {self.heaps}; lower it.")

    def position(self, heaps: tuple[int, ...]) -> State:
        """The position with these heaps, the first player to move; raises ConfigError where they do not fit."""
        if len(heaps) != len(self.heaps) or not all(0 <= heap <= self.most for heap in heaps):
            raise ConfigError(f"Nim heaps {heaps} do not fit: it takes {len(self.heaps)} of 0 to {self.most} things.")
        return State(tuple(heaps), self.most, self.misere, 0 if any(heaps) else OVER, 1)

    def is_held_out(self, state: State) -> bool:
        """Whether the heaps of a position are kept for tests; the empty ones never are."""
        if not self.hold_out or not any(state.heaps):
            return False
        # seeds that are texts are hashed, the same on every machine
        other = f" {self.hold_out_seed}" if self.hold_out_seed else ""
        return Random(f"nim {sorted(state.heaps)}{other}").random() < self.hold_out

    def positions(self, *, held_out: bool | None = None) -> Iterator[State]:
        """Every position with something to take; only those held out, or only the others, where it is said."""
        for heaps in itertools.product(*(range(heap + 1) for heap in self.heaps)):
            state = self.position(heaps)
            if any(heaps) and held_out in (None, self.is_held_out(state)):
                yield state

    def perfect_moves(self, state: State) -> tuple[int, ...]:
        good = tuple(move for move in state.legal() if _is_lost(state.play(move).heaps, state.misere))
        return good or state.legal()


def move_name(most: int, move: int) -> str:
    """ "b3": three from the second heap."""
    heap, taken = divmod(move, most)
    return f"{_LETTERS[heap]}{taken + 1}" if 0 <= heap < len(_LETTERS) else f"number {move}"


def _is_lost(heaps: tuple[int, ...], misere: bool) -> bool:
    """Whether the player to move loses against perfect play."""
    if max(heaps) <= 1:
        return (sum(heaps) % 2 == 0) != misere
    return reduce(xor, heaps) == 0
