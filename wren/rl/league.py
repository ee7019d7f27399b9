"""The league: frozen past selves as ordinary checkpoints, their matches and Elo; and the way back from a collapse.

    run/league/step_000012/    the weights and the optimizer of generation 12

A generation that is measured joins. Where `patience` measures in a row are much worse than the best one, weights and
optimizer go back to the best generation, and what is played next is drawn anew.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch

from wren import checkpoint
from wren.errors import CheckpointError, ConfigError
from wren.games.game import Game
from wren.games.rating import Rating, elo
from wren.games.referee import match
from wren.model import LM
from wren.optim.optimizer import Optimizer
from wren.rl.game_net import Net, PolicyPlayer
from wren.rl.game_settings import SelfPlayConfig
from wren.rl.game_tokens import GameTokens

_TIMES, _PRIOR = 2.0, 1.0
# a measure this much above twice the best one is a collapse: lines, coins, shares of positions or points
_ROOM = {"losing_lines": 50.0, "exploitability": 0.2, "optimal": 0.1, "minimax_share": 0.2}


@dataclass
class League:
    """members: the generations that are kept. results: of matches, by "A B". measures: of every measured generation."""

    folder: Path
    game: Game
    tokens: GameTokens
    config: SelfPlayConfig
    members: list[int] = field(default_factory=list)
    results: dict[str, list[float]] = field(default_factory=dict)
    measures: dict[int, float] = field(default_factory=dict)
    best: int | None = None
    bad: int = 0
    rollbacks: int = 0

    def state(self) -> dict[str, Any]:
        return {
            "members": list(self.members),
            "results": dict(self.results),
            "measures": [[g, m] for g, m in self.measures.items()],
            "best": self.best,
            "bad": self.bad,
            "rollbacks": self.rollbacks,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.members, self.results = list(state["members"]), {k: list(v) for k, v in state["results"].items()}
        self.measures = dict(state["measures"])
        self.best, self.bad, self.rollbacks = state["best"], state["bad"], state["rollbacks"]

    def admit(self, generation: int, model: LM, optimizer: Optimizer, row: dict[str, Any]) -> None:
        """Freezes a measured generation; row: of its measures. Raises DiskError."""
        tensors, measure = optimizer.tensors(), row["measure"]
        checkpoint.save(
            self.folder, generation, checkpoint.weights(model), tensors, {"measure": measure, "game": self.game.name}
        )
        self.measures[generation] = measure
        if self.best is None or measure <= self.measures[self.best]:
            self.best = generation
        self.members.append(generation)
        self._thin()

    def is_much_worse(self, generation: int, row: dict[str, Any]) -> bool:
        """Whether a measured generation is far from the best one."""
        if self.best is None:
            return False
        room = max((room for name, room in _ROOM.items() if name in row), default=0.2)
        best = self.measures[self.best]
        return self.measures[generation] > min(_TIMES * best, best + room) + room

    def has_collapsed(self, generation: int, row: dict[str, Any]) -> bool:
        """Whether this measure, with those before it, says so."""
        if not self.config.patience:
            return False
        self.bad = self.bad + 1 if self.is_much_worse(generation, row) else 0
        return self.bad >= self.config.patience

    def go_back(self, model: LM, optimizer: Optimizer) -> int:
        """Puts the best generation back; returns which one that was. Raises CheckpointError."""
        if self.best is None:
            raise ValueError("nothing was measured yet")
        saved = self.load(self.best)
        checkpoint.load_weights(model, saved.model, saved.path)
        optimizer.load_tensors(saved.optimizer)
        self.bad, self.rollbacks = 0, self.rollbacks + 1
        return self.best

    def load(self, generation: int) -> checkpoint.Checkpoint:
        return checkpoint.load(self.folder / f"step_{generation:06d}")

    def player(self, generation: int, like: LM) -> Net:
        """A member as a judge of positions; like: a model of the same config. Raises CheckpointError for another."""
        saved = self.load(generation)
        if saved.state.get("game") != self.game.name:
            raise CheckpointError(f"{saved.path} plays {saved.state.get('game')}, not {self.game.name}.")
        with torch.random.fork_rng():
            model = like.config.build()
        checkpoint.load_weights(model, saved.model, saved.path)
        return Net(model.eval(), self.tokens)

    def play_matches(self, generation: int, net: Net, seed: int) -> None:
        """The newest member against some of the others, spread over the league."""
        others = [member for member in self.members if member != generation]
        if not others or not self.config.rivals:
            return
        step = max(1, len(others) // self.config.rivals)
        heat, opening = (1.0, 0) if self.game.hidden else (0.0, min(2, self.config.opening))
        for other in others[::-step][: self.config.rivals]:
            rival = PolicyPlayer(self.player(other, net.model), heat)
            played = match(
                self.game, PolicyPlayer(net, heat), rival,
                pairs=self.config.league_games // 2, opening=opening, seed=seed + generation,
            )  # fmt: skip
            self.results[f"{generation} {other}"] = [float(count) for count in played.results()]

    def ratings(self) -> dict[str, Rating]:
        """Elo of all generations that have played, the oldest being 0; {} before the first match."""
        results = {}
        for pair, counts in self.results.items():
            a, b = pair.split()
            results[a, b] = (counts[0], counts[1], counts[2])
        if not results:
            return {}
        oldest = min({int(name) for pair in results for name in pair})
        try:
            return elo(results, anchor=str(oldest), prior=_PRIOR)
        except ConfigError:  # two groups that have not met
            return {}

    def drawn(self, rng: Random) -> int | None:
        """A member to play against, None where there is none."""
        return rng.choice(self.members) if self.members else None

    def _thin(self) -> None:
        """Keeps the first, the best, the newest, and of the others those that leave the smallest gap when gone."""
        while len(self.members) > self.config.members:
            inner = [i for i in range(1, len(self.members) - 1) if self.members[i] != self.best]
            if not inner:
                return
            gone = min(inner, key=lambda i: self.members[i + 1] - self.members[i - 1])
            self.members.pop(gone)

    def sweep(self) -> None:
        """Deletes checkpoints that no state can ask for any more: called once a later state is saved."""
        for step in checkpoint.steps(self.folder):
            if step not in self.members and step < max(self.members, default=0):
                shutil.rmtree(self.folder / f"step_{step:06d}", ignore_errors=True)
