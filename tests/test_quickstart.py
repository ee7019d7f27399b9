"""`wren quickstart` at its smallest: the whole path, its figures side by side, and going on after a kill."""

import json
import lzma
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wren import stories
from wren.cli import main
from wren.data.shards import open_shards
from wren.quickstart import lzma_bits_per_byte
from wren.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "own.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in stories.texts(7, 100_000)), encoding="utf-8")
    return path


def arguments(corpus: Path, run: Path) -> list[str]:
    shape = ["--vocab-size", "300", "--set", "dim=32", "depth=1", "context_len=64"]
    return ["quickstart", "--corpus", str(corpus), "--time", "1s", "--run", str(run), *shape]


def test_the_whole_path(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    run = tmp_path / "run"
    assert main([*arguments(corpus, run), "--json", str(tmp_path / "result.json")]) == 0
    said = capsys.readouterr().out
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["bits_per_byte"] < result["before"] < 12
    tokenizer = Tokenizer.load(run / "tokenizer.json")
    text = b"".join(tokenizer.decode_bytes(shard.tolist()) for shard in open_shards(run / "data", "val"))
    assert text
    assert result["lzma"] == pytest.approx(8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text))
    for figure in (result["before"], result["bits_per_byte"], result["lzma"]):
        assert f"{figure:.3f}" in said
    assert len(re.findall(r"^  wren \w+", said.split("Next:")[1], re.MULTILINE)) == 3
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "lzma" in page
    assert (run / "loss.png").stat().st_size > 1000
    assert "--- sample 1, temperature" in said


def test_lzma_needs_about_a_byte_for_a_random_byte_and_nothing_for_a_repeat():
    assert lzma_bits_per_byte(os.urandom(100_000)) == pytest.approx(8, rel=0.01)
    assert lzma_bits_per_byte(b"wren" * 100_000) < 0.05


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("stage", ["data/manifest.json", "metrics.jsonl", "checkpoints"])
def test_a_killed_quickstart_goes_on(stage: str, corpus: Path, tmp_path: Path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "wren", *arguments(corpus, run)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and not (run / stage).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    assert main(arguments(corpus, run)) == 0
    assert json.loads((run / "result.json").read_text())["steps"] >= 1  # a busy machine fits no more


def test_a_corpus_named_anew_does_not_meet_the_old_folder(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    assert main(["quickstart", "--dry-run"]) == 0
    assert main(["quickstart", "--corpus", "shakespeare", "--dry-run"]) == 0
    first, second = (line.split(" into ")[1] for line in capsys.readouterr().out.strip().splitlines())
    assert first != second
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "sentence"),
    [(["nosuch=3"], "Setting 'nosuch' is unknown"), (["dim=0"], "dim")],
)
def test_a_wrong_setting_is_said_before_any_work(corpus: Path, tmp_path: Path, capsys, more, sentence: str):
    assert main([*arguments(corpus, tmp_path / "run"), *more]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_left_alone(corpus: Path, tmp_path: Path, capsys):
    (tmp_path / "manifest.json").write_text("{}")
    assert main(arguments(corpus, tmp_path)) == 2
    assert "holds 'manifest.json' and no run" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
