"""Algorithms on hand-made models whose best answer is known: budgets, votes, searches, and what they refuse."""

from collections import Counter

import pytest
from think_parts import STOP, answered, case, table, text

from wren import think
from wren.errors import ConfigError
from wren.think.algorithm import votes
from wren.think.algorithms.auto import lead
from wren.think.algorithms.particles import systematic
from wren.think.branch import Branch

# the likeliest first letter leads to b, most of the replies to a
DIVIDED = table({"": {"x": 0.4, "y": 0.3, "z": 0.3}, "x": {"b": 1.0}, "y": {"a": 1.0}, "z": {"a": 1.0}})
# the likeliest first letter leads to a doubtful reply, the other one to a likely one
TRAP = table({"": {"x": 0.6, "y": 0.4}, "x": {"p": 0.3, "q": 0.3, "r": 0.2, "s": 0.2}, "y": {"a": 0.98, "b": 0.02}})
LETTERS = dict.fromkeys("abcdefgh", 0.125)


def maze(said: str):
    """Three letters out of eight."""
    return LETTERS if len(said) < 3 else {STOP: 1.0}


def closeness(goal: str):
    """The share of a reply's letters that are right from the front."""
    return lambda said: next((i for i, pair in enumerate(zip(goal, said, strict=False)) if len(set(pair)) > 1), 3) / 3


def exactly(goal: str):
    return lambda said: float(said == goal)


def every_name() -> list[str]:
    return [*think.names(), "tree:by=score", "beam:piece=1:children=2", "budget_forcing:waits=3", "auto:pilot=1"]


@pytest.mark.parametrize("name", every_name())
@pytest.mark.parametrize("budget", [1, 2, 3, 5, 8, 13, 40, 100])
def test_no_algorithm_generates_more_than_its_budget(name, budget):
    for seed in range(3):
        for model in (DIVIDED, TRAP, maze, lambda said: {"a": 0.9, STOP: 0.1}):
            given = case(budget, seed=seed, verifier=exactly("xyz"))
            reply = answered(think.read(name), given, model)
            assert 0 < given.spent <= budget
            assert reply in given.replies or name.startswith(("tree", "budget_forcing"))


@pytest.mark.parametrize("name", every_name())
def test_the_same_seed_gives_the_same_reply(name):
    first, again = (answered(think.read(name), case(60, seed=5, verifier=exactly("abc")), maze) for _ in range(2))
    assert (first.tokens, first.logprobs) == (again.tokens, again.logprobs)


def test_the_majority_differs_from_the_likeliest_reply():
    assert text(answered(think.read("greedy"), case(200), DIVIDED).tokens) == "xb"
    for name in ("vote", "auto:sure=0.99:sharpness=0", "weighted_vote:sharpness=0.01"):
        said = Counter(text(answered(think.read(name), case(600, seed=s), DIVIDED).tokens)[-1] for s in range(10))
        assert said["a"] >= 8, name


def test_votes_count_answers_that_say_the_same():
    replies = [Branch(tuple(map(ord, said))) for said in ("7", "12", "7.0", "007", "12")]
    found = votes(case(9, answer=lambda said: said), replies)
    assert [(vote.weight, text(vote.reply.tokens)) for vote in found] == [(3, "7"), (2, "12")]
    found = votes(case(9, answer=lambda said: said), replies, [0.1, 2.0, 0.1, 0.1, 1.0])
    assert text(found[0].reply.tokens) == "12"


def test_replies_that_were_cut_do_not_vote_beside_whole_ones():
    model = table({"": {"w": 0.7, "a": 0.3}, **{"w" * n: {"w": 1.0} for n in range(1, 9)}})
    assert text(answered(think.read("vote"), case(80), model).tokens) == "a"


def test_a_verifier_finds_what_is_rare_and_stops_there():
    given = case(4000, verifier=exactly("def"))
    assert text(answered(think.read("best_of_n"), given, maze).tokens) == "def"
    assert given.spent < 4000
    easy = case(4000, verifier=lambda said: 1.0)
    answered(think.read("best_of_n"), easy, maze)
    assert len(easy.replies) == 1


@pytest.mark.parametrize(
    "name", ["beam:piece=1", "particles:piece=1:sharpness=3", "best_by_score", "tree:by=score:piece=1"]
)
def test_searches_by_score_find_the_likeliest_reply_where_greedy_does_not(name):
    assert text(answered(think.read("greedy"), case(4), TRAP).tokens)[0] == "x"
    for seed in range(5):
        assert text(answered(think.read(name), case(160, seed=seed), TRAP).tokens) == "ya"


def test_a_tree_goes_where_the_verifier_pays():
    """Of 512 replies one is right, and partial credit leads there."""
    found = {}
    for name in ("tree:piece=1", "best_of_n"):
        replies = [
            answered(think.read(name), case(600, seed=seed, verifier=closeness("dag")), maze) for seed in range(20)
        ]
        found[name] = sum(text(reply.tokens) == "dag" for reply in replies)
    assert found["tree:piece=1"] >= found["best_of_n"] + 6


def test_a_scorer_is_an_argument():
    longest = case(100, scorer=lambda branch: -abs(branch.tokens[-1] - ord("q")))
    assert text(answered(think.read("best_by_score"), longest, TRAP).tokens)[-1] in "qp"
    assert text(answered(think.read("beam:piece=1"), longest_case(), TRAP).tokens) == "xs"


def longest_case():
    return case(300, scorer=lambda branch: float(branch.tokens[-1]))


def test_auto_stops_when_it_is_sure():
    sure = case(1000)
    answered(think.read("auto"), sure, table({"": {"a": 1.0}}))
    assert len(sure.replies) == 3
    divided = case(1000)
    answered(think.read("auto"), divided, table({"": {"a": 0.5, "b": 0.5}}))
    assert len(divided.replies) > 4
    doubted = case(1000)
    answered(think.read("auto"), doubted, table({"": {"a": 0.5, "b": 0.5}, "a": {"a": 0.5, "c": 0.5}}))
    assert len(doubted.replies) > 4
    one = case(3, max_tokens=3)
    assert text(answered(think.read("auto"), one, DIVIDED).tokens) == "xb"


def test_the_lead_is_a_probability():
    assert lead(0, 0) == 0.5
    assert lead(4, 0) == pytest.approx(31 / 32, abs=1e-4)
    assert lead(0.2, 0.1) < lead(2, 1) < lead(20, 10)
    assert lead(3, 5) == pytest.approx(1 - lead(5, 3))
    assert lead(30, 10) > 0.99


def test_particles_are_drawn_anew_in_proportion():
    weights = [0.5, 0.0, 3.0, 0.25, 0.25]
    for offset in (0.0, 0.3, 0.999):
        counts = Counter(systematic(weights, offset))
        assert sum(counts.values()) == 5
        assert all(abs(counts[i] - 5 * weight / 4) < 1 for i, weight in enumerate(weights))


def test_budget_forcing_makes_a_reply_longer():
    given = case(100, max_tokens=8)
    reply = answered(
        think.read("budget_forcing:waits=2"),
        given,
        lambda said: {"a": 0.6, STOP: 0.4} if said.endswith(",") else {STOP: 0.7, "b": 0.3},
    )
    assert text(reply.tokens).count("Wait,") == 2
    assert "Answer:" in text(reply.tokens)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("votes", "did you mean 'vote'"),
        ("vote:temprature=1", "temperature"),
        ("vote:temperature=0", "vote.temperature is 0"),
        ("beam:children=0", "beam.children"),
        ("tree:by=luck", "luck"),
        ("auto:sure=1", "auto.sure"),
        ("auto:sharpness=-1", "auto.sharpness"),
        ("budget_forcing:waits=-1", "waits"),
    ],
)
def test_mistakes_in_a_name_are_told(name, sentence):
    with pytest.raises(ConfigError, match=sentence):
        think.read(name)
