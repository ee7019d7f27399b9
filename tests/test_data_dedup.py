"""What is left out of training: exact copies, near copies, evaluation text; and that resuming leaves out the same."""

import sys

import numpy as np
import pytest
from data_helpers import BYTES, ListSource, contents, read_back, words, write_jsonl

from wren.data import dedup
from wren.data.dedup import Contamination, HashLog, NearHasher, exact_hash
from wren.data.prepare import prepare
from wren.errors import ConfigError, DataError


def _corpus_with_copies() -> list[str]:
    """200 texts; every fifth comes again with other white space, every seventh with one word changed."""
    texts = []
    for i in range(200):
        text = words(i, 120)
        texts.append(text)
        if i % 5 == 0:
            texts.append("  " + text.replace(" ", "\n", 3))
        if i % 7 == 0:
            texts.append(text + " changed")
    return texts


def test_exact_copies_are_left_out(tmp_path):
    texts = _corpus_with_copies()
    manifest = prepare([ListSource([texts])], tmp_path, tokenizer=BYTES, dedup="exact", val_fraction=0)
    assert manifest.removed == {"exact_duplicates": 40, "near_duplicates": 0, "contaminated": 0, "empty": 0}
    kept = read_back(tmp_path, "train")
    assert kept == [text for text in texts if not text.startswith("  ")]


def test_near_copies_are_left_out(tmp_path):
    texts = _corpus_with_copies()
    manifest = prepare([ListSource([texts])], tmp_path, tokenizer=BYTES, dedup="near", val_fraction=0)
    assert manifest.removed == {"exact_duplicates": 40, "near_duplicates": 29, "contaminated": 0, "empty": 0}
    assert read_back(tmp_path, "train") == [words(i, 120) for i in range(200)]


def test_nothing_is_left_out_by_default(tmp_path):
    texts = _corpus_with_copies()
    manifest = prepare([ListSource([texts])], tmp_path, tokenizer=BYTES, val_fraction=0)
    assert sum(manifest.removed.values()) == 0
    assert read_back(tmp_path, "train") == texts
    assert "dedup.bin" not in contents(tmp_path)


def test_a_copy_of_a_held_out_document_is_not_trained_on(tmp_path):
    texts = [words(i, 60) for i in range(400)]
    copies = ["\n" + text for text in texts]
    prepare([ListSource([texts, copies])], tmp_path, tokenizer=BYTES, dedup="exact", val_fraction=0.1)
    train, val = read_back(tmp_path, "train"), read_back(tmp_path, "val")
    assert len(val) > 10
    assert sorted(train + val) == sorted(texts)


def test_given_validation_text_is_kept_and_its_copies_are_not(tmp_path):
    val = [words(i, 60) for i in range(20)] * 2
    source = ListSource([[words(i, 60) for i in range(100)]])
    prepare([source], tmp_path, tokenizer=BYTES, dedup="exact", val_sources=[ListSource([val], "val")])
    assert read_back(tmp_path, "val") == val
    assert read_back(tmp_path, "train") == [words(i, 60) for i in range(20, 100)]


@pytest.mark.parametrize("mode", ["exact", "near"])
def test_an_interrupted_run_leaves_out_the_same(tmp_path, mode):
    texts = _corpus_with_copies()
    options = {"tokenizer": BYTES, "dedup": mode, "shard_tokens": 5000, "val_fraction": 0.05}
    prepare([ListSource([texts])], tmp_path / "whole", **options)
    for stop in (30, 120, 200):
        with pytest.raises(KeyboardInterrupt):
            prepare([ListSource([texts], stop=(0, stop, KeyboardInterrupt()))], tmp_path / "cut", **options)
    prepare([ListSource([texts])], tmp_path / "cut", **options)
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut")
    for name in ("train_000000.bin", "train_000010.bin", "val_000000.bin"):
        (tmp_path / "cut" / name).unlink()
    prepare([ListSource([texts])], tmp_path / "cut", **options)
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut")


def test_the_set_of_hashes_grows_and_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(dedup, "_NEWEST", 100)
    rng = np.random.default_rng(0)
    hashes = [int(value) for value in rng.integers(0, 1 << 63, 1000)]
    log = HashLog(tmp_path / "log")
    for start in range(0, 1000, 10):
        assert not log.holds_any(hashes[start : start + 10])
        log.add(hashes[start : start + 10])
        assert all(log.holds_any([value]) for value in hashes[: start + 10 : 7])
    assert log.sync() == 1000
    log.close()
    log = HashLog(tmp_path / "log", 500)
    assert [log.holds_any([value]) for value in hashes] == [True] * 500 + [False] * 500
    log.close()
    with pytest.raises(DataError, match="was cut"):
        HashLog(tmp_path / "log", 600)


def test_near_copies_share_a_band_and_others_do_not():
    near = NearHasher()
    text = words(1, 300)
    bands = near(text)
    assert near(text.upper().replace(" ", ", ")) == bands
    assert set(near(text + " and three more words")) & set(bands)
    assert all(not set(near(words(i, 300))) & set(bands) for i in range(2, 30))
    assert near("too few words here") == []
    assert exact_hash("a  b\n") == exact_hash(" a b") != exact_hash("a c")


def test_near_without_datasketch_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[dedup\]'"):
        prepare([ListSource([["x y"] * 30])], tmp_path, tokenizer=BYTES, dedup="near")


def test_documents_with_evaluation_text_are_left_out(tmp_path):
    question, answer = words(901, 25), words(902, 7)
    write_jsonl(tmp_path / "eval.jsonl", ["yes"])
    (tmp_path / "eval.jsonl").write_text(
        f'{{"q": {{"en": ["{question}"]}}, "a": "{answer}", "label": "yes", "n": 4}}\n'
    )
    middle = " ".join(question.split()[6:19])
    texts = [words(i, 60) for i in range(40)]
    bad = {
        3: f"before {middle.upper()} after",  # 13 words in a row, other case
        7: words(7, 20) + " " + answer.replace(" ", ", ") + ". " + words(8, 5),  # all of a short one
    }
    fine = {
        5: "before " + " ".join(question.split()[6:18]) + " after",  # only 12 words
        9: " ".join(answer.split()[:6]) + " yes",
    }
    for place, text in {**bad, **fine}.items():
        texts[place] = text
    manifest = prepare(
        [ListSource([texts])],
        tmp_path / "out",
        tokenizer=BYTES,
        val_fraction=0,
        decontaminate=[str(tmp_path / "eval.jsonl")],
    )
    assert manifest.removed["contaminated"] == 2
    assert read_back(tmp_path / "out", "train") == [text for i, text in enumerate(texts) if i not in bad]
    assert manifest.settings["decontaminate"][0]["file"] == "eval.jsonl"


def test_lines_and_paragraphs_of_a_text_file_are_evaluation_text(tmp_path):
    lines = [words(i, 9) for i in range(3)]
    (tmp_path / "eval.txt").write_text("\n".join(lines) + "\n\nall of the above\n")
    contamination = Contamination([str(tmp_path / "eval.txt")])
    assert contamination(f"he said {lines[1]} and left")
    across = " ".join([*lines[0].split()[4:], *lines[1].split()[:8]])
    assert contamination(across), "13 words over the end of a line"
    assert not contamination(" ".join(across.split()[:12]))
    assert not contamination("it was all of the above")
    assert not contamination("")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("e.txt", b"yes\nno\n", "no text of 5 words"),
        ("e.jsonl", b"nonsense\n", r"e\.jsonl:1 is not valid JSON"),
        ("e.parquet", b"PAR1", "convert it"),
        ("e.txt", b"", "is empty"),
    ],
)
def test_evaluation_files_that_do_not_fit_are_refused(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        Contamination([str(tmp_path / name)])
