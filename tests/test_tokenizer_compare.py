"""Comparing vocabulary sizes, and showing a tokenizer."""

import io
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from wren.errors import ConfigError, TokenizerError
from wren.tokenizer import Tokenizer
from wren.tokenizer.compare import Row, compare, parse_sizes, plot, show, split_sample, table, to_json

BENCH = Path(__file__).parents[1] / "bench" / "tokenizer.py"


def documents(num: int) -> list[str]:
    rng = random.Random(0)
    lexicon = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(1, 8))) for _ in range(800)]
    return [" ".join(rng.choices(lexicon, k=200)) for _ in range(num)]


def printed(value: object) -> str:
    console = Console(file=io.StringIO(), width=150)
    console.print(value)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("1k,2k,32768", [1024, 2048, 32768]),
        ("64K", [65536]),
        (" 300, 258 ,300", [258, 300]),
        ("200000,195k", [195 * 1024, 200_000]),
    ],
)
def test_sizes_are_read(text: str, sizes: list[int]) -> None:
    assert parse_sizes(text) == sizes


@pytest.mark.parametrize("text", ["", "1k,", "1.5k", "k", "-5", "1m", "1e3", "²", "many"])
def test_unreadable_sizes_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a vocabulary size; write sizes as"):
        parse_sizes(text)


@pytest.mark.parametrize("text", ["257", "0", "200k", "999999999999"])
def test_impossible_sizes_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match="choose from 258 to 200,000"):
        parse_sizes(text)


def test_rows_add_up(tmp_path: Path) -> None:
    texts = documents(60)
    seen: list[Row] = []
    rows = compare(texts, [300, 600, 5000], dim=64, depth=2, on_row=seen.append)
    assert rows == seen
    held_out_bytes = sum(len(text) for text in texts[9::10])
    for row in rows:
        assert row.tokens * row.bytes_per_token == pytest.approx(held_out_bytes)
        assert row.body_parameters == 12 * 2 * 64**2
        assert row.embedding_parameters == row.vocab_size * 64
        total = row.embedding_parameters + row.body_parameters
        assert row.embedding_share == pytest.approx(row.embedding_parameters / total)
        # tied: every parameter takes part in the head or the body, 6 FLOPs per token each
        assert row.flops_per_byte * row.bytes_per_token == pytest.approx(6 * total)
    assert rows[0].bytes_per_token < rows[1].bytes_per_token < rows[2].bytes_per_token
    assert rows[0].num_unused == 0 < rows[2].num_unused
    text = printed(table(rows))
    assert "5,000 (" in text
    assert text.count(" *") == 2  # the cheapest, and what the mark means
    names = [row["name"] for row in json.loads(json.dumps(to_json(rows)))]
    assert names == ["vocab_300", "vocab_600", "vocab_5000"]
    plot(rows, tmp_path / "sizes.png")
    assert (tmp_path / "sizes.png").read_bytes().startswith(b"\x89PNG")


def test_an_untied_head_and_another_body_are_counted() -> None:
    tied, untied = (
        compare(documents(30), [300], dim=32, depth=1, tied=tied, body_parameters=1000)[0] for tied in (True, False)
    )
    assert untied.embedding_parameters == 2 * tied.embedding_parameters == 2 * 300 * 32
    assert untied.body_parameters == 1000
    assert untied.flops_per_byte == tied.flops_per_byte


def test_nothing_is_both_trained_on_and_measured() -> None:
    texts = documents(45)
    training, held_out = split_sample(texts, None)
    assert held_out == texts[9::10]
    assert sorted(training + held_out) == sorted(texts)
    long = "\n".join(texts)
    training, held_out = split_sample([long], None)
    assert sum(map(len, training)) + sum(map(len, held_out)) == len(long)
    assert held_out
    training, held_out = split_sample(iter(texts), 30_000)
    assert sum(map(len, training + held_out)) == 30_000


def test_small_samples_and_wrong_models_are_named() -> None:
    with pytest.raises(TokenizerError, match="too small to compare"):
        compare(["a few words"], [300], dim=8, depth=1)
    with pytest.raises(TokenizerError, match="too small to compare"):
        compare([], [300], dim=8, depth=1)
    with pytest.raises(ConfigError, match="at least 1"):
        compare(documents(30), [300], dim=0, depth=1)


def test_show_prints_every_token() -> None:
    tokenizer = Tokenizer.train(documents(30), 400)
    console = Console(file=io.StringIO(), width=120)
    text = "the sea\n\t[bold]é\0\x1b[31m\ud800"
    show(tokenizer, text, console, num_longest=3)
    assert isinstance(console.file, io.StringIO)
    output = console.file.getvalue()
    assert "[bold]" in output
    assert "\x1b" not in output
    assert "\\x1b" in output
    assert "⏎" in output
    assert f"{len(tokenizer.encode(text))} tokens" in output
    assert f"{tokenizer.num_merges} merges, 0 unused, 8 special" in output
    assert "<|wren:document|> 392" in output
    longest = max(range(400), key=lambda i: tokenizer.token_bytes()[i])
    assert tokenizer.decode([longest]).strip() in output


def test_show_of_no_text_gives_the_facts() -> None:
    console = Console(file=io.StringIO(), width=120)
    show(Tokenizer.train(["ab ab"], 300), "", console)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().startswith("300 ids: 256 bytes, ")


def test_importing_brings_no_matplotlib() -> None:
    code = "import sys, wren.tokenizer.compare; sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_bench_runs_and_writes_its_figures(tmp_path: Path) -> None:
    small = ["--generate-mb", "1", "--encode-mb", "1", "--train-repeats", "1", "--repeats", "1", "--vocab-size", "1000"]
    command = [sys.executable, str(BENCH), *small, "--out", str(tmp_path), "--json", str(tmp_path / "bench.json")]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "1,000 ids" in result.stdout
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert [row["name"] for row in figures["rows"]] == ["train", "encode, lists", "encode, arrays"]
    assert figures["tokens_equal"] > 100_000
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]
