"""The tokenizer's properties: nothing is lost, and `tokenizers` reads the same from its file."""

import concurrent.futures
import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from wren.errors import DiskError, TokenizerError
from wren.tokenizer import SPLIT_PATTERN, Tokenizer, clean
from wren.tokenizer.bpe import cut_text, training_pieces

CORPUS = Path(__file__).parents[2] / "shared" / "corpus" / "english.train.jsonl.zst"
VALID = st.text(st.characters(exclude_categories=["Cs"]))
SPACES = "\t\n\v\f\r \x85\xa0\u2003\u2028\u3000"
MARKS = "!?.,-'\"#\u0301\u0327\u200d\ufe0f"


def words(num_chars: int, seed: int) -> str:
    """Prose of made-up words with punctuation, numbers, line ends and a character from anywhere now and then."""
    rng = random.Random(seed)
    lexicon = ["".join(rng.choices("etaoinshrdlucmfw", k=rng.randint(1, 9))) for _ in range(3000)]
    ends = [" ", ", ", ". ", "\n", "\r\n", "\n\n  ", " don't ", " (", '" ', " 1984 ", "  ", "\t", "é", " \u093f", "—"]
    parts, size = [], 0
    while size < num_chars:
        parts.append(rng.choice(lexicon) + rng.choices(ends, (60, *(2,) * 14))[0])
        if rng.random() < 0.02:
            parts.append(anything(rng, 5))
        size += len(parts[-1]) + 1
    return "".join(parts)


def anything(rng: random.Random, num_chars: int) -> str:
    return "".join(chr(rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)))) for _ in range(num_chars))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([words(300_000, seed=0), "日本語の文章です。" * 50, " " * 3000, "=" * 500], 2000)


@pytest.fixture(scope="module")
def saved(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(path)
    return path


@pytest.fixture(scope="module")
def reference(saved: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(saved))


def hostile(size: int) -> dict[str, str]:
    rng = random.Random(1)
    units = {
        "letter": "a", "word": "the", "digit": "1", "space": " ", "line": "\n", "crlf": "\r\n", "mixed": "\r\n\n\r \t",
        "sign": "!", "signs": ".,-", "quote": "'", "cjk": "漢", "combining": "e\u0301\u0327", "mark": "\u0301",
        "zwj": "👩\u200d👩\u200d👧 ", "nul": "\0", "nbsp": "\xa0", "em space": "\u2003", "rtl": "\u202eשלום",
        "space quote": " '", "indent": " " * 200 + "\n", "bom": "\ufeff", "private": "\ue000\U0010fffd",
    }  # fmt: skip
    texts = {name: unit * (size // len(unit)) for name, unit in units.items()}
    texts["spaces then word"] = " " * size + "x"
    texts["signs then lines"] = "!" * (size // 2) + "\n" * (size // 2)
    texts["random letters"] = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=size))
    texts["anything"] = anything(rng, size // 4)
    return texts


# Encoding and decoding


@given(VALID)
@settings(max_examples=300, deadline=None)
def test_decode_undoes_encode(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.decode_bytes(tokens) == text.encode()
    assert all(0 <= token < tokenizer.vocab_size - len(tokenizer.special) for token in tokens)
    assert tokenizer.token_bytes()[np.array(tokens, dtype=np.int64)].sum() == len(text.encode())


@given(st.lists(VALID, max_size=8), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_every_way_to_encode_gives_the_same(tokenizer: Tokenizer, texts: list[str], num_threads: int) -> None:
    expected = [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch(texts, num_threads) == expected
    arrays = tokenizer.encode_to_numpy(texts, num_threads)
    assert [array.tolist() for array in arrays] == expected
    assert all(array.dtype == np.uint32 for array in arrays)
    tokens, lengths = tokenizer.encode_documents(texts, num_threads)
    assert tokens.tolist() == [token for row in expected for token in (tokenizer.document_id, *row)]
    assert lengths.tolist() == [len(row) + 1 for row in expected]


def test_long_and_short_texts_share_the_threads(tokenizer: Tokenizer) -> None:
    long = words(1_300_000, seed=5)
    assert len(cut_text(long, 1 << 18)) > 2
    texts = ["a", long, "", "b c", long[:700_000]]
    expected = [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch(texts, 2) == expected
    assert tokenizer.encode_batch(texts, 1) == expected
    assert tokenizer.encode_batch([long]) == [expected[1]]


@given(st.text(alphabet="aB1!\n\r\t '\u2028\u0301漢", max_size=60), st.integers(0, 5), st.integers(0, 140))
@settings(max_examples=300, deadline=None)
def test_a_cut_does_not_change_tokens(tokenizer: Tokenizer, text: str, size: int, num_spaces: int) -> None:
    text = text.replace("\t", " " * num_spaces)
    parts = cut_text(text, size)
    assert "".join(parts) == text
    assert [token for part in parts for token in tokenizer.encode(part)] == tokenizer.encode(text)


def test_special_tokens_cannot_come_from_text(tokenizer: Tokenizer) -> None:
    spelled = tokenizer.decode(tokenizer.special.values(), keep_special=True)
    assert spelled.startswith("<|wren:document|><|wren:pad|>")
    for tokens in (tokenizer.encode(spelled), *tokenizer.encode_batch([spelled])):
        assert not set(tokens) & set(tokenizer.special.values())
        assert tokenizer.decode(tokens) == spelled
    assert tokenizer.decode(tokenizer.special.values()) == ""
    assert tokenizer.decode_bytes(tokenizer.special.values()) == b""
    assert not tokenizer.token_bytes()[list(tokenizer.special.values())].any()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\ud800b", "a\ufffdb"),
        ("\udc00", "\ufffd"),
        ("\ud83d\ude00", "😀"),  # two halves that JSON brought one by one
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ufeff\ud800", "\ufeff\ufffd"),
    ],
)
def test_lone_surrogates_become_the_replacement_character(tokenizer: Tokenizer, text: str, expected: str) -> None:
    text = json.loads(json.dumps(text))
    assert clean(text) == expected
    assert tokenizer.decode(tokenizer.encode(text)) == expected
    assert tokenizer.decode(tokenizer.encode_batch([text])[0]) == expected
    assert Tokenizer.train([text], 300).fingerprint() == Tokenizer.train([expected], 300).fingerprint()


@given(st.text(st.characters(categories=["Cs", "Ll"])))
def test_clean_text_is_utf8_and_stays(text: str) -> None:
    cleaned = clean(text)
    cleaned.encode()
    assert clean(cleaned) == cleaned
    assert len(cleaned) <= len(text)


@pytest.mark.parametrize("tokens", [[2000], [-1], [5, 10**9]])
def test_unknown_ids_are_named(tokenizer: Tokenizer, tokens: list[int]) -> None:
    with pytest.raises(TokenizerError, match=f"Token {tokens[-1]} is not in this vocabulary of 2,000 ids"):
        tokenizer.decode(tokens)


def test_decode_takes_arrays_and_broken_characters(tokenizer: Tokenizer) -> None:
    tokens = np.array(tokenizer.encode("déjà"), dtype=np.uint16)
    assert tokenizer.decode(tokens) == "déjà"
    assert tokenizer.decode([0xC3]) == "\ufffd"
    assert tokenizer.decode([]) == ""


# The saved file


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


@pytest.mark.parametrize(("name", "text"), hostile(1_100_000).items(), ids=hostile(8).keys())
def test_a_megabyte_of_hostile_text(tokenizer: Tokenizer, name: str, text: str) -> None:
    (tokens,) = tokenizer.encode_to_numpy([text])
    assert tokenizer.token_bytes()[tokens].sum() == len(text.encode()), name


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


# Training


@pytest.mark.parametrize("vocab_size", [258, 259, 263, 264, 300, 1000])
def test_the_vocabulary_has_the_asked_size(vocab_size: int, tmp_path: Path) -> None:
    trained = Tokenizer.train([words(50_000, seed=3)], vocab_size)
    assert trained.vocab_size == len(trained.token_bytes()) == vocab_size
    assert list(trained.special.values()) == list(range(vocab_size - len(trained.special), vocab_size))
    assert len(trained.special) == (8 if vocab_size >= 264 else 2)
    assert 256 + trained.num_merges + len(trained.special) == vocab_size
    trained.save(tmp_path / "tokenizer.json")
    other = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert other.encode("the cat").ids == trained.encode("the cat")
    assert other.token_to_id("<|wren:pad|>") == trained.pad_id


def test_a_small_text_leaves_ids_unused(tmp_path: Path) -> None:
    trained = Tokenizer.train(["ab ab ab"], 200_000)
    assert trained.vocab_size == 200_000
    assert 1 <= trained.num_merges <= 3
    assert trained.num_unused == 200_000 - 256 - trained.num_merges - 8
    assert trained.decode([256 + trained.num_merges], keep_special=True) == ""
    trained.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert (loaded.fingerprint(), loaded.num_unused) == (trained.fingerprint(), trained.num_unused)
    other = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert other.get_vocab_size() == 200_000
    assert other.token_to_id("<|wren:document|>") == trained.document_id
    unused = "ab <|wren:unused:300|>"
    assert other.encode(unused).ids == trained.encode(unused)


@pytest.mark.parametrize("vocab_size", [-1, 0, 257, 200_001])
def test_impossible_sizes_are_refused(vocab_size: int) -> None:
    with pytest.raises(TokenizerError, match="choose a size from 258"):
        Tokenizer.train(["text"], vocab_size)


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_no_text_is_refused(texts: list[str]) -> None:
    with pytest.raises(TokenizerError, match="no text"):
        Tokenizer.train(texts, 300)
    with pytest.raises(TypeError, match="one per document"):
        Tokenizer.train("one string", 300)


def test_an_error_of_the_source_passes_through() -> None:
    def source() -> Iterator[str]:
        yield "some text"
        raise TokenizerError("the source broke")

    with pytest.raises(TokenizerError, match="the source broke"):
        Tokenizer.train(source(), 300)


def test_max_bytes_stops_reading() -> None:
    read = []

    def source() -> Iterator[str]:
        for i in range(1000):
            read.append(i)
            yield "é" * 50

    Tokenizer.train(source(), 260, max_bytes=1001)
    assert len(read) == 11
    first = Tokenizer.train(["abcé zz zz zz", "zz"], 300, max_bytes=4)
    assert first.fingerprint() == Tokenizer.train(["abc"], 300).fingerprint()
    with pytest.raises(TokenizerError, match="no text"):
        Tokenizer.train(["abc"], 300, max_bytes=0)


@given(st.lists(st.text(alphabet="ab \n"), max_size=5), st.integers(1, 3000))
@settings(max_examples=50, deadline=None)
def test_training_reads_the_whole_text_in_short_pieces(texts: list[str], times: int) -> None:
    texts = [text * times for text in texts]
    pieces = list(training_pieces(texts))
    assert "".join(pieces) == "".join(texts)
    assert max(map(len, pieces), default=0) <= 4096


def test_merges_follow_the_counts() -> None:
    # pieces: "abc", 2 x " abc", 2 x " ab": first ab (5 times), then " " + ab (4), then " ab" + c (2)
    trained = Tokenizer.train(["abc abc abc ab ab"], 266)
    assert [trained.decode_bytes([256 + i]) for i in range(2)] == [b"ab", b" ab"]
    trained = Tokenizer.train(["abc abc abc ab ab"], 267)
    assert trained.decode_bytes([258]) == b" abc"
    assert trained.encode("abc abc") == [256, ord("c"), 258]


_TRAIN = """
import sys
sys.path.insert(0, {tests!r})
from test_tokenizer import words
from wren.tokenizer import Tokenizer
print(Tokenizer.train([words(100_000, seed) for seed in range(3)], 3000).fingerprint())
"""


def test_training_is_the_same_on_any_number_of_threads() -> None:
    def fingerprint(num_threads: int) -> str:
        environment = {**os.environ, "RAYON_NUM_THREADS": str(num_threads), "PYTHONHASHSEED": str(num_threads)}
        code = _TRAIN.format(tests=str(Path(__file__).parent))
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    here = Tokenizer.train([words(100_000, seed) for seed in range(3)], 3000).fingerprint()
    assert {fingerprint(1), fingerprint(4)} == {here}


def test_fingerprints_tell_tokenizers_apart(tokenizer: Tokenizer) -> None:
    text = words(50_000, seed=4)
    others = [Tokenizer.train([text], size) for size in (300, 301)] + [Tokenizer.train([text[:30_000]], 300)]
    assert len({tokenizer.fingerprint(), *(other.fingerprint() for other in others)}) == 4
    assert len(tokenizer.fingerprint()) == 64
    assert SPLIT_PATTERN.startswith("[^")


_MEMORY = """
import random, resource
from wren.tokenizer import Tokenizer
rng = random.Random(0)
lexicon = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(20_000)]
def texts():
    for _ in range({num_texts}):
        yield " ".join(rng.choices(lexicon, k=20_000))
Tokenizer.train(texts(), 1000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory in kilobytes, as Linux gives it")
def test_memory_does_not_grow_with_the_corpus() -> None:
    def peak(num_texts: int) -> int:
        code = _MEMORY.format(num_texts=num_texts)
        result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        return int(result.stdout)

    assert peak(800) - peak(200) < 20_000  # 80 MB more text, less than 20 MB more memory
