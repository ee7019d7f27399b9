"""How problems are put to models and answers taken out of replies; and tasks from files of questions and answers."""

import gzip
import json
from pathlib import Path

import pytest

from wren import tasks
from wren.errors import ConfigError, DataError, TokenizerError
from wren.tasks import prompts
from wren.tasks.task import SPLITS, Problem
from wren.tokenizer import Tokenizer
from wren.tokenizer.chat import Chat, Message, read_messages

SUM = Problem(prompt="17+25=", answer="42")
WORDY = Problem(prompt="6 x 7?", answer="42", solution="6 times 7 is 42.\n#### 42")
GSM8K = Path(__file__).parents[2] / "shared" / "chat" / "gsm8k.train.jsonl.zst"


def written(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_prompt_is_the_beginning_of_its_document():
    assert prompts.text(SUM) == "Question: 17+25=\nAnswer:"
    assert prompts.document(SUM) == "Question: 17+25=\nAnswer: 42"
    assert prompts.text(SUM, "bare", [SUM]) == "17+25=\n42\n\n17+25=\n"
    assert prompts.document(WORDY) == "Question: 6 x 7?\nAnswer: 6 times 7 is 42.\n#### 42"
    assert prompts.text(SUM, shots=[WORDY]).startswith(prompts.document(WORDY) + "\n\nQuestion:")
    with pytest.raises(ConfigError, match=r"'chat' is unknown"):
        prompts.text(SUM, "chat")


def test_tokens_are_those_that_chat_and_sample_begin_with():
    tokenizer = Tokenizer.train(["Question: 17+25=\nAnswer: 42"] * 4, 400)
    chat = prompts.tokens(SUM, tokenizer, "chat")
    assert chat == Chat(tokenizer).prompt([Message("user", "17+25=")])
    plain = prompts.tokens(SUM, tokenizer, "plain")
    assert plain[0] == tokenizer.document_id
    assert tokenizer.decode(plain) == prompts.text(SUM)
    with pytest.raises(TokenizerError, match="no tokens for conversations"):
        prompts.tokens(SUM, Tokenizer.train(["x"], 258), "chat")


@pytest.mark.parametrize(
    ("reply", "form", "answer"),
    [
        (" 42", "plain", "42"),
        (" 42\n\nQuestion: 1+1=\nAnswer: 2", "plain", "42"),
        ("\n42\n\n1+1=\n2", "bare", "42"),
        ("42", "chat", "42"),
        ("Let me see.\n#### 41\nNo:\n#### 42", "chat", "42"),
        ("<answer>1</answer> or <answer> 42 </answer>", "chat", "42"),
        (r"so \boxed{\frac{1}{2}} it is", "chat", r"\frac{1}{2}"),
        ("I think. The answer is 42.", "chat", "42."),
        ("Answer: 1 2\n3 4", "chat", "1 2\n3 4"),
        ("**Final answer:** 42", "chat", "42"),
        ("The answer is", "chat", "The answer is"),
        ("", "chat", ""),
    ],
)
def test_the_answer_is_taken_out_of_a_reply(reply: str, form: prompts.Form, answer: str):
    assert prompts.answer_in(reply, form) == answer


def test_examples_are_conversations_that_answer_right():
    task = tasks.read("chain_sum")
    rows = prompts.examples(task, "train", 6, seed=4)
    assert [row["messages"][0]["content"] for row in rows] == [p.prompt for p in task.problems(4, 6)]
    for row, problem in zip(rows, task.problems(4, 6), strict=True):
        messages = read_messages(row["messages"])
        assert [message.role for message in messages] == ["user", "assistant"]
        assert prompts.score(task, problem, messages[-1].content) == 1


@pytest.mark.parametrize("form", ["plain", "bare", "chat"])
@pytest.mark.parametrize("name", tasks.names())
def test_what_a_model_learns_to_say_scores_in_every_form(name: str, form: prompts.Form):
    task = tasks.read(name)
    for problem in task.problems(1, 8, "val"):
        reply = problem.said if form == "chat" else prompts.document(problem, form)[len(prompts.text(problem, form)) :]
        assert prompts.score(task, problem, reply, form) == 1


FORMS = [
    {"question": "6 x 7?", "answer": "6 x 7 = <<6*7=42>>42\n#### 42"},
    {"messages": [{"role": "user", "content": "6 x 7?"}, {"role": "assistant", "content": "#### 42"}]},
    {"conversations": [{"from": "human", "value": "6 x 7?"}, {"from": "gpt", "value": "42"}]},
    {"problem": "6 x 7?", "solution": r"It is \boxed{42}."},
    {"prompt": "6 x 7?", "completion": " 42"},
    {"instruction": "Multiply.", "input": "6 x 7", "output": 42},
    {"query": "6 x 7?", "response": "Multiply. The answer is 42"},
]


@pytest.mark.parametrize("row", FORMS, ids=lambda row: "-".join(row))
def test_the_fields_of_a_file_are_found(row: dict, tmp_path: Path):
    task = tasks.read(f"file:{written(tmp_path / 'a.jsonl', row)}")
    split = next(split for split in SPLITS if task.size(split))
    problem = task.problem(0, 0, split)
    assert problem.answer == "42"
    assert "6 x 7" in problem.prompt
    assert "<<" not in problem.said
    scores = [task.score(problem, said) for said in ("42", "42.0", " 42 apples", "43", "4 2", "")]
    assert scores == [1, 1, 1, 0, 0, 0]
    assert prompts.score(task, problem, problem.said) == 1
    empty = next(split for split in SPLITS if not task.size(split))
    with pytest.raises(DataError, match=f"1 different questions, none of them in the split '{empty}'"):
        task.problem(0, 0, empty)


def test_choices_are_listed_and_taken_as_letter_or_text(tmp_path: Path):
    for answer in ("wren", 1, "B"):
        row = {"question": "A bird?", "choices": ["stone", "wren"], "answer": answer}
        task = tasks.read(f"file:{written(tmp_path / 'c.jsonl', row)}")
        problem = next(task.problem(0, 0, split) for split in SPLITS if task.size(split))
        assert problem.prompt == "A bird?\nA. stone\nB. wren"
        said = ("wren", "B", "(b)", "B. wren", "A", "stone", "C", "A. wren or stone")
        assert [task.score(problem, text) for text in said] == [1, 1, 1, 1, 0, 0, 0, 0]


def test_a_file_is_gone_through_once_before_again_and_split_by_content(tmp_path: Path):
    rows = [{"question": f"What is {n}?", "answer": str(n)} for n in range(60)]
    path = tmp_path / "n.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, [*rows, rows[3]])).encode()))
    task = tasks.read(f"file:{path}")
    sizes = [task.size(split) for split in SPLITS]
    assert sum(sizes) == 60  # the copy does not count
    assert min(sizes) > 0
    first = [problem.prompt for problem in task.problems(0, sizes[0])]
    assert len(set(first)) == sizes[0]
    assert first != [problem.prompt for problem in task.problems(1, sizes[0])]
    again = list(task.problems(0, 2 * sizes[0]))
    assert sorted(p.prompt for p in again[sizes[0] :]) == sorted(first)
    assert [p.prompt for p in again[sizes[0] :]] != first
    everything = {p.prompt for split in SPLITS for p in task.distinct(0, 100, split)}
    assert len(everything) == 60
    turned = written(tmp_path / "turned.jsonl", *reversed(rows))
    other = tasks.read(f"file:{turned}")
    assert {p.prompt for p in other.distinct(0, 99, "test")} == {p.prompt for p in task.distinct(0, 99, "test")}


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ('{"question": "2 + 2?"}', r":1 has a question but no answer"),
        ('{"question": "2 + 2?", "answer": ""}', r":1 has a question but no answer"),
        ('{"messages": [{"role": "user", "content": "2?"}]}', r":1 has a question but no answer"),
        ('{"question": "2?", "answer": "2"}\n{"text": "x"}', r":2 has no question and answer .*\('text'\)"),
        ('{"question": "2?", "answer": ["2"]}', r":1 has no text as 'answer'"),
        ("{", r":1 is not valid JSON"),
        ("[1]", r":1 holds a list"),
        ("", r"has no lines"),
        ('{"question": "?", "choices": ["a", "b"], "answer": "c"}', r"the answer 'c' is none of the 2 choices"),
        ('{"question": "?", "choices": "ab", "answer": "a"}', r"'choices' is not a list"),
        (json.dumps({"messages": [*FORMS[1]["messages"], *FORMS[1]["messages"]]}), r"a longer conversation"),
    ],
)
def test_a_wrong_file_is_one_sentence(lines: str, sentence: str, tmp_path: Path):
    path = tmp_path / "wrong.jsonl"
    path.write_text(lines, encoding="utf-8")
    with pytest.raises(DataError, match=sentence):
        tasks.read(f"file:{path}")


@pytest.mark.skipif(not GSM8K.exists(), reason="needs gsm8k.train.jsonl.zst beside the repository")
def test_gsm8k_reads_and_agrees_with_its_own_answers():
    task = tasks.read(f"file:{GSM8K}")
    assert sum(task.size(split) for split in SPLITS) == 7473
    for problem in task.distinct(0, 300, "test"):
        assert task.score(problem, problem.answer) == prompts.score(task, problem, problem.said) == 1
        assert task.score(problem, f"{problem.answer}1") == 0
