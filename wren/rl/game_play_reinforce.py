"""A generation of plain policy gradient: games drawn from the model in both seats, each move weighed by the return.

The naive form, which the others are shown beside: without openings, entropy and pool it draws nearly every game with
itself and still loses lines.
"""

from dataclasses import dataclass, field
from random import Random

import numpy as np

from wren.games.game import Game, dealt, random_opening
from wren.games.state import OVER, State, result
from wren.rl.game_net import Net
from wren.rl.game_rounds import Numbers, Positions, positions, three
from wren.rl.game_settings import SelfPlayConfig


@dataclass
class _Table:
    state: State
    rng: Random
    rival: int | None
    returns: tuple[float, ...] = ()
    seen: list[tuple[State, int, float]] = field(default_factory=list)


def play_reinforce(
    game: Game, net: Net, rival: Net | None, config: SelfPlayConfig, baselines: list[float], seed: str
) -> tuple[Positions, Numbers]:
    """Plays config.games games. baselines: each seat's mean return so far, which is brought up to date."""
    tables = [_table(game, config, Random(f"{seed}, game {i}"), rival) for i in range(config.games)]
    illegal = 0
    for first in range(0, len(tables), config.at_once):
        going = tables[first : first + config.at_once]
        while going:
            for who, some in ((net, False), (rival, True)):
                group = [table for table in going if (table.state.player == table.rival) == some]
                illegal += _move(game, who, group, config, learns=not some) if who is not None and group else 0
            going = [table for table in going if not table.returns]
    compared = list(baselines) if config.baseline == "role" else [0.0, 0.0]
    for seat in (0, 1):
        mean = sum(table.returns[seat] for table in tables) / len(tables)
        baselines[seat] += 0.1 * (mean - baselines[seat])
    ends = [table.returns[0] for table in tables]
    made = sum(len(table.seen) for table in tables)
    numbers = {
        "games": len(tables),
        "positions": made,
        "first_wins": sum(end > 0 for end in ends) / len(ends),
        "draws": sum(end == 0 for end in ends) / len(ends),
        "illegal": illegal / max(made, 1),
    }
    return _positions(game, net, tables, compared, config), numbers


def _table(game: Game, config: SelfPlayConfig, rng: Random, rival: Net | None) -> _Table:
    seat = rng.randrange(2) if rival is not None and rng.random() < config.league else None
    plies = rng.randint(0, config.opening)
    return _Table(random_opening(game, plies, rng) if plies else dealt(game.start(rng), rng), rng, seat)


def _move(game: Game, net: Net, group: list[_Table], config: SelfPlayConfig, *, learns: bool) -> int:
    """One move of each table; returns how many were illegal."""
    wrong = 0
    for table, row_M in zip(group, net.logprobs([table.state for table in group]), strict=True):
        state, rng = table.state, table.rng
        legal = state.legal()
        able = list(legal) if config.illegal == "mask" else list(range(len(row_M)))
        probs = np.exp(row_M[able] - row_M[able].max())
        probs /= probs.sum()
        choice = min(int(np.searchsorted(np.cumsum(probs), rng.random())), len(able) - 1)
        if learns and not game.is_held_out(state):
            table.seen.append((state, able[choice], float(np.log(max(probs[choice], 1e-30)))))
        if able[choice] not in legal:
            wrong += 1
            table.returns = tuple(game.worst if seat == state.player else -game.worst for seat in (0, 1))
            continue
        table.state = dealt(state.play(able[choice]), rng)
        if table.state.player == OVER:
            table.returns = result(table.state)
    return wrong


def _positions(game: Game, net: Net, tables: list[_Table], baselines: list[float], config: SelfPlayConfig) -> Positions:
    rows = [(state, move, logprob, table.returns) for table in tables for state, move, logprob in table.seen]
    count, width = len(rows), len(game.moves)
    probs_NM, legal_NM = np.zeros((count, width)), np.zeros((count, width), dtype=bool)
    weights_NK = np.zeros((count, 2))
    scale = 1 / abs(game.worst)
    for i, (state, move, _, returns) in enumerate(rows):
        probs_NM[i, move] = 1
        legal_NM[i, list(state.legal()) if config.illegal == "mask" else slice(None)] = True
        weights_NK[i, 1] = scale * (returns[state.player] - baselines[state.player])
    worths_N3 = np.array([three(scale * returns[state.player]) for state, _, _, returns in rows])
    tokens_NT = net.tokens.rows([state for state, _, _, _ in rows]).numpy()
    logprobs_N = np.array([logprob for _, _, logprob, _ in rows])
    return positions(tokens_NT, probs_NM, worths_N3, weights_NK, legal_NM, logprobs_N)
