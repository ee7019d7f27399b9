"""Self-play: what is kept of games, the league, resuming, and the verb."""

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from train_faults import stop_at

from wren import checkpoint
from wren.batch import IGNORE
from wren.errors import CheckpointError
from wren.games.referee import match
from wren.games.rules import nim
from wren.interrupt import Interrupted
from wren.policy import Drawing, PolicyConfig, PolicyLoss
from wren.precision import choose_precision
from wren.progress import TrainingProgress
from wren.rl import game_run, selfplay
from wren.rl.game_loss import distribution_loss
from wren.rl.game_measures import Measure
from wren.rl.game_net import Net, SearchPlayer, answers
from wren.rl.game_play_magnet import improved, play_magnet
from wren.rl.game_play_reinforce import play_reinforce
from wren.rl.game_play_search import play_search
from wren.rl.game_rounds import three
from wren.rl.game_search import SearchConfig, softmax
from wren.rl.game_settings import AskedGame, SelfPlayConfig, plan, read_game
from wren.rl.league import League
from wren.rl.selfplay import SelfPlayBatches

CPU = choose_precision(torch.device("cpu"), "fp32")
SMALL = (
    "model.depth=1", "selfplay.games=12", "selfplay.at_once=8", "selfplay.updates=3", "selfplay.window=2",
    "selfplay.measure_every=2", "search.simulations=6", "train.batch_size=16", "selfplay.league=0.5",
    "selfplay.league_games=4", "selfplay.rivals=1",
)  # fmt: skip
HIDDEN = ("model.depth=1", "selfplay.games=100", "selfplay.updates=2", "selfplay.measure_every=3")


def asked(folder: Path, game: str = "nim:heaps=2,2,2", *, generations: int = 4, **options: Any) -> AskedGame:
    options.setdefault("settings", SMALL)
    return AskedGame(game=game, run=folder / "run", generations=generations, **options)


def parts(folder: Path, game: str, settings: tuple[str, ...] = SMALL, **options: Any) -> game_run.Parts:
    rules = read_game(game)
    return game_run.build(plan(asked(folder, game, settings=settings, **options), rules), rules, folder, CPU)


def test_the_loss_is_the_divergence_from_the_distributions(tmp_path: Path) -> None:
    made = parts(tmp_path, "tic_tac_toe")
    batch = made.batches.next_batch()
    assert batch.probs_BKV is not None
    assert batch.weights_BT is not None
    assert torch.allclose(batch.probs_BKV.sum(-1), torch.ones(16, 2))
    assert int((batch.targets_BT != IGNORE).sum()) == batch.num_targets() == 32
    with torch.no_grad():
        q_BKV = answers(made.model, batch.tokens_BT).softmax(-1)
        expected = torch.distributions.kl_divergence(
            torch.distributions.Categorical(batch.probs_BKV), torch.distributions.Categorical(q_BKV)
        ).sum()
        assert distribution_loss(made.model, batch) == pytest.approx(float(expected), rel=1e-4)
        at_rest = distribution_loss(made.model, batch._replace(probs_BKV=q_BKV))
        assert float(at_rest) == pytest.approx(0, abs=1e-4)
    with pytest.raises(ValueError, match="no distributions"):
        distribution_loss(made.model, batch._replace(probs_BKV=None))


def test_games_are_kept_from_both_seats_with_opposite_worths(tmp_path: Path) -> None:
    made = parts(tmp_path, "tic_tac_toe")
    config = SelfPlayConfig(games=20, at_once=7, opening=2, bootstrap=0.0)
    played, numbers = play_search(made.game, made.batches.net, None, config, SearchConfig(simulations=4), "a")
    again, _ = play_search(made.game, made.batches.net, None, config, SearchConfig(simulations=4), "a")
    assert numbers["games"] == 20
    assert len(played) == numbers["positions"]
    assert 0 < numbers["illegal"] < 1
    assert all(np.array_equal(getattr(played, k), getattr(again, k)) for k in vars(played))
    seats = played.tokens_NT[:, 1]
    assert {int(seat) for seat in seats} == set(made.batches.tokens.seen[:2].tolist())
    worth = played.worths_N3 @ np.array([-1, 0, 1])
    won_first, won_second = (worth[seats == made.batches.tokens.seen[i]].mean() for i in (0, 1))
    assert np.allclose(played.worths_N3.sum(1), 1)
    assert won_first * won_second < 0
    assert np.allclose(played.probs_NM.sum(1), 1)


def test_a_past_self_sits_in_one_seat_and_its_positions_are_not_kept(tmp_path: Path) -> None:
    made = parts(tmp_path, "tic_tac_toe")
    config = SelfPlayConfig(games=10, opening=0, league=1.0)
    played, _ = play_search(made.game, made.batches.net, made.batches.net, config, SearchConfig(simulations=2), "b")
    alone, _ = play_search(made.game, made.batches.net, None, config, SearchConfig(simulations=2), "b")
    assert 0 < len(played) < 0.7 * len(alone)


def test_positions_held_out_are_never_learned(tmp_path: Path) -> None:
    made = parts(tmp_path, "nim:heaps=3,3:hold_out=0.4")
    assert isinstance(made.game, nim.Rules)
    held = {tuple(made.batches.tokens.rows([state])[0].tolist()) for state in made.game.positions(held_out=True)}
    assert held
    assert made.batches.measure.states == list(made.game.positions(held_out=True))
    config = SelfPlayConfig(games=60, opening=3)
    played, _ = play_search(made.game, made.batches.net, None, config, SearchConfig(simulations=4), "c")
    drawn, _ = play_reinforce(made.game, made.batches.net, None, config, [0.0, 0.0], "c")
    for found in (played, drawn):
        assert len(found) > 20
        assert not held & {tuple(row) for row in found.tokens_NT.tolist()}


def test_worths_as_outcomes_have_that_mean() -> None:
    for worth in (-1.0, -0.3, 0.0, 0.8, 1.0):
        loss, draw, win = three(worth)
        assert loss + draw + win == pytest.approx(1)
        assert win - loss == pytest.approx(worth)
        assert min(loss, draw) >= 0


def test_a_step_of_mirror_descent_prefers_what_paid_and_is_pulled_to_uniform() -> None:
    better = improved([0.0, 0.0], [1000, 1000], [500.0, -500.0], 1.0, 0.0)
    assert better[0] == pytest.approx(1 / (1 + math.exp(-1)), abs=0.01)
    rest = improved([2.0, 0.0], [1000, 1000], [0.0, 0.0], 1.0, 0.5)
    assert softmax([2.0, 0.0])[0] > rest[0] > 0.5
    assert rest == pytest.approx(softmax([2.0 / 1.5, 0.0]))
    rare = improved([0.0, 0.0], [10_000, 1], [0.0, 3.0], 1.0, 0.0)
    assert 0.5 < rare[1] < 0.7  # one lucky game is no proof


def test_mirror_descent_on_kuhn_comes_nearer_to_an_equilibrium(tmp_path: Path) -> None:
    settings = ("selfplay.games=1000", "selfplay.measure_every=30", "selfplay.rivals=0", "selfplay.entropy=0.5,0.1")
    result = game_run.selfplay(
        asked(tmp_path, "kuhn", generations=60, settings=settings), device="cpu", say=lambda text: None
    )
    rows = [row for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if "exploitability" in row]
    assert len(rows) == 2
    assert result["exploitability"] < 0.2 < json.loads(rows[0])["exploitability"]
    assert result["average_exploitability"] < 0.35


def test_every_information_set_that_was_seen_is_learned_once(tmp_path: Path) -> None:
    made = parts(tmp_path, "leduc", HIDDEN)
    config = SelfPlayConfig(learn="magnet", games=300)
    played, numbers = play_magnet(made.game, made.batches.net, made.batches.measure.sets, config, 0.1, "d")
    assert len(played) == len({tuple(row) for row in played.tokens_NT.tolist()}) == numbers["positions"]
    assert abs(numbers["mean_return"]) < 1.5
    assert np.allclose(played.weights_NK[:, 1].mean(), 1)


def test_illegal_moves_lose_and_are_counted_or_are_never_made(tmp_path: Path) -> None:
    made = parts(tmp_path, "tic_tac_toe")
    baselines = [0.0, 0.0]
    options: dict[str, Any] = {"learn": "reinforce", "games": 200, "opening": 0}
    lost, numbers = play_reinforce(
        made.game, made.batches.net, None, SelfPlayConfig(illegal="lose", **options), baselines, "e"
    )
    masked, none = play_reinforce(made.game, made.batches.net, None, SelfPlayConfig(**options), baselines, "e")
    assert none["illegal"] == 0 < numbers["illegal"] < 1
    assert baselines[0] * baselines[1] < 0
    assert lost.legal_NM.all()
    assert not masked.legal_NM.all()
    assert masked.legal_NM[np.arange(len(masked)), masked.probs_NM.argmax(1)].all()
    wrong = lost.probs_NM.argmax(1)[lost.weights_NK[:, 1] < 0]
    assert len(wrong) > 50


def test_a_policy_gradient_sees_the_probabilities_that_moves_were_drawn_with(tmp_path: Path) -> None:
    made = parts(tmp_path, "tic_tac_toe", learn="reinforce")
    batch = made.batches.next_batch()
    loss = PolicyLoss(PolicyConfig(), Drawing())
    loss(made.model, batch)
    assert loss.seen.difference < 1e-4
    assert loss.seen.entropy > 0


def stripped(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "second" not in k} for row in rows]


@pytest.mark.parametrize(
    ("game", "options"),
    [
        ("nim:heaps=2,2,2", {}),
        ("tic_tac_toe", {"learn": "reinforce"}),
        ("kuhn", {"settings": HIDDEN}),
    ],
)
def test_a_killed_run_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, game: str, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(game_run, "curve", lambda run: run.path)
    quiet: dict[str, Any] = {"device": "cpu", "say": lambda text: None}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    first = game_run.selfplay(asked(whole, game, **options), **quiet)
    watch = TrainingProgress.watch
    stop = 5 if game == "kuhn" else 8
    with monkeypatch.context() as patch:
        patch.setattr(TrainingProgress, "watch", lambda self, *row: (stop_at(stop)(*row), watch(self, *row))[1])
        with pytest.raises(Interrupted):
            game_run.selfplay(asked(cut, game, **options), **quiet)
    second = game_run.selfplay(asked(cut, game, **options), **quiet)
    assert stripped(whole / "run") == stripped(cut / "run")
    left, right = (checkpoint.load(checkpoint.newest_good(f / "run" / "checkpoints")[0] or f) for f in (whole, cut))
    for old, new in ((left.model, right.model), (left.optimizer, right.optimizer)):
        assert all(torch.equal(old[name], new[name]) for name in old)
    assert left.state["batches"] == right.state["batches"]
    assert left.state["batches"]["league"]["members"]
    for name in ("measure", "games", "positions", "elo_by_generation"):
        assert first[name] == second[name]
    frozen = checkpoint.steps(whole / "run" / "league")
    assert frozen == checkpoint.steps(cut / "run" / "league") == second_members(right, second)


CUT = [
    ("nim:heaps=2,2,2", {}, "play_search"),
    ("tic_tac_toe", {"learn": "reinforce"}, "play_reinforce"),
    ("kuhn", {"settings": HIDDEN}, "play_magnet"),
]


@pytest.mark.skipif(os.name != "posix", reason="sends itself a signal")
@pytest.mark.parametrize(("game", "options", "play"), CUT)
@pytest.mark.parametrize("save_every", [None, 4])
@pytest.mark.parametrize("collapse", [None, 2])
def test_ctrl_c_cuts_games_off_and_they_are_played_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, game: str, options: dict[str, Any], play: str,
    save_every: int | None, collapse: int | None,
) -> None:  # fmt: skip
    """collapse: the generation that goes back to generation 0, which has no moments yet."""
    monkeypatch.setattr(game_run, "curve", lambda run: run.path)
    settings = (*options.get("settings", SMALL), "selfplay.measure_every=2")
    options = {**options, "settings": settings if save_every is None else (*settings, f"train.save_every={save_every}")}
    if collapse is not None:
        monkeypatch.setattr(League, "has_collapsed", lambda league, generation, row: generation == collapse)
        monkeypatch.setattr(League, "best", property(lambda league: 0, lambda league, best: None), raising=False)
    quiet: dict[str, Any] = {"device": "cpu", "say": lambda text: None}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    first = game_run.selfplay(asked(whole, game, **options), **quiet)
    assert first["rollbacks"] == (collapse is not None)
    played, calls, taken = getattr(selfplay, play), list[str](), list[Any]()
    load = SelfPlayBatches.load_state

    def interrupted(*given: Any) -> Any:
        found = played(*given)
        calls.append(given[-1])
        if len(calls) in (1, 3, 5):  # generations 0, 1 and 2, of which 0 and 2 are measured
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("the signal waits for the games")
        return found

    def restored(batches: SelfPlayBatches, state: dict[str, Any]) -> None:
        taken.append(state["taken"])
        load(batches, state)

    monkeypatch.setattr(selfplay, play, interrupted)
    monkeypatch.setattr(SelfPlayBatches, "load_state", restored)
    for _ in range(3):
        with pytest.raises(Interrupted, match="saved at step"):
            game_run.selfplay(asked(cut, game, **options), **quiet)
        assert checkpoint.steps(cut / "run" / "checkpoints")
    second = game_run.selfplay(asked(cut, game, **options), **quiet)
    assert calls[0] == calls[1]
    assert calls[2] == calls[3]
    assert calls[4] == calls[5]
    assert [bool(each) for each in taken] == [True, False, True]  # measured before the signal, and not again
    assert stripped(whole / "run") == stripped(cut / "run")
    left, right = (checkpoint.load(checkpoint.newest_good(f / "run" / "checkpoints")[0] or f) for f in (whole, cut))
    for old, new in ((left.model, right.model), (left.optimizer, right.optimizer)):
        assert all(torch.equal(old[name], new[name]) for name in old)
    assert left.state["batches"] == right.state["batches"]
    assert first["measure"] == second["measure"]


def test_ctrl_c_while_a_time_is_turned_into_generations_says_that_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*given: Any, **more: Any) -> Any:
        raise Interrupted(0, signal.SIGINT)

    monkeypatch.setattr(game_run, "train", stop)
    with pytest.raises(Interrupted, match=r"^Interrupted; the same command begins anew\.$") as stopped:
        game_run.selfplay(
            AskedGame(game="nim:heaps=2,2,2", run=tmp_path / "run", seconds=5.0, settings=SMALL), say=lambda text: None
        )
    assert stopped.value.signal_number == signal.SIGINT


def second_members(saved: checkpoint.Checkpoint, result: dict[str, Any]) -> list[int]:
    return [*saved.state["batches"]["league"]["members"], result["generations"]]


def test_a_missing_round_of_games_is_a_sentence(tmp_path: Path) -> None:
    made = parts(tmp_path, "nim:heaps=2,2,2")
    made.batches.next_batch()
    state = made.batches.state()
    other = parts(tmp_path, "nim:heaps=2,2,2").batches
    other.load_state(state)
    batch = made.batches.next_batch()
    assert batch.probs_BKV is not None
    assert torch.equal(batch.tokens_BT, other.next_batch().tokens_BT)
    (tmp_path / "rounds" / "000001.npz").write_bytes(b"half a fil")
    other.load_state(state)
    with pytest.raises(CheckpointError, match="cannot be read"):
        other.next_batch()


def spoil(batches: SelfPlayBatches) -> None:
    with torch.no_grad():
        for p in batches.model.parameters():
            p.mul_(-3)


def test_a_collapse_goes_back_to_the_best_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = parts(tmp_path, "tic_tac_toe", (*SMALL, "selfplay.patience=2"))
    batches, measures = made.batches, iter([40.0, 10.0, 300.0, 11.0, 200.0, 200.0, 10.0])
    row = {"losing_lines": 0, "losing_lines_first": 0, "losing_lines_second": 0, "lines": 1}
    monkeypatch.setattr(batches.measure, "row", lambda: {**row, "measure": next(measures)})
    best, backs = {}, []
    for generation in range(7):
        batches.generation = generation
        if generation == 1:
            best = {name: x.clone() for name, x in checkpoint.weights(made.model).items()}
        backs.append(batches.measured()["rolled_back_to"])
        if generation != 5:
            spoil(batches)
        else:
            assert all(torch.equal(x, best[name]) for name, x in checkpoint.weights(made.model).items())
    assert backs == [None, None, None, None, None, 1, None]
    assert batches.league.rollbacks == 1
    assert batches.first == 6  # the games of generations 1 to 5 are not learned from again
    assert batches.league.best == 6
    assert batches.league.members == list(range(7))


def test_a_run_that_ends_in_a_collapse_ends_with_its_best_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(game_run, "curve", lambda run: run.path)
    measures = iter([10.0, 300.0, 300.0, 10.0])
    row = {"losing_lines": 0, "losing_lines_first": 0, "losing_lines_second": 0, "lines": 1}
    monkeypatch.setattr(Measure, "row", lambda self: {**row, "measure": next(measures)})
    result = game_run.selfplay(asked(tmp_path, "tic_tac_toe"), device="cpu", say=lambda text: None)
    assert result["rolled_back_to"] == 0
    assert result["measure"] == 10.0
    first = checkpoint.load(tmp_path / "run" / "league" / "step_000000")
    last = checkpoint.load(checkpoint.newest_good(tmp_path / "run" / "checkpoints")[0] or tmp_path)
    assert all(torch.equal(x, last.model[name]) for name, x in first.model.items())
    assert last.step == 12


def test_the_league_keeps_first_best_and_newest(tmp_path: Path) -> None:
    made = parts(tmp_path, "nim:heaps=2,2,2", (*SMALL, "selfplay.members=4"))
    league = made.batches.league
    for generation in range(12):
        league.admit(generation, made.model, made.optimizer, {"measure": 0.0 if generation == 5 else 1.0, "optimal": 0})
    assert len(league.members) == 4
    assert {0, 5, 11} <= set(league.members)
    league.sweep()
    assert checkpoint.steps(league.folder) == league.members
    league.play_matches(11, made.batches.net, 0)
    assert league.ratings()["11"].games == 4


def test_a_member_with_another_vocabulary_is_refused(tmp_path: Path) -> None:
    made, other = parts(tmp_path / "a", "nim:heaps=2,2,2"), parts(tmp_path / "b", "tic_tac_toe")
    row = {"measure": 0.0}
    made.batches.league.admit(0, made.model, made.optimizer, row)
    other.batches.league.folder = made.batches.league.folder
    with pytest.raises(CheckpointError, match="plays nim, not tic_tac_toe"):
        other.batches.league.player(0, other.model)


def test_more_search_plays_better(tmp_path: Path) -> None:
    made = parts(tmp_path, "connect4", ("model.depth=1", "model.dim=32", "model.mixers.0.num_heads=2"))
    net = Net(made.model, made.batches.tokens)
    few, many = (SearchPlayer(net, SearchConfig(simulations=n)) for n in (2, 32))
    assert np.mean(match(made.game, many, few, pairs=12, opening=4).points) > 0.7
