"""Learning from attempts: search that learns from what was wrong, and votes that are believed behind a gate."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch
from tune_parts import FP32, base_run, tokenizer

from wren import cli, tasks
from wren.adapt.attempts import Attempt, Trier
from wren.adapt.learner import Learner, adapting
from wren.adapt.majority import MajorityConfig, Vote, VoteGate, look, loss, measured, refusal, sharpen, vote
from wren.adapt.search import SearchConfig, search
from wren.adapters.adapter import AdapterConfig
from wren.errors import ConfigError, DataError
from wren.generate import Completion, Drawn, Engine, load_run
from wren.loss import cross_entropy, token_losses
from wren.model import LM
from wren.replies import policy_batch
from wren.tasks.task import RIGHT, Problem, Task


class Letters(Task):
    """Say one of the wanted letters; a wrong letter is right where it is wanted."""

    def __init__(self, wanted: str = ""):
        self.wanted = wanted

    @property
    def name(self) -> str:
        return "letters"

    def draw(self, rng: Random) -> Problem:
        number = rng.randrange(10_000)
        return Problem(prompt=f"Say {number}", answer="abcde"[number % 5])

    def score(self, problem: Problem, text: str) -> float:
        return float(bool(text) and text[0] in (self.wanted or problem.answer))

    def answered_by(self, problem: Problem, text: str) -> Problem | None:
        return Problem(prompt=f"Say {text[:1]}", answer=text[:1]) if text[:1] in "abcde" and text else None


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[tuple[Trier, Learner]]:
    model = load_run(base_run(tmp_path / "run", init_std=0.2), torch.device("cpu")).model
    with adapting(model) as adapters:
        engine = Engine(model, FP32, vocab_size=tokenizer().vocab_size)
        learner = Learner(adapters, AdapterConfig(rank=4), 0.01, torch.Generator().manual_seed(0))
        yield Trier(Letters("#"), engine, tokenizer(), FP32, "bare", 3), learner


def logits(trier: Trier, learner: Learner | None = None) -> torch.Tensor:
    model = trier.engine.model
    assert model.adapters is not None
    with torch.no_grad(), model.adapters.rows(0 if learner is None else learner.number):
        return model(torch.arange(20)[None])


def reply(text: str, *, ended: bool = True, score: float = 0.0) -> Attempt:
    drawn = [Drawn(ord(letter), -1.0, -1.0) for letter in text]
    return Attempt([1, 2], Completion(drawn, ended_by=Drawn(0, -1.0, -1.0) if ended else None), text, score)


def test_countdown_knows_what_an_answer_solves():
    task = tasks.read("countdown")
    solved = 0
    for problem in task.problems(0, 40):
        assert task.answered_by(problem, problem.answer) == dataclasses.replace(problem, answer="")
        other = task.problem(1, solved)
        found = task.answered_by(problem, other.answer)
        assert found is None or task.score(found, other.answer) == RIGHT
        numbers = problem.prompt.partition(": ")[2].split()
        found = task.answered_by(problem, "+".join(numbers))
        if found is not None:
            solved += 1
            assert found.prompt == f"Make {sum(map(int, numbers))}: {' '.join(numbers)}"
    assert solved > 30
    problem = task.problem(0, 0)
    for wrong in ("", "1+", "nonsense", "1+1", "9" * 600, problem.answer + "=1000"):
        assert task.answered_by(problem, wrong) is None
    assert tasks.read("sort_numbers").answered_by(tasks.read("sort_numbers").problem(0, 0), "1 2 3") is None


def test_avoiding_makes_replies_less_likely_and_imitating_more(parts: tuple[Trier, Learner]):
    trier, learner = parts
    problem = Problem(prompt="Say 3", answer="d")
    [tried] = trier.attempts([problem], 6, seed=1)

    def nats(adapter: int) -> float:
        batch = policy_batch([(each.prompt, each.reply) for each in tried], torch.ones(6), 0)
        assert trier.engine.model.adapters is not None
        with torch.no_grad(), trier.engine.model.adapters.rows(adapter):
            return float(token_losses(trier.engine.model, batch).sum())

    before = nats(learner.number)
    assert before == nats(0)
    for _ in range(3):
        assert trier.avoid(learner, tried)
    assert nats(learner.number) > before
    learner.reset()
    assert nats(learner.number) == before
    for _ in range(3):
        assert trier.imitate(learner, [(problem, each) for each in tried])
    assert nats(learner.number) < before
    assert nats(0) == before


def test_search_keeps_its_budget_and_leaves_nothing_behind(parts: tuple[Trier, Learner]):
    trier, learner = parts
    before, problem = logits(trier), Problem(prompt="Say 3", answer="d")
    config = SearchConfig(budget=200, attempts=8, lr=0.01, rank=4)
    found = search(learner, problem, config, trier, seed=3)
    assert found.found_at is None
    assert found.answer == ""
    assert found.attempts <= found.spent <= 200
    assert 200 - found.spent < 3 * 8
    assert torch.equal(logits(trier, learner), before)
    assert torch.equal(logits(trier), before)
    assert search(learner, problem, config, trier, seed=3) == found


def test_search_ends_at_the_first_right_attempt(parts: tuple[Trier, Learner]):
    trier, learner = parts
    easy = dataclasses.replace(trier, task=Letters("".join(map(chr, range(33, 127)))))
    problem = Problem(prompt="Say 3", answer="d")
    found = search(learner, problem, SearchConfig(budget=400, attempts=4, rank=4), easy, seed=3)
    assert found.found_at == found.spent <= 400
    assert easy.task.score(problem, found.answer) == RIGHT


def test_without_learning_search_is_sampling(parts: tuple[Trier, Learner]):
    trier, learner = parts
    problem = Problem(prompt="Say 3", answer="d")
    config = SearchConfig(budget=120, attempts=4, learns=False, temperature=1.0)
    first = search(learner, problem, config, trier, seed=3)
    assert search(learner, problem, dataclasses.replace(config, lr=0.5), trier, seed=3) == first


def test_an_adapter_that_is_lost_is_taken_back(parts: tuple[Trier, Learner]):
    trier, learner = parts
    before = logits(trier)
    config = SearchConfig(budget=100, attempts=8, lr=1e30, rank=4)
    found = search(learner, Problem(prompt="Say 3", answer="d"), config, trier)
    assert found.rollbacks > 0
    assert torch.equal(logits(trier, learner), before)


def test_a_vote_counts_what_came_to_its_end():
    group = [reply("a"), reply("b"), reply("b"), reply(""), reply("c", ended=False), reply("c", ended=False)]
    assert vote(group) == Vote("b", 2, 1, 6)
    assert vote([reply("")]) == Vote("", 0, 0, 1)
    assert vote([reply("a"), reply("b")]).answer == "a"


def test_a_vote_is_sure_where_it_leads_beyond_chance():
    gate = VoteGate(lead=2.0, share=0.5)
    assert Vote("a", 12, 4, 16).is_sure(gate)
    assert not Vote("a", 9, 7, 16).is_sure(gate)  # leads by 0.5 standard deviations
    assert not Vote("a", 7, 0, 16).is_sure(gate)  # fewer than half
    assert not Vote("", 0, 0, 16).is_sure(VoteGate(lead=0.0, share=0.0))


def seen(
    accuracy: float, passed: float, sure: float = 0.5, precision: float = 1.0, low: float = 0.9
) -> dict[str, float]:
    return {"accuracy": accuracy, "pass": passed, "sure": sure, "precision": precision, "precision_low": low}


def test_the_gate_refuses_what_was_wrong_before():
    gate = VoteGate()
    assert refusal(seen(0.5, 0.9), gate) == ""
    assert "no" in refusal(seen(0.5, 0.9, sure=0.0), gate).lower()
    assert "right in 55%" in refusal(seen(0.5, 0.9, precision=0.55, low=0.4), gate)
    assert loss([seen(0.5, 0.9), seen(0.5, 0.88)], gate) == ""
    assert "accuracy" in loss([seen(0.5, 0.9), seen(0.49, 0.9)], gate)
    assert "pass@k" in loss([seen(0.5, 0.9), seen(0.6, 0.8)], gate)


def drawn(count: int, split: str) -> list[Problem]:
    return Letters().distinct(0, count, split)  # type: ignore[arg-type]


def test_where_the_gate_refuses_nothing_changes(parts: tuple[Trier, Learner]):
    trier, learner = parts
    before = logits(trier)
    done = sharpen(learner, drawn(6, "test"), drawn(6, "val"), MajorityConfig(rank=4, samples=4), trier)
    assert done.refused
    assert (done.rounds, done.believed) == (0, 0)
    assert torch.equal(logits(trier, learner), before)


def test_the_vote_never_looks_at_an_answer(parts: tuple[Trier, Learner]):
    trier, learner = parts
    config = MajorityConfig(rank=4, samples=4, rounds=3, problems=4, lr=0.02, gate=None)
    problems = drawn(6, "test")
    before = logits(trier)
    done = sharpen(learner, problems, [], config, trier, seed=1)
    assert (done.rounds, done.believed, done.seen) == (3, done.believed, 12)
    after = logits(trier, learner)
    assert not torch.equal(after, before)
    assert torch.equal(logits(trier), before)
    others = [dataclasses.replace(problem, answer="wrong") for problem in problems]
    everything = dataclasses.replace(trier, task=Letters("abcdefghijklmnopqrstuvwxyz"))
    sharpen(learner, others, [], config, everything, seed=1)
    assert torch.equal(logits(trier, learner), after)


def taught(path: Path) -> LM:
    """A model that answers a or b or c, whatever it is asked."""
    model, said = load_run(base_run(path), torch.device("cpu")).model, Random(0)
    with torch.no_grad():  # behind the last norm an adapter moves directions alone: so small a head could not be sure
        model.head.weight.mul_(8)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        rows = []
        for number in range(16):
            [letter] = tokenizer().encode(said.choice("aaaaabbbcc"))
            ended = Completion([Drawn(letter, 0.0, 0.0)], ended_by=Drawn(tokenizer().document_id, 0.0, 0.0))
            rows.append(([tokenizer().document_id, *tokenizer().encode(f"Say {number}\n")], ended))
        cross_entropy(model, policy_batch(rows, torch.ones(16), 0)).div(32).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def test_the_vote_sharpens(tmp_path: Path):
    """Without a gate the attempts come to agree, whether they are right or not; the gate sees that they are wrong."""
    model, problems = taught(tmp_path / "run"), drawn(6, "test")
    config = MajorityConfig(rank=4, samples=16, rounds=24, problems=6, lr=0.002, gate=None)
    with adapting(model) as adapters:
        engine = Engine(model, FP32, vocab_size=tokenizer().vocab_size)
        learner = Learner(adapters, AdapterConfig(rank=4), 0.01, torch.Generator().manual_seed(0))
        trier = Trier(Letters("#"), engine, tokenizer(), FP32, "bare", 3)

        def agreement() -> float:
            groups = measured(trier, problems, 16, adapter=learner.number)["groups"]
            return sum(vote(group).first for group in groups) / (16 * len(problems))

        before = agreement()
        assert 0.3 < before < 0.6
        gated = dataclasses.replace(config, gate=VoteGate(lead=0.5, share=0.3), lr=0.0003)
        assert "right in 0% of the cases" in sharpen(learner, problems, drawn(6, "val"), gated, trier).refused
        assert agreement() == before
        right = dataclasses.replace(trier, task=Letters("abc"))
        done = sharpen(learner, problems, drawn(40, "val"), gated, right)
        assert (done.refused, done.taken_back, done.rounds) == ("", "", 24)
        assert agreement() > before
        sharpen(learner, problems, [], config, trier)
        assert agreement() > before + 0.2


def test_a_moment_that_lost_is_put_back(parts: tuple[Trier, Learner], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The third look sees less than the first: what the second one saw is put back."""
    trier, learner = parts
    trier.engine.model.load_state_dict(taught(tmp_path / "taught").state_dict())
    moments = []
    looks = iter([seen(0.5, 0.9), seen(0.6, 0.9), seen(0.4, 0.9)])

    def fake_look(learner: Learner, *rest: object) -> dict[str, float]:
        moments.append(logits(trier, learner))
        return next(looks)

    monkeypatch.setattr("wren.adapt.majority.look", fake_look)
    gate = VoteGate(lead=0.0, share=0.0, every=2)
    config = MajorityConfig(rank=4, samples=4, rounds=20, problems=4, lr=0.02, gate=gate)
    done = sharpen(learner, drawn(6, "test"), drawn(6, "val"), config, trier)
    assert (done.rounds, done.refused) == (4, "")
    assert "fell from 50.0% to 40.0%" in done.taken_back
    assert not torch.equal(moments[1], moments[2])
    assert torch.equal(logits(trier, learner), moments[1])


def test_what_a_look_sees(parts: tuple[Trier, Learner]):
    trier, learner = parts
    never = look(learner, drawn(4, "val"), MajorityConfig(rank=4, samples=4), trier)
    assert (never["accuracy"], never["pass"], never["precision_low"]) == (0.0, 0.0, 0.0)


def test_what_cannot_be_asked(parts: tuple[Trier, Learner]):
    trier, learner = parts
    problems = drawn(4, "test")
    with pytest.raises(DataError, match="needs problems whose answers are known"):
        sharpen(learner, problems, [], MajorityConfig(rank=4), trier)
    with pytest.raises(DataError, match="among the known ones"):
        sharpen(learner, problems, problems[:1], MajorityConfig(rank=4), trier)
    with pytest.raises(ConfigError, match="less than one attempt of 3"):
        search(learner, problems[0], SearchConfig(budget=2), trier)
    with pytest.raises(ConfigError, match="budget is 0"):
        SearchConfig(budget=0)
    with pytest.raises(ConfigError, match="temperature is 0"):
        SearchConfig(temperature=0.0)
    with pytest.raises(ConfigError, match="learning rate is -1"):
        SearchConfig(lr=-1.0)
    with pytest.raises(ConfigError, match="samples is 1"):
        MajorityConfig(samples=1)
    with pytest.raises(ConfigError, match="precision 2"):
        VoteGate(precision=2)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run, out = base_run(tmp_path / "run"), tmp_path / "out.json"
    command = ["adapt", "--run", str(run), "--rank", "2", "--dtype", "fp32", "--form", "bare", "--json", str(out)]
    assert (
        cli.main(
            [*command, "--task", "countdown", "--by", "search", "--count", "1", "--budget", "64", "--max-tokens", "4"]
        )
        == 0
    )
    found = json.loads(out.read_text())
    assert [row["name"].split()[0] for row in found["forms"]] == ["search", "sampling"] * 2
    assert (found["hard"], found["asked"]) == (1, 10)
    assert "search with learning" in capsys.readouterr().out
    assert cli.main([*command, "--task", "countdown", "--by", "vote", "--count", "3", "--max-tokens", "4"]) == 0
    found = json.loads(out.read_text())
    assert found["refused"]
    assert found["forms"][0]["accuracy"] == found["forms"][1]["accuracy"]
    for wrong, says in (
        (["--by", "vote"], "needs problems"),
        (["--by", "vote", "--task", "countdown", "--form", "chat"], "plain or bare"),
        (["--by", "search", "--task", "countdown", "--budget", "5"], "less than one attempt"),
        (["--by", "search", "--task", "countdown", "--count", "0"], "--count is 0"),
    ):
        capsys.readouterr()
        args = [part for part in command if part != "--form" and part != "bare"] if "--form" in wrong else command
        assert cli.main([*args, *wrong]) == 2
        assert says in capsys.readouterr().err
