"""The learned scorer: what it finds in attempts, that it orders them, what it refuses, and `wren think --scorer`."""

import json
import math
from pathlib import Path
from random import Random

import numpy as np
import pytest
from test_think_engine import called
from tune_parts import base_run

from wren.errors import ConfigError
from wren.tasks.own import reverse_word
from wren.think import measure, scorer
from wren.think.branch import Branch
from wren.think.scorer import Attempt, learned, separation
from wren.think.thinker import Solved


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_run(tmp_path_factory.mktemp("base") / "run")


def attempts(count: int, seed: int = 0) -> list[Attempt]:
    """A reply is wrong where one of its tokens was a doubtful one; long replies are surer in the mean."""
    rng, found = Random(seed), []
    for _ in range(count):
        logs = [math.log(rng.uniform(0.7, 1.0)) for _ in range(rng.randint(3, 12))]
        wrong = rng.random() < 0.5
        if wrong:
            logs[rng.randrange(len(logs))] = math.log(rng.uniform(0.05, 0.2))
        if rng.random() < 0.5:
            logs[:] = [each / 2 for each in logs]  # surer of all, as right as before
        found.append(Attempt(Branch((1,) * len(logs), tuple(logs), True), not wrong))
    return found


def test_it_orders_attempts_that_it_has_not_seen_better_than_their_mean_does():
    found, seen = attempts(400, seed=1), learned(attempts(400))
    right = [attempt.right for attempt in found]
    own = separation([seen(attempt.reply) for attempt in found], right)
    mean = separation([attempt.reply.mean_logprob for attempt in found], right)
    assert own is not None
    assert mean is not None
    assert own > 0.95
    assert own > mean + 0.02


def test_its_score_is_a_chance():
    found, seen = attempts(1000, seed=1), learned(attempts(1000))
    chances = [math.exp(seen(attempt.reply)) for attempt in found]
    assert all(0 < chance < 1 for chance in chances)
    assert np.mean(chances) == pytest.approx(np.mean([attempt.right for attempt in found]), abs=0.06)


def test_the_weights_are_the_likeliest_ones():
    """At the end the slope of the likelihood is that of the ridge."""
    rng = np.random.default_rng(0)
    x_NF, labels_N = rng.normal(size=(50, 3)), (rng.random(50) < 0.4).astype(float)
    weights_F = scorer._fitted(x_NF, labels_N)
    slope_F = x_NF.T @ (labels_N - 1 / (1 + np.exp(-x_NF @ weights_F)))
    np.testing.assert_allclose(slope_F, weights_F, atol=1e-6)


def test_attempts_that_can_be_told_apart_without_fail_do_not_make_it_endless():
    found = [Attempt(Branch((1,), (-0.1 if right else -9.0,), True), right) for right in (True, False) * 20]
    seen = learned(found)
    assert math.isfinite(seen(found[0].reply))
    assert seen(found[0].reply) > seen(found[1].reply)


def test_a_reply_on_its_way_and_an_empty_one_have_a_score():
    seen = learned(attempts(200))
    assert seen(Branch()) == pytest.approx(math.log(seen.rate))
    assert seen(Branch((1, 1), (-3.0, -0.1))) < seen(Branch((1, 1), (-0.1, -0.1)))


def test_nothing_can_be_learned_from_attempts_of_one_kind():
    for right, which in ((True, "all"), (False, "none")):
        with pytest.raises(ConfigError, match=f"Of 2 attempts {which} were right"):
            learned([Attempt(Branch((1,), (-1.0,), True), right)] * 2)


def test_separation_is_the_share_of_pairs_in_order():
    rng = Random(0)
    scores = [rng.randrange(5) for _ in range(40)]
    right = [rng.random() < 0.4 for _ in scores]
    good, bad = ([score for score, r in zip(scores, right, strict=True) if r is kind] for kind in (True, False))
    pairs = [(a, b) for a in good for b in bad]
    share = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
    assert separation(scores, right) == pytest.approx(share)
    assert separation([1.0, 2.0], [True, True]) is None


def test_differences_are_paired():
    def solved(right: list[bool]) -> list[Solved]:
        return [Solved(None, Branch(), "", float(each), 1, 1, []) for each in right]  # type: ignore[arg-type]

    one, other = [True, True, False, True] * 10, [True, False, False, True] * 10
    found = measure.over(solved(one), solved(other))
    assert found["mean"] == pytest.approx(0.25)
    assert 0 < found["low"] < 0.25 < found["high"]
    same = measure.over(solved(one), solved(one))
    assert (same["mean"], same["low"], same["high"]) == (0, 0, 0)


def test_the_verb_learns_a_scorer(base, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scorer, "_PROBLEMS", 8)
    monkeypatch.setattr("wren.think.asker.check_gold", lambda task: None)
    monkeypatch.setattr(reverse_word.Rules, "score", lambda self, problem, text: float(len(text) % 2))  # some are right
    more = ("--scorer", "learned", "--algorithms", "greedy,best_by_score,particles", "--json", str(tmp_path / "r.json"))
    assert called(base, tmp_path / "out", *more) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert 0 < result["scorer"]["right"] < 1
    assert "learned from" in capsys.readouterr().out
    assert all("over_greedy" in row for row in result["rows"])


def test_the_verb_says_that_nothing_can_be_learned(base, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scorer, "_PROBLEMS", 2)
    monkeypatch.setattr("wren.think.asker.check_gold", lambda task: None)
    monkeypatch.setattr(reverse_word.Rules, "score", lambda self, problem, text: 0.0)
    assert called(base, tmp_path / "out", "--scorer", "learned") == 2
    assert "none were right, so that there is nothing to learn" in capsys.readouterr().err
