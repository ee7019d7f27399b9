"""What is measured of a generation: exactly where the game allows it, by matches against minimax elsewhere.

`measure` is the number that collapse is told by, the lower the better: lines lost of the greedy policy against every
reply; exploitability; the share of positions with a wrong move; or the share of points not won against minimax.
"""

from collections.abc import Sequence
from typing import Any

from wren.errors import ConfigError
from wren.evals.matches import score
from wren.games.equilibrium import Table, average, exploitability, information_sets
from wren.games.game import Game
from wren.games.measures import agreement, lines_of, positions
from wren.games.players import ManyPlayer, Minimax
from wren.games.referee import match
from wren.games.rules import connect4, nim
from wren.games.state import OVER, Observation, State
from wren.rl.game_net import Net, PolicyPlayer
from wren.rl.game_search import softmax

Row = dict[str, Any]
_FEW_MOVES = 12  # games with more have too many lines
_MANY = 20_000  # positions
DEPTH, PAIRS, OPENING = 4, 20, 4  # of the matches against minimax in training


class Measure:
    """Measures a model as often as it is asked. states: positions in which a perfect move is looked for."""

    def __init__(self, game: Game, net: Net):
        self.game, self.net = game, net
        self.lines = "lines" in game.exact and len(game.moves) <= _FEW_MOVES
        self.sets: dict[Observation, State] = information_sets(game) if "exploitability" in game.exact else {}
        self.states = _states(game)
        self._perfect: dict[State, Sequence[int]] = {}

    @property
    def is_exact(self) -> bool:
        return bool(self.lines or self.sets or self.states)

    def row(self) -> Row:
        """All that is measured of the greedy policy, or where cards are hidden of the policy as it draws."""
        row: Row = {}
        player = PolicyPlayer(self.net)
        if self.lines:
            seats = [lines_of(self.game, player, seat) for seat in (0, 1)]
            row |= {"losing_lines": seats[0].lost + seats[1].lost, "lines": seats[0].lines + seats[1].lines}
            row |= {"losing_lines_first": seats[0].lost, "losing_lines_second": seats[1].lost}
            row["measure"] = float(row["losing_lines"])
        if self.states:
            found = agreement(self.states, player, self.perfect)
            row |= {"optimal": found.share, "optimal_positions": found.count}
            row.setdefault("measure", 1 - (found.share or 0.0))
        if self.sets:
            row["exploitability"] = row["measure"] = exploitability(self.game, self.table())
        if "measure" not in row:
            row |= self._against_minimax(player)
        return row

    def table(self) -> Table:
        """The policy in every information set."""
        asked = self.net.evaluate(list(self.sets.values()))
        return {seen: tuple(softmax(logits)) for seen, (logits, _) in zip(self.sets, asked, strict=True)}

    def perfect(self, state: State) -> Sequence[int]:
        """Game.perfect_moves, remembered."""
        if state not in self._perfect:
            self._perfect[state] = self.game.perfect_moves(state)
        return self._perfect[state]

    def _against_minimax(self, player: ManyPlayer) -> Row:
        if self.game.hidden:
            return {"measure": 0.0}
        depth = DEPTH if isinstance(self.game, connect4.Rules) else 2
        found = score(match(self.game, player, Minimax(self.game, depth), pairs=PAIRS, opening=OPENING))
        low, high = found.wilson
        numbers = {"minimax_depth": depth, "minimax_share": found.share, "minimax_low": low, "minimax_high": high}
        return {**numbers, "measure": 1 - found.share}


def _states(game: Game) -> list[State]:
    """Positions of a game with a solver: those of Nim that are held out, or all."""
    if "solver" not in game.exact:
        return []
    if isinstance(game, nim.Rules):
        return list(game.positions(held_out=True if game.hold_out else None))
    try:
        return [state for state in positions(game, limit=_MANY) if state.player != OVER]
    except ConfigError:
        return []


class Average:
    """The average policy so far: at game's start one of the measured policies is drawn, the n-th with weight n^2.

    It is kept as a table, since averages of averages are exact when weighed by how likely a policy comes to a place.
    """

    def __init__(self, game: Game):
        self.game = game
        self.table: Table | None = None
        self.weight, self.count = 0.0, 0

    def add(self, table: Table) -> float:
        """Takes a policy, and gives the average's exploitability."""
        self.count += 1
        own = float(self.count**2)
        self.table = table if self.table is None else average(self.game, [self.table, table], [self.weight, own])
        self.weight += own
        return exploitability(self.game, self.table)

    def state(self) -> Row:
        rows = [] if self.table is None else [[list(seen), list(row)] for seen, row in self.table.items()]
        return {"weight": self.weight, "count": self.count, "rows": rows}

    def load_state(self, state: Row) -> None:
        self.weight, self.count = state["weight"], state["count"]
        self.table = {tuple(seen): tuple(row) for seen, row in state["rows"]} or None
