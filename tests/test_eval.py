"""`wren eval`: bits per byte with intervals, minimal pairs, multiple choice and cloze, against sums written out."""

import json
import math
from pathlib import Path

import export_parts as parts
import numpy as np
import pytest
import torch
from torch import Tensor

from wren.batch import Batch
from wren.cli import main
from wren.errors import ConfigError, DataError
from wren.evals.answers import evaluate_choices, evaluate_pairs
from wren.evals.bits_per_byte import evaluate_texts
from wren.evals.evaluate import evaluate, lines
from wren.evals.memory import by_halves, in_halves
from wren.evals.questions import read_choices, read_pairs
from wren.evals.scoring import Request, request, score
from wren.generate import Loaded
from wren.intervals import ratio_interval, share_interval, student
from wren.precision import choose_precision

CPU = choose_precision(torch.device("cpu"), "fp32")
TOKENIZER = parts.TOKENIZER


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("eval") / "run"
    parts.make_run(path, parts.of_recipe("tiny"))
    return path


@pytest.fixture(scope="module")
def loaded(run: Path) -> Loaded:
    from wren.generate import load_run

    return load_run(run, torch.device("cpu"))


def lines_file(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


@torch.no_grad()
def logprob(loaded: Loaded, text: str, given: int) -> float:
    """log p of a text's tokens from number `given` on, one row at a time."""
    row = torch.tensor([[TOKENIZER.document_id, *TOKENIZER.encode(text)]])
    found = loaded.model(row[:, :-1]).double().log_softmax(-1)[0].gather(1, row[0, 1:, None])[:, 0]
    return float(found[given:].sum())


def test_scores_are_sums_of_log_probabilities(loaded: Loaded):
    texts = [("hello", " world"), ("", "the wren"), ("the wren sings", " 123"), ("a" * 30, " b")]
    found = score(loaded, CPU, [request(TOKENIZER, *text) for text in texts])
    for (context, text), result in zip(texts, found, strict=True):
        given = len(TOKENIZER.encode(context))
        assert result.logprob == pytest.approx(logprob(loaded, context + text, given), abs=1e-4)
        assert result.tokens == len(TOKENIZER.encode(context + text)) - given
        assert result.bytes == len(text.encode())
        assert not result.greedy


def test_tokens_that_grow_over_the_border_count_as_continuation():
    whole = TOKENIZER.encode("hello")
    assert len(whole) < 5
    found = request(TOKENIZER, "hel", "lo")
    assert found.context[1:] + found.continuation == whole
    with pytest.raises(DataError, match="nothing to score"):
        request(TOKENIZER, "hello", "")


@torch.no_grad()
def test_greedy_is_what_the_model_would_write(loaded: Loaded):
    context = [TOKENIZER.document_id, *TOKENIZER.encode("hello")]
    row = parts.greedy(loaded.model, torch.tensor([context]), 3)[0].tolist()
    right, wrong = row[len(context) :], [*row[len(context) :][:2], (row[-1] + 1) % 300]
    found = score(loaded, CPU, [Request(context, right), Request(context, wrong)])
    assert [each.greedy for each in found] == [True, False]


def test_long_contexts_are_cut_at_their_start(loaded: Loaded):
    context, text = TOKENIZER.encode("the wren sings and sings " * 8), TOKENIZER.encode(" hello")
    found = score(loaded, CPU, [Request(context, text)], max_len=16)
    kept = context[-(17 - len(text)) :]
    assert found == score(loaded, CPU, [Request(kept, text)])
    with pytest.raises(DataError, match="does not fit"):
        score(loaded, CPU, [Request(context, text * 20)], max_len=16)
    with pytest.raises(DataError, match="no context"):
        score(loaded, CPU, [Request([], text)])


def test_order_and_company_change_nothing(loaded: Loaded):
    requests = [request(TOKENIZER, "hello " * n, "world" * (1 + n % 3)) for n in range(12)]
    alone = [score(loaded, CPU, [each])[0].logprob for each in requests]
    together = [each.logprob for each in score(loaded, CPU, requests)]
    assert together == pytest.approx(alone, abs=1e-4)


class Small:
    """A device that holds so many rows at once."""

    def __init__(self, rows: int):
        self.rows, self.calls = rows, 0

    def __call__(self, batch: Batch) -> Tensor:
        self.calls += 1
        if len(batch.tokens_BT) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch.tokens_BT * 2


def test_what_does_not_fit_is_gone_through_in_halves():
    tokens_BT = torch.arange(14).view(7, 2)
    compute = Small(2)
    assert by_halves(compute, Batch(tokens_BT, tokens_BT)).tolist() == (tokens_BT * 2).tolist()
    assert compute.calls == 7
    with pytest.raises(torch.OutOfMemoryError):
        by_halves(Small(0), Batch(tokens_BT, tokens_BT))
    with pytest.raises(RuntimeError, match="another"):
        in_halves(broken, range(4))


def broken(rows: object) -> list[int]:
    raise RuntimeError("another mistake")


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        sizes = rng.integers(50, 150, size=12).astype(float)
        bits = sizes * rng.normal(2.0, 0.3, size=12)
        low, high = ratio_interval(bits.tolist(), sizes.tolist()) or (0, 0)
        held += low <= 2.0 <= high
    assert 0.92 < held / 400 < 0.98
    held = sum(low <= 0.8 <= high for low, high in (share_interval(rng.binomial(50, 0.8), 50) for _ in range(400)))
    assert 0.92 < held / 400 < 0.98


def test_intervals_at_the_edges():
    assert ratio_interval([1.0], [2.0]) is None
    assert ratio_interval([2.0, 4.0], [1.0, 2.0]) == pytest.approx((2.0, 2.0))
    assert share_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-3)
    assert share_interval(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-3)
    for freedom, expected in ((1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (30, 2.042)):
        assert student(freedom) == pytest.approx(expected, rel=0.01)
    with pytest.raises(ValueError, match="no answers"):
        share_interval(0, 0)


def test_texts_have_an_interval_around_them(loaded: Loaded, tmp_path: Path):
    (tmp_path / "a.txt").write_text(parts.TEXT * 12)
    (tmp_path / "b.txt").write_text("zzz qqq ")
    paths = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    found = evaluate_texts(loaded, CPU, paths, "text", 32)
    first, second = found["texts"]
    assert first["low"] < first["bits_per_byte"] < first["high"]
    assert (second["low"], second["high"]) == (None, None)  # a single window
    assert found["low"] < found["bits_per_byte"] < found["high"]
    assert found["bytes"] == first["bytes"] + second["bytes"] == len(parts.TEXT.encode()) * 12 + 8
    assert first["high"] - first["low"] < 2


def test_pairs_count_the_likelier_sentence(loaded: Loaded, tmp_path: Path):
    rows = [("hello world", "hello zzzzz"), ("the wren", "qqqqqqqq"), ("zq", "the wren sings 123 times and then")]
    path = lines_file(
        tmp_path / "p.jsonl",
        *({"sentence_good": good, "sentence_bad": bad, "UID": f"g{i % 2}"} for i, (good, bad) in enumerate(rows)),
    )
    found = evaluate_pairs(loaded, CPU, path, 32)
    expected = [logprob(loaded, good, 0) > logprob(loaded, bad, 0) for good, bad in rows]
    assert found["accuracy"] == sum(expected) / 3
    assert found["count"] == 3
    assert 0 <= found["low"] <= found["accuracy"] <= found["high"] <= 1
    assert [group["name"] for group in found["groups"]] == ["g0", "g1"]
    assert [group["count"] for group in found["groups"]] == [2, 1]
    sums = [(logprob(loaded, good, 0) / len(good), logprob(loaded, bad, 0) / len(bad)) for good, bad in rows]
    assert found["per_byte"]["accuracy"] == sum(good > bad for good, bad in sums) / 3


def test_choices_and_cloze(loaded: Loaded, tmp_path: Path):
    row = parts.greedy(loaded.model, torch.tensor([[TOKENIZER.document_id, *TOKENIZER.encode("hello")]]), 2)[0]
    likely = TOKENIZER.decode(row[1:].tolist()).removeprefix("hello")
    path = lines_file(
        tmp_path / "c.jsonl",
        {"context": "the wren", "choices": ["sings", "zzzqq"], "answer": 0},
        {"question": "the wren", "choices": {"text": ["sings", "zzzqq"], "label": ["1", "2"]}, "answerKey": "2"},
        {"text": "the ___ sings", "choices": ["wren", "zzz"], "answer": "A"},
        {"context": "hello", "completion": "\x00 never this"},
    )
    questions = read_choices(path)
    assert questions[0].options == [("the wren", " sings"), ("the wren", " zzzqq")]
    assert [question.answer for question in questions] == [0, 1, 0, 0]
    assert questions[2].options == [("", "the wren sings"), ("", "the zzz sings")]
    found = evaluate_choices(loaded, CPU, path, 32)
    sings = logprob(loaded, "the wren sings", len(TOKENIZER.encode("the wren")))
    other = logprob(loaded, "the wren zzzqq", len(TOKENIZER.encode("the wren")))
    gap = logprob(loaded, "the wren sings", 0) > logprob(loaded, "the zzz sings", 0)
    assert found["accuracy"] == ((sings > other) + (other > sings) + gap + 0) / 4
    assert found["bits_per_byte"] > 0
    if TOKENIZER.encode("hello" + likely) == row[1:].tolist() and likely[:1].isspace():
        cloze = lines_file(tmp_path / "z.jsonl", {"context": "hello", "completion": likely})
        assert evaluate_choices(loaded, CPU, cloze, 32)["accuracy"] == 1.0


WRONG_PAIRS = {
    '{"sentence_good": "a"}': "sentence_bad",
    '{"good": "a", "bad": "a"}': "the same",
    "{": "not JSON",
    "[1]": "not an object",
}
WRONG_CHOICES = {
    '{"context": "a"}': '"completion"',
    '{"context": "a", "choices": ["b"], "answer": 0}': "two or more",
    '{"choices": ["b", "c"], "answer": 0}': "a gap ___",
    '{"context": "a", "choices": ["b", "c"], "answer": 2}': "names one of the 2 choices",
    '{"context": "a", "choices": ["b", "c"], "answer": "Z"}': "names one of the 2 choices",
    '{"context": "a", "choices": ["b", "c"], "answer": true}': "names one of the 2 choices",
    '{"context": "a", "choices": ["b", "c"]}': "names one of the 2 choices",
}


@pytest.mark.parametrize("line", [*WRONG_PAIRS, *WRONG_CHOICES])
def test_a_wrong_line_is_named_by_its_number(line: str, tmp_path: Path):
    good = {"sentence_good": "a", "sentence_bad": "b", "context": "a", "choices": ["b", "c"], "answer": "c"}
    path = lines_file(tmp_path / "q.jsonl", good, "", line)
    read, reason = (read_pairs, WRONG_PAIRS[line]) if line in WRONG_PAIRS else (read_choices, WRONG_CHOICES[line])
    with pytest.raises(DataError, match=r"q\.jsonl, line 3: ") as caught:
        read(path)
    assert reason in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"good": "\xff"}')
    (tmp_path / "empty.jsonl").write_text("\n\n")
    for name, reason in (("none", "cannot be read"), ("latin", "not UTF-8"), ("empty", "no lines")):
        with pytest.raises(DataError, match=reason):
            read_pairs(tmp_path / f"{name}.jsonl")


def test_results_are_kept_in_the_run_and_printed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "text.txt").write_text(parts.TEXT * 6)
    pairs = lines_file(tmp_path / "p.jsonl", {"good": "hello world", "bad": "zzz", "group": "words"})
    choice = lines_file(tmp_path / "c.jsonl", {"context": "hello", "choices": ["world", "zq"], "answer": "A"})
    arguments = ["eval", "--run", str(run), "--text", str(tmp_path / "text.txt"), "--pairs", str(pairs)]
    assert main([*arguments, "--choice", str(choice), "--json", str(tmp_path / "r.json"), "--dtype", "fp32"]) == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "r.json").read_text())
    assert f"{result['bits_per_byte']:.4f} [{result['low']:.4f}, {result['high']:.4f}] bits per byte" in printed
    assert "right" in printed
    assert "words" in printed
    kept = list((run / "evals").glob("step_000007-text-*.json"))
    assert len(kept) == 1
    assert json.loads(kept[0].read_text()) == result
    assert result["pairs"][0]["count"] == result["choice"][0]["count"] == 1
    assert main([*arguments, "--choice", str(choice)]) == 0
    assert len(list((run / "evals").glob("*.json"))) == 1  # the same question again


def test_results_that_cannot_be_kept_are_told_all_the_same(run: Path, tmp_path: Path):
    import shutil

    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "evals", ignore_errors=True)
    (tmp_path / "run" / "evals").write_text("in the way")
    (tmp_path / "text.txt").write_text(parts.TEXT)
    said: list[str] = []
    found = evaluate(tmp_path / "run", CPU, texts=[str(tmp_path / "text.txt")], say=said.append)
    assert math.isfinite(found["bits_per_byte"])
    assert "not kept" in said[0]
    assert "bits per byte" in lines(found)[0]


def test_nothing_to_evaluate_on_is_an_error(run: Path):
    with pytest.raises(ConfigError, match="--text, --pairs or --choice"):
        evaluate(run, CPU)
