"""Texts of every kind for the tests of the tokenizer, and fixtures: one trained, its file, and `tokenizers` on that.

A test file names the fixtures it needs: `tokenizer = parts.tokenizer`.
"""

import random
from pathlib import Path

import pytest
import tokenizers
from hypothesis import strategies as st

from wren.tokenizer import Tokenizer

VALID = st.text(st.characters(exclude_categories=["Cs"]))


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
