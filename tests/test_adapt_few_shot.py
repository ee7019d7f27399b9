"""Learning from a prompt's examples: what is asked is never seen, views can be taken back, nothing stays behind."""

import json
from pathlib import Path
from random import Random

import pytest
import torch
from tune_parts import FP32, base_run, tokenizer

from wren import cli, tasks
from wren.adapt.examples import Example, Puzzle, View, episodes, read_puzzle, views, voted
from wren.adapt.few_shot import Asker, FewShotConfig, learn, make_batch, solve
from wren.adapt.learner import Learner, adapting
from wren.adapters.adapter import AdapterConfig
from wren.batch import IGNORE
from wren.errors import ConfigError, DataError
from wren.generate import Engine, load_run

PROMPT = "3 1 2 > 2 1 3\n5 0 > 0 5\n7 8 9 > 9 8 7\n6 4 >"
PUZZLE = Puzzle((Example("3 1 2", "2 1 3"), Example("5 0", "0 5"), Example("7 8 9", "9 8 7")), "6 4")


def test_a_prompt_is_read_and_written_back():
    assert read_puzzle(PROMPT) == PUZZLE
    assert PUZZLE.prompt() == PROMPT
    for problem in tasks.read("list_functions").problems(0, 30):
        assert read_puzzle(problem.prompt).prompt() == problem.prompt


def test_episodes_ask_for_each_example_and_never_for_what_is_asked():
    found = episodes(PUZZLE, 100, Random(0), backwards=False)
    assert {episode.answer for episode in found} == {"2 1 3", "0 5", "9 8 7"}
    for episode in found:
        puzzle = read_puzzle(episode.prompt)
        assert Example(puzzle.asked, episode.answer) in PUZZLE.examples
        assert Example(puzzle.asked, episode.answer) not in puzzle.examples
        assert len(puzzle.examples) == 2
        assert "6 4" not in episode.prompt
    assert len(found) == len(set(found)) == 6


def test_views_can_be_taken_back():
    every = views(100, 3, Random(0), backwards=True)
    assert every[0] == View((0, 1, 2))
    assert len(every) == len(set(every)) == 12
    for view in every:
        seen = view.puzzle(PUZZLE)
        back = {Example(view.written(before), view.written(after)) for before, after in seen.examples}
        assert back == set(PUZZLE.examples)
        assert view.written(seen.asked) == PUZZLE.asked


def test_a_vote():
    assert voted(["2 1", "", "1 2", "1 2", ""]) == "1 2"
    assert voted(["a", "b"]) == "a"
    assert voted(["", ""]) == ""


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("What is 1+1?", "no examples"),
        ("1 > 2\n3 > 4", "no examples"),
        ("1 >\n3 >", "no examples"),
        ("", "no examples"),
        ("1 > 2\n3 >", "fewer than two"),
        ("1 > 2\n3 > 4\n1 > 5\n3 >", "contradict each other: '1' gives both '2' and '5'"),
    ],
)
def test_a_prompt_that_cannot_be_learned_from(prompt: str, says: str):
    with pytest.raises(DataError, match=says):
        read_puzzle(prompt)


def test_answers_alone_are_learned():
    run_tokenizer = tokenizer()
    learned = episodes(PUZZLE, 3, Random(0), backwards=False)
    batch = make_batch(learned, asker_of(None))
    for episode, targets_T in zip(learned, batch.targets_BT, strict=True):
        tokens = targets_T[targets_T != IGNORE].tolist()
        assert tokens[-1] == run_tokenizer.document_id
        assert run_tokenizer.decode(tokens[:-1]).strip() == episode.answer


def asker_of(engine: Engine | None) -> Asker:
    return Asker(engine, tokenizer(), FP32)  # type: ignore[arg-type]


def test_it_learns_and_leaves_nothing_behind(tmp_path: Path):
    loaded = load_run(base_run(tmp_path / "run"), torch.device("cpu"))
    model, config = loaded.model, FewShotConfig(lr=0.03, rank=4, steps=6, votes=3, max_tokens=6)
    tokens_BT = torch.arange(12)[None]
    logits_BTV = model(tokens_BT)
    with adapting(model) as adapters:
        asker = asker_of(Engine(model, FP32, vocab_size=tokenizer().vocab_size))
        learner = Learner(adapters, AdapterConfig(rank=4), config.lr, torch.Generator().manual_seed(0))
        plain = asker.answers([PROMPT], 6)
        first = solve(learner, PROMPT, config, asker)
        assert first.losses[-1] < first.losses[0]
        assert solve(learner, "9 9 > 1\n8 8 > 2\n7 7 > 3\n1 1 >", config, asker) != first
        assert solve(learner, PROMPT, config, asker) == first
        assert asker.answers([PROMPT], 6) == plain
        wild = Learner(adapters, AdapterConfig(rank=4), 1e30, torch.Generator().manual_seed(0))
        batch = make_batch(episodes(PUZZLE, 3, Random(0), backwards=False), asker)
        assert (len(learn(wild, batch, 5, asker)), wild.rollbacks) == (1, 1)
        assert asker.answers([PROMPT], 6, adapter=wild.number) == plain
    assert torch.equal(model(tokens_BT), logits_BTV)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run, out = base_run(tmp_path / "run"), tmp_path / "out.json"
    command = ["adapt", "--run", str(run), "--task", "list_functions", "--rank", "2", "--steps", "2", "--dtype", "fp32"]
    assert cli.main([*command, "--count", "2", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert [row["name"].partition(",")[0] for row in found["forms"]] == [
        "in context",
        "in context",
        "in context",
        "learned in 2 steps",
        "learned",
    ]
    assert found["accuracy"] == found["forms"][-1]["accuracy"]
    capsys.readouterr()
    for wrong, says in (
        (["--text", "x"], "exclude each other"),
        (["--count", "0"], "--count is 0"),
        (["--steps", "0"], "steps is 0"),
    ):
        assert cli.main([*command, *wrong]) == 2
        assert says in capsys.readouterr().err
    command[4] = "chain_sum"
    assert cli.main(command) == 2
    assert "no examples to learn from" in capsys.readouterr().err


def test_settings_out_of_range():
    with pytest.raises(ConfigError, match="votes is 0"):
        FewShotConfig(votes=0)
