"""A training process that is killed at any moment and started again ends exactly as one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import train_child as child
from processes import python_path

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
CHILD = Path(__file__).with_name("train_child.py")
STEPS, SAVE_EVERY = 60, 3


def start(path: Path) -> subprocess.Popen:
    """A life of the run in `path`, returned when its first step (or evaluation) is done."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path()}
    command = [sys.executable, str(CHILD), str(path), str(STEPS), str(SAVE_EVERY)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def end(process: subprocess.Popen, number: int | None) -> int:
    """Sends the signal, if any, and waits; returns the exit code."""
    if number is not None:
        process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert "Error" not in errors, errors
    return process.returncode


def wait_for_a_save(process: subprocess.Popen, checkpoints: Path) -> None:
    """Returns while a checkpoint is being written, or when the process has ended."""
    while process.poll() is None and not any(checkpoints.glob(".step_*.tmp")):
        pass


def reference(path: Path) -> Path:
    config = child.settings(steps=STEPS, save_every=SAVE_EVERY, eval_every=7)
    child.go(path, config, evaluate=child.drawing_evaluation)
    return path


def kill_until_done(path: Path, rng: random.Random, kills: int) -> tuple[int, int]:
    """Kills up to `kills` lives, every other one in mid-save, then lets the run finish: (killed, cut saves)."""
    killed = cut = 0
    while killed < kills:
        process = start(path)
        if killed % 2 == 0:
            wait_for_a_save(process, path / "checkpoints")
            time.sleep(rng.random() * 0.002)
        else:
            time.sleep(rng.random() * 0.3)
        if end(process, signal.SIGKILL) == 0:
            return killed, cut  # it was done before the kill came
        killed += 1
        cut += any((path / "checkpoints").glob(".step_*.tmp"))
    assert end(start(path), None) == 0
    return killed, cut


def check(whole: Path, parts: Path) -> None:
    child.assert_same_run(whole, parts)
    assert not [stray for stray in parts.rglob(".*.tmp*") if stray.exists()]


def test_two_kills_change_nothing(tmp_path: Path) -> None:
    killed, _ = kill_until_done(tmp_path / "parts", random.Random(0), 2)
    assert killed >= 1
    check(reference(tmp_path / "whole"), tmp_path / "parts")


@pytest.mark.slow
def test_kills_at_twenty_random_moments_and_more_change_nothing(tmp_path: Path) -> None:
    rng = random.Random(1)
    whole = reference(tmp_path / "whole")
    kills = cuts = runs = 0
    while kills < 24:
        parts = tmp_path / f"parts{runs}"
        killed, cut = kill_until_done(parts, rng, 8)
        check(whole, parts)
        kills, cuts, runs = kills + killed, cuts + cut, runs + 1
    assert cuts >= 3  # some of them hit a half-written checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_save_and_end_with_their_exit_code(number: int, tmp_path: Path) -> None:
    rng = random.Random(2)
    for _ in range(3):
        process = start(tmp_path / "parts")
        time.sleep(rng.random() * 0.2)
        code = end(process, number)
        assert code in (128 + number, 0)
        rows = [row for row in child.curve(tmp_path / "parts") if row["kind"] == "train"]
        assert child.newest(tmp_path / "parts").step == rows[-1]["step"]
    end(start(tmp_path / "parts"), None)
    check(reference(tmp_path / "whole"), tmp_path / "parts")
