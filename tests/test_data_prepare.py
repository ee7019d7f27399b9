"""The preparation: every token of every document once and in order, whatever the workers; splits, mixtures, limits."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import BYTES, WIDE, ListSource, contents, read_back, words, write_jsonl
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wren.data.prepare import prepare
from wren.data.readers import MendedText, parted
from wren.data.shards import Manifest, open_shards, verify
from wren.data.sources import open_sources
from wren.errors import ConfigError, DataError, TokenizerError
from wren.tokenizer.bpe import Tokenizer

TEXT = st.text(st.sampled_from("ab \né€🐦\0"), max_size=40)
PARTS = st.lists(st.lists(TEXT, max_size=30), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@example([["a", "b "]], 1, 1, None)
@example([["a", " b\n a  "]], 1, 1, 0.3)
@given(PARTS, st.integers(1, 60), st.sampled_from([1, 3]), st.sampled_from([0, None, 0.3]))
def test_every_token_of_every_document_is_there_once_and_in_order(tmp_path_factory, parts, size, workers, fraction):
    out = tmp_path_factory.mktemp("out")
    texts = [text for part in parts for text in part]
    real = [text for text in texts if text.strip()]
    options: dict[str, Any] = {"shard_tokens": size, "workers": workers, "val_fraction": fraction}
    if not real or (fraction != 0 and len(set(real)) == 1):  # nothing to split
        with contextlib.suppress(DataError):
            prepare([ListSource(parts)], out, tokenizer=BYTES, **options)
            assert real
        return
    manifest = prepare([ListSource(parts)], out, tokenizer=BYTES, **options)
    train, val = read_back(out, "train"), read_back(out, "val")
    if fraction == 0:
        assert train == real
        assert val == []
    elif len(real) < 20:
        assert "".join(train + val) == "".join(real)
    else:
        held_out = set(val)
        assert held_out.isdisjoint(train)
        assert train == [text for text in real if text not in held_out]
        assert val == [text for text in real if text in held_out]
    assert manifest.removed["empty"] == len(texts) - len(real)
    _check_manifest(out, manifest, size)


def _check_manifest(out: Path, manifest: Manifest, size: int) -> None:
    assert verify(out) == []
    assert Manifest.load(out) == manifest
    value = json.loads((out / "manifest.json").read_text())
    for name, split in manifest.splits.items():
        documents = read_back(out, name)
        assert (split.documents, split.bytes) == (len(documents), sum(len(text.encode()) for text in documents))
        assert value["splits"][name]["tokens"] == split.bytes + split.documents
        assert all(shard.tokens >= size for shard in split.shards[:-1])
        assert [len(shard) for shard in open_shards(out, name)] == [shard.tokens for shard in split.shards]
        for shard in open_shards(out, name):
            assert shard[0] == manifest.document_id, "no document is cut"
    for key in ("documents", "tokens", "bytes"):
        assert sum(source[key] for source in value["sources"]) == sum(value["splits"][s][key] for s in ("train", "val"))


def _corpus(count: int, seed: int = 0, size: int = 40) -> list[str]:
    return [words(seed * 100_003 + i, 1 + (i * 37) % size) for i in range(count)]


def test_the_shards_do_not_depend_on_the_workers(tmp_path):
    source = ListSource([_corpus(3000), _corpus(2000, 1)])
    for workers in (1, 2, 7):
        prepare([source], tmp_path / str(workers), tokenizer=BYTES, shard_tokens=50_000, workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "7")
    assert len(contents(tmp_path / "1")) > 8


def test_a_large_vocabulary_takes_four_bytes(tmp_path):
    manifest = prepare([ListSource([_corpus(50)])], tmp_path, tokenizer=WIDE)
    assert manifest.dtype == "uint32"
    assert open_shards(tmp_path, "train")[0].dtype == np.dtype("<u4")
    assert manifest.document_id > 65_535
    assert len(read_back(tmp_path, "train", WIDE.document_id)) == manifest.splits["train"].documents


def test_a_tokenizer_is_trained_without_the_validation_text(tmp_path):
    texts = ["the wren sings in the hedge " * 3 + str(i) for i in range(300)]
    write_jsonl(tmp_path / "a.jsonl", texts)
    manifest = prepare(open_sources([str(tmp_path / "a.jsonl")]), tmp_path / "out", vocab_size=300, val_fraction=0.1)
    tokenizer = Tokenizer.load(tmp_path / "out" / "tokenizer.json")
    val = [text for text in texts if text in _decoded(tmp_path / "out", "val", tokenizer)]
    assert 5 < len(val) < 80
    assert manifest.tokenizer == tokenizer.fingerprint()
    assert tokenizer.fingerprint() == Tokenizer.train([text for text in texts if text not in val], 300).fingerprint()
    assert sorted(_decoded(tmp_path / "out", "train", tokenizer) + val) == sorted(texts)


def _decoded(folder: Path, split: str, tokenizer: Tokenizer) -> list[str]:
    tokens = np.concatenate(open_shards(folder, split)).astype(np.int64)
    starts = np.flatnonzero(tokens == tokenizer.document_id)
    return [tokenizer.decode(piece[1:]) for piece in np.split(tokens, starts[1:])]


def test_the_validation_split_does_not_depend_on_the_order(tmp_path):
    texts = _corpus(3000)
    prepare([ListSource([texts])], tmp_path / "a", tokenizer=BYTES, val_fraction=0.02)
    prepare([ListSource([texts[2000:], texts[:2000][::-1]])], tmp_path / "b", tokenizer=BYTES, val_fraction=0.02)
    val = read_back(tmp_path / "a", "val")
    assert sorted(val) == sorted(read_back(tmp_path / "b", "val"))
    assert 30 <= len(val) <= 90


def test_the_validation_split_is_capped_and_never_empty(tmp_path):
    texts = _corpus(5000)
    manifest = prepare([ListSource([texts])], tmp_path / "a", tokenizer=BYTES, val_fraction=0.5, val_tokens=2000)
    assert 0 < manifest.splits["val"].tokens < 20_000 < manifest.splits["train"].tokens
    manifest = prepare([ListSource([texts[:30]])], tmp_path / "b", tokenizer=BYTES, val_fraction=1e-9)
    assert manifest.splits["val"].documents == 1
    assert manifest.splits["train"].documents == 29
    assert manifest.splits["val"].name == "the document with the lowest content hash"
    manifest = prepare([ListSource([texts])], tmp_path / "c", tokenizer=BYTES, max_tokens=3000)
    assert manifest.splits["val"].documents >= 1, "also when the limit comes early"
    assert 3000 <= manifest.splits["train"].tokens < 3500


def test_a_single_text_gives_its_last_tenth(tmp_path):
    text = "\n\n".join(words(i, 30) for i in range(200))
    (tmp_path / "book.txt").write_text(text)
    manifest = prepare(open_sources([str(tmp_path / "book.txt")]), tmp_path / "out", tokenizer=BYTES)
    [train], [val] = read_back(tmp_path / "out", "train"), read_back(tmp_path / "out", "val")
    assert train + val == text
    assert train.endswith("\n\n")
    assert 0.09 < len(val) / len(text) < 0.12
    assert manifest.splits["val"].name == "the last 10 % of the text"


def test_few_documents_stay_whole_where_that_fits(tmp_path):
    texts = [words(i, 40) for i in range(10)]
    prepare([ListSource([texts[:4], texts[4:]])], tmp_path, tokenizer=BYTES)
    assert read_back(tmp_path, "train") == texts[:9]
    assert read_back(tmp_path, "val") == texts[9:]


def test_given_validation_text_is_taken_whole(tmp_path):
    manifest = prepare(
        [ListSource([_corpus(300)], "train")],
        tmp_path,
        tokenizer=BYTES,
        val_sources=[ListSource([_corpus(40, 9)], "v")],
    )
    assert read_back(tmp_path, "val") == _corpus(40, 9)
    assert read_back(tmp_path, "train") == _corpus(300)
    assert manifest.splits["val"].name == "given: v"
    assert [source["split"] for source in manifest.sources] == ["val", "train"]


def test_the_limit_stops_at_the_document_that_reaches_it(tmp_path):
    texts = _corpus(500)
    prepare([ListSource([texts])], tmp_path / "all", tokenizer=BYTES, val_fraction=0)
    prepare([ListSource([texts])], tmp_path / "cut", tokenizer=BYTES, val_fraction=0, max_tokens=5000, shard_tokens=700)
    whole, cut = read_back(tmp_path / "all", "train"), read_back(tmp_path / "cut", "train")
    assert whole[: len(cut)] == cut
    sizes = np.cumsum([len(text) + 1 for text in cut])
    assert sizes[-1] >= 5000 > sizes[-2]


@settings(max_examples=12, deadline=None)
@given(st.lists(st.floats(0.1, 5), min_size=2, max_size=4), st.integers(0, 1000))
def test_a_mixture_holds_its_shares_at_every_prefix(tmp_path_factory, weights, seed):
    out = tmp_path_factory.mktemp("mix")
    sources = [
        ListSource([[f"{i} {words(seed + i * 1000 + n, 1 + n % 7)}" for n in range(60)]], str(i))
        for i in range(len(weights))
    ]
    manifest = prepare(sources, out, tokenizer=BYTES, weights=weights, val_fraction=0, shard_tokens=500)
    taken = np.zeros(len(weights))
    shares = np.array(weights) / sum(weights)
    counts = [0] * len(weights)
    longest = 70
    for text in read_back(out, "train"):
        taken[int(text[0])] += len(text)
        counts[int(text[0])] += 1
        assert (np.abs(taken - shares * taken.sum()) <= longest * len(weights)).all()
    assert max(counts) == 60, "the data ends where one source does"
    assert [source["weight"] for source in manifest.sources] == weights
    assert [source["documents"] for source in manifest.sources] == counts
    for index in range(len(weights)):
        mine = [text for text in read_back(out, "train") if int(text[0]) == index]
        assert mine == sources[index].parts()[0].texts[: counts[index]]


def test_replaced_characters_are_counted(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "b\xe9d \xff"}\n' + b'{"text": "fine words"}\n' * 30)
    sources = open_sources([str(tmp_path / "a.jsonl")])
    manifest = prepare(sources, tmp_path / "out", tokenizer=BYTES, val_fraction=0)
    assert manifest.sources[0]["replaced_characters"] == 2
    assert read_back(tmp_path / "out", "train")[0] == "b\ufffdd \ufffd"


def test_other_settings_or_sources_are_refused_with_the_difference(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", _corpus(100))
    out = tmp_path / "out"
    sources = open_sources([str(path)])
    manifest = prepare(sources, out, tokenizer=BYTES)
    before = contents(out)
    messages: list[str] = []
    assert prepare(sources, out, tokenizer=BYTES, say=messages.append) == manifest
    assert len(messages) == 1
    assert "complete already" in messages[0]
    with pytest.raises(ConfigError, match=r"shard_tokens = 16777216, not 5; .*--fresh"):
        prepare(sources, out, tokenizer=BYTES, shard_tokens=5)
    with pytest.raises(ConfigError, match="tokenizer = "):
        prepare(sources, out, tokenizer=WIDE)
    with pytest.raises(ConfigError, match="made from other sources"):
        prepare([ListSource([["x"] * 30])], out, tokenizer=BYTES)
    write_jsonl(path, _corpus(101))
    with pytest.raises(ConfigError, match="changed since"):
        prepare(sources, out, tokenizer=BYTES)
    assert contents(out) == before
    assert prepare(sources, out, tokenizer=BYTES, fresh=True) != manifest


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"vocab_size": 10, "tokenizer": None}, TokenizerError, "10"),
        ({"dedup": "some"}, ConfigError, "none, exact or near"),
        ({"val_fraction": 1.5}, ConfigError, "from 0 to below 1"),
        ({"shard_tokens": 0}, ConfigError, "1 or more"),
        ({"max_tokens": -1}, ConfigError, "1 or more"),
        ({"weights": [1.0, 2.0]}, ConfigError, "2 weights for 1 sources"),
        ({"weights": [0.0]}, ConfigError, "above 0"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_written(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        prepare([ListSource([["text"] * 30])], tmp_path / "out", **{"tokenizer": BYTES, **options})
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="no source"):
        prepare([], tmp_path / "out")


@pytest.mark.parametrize(("texts", "message"), [([], "no text"), (["", " \n"], "no text"), (["x"], "single character")])
def test_too_little_text_is_refused(tmp_path, texts, message):
    with pytest.raises(DataError, match=message):
        prepare([ListSource([texts])], tmp_path, tokenizer=BYTES)
    assert contents(tmp_path) == {}


def test_equal_documents_cannot_be_split(tmp_path):
    with pytest.raises(DataError, match=r"No training text is left.*--val"):
        prepare([ListSource([["the same text"] * 50])], tmp_path, tokenizer=BYTES)
    assert not (tmp_path / "manifest.json").exists()


def test_an_error_in_the_middle_leaves_no_manifest_and_no_scraps(tmp_path):
    path = tmp_path / "a.jsonl"
    write_jsonl(path, _corpus(2000))
    with path.open("a") as file:
        file.write("broken\n")
    with pytest.raises(DataError, match=r"a\.jsonl:2001 is not valid JSON"):
        prepare(open_sources([str(path)]), tmp_path / "out", tokenizer=BYTES, shard_tokens=20_000)
    names = set(contents(tmp_path / "out"))
    assert "manifest.json" not in names
    assert not any(name.endswith(".tmp") or name.startswith(".train") for name in names)


def test_shards_of_unknown_origin_are_not_overwritten(tmp_path):
    (tmp_path / "train_000000.bin").write_bytes(b"precious")
    with pytest.raises(DataError, match="without a manifest"):
        prepare([ListSource([_corpus(50)])], tmp_path, tokenizer=BYTES)
    assert (tmp_path / "train_000000.bin").read_bytes() == b"precious"


def test_progress_is_told(tmp_path):
    seen = []
    prepare([ListSource([_corpus(300)])], tmp_path, tokenizer=BYTES, progress=seen.append)
    assert seen
    assert seen[0].stage == "shards"
    assert seen[0].total_bytes > 0


def test_preparing_does_not_import_torch():
    code = "import sys, wren.data.prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_replaced_characters_are_counted_where_one_text_is_cut(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"b\xe9d \xff words " + b"fine words " * 200 + b"and \xfe")
    manifest = prepare(open_sources([str(tmp_path / "a.txt")]), tmp_path / "out", tokenizer=BYTES)
    assert manifest.splits["val"].tokens > 0
    assert manifest.sources[0]["replaced_characters"] == 3


def test_a_parted_text_keeps_its_count():
    parts = parted(MendedText("a\ufffdb\ufffdc", 2), 2)
    assert [(str(part), part.replaced) for part in parts] == [("a\ufffd", 1), ("b\ufffdc", 1)]
    assert parted("plain", 2) == ("pl", "ain")
