"""A generation of expert iteration: games in which a tree search chooses, and what it preferred is to be learned.

1712.01815, with the search of game_search.py. Games begin after a few random plies; in some, a frozen past self sits in
one seat and plays without search, and only the learner's positions are kept.
"""

import math
from dataclasses import dataclass, field
from random import Random

import numpy as np

from wren.games.game import Game, random_opening
from wren.games.players import ask
from wren.games.state import OVER, Observation, State, result
from wren.rl.game_net import Net, PolicyPlayer
from wren.rl.game_rounds import Numbers, Positions, positions, three
from wren.rl.game_search import SearchConfig, search
from wren.rl.game_settings import SelfPlayConfig


@dataclass
class _Table:
    """A game under way. rival: the seat of the past self, None = there is none."""

    state: State
    rng: Random
    rival: int | None
    seen: list["_Seen"] = field(default_factory=list)


@dataclass
class _Seen:
    """A position the learner had: what the search found, and once the game is over its worth."""

    observation: Observation
    player: int
    legal: tuple[int, ...]
    policy: list[float]
    worth: float
    target: tuple[float, ...] = ()


def play_search(
    game: Game, net: Net, rival: Net | None, config: SelfPlayConfig, how: SearchConfig, seed: str
) -> tuple[Positions, Numbers]:
    """Plays config.games games. seed: names the generation, from which all that is drawn follows."""
    waiting = [_table(game, config, Random(f"{seed}, game {i}"), rival) for i in range(config.games)]
    going, kept, ends, illegal, asked = [], [], [], 0.0, 0
    other = None if rival is None else PolicyPlayer(rival, 1.0)
    while waiting or going:
        while waiting and len(going) < config.at_once:
            going.append(waiting.pop())
        own = [table for table in going if table.state.player != table.rival]
        theirs = [table for table in going if table.state.player == table.rival]
        found = search([table.state for table in own], net.evaluate, how, [table.rng for table in own]) if own else []
        for table, each in zip(own, found, strict=True):
            state, asked = table.state, asked + 1
            illegal += 1 - sum(math.exp(logprob) for logprob in net.evaluate([state])[0][0])
            if not game.is_held_out(state):
                seen = state.observation(state.player)
                table.seen.append(_Seen(seen, state.player, state.legal(), each.policy, each.worth))
            table.state = state.play(each.move)
        if theirs and other is not None:
            moves = ask(other, [table.state for table in theirs], [table.rng for table in theirs])
            for table, move in zip(theirs, moves, strict=True):
                table.state = table.state.play(move)
        for table in (table for table in going if table.state.player == OVER):
            returns = result(table.state)
            ends.append(returns[0])
            for each in table.seen:
                won, mix = three(returns[each.player]), config.bootstrap
                each.target = tuple((1 - mix) * a + mix * b for a, b in zip(won, three(each.worth), strict=True))
            kept += table.seen
        going = [table for table in going if table.state.player != OVER]
    numbers = {
        "games": len(ends),
        "positions": len(kept),
        "first_wins": sum(end > 0 for end in ends) / len(ends),
        "draws": sum(end == 0 for end in ends) / len(ends),
        "illegal": illegal / max(asked, 1),
    }
    return _positions(net, kept), numbers


def _table(game: Game, config: SelfPlayConfig, rng: Random, rival: Net | None) -> _Table:
    seat = rng.randrange(2) if rival is not None and rng.random() < config.league else None
    plies = rng.randint(0, config.opening)
    return _Table(random_opening(game, plies, rng) if plies else game.start(rng), rng, seat)


def _positions(net: Net, kept: list[_Seen]) -> Positions:
    probs_NM = np.zeros((len(kept), len(net.tokens.moves)))
    for row_M, each in zip(probs_NM, kept, strict=True):
        row_M[list(each.legal)] = each.policy
    tokens_NT = net.tokens.rows_of([each.observation for each in kept]).numpy()
    worths_N3 = np.array([each.target for each in kept]).reshape(-1, 3)
    return positions(tokens_NT, probs_NM, worths_N3, np.ones((len(kept), 2)))
