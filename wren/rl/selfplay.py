"""Generations of self-play as the batches of the one training loop.

A generation measures and freezes the model as it is (every so often), plays games with it, and is learned in `updates`
batches. All of it happens in the step that asks for the generation's first batch, so what a checkpoint holds decides
what a resumed run plays: its games, its league and its batches are those of a run that never stopped. A signal cuts its
games off, and they are played anew; what was measured before them is kept. The positions lie in files of the run,
run/rounds/000012.npz.

B batch, T time, K last places, M moves, V vocabulary.
"""

import contextlib
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from wren.batch import IGNORE, Batch
from wren.games.game import Game
from wren.interrupt import Signals
from wren.model import LM
from wren.optim.optimizer import Optimizer
from wren.rl.game_measures import Average, Measure
from wren.rl.game_net import Net
from wren.rl.game_play_magnet import play_magnet
from wren.rl.game_play_reinforce import play_reinforce
from wren.rl.game_play_search import play_search
from wren.rl.game_rounds import Numbers, Positions
from wren.rl.game_settings import GamePlayConfig
from wren.rl.game_symmetry import symmetries
from wren.rl.game_tokens import GameTokens
from wren.rl.league import League


class SelfPlayBatches:
    """What the loop asks for batches. last: numbers of the newest generation, for the metrics; fresh: not shown yet."""

    def __init__(self, model: LM, optimizer: Optimizer, game: Game, config: GamePlayConfig, folder: Path):
        self.model, self.optimizer, self.game, self.config, self.folder = model, optimizer, game, config, folder
        self.tokens = GameTokens(game)
        self.net = Net(model, self.tokens)
        self.league = League(folder / "league", game, self.tokens, config.selfplay)
        self.measure = Measure(game, self.net)
        self.average = Average(game)
        self.symmetries = [(self.tokens.words.turned(seen), moves) for seen, moves in symmetries(game)]
        self.generation, self.used = 0, config.selfplay.updates
        self.first = 1  # generation whose games are learned from: those of a collapsed player are not
        self.baselines = [0.0, 0.0]
        self.taken: Numbers | None = None  # the measures of a generation whose games were cut off
        self.signals: Signals | None = None
        self.last: Numbers = {}
        self.fresh = False
        self._kept: dict[int, Positions] = {}
        self._window: Positions | None = None

    def listen(self, signals: Signals) -> None:
        self.signals = signals

    def next_batch(self) -> Batch:
        if self.used == self.config.selfplay.updates:
            training = self.model.training
            self.model.eval()
            self._new_generation()
            self.model.train(training)
            self.used = 0
        self.used += 1
        return self._batch(self.used - 1)

    def state(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "used": self.used,
            "first": self.first,
            "baselines": list(self.baselines),
            "taken": self.taken,
            "league": self.league.state(),
            "average": self.average.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.generation, self.used = state["generation"], state["used"]
        self.first, self.baselines = state.get("first", 1), list(state["baselines"])
        self.taken = state.get("taken")
        self.league.load_state(state["league"])
        self.average.load_state(state["average"])
        self._kept, self._window = {}, None
        self.net.forget()

    def measured(self) -> Numbers:
        """The exact measures of the model as it is now; it joins the league, or goes back where it has collapsed."""
        self.net.forget()
        row = self.measure.row()
        if self.measure.sets:
            row["average_exploitability"] = self.average.add(self.measure.table())
        league, generation = self.league, self.generation
        league.admit(generation, self.model, self.optimizer, row)
        league.play_matches(generation, self.net, self.config.seed)
        ratings = league.ratings()
        if str(generation) in ratings:
            row |= {"elo": ratings[str(generation)].elo, "elo_half": ratings[str(generation)].half}
        row["rolled_back_to"] = None
        if league.has_collapsed(generation, row):
            row["rolled_back_to"] = league.go_back(self.model, self.optimizer)
            self.first = generation + 1
            self.net.forget()
        return {**row, "best_generation": league.best, "rollbacks": league.rollbacks}

    def _new_generation(self) -> None:
        start = time.perf_counter()
        config = self.config.selfplay
        if self.taken is None:
            self.taken = self.measured() if self.generation % config.measure_every == 0 else {}
        measured = time.perf_counter() - start
        self.net.forget()
        with contextlib.nullcontext() if self.signals is None else self.signals.at_once():
            baselines = list(self.baselines)
            played, found = self._play(baselines)
        numbers, self.taken, self.baselines = self.taken, None, baselines
        self.generation += 1
        played.save(self._path(self.generation))
        self._kept[self.generation] = played
        self._window = None
        self._drop_old()
        seconds = {"measure_seconds": measured, "play_seconds": time.perf_counter() - start - measured}
        self.last = {"generation": self.generation, **found, **numbers, **seconds}
        self.fresh = True

    def _play(self, baselines: list[float]) -> tuple[Positions, Numbers]:
        config, game = self.config.selfplay, self.game
        seed = f"generation {self.generation} of {self.config.seed}"
        if config.learn == "magnet":
            share = self.generation / max(1, self.config.generations - 1)
            entropy = config.entropy_at(min(1.0, share))
            return play_magnet(game, self.net, self.measure.sets, config, entropy, seed)
        member = self.league.drawn(Random(f"rival of {seed}")) if config.league else None
        rival = None if member is None else self.league.player(member, self.model)
        if config.learn == "reinforce":
            return play_reinforce(game, self.net, rival, config, baselines, seed)
        return play_search(game, self.net, rival, config, self.config.search, seed)

    def _path(self, generation: int) -> Path:
        return self.folder / "rounds" / f"{generation:06d}.npz"

    def _drop_old(self) -> None:
        """Files that no checkpoint that is kept can ask for."""
        config, train = self.config.selfplay, self.config.train
        needed = config.window + (train.keep + 1) * (1 + train.save_every // config.updates)
        self._kept = {g: played for g, played in self._kept.items() if g > self.generation - config.window}
        self._path(self.generation - needed).unlink(missing_ok=True)

    def _positions(self) -> Positions:
        """Those of the last `window` generations, as far back as the last collapse."""
        if self._window is None:
            first = max(self.first, self.generation - self.config.selfplay.window + 1)
            for generation in range(first, self.generation + 1):
                if generation not in self._kept:
                    self._kept[generation] = Positions.load(self._path(generation))
            self._window = Positions.joined([self._kept[g] for g in range(first, self.generation + 1)])
        return self._window

    def _batch(self, index: int) -> Batch:
        """Batch `index` of the generation, which follows from its number alone."""
        played, config = self._positions(), self.config.selfplay
        rng = np.random.default_rng([self.config.seed, self.generation, index])
        if config.learn == "search":
            rows_B = rng.integers(len(played), size=self.config.train.batch_size)
        elif config.learn == "magnet":
            rows_B = np.arange(len(played))
        else:
            order = np.random.default_rng([self.config.seed, self.generation]).permutation(len(played))
            rows_B = np.array_split(order, config.updates)[index]
        tokens_BT, probs_BM = played.tokens_NT[rows_B].astype(np.int64), played.probs_NM[rows_B]
        if config.learn == "search" and len(self.symmetries) > 1:
            _turn(tokens_BT, probs_BM, self.symmetries, rng)
        if config.learn == "reinforce":
            return self._gradient_batch(played, rows_B, tokens_BT)
        B, T = tokens_BT.shape
        probs_BKV = torch.zeros(B, 2, self.tokens.vocab_size)
        probs_BKV[:, 0, self.tokens.worths] = torch.from_numpy(played.worths_N3[rows_B])
        probs_BKV[:, 1, self.tokens.moves] = torch.from_numpy(probs_BM)
        weights_BT, targets_BT = torch.zeros(B, T), torch.full((B, T), IGNORE)
        weights_BT[:, -2:] = torch.from_numpy(played.weights_NK[rows_B])
        targets_BT[:, -2:] = probs_BKV.argmax(-1)
        return Batch(torch.from_numpy(tokens_BT), targets_BT, weights_BT, probs_BKV=probs_BKV)

    def _gradient_batch(self, played: Positions, rows_B: np.ndarray, tokens_BT: np.ndarray) -> Batch:
        """For wren.policy: the drawn move as target, its advantage as weight, the moves that could be drawn as kept."""
        B, T = tokens_BT.shape
        weights_BT, logprobs_BT = torch.zeros(B, T), torch.zeros(B, T)
        targets_BT = torch.full((B, T), IGNORE)
        targets_BT[:, -1] = self.tokens.moves[torch.from_numpy(played.probs_NM[rows_B].argmax(1))]
        weights_BT[:, -1] = torch.from_numpy(played.weights_NK[rows_B, 1])
        logprobs_BT[:, -1] = torch.from_numpy(played.logprobs_N[rows_B])
        legal_BM = torch.from_numpy(played.legal_NM[rows_B])
        kept_BTK = torch.full((B, T, legal_BM.shape[1]), IGNORE)
        kept_BTK[:, -1] = torch.where(legal_BM, self.tokens.moves, IGNORE)
        return Batch(torch.from_numpy(tokens_BT), targets_BT, weights_BT, logprobs_BT=logprobs_BT, kept_BTK=kept_BTK)


def _turn(tokens_BT: np.ndarray, probs_BM: np.ndarray, turns: list, rng: np.random.Generator) -> None:
    """Each row by a symmetry that is drawn; tokens stand between the document's start and the two questions."""
    drawn_B = rng.integers(len(turns), size=len(tokens_BT))
    for number, (observation, moves) in enumerate(turns):
        rows = drawn_B == number
        tokens_BT[rows, 1:-2] = tokens_BT[rows, 1:-2][:, observation]
        probs_BM[rows] = probs_BM[rows][:, moves]
