"""The tokenizer: nothing is lost in encoding and decoding, and training gives what was asked for."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tokenizer_parts as parts
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_parts import VALID, hostile, words

from wren.errors import TokenizerError
from wren.tokenizer import SPLIT_PATTERN, Tokenizer, clean
from wren.tokenizer.bpe import cut_text, training_pieces

tokenizer = parts.tokenizer  # a fixture


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


@pytest.mark.parametrize(("name", "text"), hostile(1_100_000).items(), ids=hostile(8).keys())
def test_a_megabyte_of_hostile_text(tokenizer: Tokenizer, name: str, text: str) -> None:
    (tokens,) = tokenizer.encode_to_numpy([text])
    assert tokenizer.token_bytes()[tokens].sum() == len(text.encode()), name


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
from tokenizer_parts import words
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
