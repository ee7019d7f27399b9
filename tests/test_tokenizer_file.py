"""The tokenizer's file: read again, read by `tokenizers` and transformers with equal tokens, and refused if foreign."""

import concurrent.futures
import json
import pickle
import random
from pathlib import Path

import pytest
import tokenizer_parts as parts
import tokenizers
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_parts import VALID, anything, hostile, words

from wren.errors import DiskError, TokenizerError
from wren.tokenizer import Tokenizer

CORPUS = Path(__file__).parents[2] / "shared" / "corpus" / "english.train.jsonl.zst"
SPACES = "\t\n\v\f\r \x85\xa0\u2003\u2028\u3000"
MARKS = "!?.,-'\"#\u0301\u0327\u200d\ufe0f"

tokenizer, saved, reference = parts.tokenizer, parts.saved, parts.reference  # fixtures


def test_load_gives_the_same_tokenizer(tokenizer: Tokenizer, saved: Path) -> None:
    loaded = Tokenizer.load(str(saved))
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert (loaded.vocab_size, loaded.special, loaded.num_unused) == (2000, tokenizer.special, 0)
    assert loaded.encode("Hello, world") == tokenizer.encode("Hello, world")
    sent = pickle.loads(pickle.dumps(tokenizer))
    assert sent.fingerprint() == tokenizer.fingerprint()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert len({tuple(tokens) for tokens in pool.map(sent.encode, ["same text"] * 20)}) == 1


def test_tokenizers_gives_equal_tokens_on_long_text(tokenizer: Tokenizer, reference: tokenizers.Tokenizer) -> None:
    rng = random.Random(2)
    texts = [words(20_000, seed) for seed in range(100, 220)] + [anything(rng, 2000) for _ in range(20)]
    assert sum(len(text) for text in texts) > 2_000_000
    ours = tokenizer.encode_batch(texts)
    assert ours == [encoding.ids for encoding in reference.encode_batch_fast(texts)]
    assert reference.get_vocab_size() == tokenizer.vocab_size


@given(VALID)
@settings(max_examples=300, deadline=None)
def test_tokenizers_gives_equal_tokens(tokenizer: Tokenizer, reference: tokenizers.Tokenizer, text: str) -> None:
    tokens = reference.encode(text).ids
    assert tokens == tokenizer.encode(text)
    assert reference.decode(tokens) == text


@given(st.text(alphabet=SPACES + MARKS + "a漢19", max_size=40), st.sampled_from([1, 127, 128, 129, 300]))
@settings(max_examples=300, deadline=None)
def test_tokenizers_splits_spaces_and_marks_alike(
    tokenizer: Tokenizer, reference: tokenizers.Tokenizer, text: str, times: int
) -> None:
    for separator in " \n\u2003":
        spread = text.replace(separator, separator * times)
        assert reference.encode(spread).ids == tokenizer.encode(spread)


@pytest.mark.parametrize(("name", "text"), hostile(110_000).items(), ids=hostile(8).keys())
def test_tokenizers_gives_equal_tokens_on_hostile_text(
    tokenizer: Tokenizer, reference: tokenizers.Tokenizer, name: str, text: str
) -> None:
    tokens = tokenizer.encode(text)
    assert tokens == reference.encode(text).ids, name
    assert tokenizer.decode(tokens) == text


@pytest.mark.slow
def test_every_character_is_split_alike(tokenizer: Tokenizer, reference: tokenizers.Tokenizer) -> None:
    valid = [chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000]
    for start in range(0, len(valid), 5000):
        texts = [f"a{c}b {c} 1{c}2\n{c}!{c}" for c in valid[start : start + 5000]]
        assert tokenizer.encode_batch(texts) == [encoding.ids for encoding in reference.encode_batch_fast(texts)]


@pytest.mark.slow
def test_tokenizers_gives_equal_tokens_on_megabytes(tokenizer: Tokenizer, reference: tokenizers.Tokenizer) -> None:
    texts = [words(100_000, seed) for seed in range(300, 420)] + list(hostile(1_100_000).values())
    assert sum(len(text.encode()) for text in texts) > 10_000_000
    for start in range(0, len(texts), 10):
        batch = texts[start : start + 10]
        assert tokenizer.encode_batch(batch) == [encoding.ids for encoding in reference.encode_batch_fast(batch)]


@pytest.mark.slow
@pytest.mark.skipif(not CORPUS.exists(), reason="the real text is not beside this checkout")
def test_tokenizers_gives_equal_tokens_on_real_text(tmp_path: Path) -> None:
    with open(CORPUS, "rb") as file:
        data = zstandard.ZstdDecompressor().stream_reader(file).read(13_000_000)
    texts = [json.loads(line)["text"] for line in data.splitlines()[:-1]]
    assert sum(len(text.encode()) for text in texts) > 10_000_000
    real = Tokenizer.train(texts, 16_384)
    real.save(tmp_path / "tokenizer.json")
    other = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert real.encode_batch(texts) == [encoding.ids for encoding in other.encode_batch_fast(texts)]


def test_transformers_gives_equal_tokens(tokenizer: Tokenizer, saved: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    other = PreTrainedTokenizerFast(tokenizer_file=str(saved))
    texts = [words(20_000, seed=7), *hostile(300).values()]
    assert other(texts)["input_ids"] == tokenizer.encode_batch(texts)
    assert len(other) == tokenizer.vocab_size
    assert other.convert_tokens_to_ids("<|wren:document|>") == tokenizer.document_id
    assert [other.decode(tokenizer.encode(text)) for text in texts] == texts


def test_other_readers_do_parse_the_spelling(tokenizer: Tokenizer, reference: tokenizers.Tokenizer) -> None:
    assert reference.encode("a<|wren:end|>").ids == [*tokenizer.encode("a"), tokenizer.special["end"]]


def test_a_file_that_tokenizers_wrote_again_loads(
    tokenizer: Tokenizer, reference: tokenizers.Tokenizer, tmp_path: Path
) -> None:
    reference.save(str(tmp_path / "again.json"))
    assert Tokenizer.load(tmp_path / "again.json").fingerprint() == tokenizer.fingerprint()


def changed(saved: Path, tmp_path: Path, change: str) -> Path:
    value = json.loads(saved.read_text(encoding="utf-8"))
    match change:
        case "pattern":
            value["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\s+"
        case "type":
            value["model"]["type"] = "WordPiece"
        case "merges":
            value["model"]["merges"].reverse()
        case "merge":
            value["model"]["merges"].pop()
        case "merge of three":
            value["model"]["merges"][0] = ["a", "b", "c"]
        case "id":
            value["model"]["vocab"]["a"] = 5000
        case "special":
            value["added_tokens"][0]["content"] = "<s>"
        case "missing":
            del value["model"]
        case "normalizer":
            value["normalizer"] = {"type": "NFC"}
        case "list":
            value = [value]
        case "number":
            value["model"]["vocab"] = 3
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "change",
    [
        "pattern",
        "type",
        "merges",
        "merge",
        "merge of three",
        "id",
        "special",
        "missing",
        "normalizer",
        "list",
        "number",
    ],
)
def test_foreign_files_are_refused(saved: Path, tmp_path: Path, change: str) -> None:
    with pytest.raises(TokenizerError, match=r"changed\.json is not a tokenizer of Wren: .*; train one with"):
        Tokenizer.load(changed(saved, tmp_path, change))


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="does not exist"):
        Tokenizer.load(tmp_path / "none.json")
    with pytest.raises(TokenizerError, match="Cannot read the tokenizer"):
        Tokenizer.load(tmp_path)
    for content in (b"", b"{", b"\xff\xfe\x00", b"PK\x03\x04"):
        (tmp_path / "broken.json").write_bytes(content)
        with pytest.raises(TokenizerError, match="not valid JSON"):
            Tokenizer.load(tmp_path / "broken.json")


def test_a_failed_save_leaves_nothing_behind(tokenizer: Tokenizer, saved: Path) -> None:
    with pytest.raises(DiskError, match="that path is a folder"):
        tokenizer.save(saved.parent)
    assert [path.name for path in saved.parent.iterdir()] == ["tokenizer.json"]
    assert not [path for path in saved.parent.parent.iterdir() if path.suffix == ".tmp"]
