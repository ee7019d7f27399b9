"""Interrupted anywhere, the same call goes on and ends with the same bytes; damaged shards are made again."""

import io
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from data_helpers import BYTES, ListSource, contents, words, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from wren.data import pipeline
from wren.data.prepare import prepare
from wren.data.sources import StdinSource, open_sources
from wren.errors import ConfigError, DataError, WrenError

SCRIPT = Path(__file__).with_name("data_kill.py")


def _start(**options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), json.dumps(options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _run(**options: Any) -> tuple[int, str]:
    with _start(**options) as process:
        _, errors = process.communicate(timeout=120)
    return process.returncode, errors


@pytest.fixture
def corpus(tmp_path):
    """About 1 MB in 2,000 documents: sixteen batches of data_kill.py."""
    return write_jsonl(tmp_path / "corpus.jsonl", [words(i, 20 + i % 150) for i in range(2000)])


@settings(max_examples=7, deadline=None)
@given(
    st.lists(st.integers(0, 119), min_size=1, max_size=3), st.integers(100, 2000), st.sampled_from([None, [2.0, 1.0]])
)
def test_stopping_at_any_document_changes_nothing(tmp_path_factory, stops, size, mixed):
    base = tmp_path_factory.mktemp("stop")
    parts = [[words(i, 1 + i % 12) for i in range(80)], [words(i, 5) for i in range(80, 120)]]
    other = [[words(i, 3 + i % 5) for i in range(200, 300)]]
    options: dict[str, Any] = {
        "tokenizer": BYTES,
        "shard_tokens": size,
        "val_fraction": 0.1,
        "weights": [2.0, 1.0] if mixed else None,
    }
    old, pipeline.BATCH = pipeline.BATCH, 500
    try:
        prepare([ListSource(parts, "a"), ListSource(other, "b")], base / "whole", **options)
        for stop in stops:
            place = (0, stop) if stop < 80 else (1, stop - 80)
            first = ListSource(parts, "a", stop=(*place, KeyboardInterrupt()))
            try:
                prepare([first, ListSource(other, "b")], base / "cut", **options)
            except KeyboardInterrupt:
                assert not (base / "cut" / "manifest.json").exists()
        prepare([ListSource(parts, "a"), ListSource(other, "b")], base / "cut", **options)
    finally:
        pipeline.BATCH = old
    assert contents(base / "whole") == contents(base / "cut")


def test_killed_twice_and_then_finished(corpus, tmp_path):
    options = {"source": str(corpus), "shard_tokens": 60_000, "val_fraction": 0.05, "dedup": "exact"}
    assert _run(out=str(tmp_path / "whole"), **options) == (0, "")
    for batch in (6, 4):
        code, _ = _run(out=str(tmp_path / "cut"), kill_at_batch=batch, **options)
        assert code == -signal.SIGKILL
        assert not (tmp_path / "cut" / "manifest.json").exists()
    assert list((tmp_path / "cut").glob("train_*.bin")), "it was killed between shards"
    assert _run(out=str(tmp_path / "cut"), **options) == (0, "")
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut")


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [words(i, 20 + i % 150) for i in range(6000)])
    options = {"source": str(corpus), "shard_tokens": 20_000, "val_fraction": 0.05, "dedup": "exact"}
    with _start(out=str(tmp_path / "whole"), **options) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        begun = time.monotonic()
        assert process.wait(timeout=120) == 0
    duration = time.monotonic() - begun
    dice = random.Random(5)
    kills = finished = 0
    while kills < 24 or not finished:
        assert kills + finished < 200, "it does not get on"
        with _start(out=str(tmp_path / "cut"), **options) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            try:
                process.wait(timeout=dice.uniform(0, 0.6 * duration) if kills < 24 else 120)
            except subprocess.TimeoutExpired:
                process.kill()
            assert process.stderr is not None
            errors = process.stderr.read()
        kills += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            finished += 1
            assert contents(tmp_path / "whole") == contents(tmp_path / "cut")
            if kills < 24:
                for path in (tmp_path / "cut").iterdir():
                    path.unlink()
        else:
            assert process.returncode == -signal.SIGKILL, errors


def test_a_full_disk_is_one_sentence_and_no_loss(corpus, tmp_path):
    options = {"source": str(corpus), "shard_tokens": 150_000, "val_fraction": 0.05}
    assert _run(out=str(tmp_path / "whole"), **options) == (0, "")
    code, errors = _run(out=str(tmp_path / "cut"), file_limit=200_000, **options)
    assert code == 1
    assert errors.startswith("DiskError: Cannot write")
    assert errors.count("\n") == 1
    assert set(contents(tmp_path / "cut")) <= {".progress.json", "tokenizer.json"}, "no scraps"
    code, errors = _run(out=str(tmp_path / "cut"), file_limit=3000, **options)
    assert errors.startswith("DiskError: Cannot write")
    assert _run(out=str(tmp_path / "cut"), **options) == (0, "")
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut")


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "gone"])
def test_damaged_shards_are_made_again(tmp_path, damage):
    source = ListSource([[words(i, 30) for i in range(300)], [words(i, 9) for i in range(300, 600)]])
    options: dict[str, Any] = {"tokenizer": BYTES, "shard_tokens": 6000, "val_fraction": 0.4}
    prepare([source], tmp_path, **options)
    whole = contents(tmp_path)
    names = [name for name in whole if name.endswith(".bin")]
    assert len([name for name in names if name.startswith("val")]) > 2
    for name in names:
        _damage(tmp_path / name, damage)
        said: list[str] = []
        prepare([source], tmp_path, say=said.append, **options)
        assert contents(tmp_path) == whole
        assert name in said[0]
        assert "complete again" in said[1]
    changed = ListSource([["other"] * 600])
    changed.fingerprint = source.fingerprint  # type: ignore[method-assign]
    _damage(tmp_path / names[0], damage)
    with pytest.raises(DataError, match=f"{names[0]} came out differently"):
        prepare([changed], tmp_path, **options)


def _damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    changed = {"flip": data, "cut": data[:-2], "longer": data + b"\0\0", "gone": None}[how]
    path.unlink()
    if changed is not None:
        path.write_bytes(changed)


def _stopped(tmp_path: Path, readings: int = 0, **options: Any) -> tuple[list[str], dict[str, Any]]:
    """A run that was stopped after some shards."""
    texts = [words(i, 30) for i in range(3000)]
    settings = {"tokenizer": BYTES, "shard_tokens": 20_000, "val_fraction": 0.05, **options}
    with pytest.raises(KeyboardInterrupt):
        prepare([ListSource([texts], stop=(0, 2900, KeyboardInterrupt()), readings=readings)], tmp_path, **settings)
    return texts, settings


def test_a_shard_damaged_before_resuming_is_made_again(tmp_path):
    texts, options = _stopped(tmp_path / "cut")
    _damage(tmp_path / "cut" / "train_000001.bin", "flip")
    prepare([ListSource([texts])], tmp_path / "cut", **options)
    prepare([ListSource([texts])], tmp_path / "whole", **options)
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut")


def test_leftovers_are_cleared_and_other_files_stay(tmp_path):
    texts, options = _stopped(tmp_path)
    for name in ("train_000090.bin", ".train_000090.bin.partial", ".manifest.json.123.tmp", ".stdin.tmp"):
        (tmp_path / name).write_bytes(b"left over")
    (tmp_path / "notes.txt").write_text("mine")
    manifest = prepare([ListSource([texts])], tmp_path, **options)
    shards = {shard.file for split in manifest.splits.values() for shard in split.shards}
    assert set(contents(tmp_path)) == {"manifest.json", "tokenizer.json", "notes.txt", *shards}


def test_an_unfinished_folder_refuses_other_settings_and_starts_over_when_told(tmp_path):
    texts, options = _stopped(tmp_path)
    with pytest.raises(ConfigError, match=r"unfinished data set made with dedup = 'none', not 'exact'; .*--fresh"):
        prepare([ListSource([texts])], tmp_path, **{**options, "dedup": "exact"})
    with pytest.raises(ConfigError, match="changed since"):
        prepare([ListSource([texts[1:]])], tmp_path, **options)
    journal = tmp_path / ".progress.json"
    journal.write_text(journal.read_text().replace('"format": 1', '"format": 0'))
    with pytest.raises(DataError, match=r"another version of Wren; .*--fresh"):
        prepare([ListSource([texts])], tmp_path, **options)
    manifest = prepare([ListSource([texts[1:]])], tmp_path, fresh=True, **options)
    assert manifest.splits["train"].documents + manifest.splits["val"].documents == 2999


def test_a_lost_partial_shard_is_named(tmp_path):
    texts, options = _stopped(tmp_path)
    [partial] = tmp_path.glob(".val_*.partial")
    partial.unlink()
    with pytest.raises(DataError, match=r"\.partial was removed or cut; .*--fresh"):
        prepare([ListSource([texts])], tmp_path, **options)


def test_killed_between_the_closing_of_a_shard_and_the_journal(tmp_path):
    texts, options = _stopped(tmp_path / "cut")
    [partial] = (tmp_path / "cut").glob(".val_*.partial")
    with partial.open("ab") as file:
        file.write(b"written after the journal")
    partial.rename(partial.with_name(partial.name[1:].removesuffix(".partial")))
    prepare([ListSource([texts])], tmp_path / "cut", **options)
    prepare([ListSource([texts])], tmp_path / "whole", **options)
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut")


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    source = ListSource([[words(i, 30) for i in range(300)]])
    errors = []

    def meanwhile(_: object) -> None:
        try:
            prepare([source], tmp_path, tokenizer=BYTES)
        except WrenError as error:
            errors.append(str(error))

    prepare([source], tmp_path, tokenizer=BYTES, progress=meanwhile)
    assert errors
    assert "being written by another run" in errors[0]


def test_a_trained_tokenizer_survives_the_interruption(tmp_path):
    texts, _ = _stopped(tmp_path / "cut", readings=2, tokenizer=None, vocab_size=300)
    options: dict[str, Any] = {"vocab_size": 300, "shard_tokens": 20_000, "val_fraction": 0.05}
    said: list[str] = []
    prepare([ListSource([texts])], tmp_path / "cut", say=said.append, **options)
    assert "Going on" in said[0]
    assert not any("Training" in message for message in said)
    prepare([ListSource([texts])], tmp_path / "whole", **options)
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut")


def test_standard_input_can_be_resumed(tmp_path):
    data = write_jsonl(tmp_path / "in.jsonl", [words(i, 30) for i in range(3000)]).read_bytes() + b"broken"
    whole = data.removesuffix(b"broken")
    out = tmp_path / "out"
    options: dict[str, Any] = {"tokenizer": BYTES, "shard_tokens": 20_000}
    with pytest.raises(DataError, match="3001 is not valid JSON"):
        prepare([StdinSource(io.BytesIO(data), out)], out, **options)
    with pytest.raises(ConfigError, match="changed since"):
        prepare([StdinSource(io.BytesIO(whole), out)], out, **options)
    prepare([StdinSource(io.BytesIO(whole), out)], out, fresh=True, **options)
    assert not (out / ".stdin").exists()
    prepare([StdinSource(io.BytesIO(whole), out)], out, **options)
    (tmp_path / "in.jsonl").write_bytes(whole)
    prepare(open_sources([str(tmp_path / "in.jsonl")]), tmp_path / "file", **options)
    shards = {name: data for name, data in contents(out).items() if name.endswith(".bin")}
    assert shards.items() <= contents(tmp_path / "file").items()
