"""bench/rl.py and bench/trainer.py: rows of gold solutions, the ways beside each other, ratios."""

import json
from pathlib import Path
from typing import Any

import bench_parts  # noqa: F401
import pytest
import rl as bench
import trainer
from measures import reinforcement

from wren import tasks
from wren.batch import IGNORE
from wren.errors import ConfigError
from wren.tasks import prompts
from wren.tokenizer import Tokenizer

TASK = "reverse_word:min_letters=2:max_letters=3:alphabet=5"


def solutions(**changes: Any) -> reinforcement.Solutions:
    task = tasks.read(TASK)
    tokenizer = Tokenizer.train([prompts.document(p, "bare") for p in task.problems(0, 50)], 270)
    usual: dict[str, Any] = {"batch_size": 6, "seed": 0, "gold": 8}
    return reinforcement.Solutions(task, tokenizer, **{**usual, **changes})


def learned(batches: reinforcement.Solutions) -> list[str]:
    """What is learned of each row of the next batch."""
    batch = batches.next_batch()
    rows = [[token for token in row if token != IGNORE] for row in batch.targets_BT.tolist()]
    assert all(batches.tokenizer.document_id in (row[-1], IGNORE) for row in rows if batches.others is None)
    return [batches.tokenizer.decode([t for t in row if t < batches.tokenizer.vocab_size - 8]) for row in rows]


def test_answers_alone_are_learned_and_the_gold_comes_once_a_turn():
    batches = solutions()
    said = learned(batches) + learned(batches)[:2]
    gold = [batches.task.problem(10_000, i).answer for i in range(8)]
    assert sorted(text.strip() for text in said) == sorted(gold)
    state = batches.state()
    following = learned(batches)
    batches.load_state(state)
    assert learned(batches) == following


def test_without_an_end_no_problem_is_of_the_gold_ones():
    endless = solutions(gold=None, batch_size=30)
    learned(endless)
    assert endless._problem() == endless.task.problem(50_000, 30)


def test_whole_documents_and_other_problems_without_solutions():
    whole = learned(solutions(whole=True))
    assert all(text.startswith("Reverse: ") and "\n" in text for text in whole)
    mixed = learned(solutions(whole=True, others=tasks.read("reverse_word")))
    assert [text.count("\n") and not text.endswith("\n") for text in mixed] == [True, False] * 3


def test_ways_are_compared_seed_by_seed():
    rows = [
        {"task": "t", "seed": seed, "way": way, "accuracy": value + seed / 100}
        for seed in (0, 1)
        for way, value in (("start", 0.1), ("reinforced", 0.5), ("fine-tuned", 0.2))
    ]
    (found,) = reinforcement.result(rows)["tasks"]
    assert found["over fine-tuned"]["mean"] == pytest.approx(0.3)
    assert found["over fine-tuned"]["half"] == pytest.approx(0.0, abs=1e-9)
    assert found["over start"]["mean"] == pytest.approx(0.4)
    assert "over unlimited" not in found


def test_the_bench_runs_and_goes_on_where_it_was(tmp_path: Path, capsys):
    given = [
        "--tasks",
        TASK,
        "--seeds",
        "1",
        "--seconds",
        "0.2",
        "--gold",
        "20",
        "--start-steps",
        "2",
        "--size",
        "1x32",
    ]
    given += ["--test", "10", "--no-speed", "--json", str(tmp_path / "rl.json")]
    assert bench.main(given) == 0
    rows = json.loads((tmp_path / "rl.json").read_text())["parts"]["reinforcement"]["rows"]
    assert [row["way"] for row in rows] == ["start", *reinforcement.WAYS]
    assert rows[1]["samples"] > 0
    capsys.readouterr()
    assert bench.main([*given, "--done", str(tmp_path / "rl.json")]) == 0
    assert "seed 0: start" not in capsys.readouterr().out


WRONG = [(["--ways", "reinforce"], "reinforced"), (["--lr", "all=1"], "all"), (["--lr", "start"], "start")]


@pytest.mark.parametrize(("given", "sentence"), WRONG)
def test_mistakes_are_told(given, sentence):
    with pytest.raises(ConfigError, match=sentence):
        bench.terms_of(bench.parser().parse_args(given))


def test_a_ratio_is_of_median_steps_and_a_turns_spread_is_told():
    seconds = {
        "wren, fp32": [[1.0, 1.0, 9.0], [1.0, 1.2, 1.1]],
        trainer.THEIR_DEFAULT: [[2.0, 2.0, 2.0], [1.1, 1.1, 1.1]],
    }
    (row,) = trainer.summary(seconds)
    assert row["ratio"] == pytest.approx(1.55 / 1.05)
    assert row["turns"] == pytest.approx([1.0, 2.0])
    assert row["target"] == 1.15
