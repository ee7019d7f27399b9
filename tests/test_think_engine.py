"""Thinking with a model: one engine for many problems, prefixes that are read once, and the verb."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tune_parts import FP32, base_run

from wren import cli, think
from wren.errors import ConfigError
from wren.generate import Engine, load_run
from wren.think import measure
from wren.think.algorithm import Algorithm, Steps
from wren.think.asker import Asker, read_task
from wren.think.branch import Ask
from wren.think.case import Case
from wren.think.thinker import Solved, Thinker

TASK = "reverse_word:min_letters=2:max_letters=3:alphabet=5"
PIECES = ["particles:piece=2", "tree:piece=2", "beam:piece=2"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_run(tmp_path_factory.mktemp("base") / "run")


def thinker(base: Path, **more: Any) -> Thinker:
    loaded = load_run(base, torch.device("cpu"))
    size = more.pop("max_bytes", None)
    engine = Engine(loaded.model.double(), FP32, vocab_size=loaded.tokenizer.vocab_size, max_bytes=size)
    return Thinker(engine, Asker(read_task(TASK), loaded.tokenizer, "bare"), 6, **more)


def problems(of: Thinker, count: int = 4):
    return of.asker.task.distinct(0, count, "test")


def said(solved: list[Solved]) -> list[tuple[Any, ...]]:
    return [(each.text, each.spent, each.samples, [reply.tokens for reply in each.replies]) for each in solved]


@pytest.mark.parametrize("name", [*think.names(), "tree:by=score"])
def test_a_problem_alone_is_answered_as_beside_others(base, name):
    """In float64, where products of other shapes draw the same tokens."""
    of, algorithm = thinker(base), think.read(name)
    asked = problems(of)
    together = of.solve(algorithm, asked, 40, seed=1)
    apart = [thinker(base).solve(algorithm, [each], 40, seed=1)[0] for each in asked[:2]]
    assert said(together[:2]) == said(apart)
    assert all(0 < each.spent <= 40 for each in together)
    assert of.engine.bytes_in_use == 0
    assert not of.engine.busy


def test_another_seed_samples_otherwise(base):
    of = thinker(base)
    first, second = (of.solve(think.read("vote"), problems(of), 30, seed=seed) for seed in (0, 1))
    assert said(first) != said(second)


@pytest.mark.parametrize("name", [*PIECES, "vote", "auto"])
def test_what_is_shared_is_read_once(base, name):
    of, widths = thinker(base), []
    hidden = of.engine.forward.hidden

    def counted(tokens_BT: torch.Tensor, *rest: Any) -> torch.Tensor:
        widths.append(tokens_BT.shape[1])
        return hidden(tokens_BT, *rest)

    of.engine.forward.hidden = counted  # type: ignore[method-assign]
    asked = problems(of, 1)
    [solved] = of.solve(think.read(name), asked, 48)
    assert solved.samples > 4
    read = len(of.asker.prompt(asked[0])) - 1
    assert widths[0] == read
    assert set(widths[1:]) == {1}, "after the prompt, every call reads one token of each row"


def test_without_memory_for_prefixes_the_same_is_said(base):
    plenty, little = thinker(base), thinker(base)
    row = little.engine.forward.row_bytes(len(little.asker.prompt(problems(little)[0])) + 8)
    little.engine.max_bytes = 24 * row
    for name in PIECES:
        found = [said(of.solve(think.read(name), problems(of, 3), 40)) for of in (plenty, little)]
        assert found[0] == found[1]


class Greedy(Algorithm):
    """Asks for more than it may."""

    def solve(self, case: Case) -> Steps:
        [[reply]] = yield [Ask(case.root, 1, case.left + 1, 0.0)]
        return reply


def test_the_driver_holds_the_budget(base):
    of = thinker(base)
    with pytest.raises(RuntimeError, match="with 20 tokens left"):
        of.solve(Greedy(), problems(of, 1), 20)


def test_what_cannot_be_done_is_told(base):
    of = thinker(base, verify=False)
    for name in ("best_of_n", "tree"):
        with pytest.raises(ConfigError, match=f"{name} chooses by a verifier"):
            of.solve(think.read(name), problems(of), 20)
    assert len(of.solve(think.read("tree:by=score"), problems(of, 1), 20)) == 1
    with pytest.raises(ConfigError, match="budget is 0"):
        of.solve(think.read("vote"), problems(of), 0)


# the verb


def called(base: Path, out: Path, *more: str) -> int:
    given = ["think", "--run", str(base), "--task", TASK, "--budgets", "12,24", "--problems", "3", "--device", "cpu"]
    return cli.main([*given, "--out", str(out), *more])


def test_the_verb(base, tmp_path, capsys):
    assert called(base, tmp_path / "out", "--dry-run") == 0
    assert "Would ask" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert called(base, tmp_path / "out", "--dry-run", "--no-verify") == 0
    assert "best_of_n" not in capsys.readouterr().out
    assert (
        called(
            base, tmp_path / "out", "--algorithms", "greedy,best_of_n,beam:piece=2", "--json", str(tmp_path / "r.json")
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert "best_of_n *" in shown
    assert "pass@1" in shown
    result = json.loads((tmp_path / "r.json").read_text())
    assert [(row["name"], row["budget"]) for row in result["rows"]] == [
        (name, budget) for budget in (12, 24) for name in ("greedy", "best_of_n", "beam:piece=2")
    ]
    assert all(0 < row["tokens"] <= row["budget"] and row["low"] <= row["accuracy"] for row in result["rows"])
    assert result["complete"]
    assert len(list((tmp_path / "out").glob("*.png"))) == 1


def test_an_interruption_keeps_what_is_measured(base, tmp_path, monkeypatch, capsys):
    whole, calls = measure.cell, []

    def cell(*given: Any):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*given)

    monkeypatch.setattr(measure, "cell", cell)
    assert called(base, tmp_path / "out", "--algorithms", "greedy,vote", "--json", str(tmp_path / "r.json")) == 130
    result = json.loads((tmp_path / "r.json").read_text())
    assert [row["name"] for row in result["rows"]] == ["greedy"]
    assert not result["complete"]
    assert "greedy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--budgets", "3"], "less than one answer"),
        (["--budgets", "many"], "budget of tokens"),
        (["--algorithms", "luck"], "Algorithm 'luck' is unknown"),
        (["--algorithms", "vote,best_of_n", "--no-verify"], "best_of_n chooses by a verifier and there is none here"),
        (["--task", "nothing"], "Task 'nothing' is unknown"),
        (["--problems", "0"], "--problems is 0"),
        (["--form", "chat", "--run", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_told(base, tmp_path, capsys, more, sentence):
    assert called(base, tmp_path / "out", *more) == 2
    assert sentence in capsys.readouterr().err
