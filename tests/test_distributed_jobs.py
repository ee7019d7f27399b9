"""`torchrun -m wren train` as a user starts it: the whole path, restarts after a lost rank, sentences for mistakes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_parts import CHILD, environment, farthest, free_port, losses, start, trained
from processes import python_path

from wren import stories
from wren.cli import main
from wren.distributed.job import joined
from wren.errors import ConfigError
from wren.generate import load_run
from wren.run import Run

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    text = folder / "stories.jsonl"
    text.write_text("\n".join(json.dumps({"text": text}) for text in stories.texts(5, 60_000)) + "\n", encoding="utf-8")
    out = folder / "data"
    assert main(["data", "--source", str(text), "--out", str(out), "--vocab-size", "300", "--val-fraction", "0.1"]) == 0
    return out


def arguments(data: Path, run: Path, *more: str) -> list[str]:
    """Of `wren train`; --run-dir, since torchrun takes --run for a flag of its own."""
    usual = ["--recipe", "tiny", "--data", str(data), "--run-dir", str(run), "--steps", "10", "--dtype", "fp32"]
    return ["train", *usual, "--device", "cpu", "--set", "train.eval_tokens=500", *more]


def torchrun(*command: str, size: int = 2, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    """A job on this machine; what the environment holds of an outer one is left out."""
    outside = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    inherited = {name: value for name, value in os.environ.items() if name not in outside}
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": python_path()}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size)]
    place = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free_port()}", "--max-restarts", str(restarts)]
    return subprocess.run(
        [*launcher, *place, *command], env={**inherited, **settings}, capture_output=True, text=True, timeout=280
    )


@pytest.mark.parametrize("shard", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_job_writes_what_a_single_process_writes_and_speaks_once(shard: bool, data: Path, tmp_path: Path) -> None:
    one, two, result = tmp_path / "one", tmp_path / "two", tmp_path / "result.json"
    assert main(arguments(data, one)) == 0
    more = ["--json", str(result), *(["--shard"] if shard else [])]
    done = torchrun("-m", "wren", *arguments(data, two, *more))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(set(lines))
    assert lines[1].startswith("2 processes, the model " + ("sharded over them" if shard else "whole on each"))
    assert f"report: {two / 'report.html'}" in lines[-1]
    files = {path.relative_to(one).as_posix() for path in one.rglob("*") if path.is_file()}
    assert {path.relative_to(two).as_posix() for path in two.rglob("*") if path.is_file()} == files
    assert farthest(one, two) < 1e-3
    rows = [[row for row in Run(path).metrics() if row["kind"] != "train"] for path in (one, two)]
    for a, b in zip(*rows, strict=True):
        assert (a["kind"], a["step"]) == (b["kind"], b["step"])
        assert abs(a.get("val_bits_per_byte", 0) - b.get("val_bits_per_byte", 0)) < 1e-3
    assert json.loads(result.read_text())["tokens"] == 10 * 4 * 32
    model = load_run(two, torch.device("cpu")).model
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert main(arguments(data, two)) == 0  # a single process finds it complete


def test_torchrun_goes_on_from_the_last_checkpoint_when_a_rank_was_killed(tmp_path: Path) -> None:
    run = {"name": "run", "dtype": "float64", "steps": 12, "save_every": 3}
    trained(tmp_path / "whole", 1, [run])
    jobs = json.dumps([{**run, "fault": "death"}])
    done = torchrun(str(CHILD), str(tmp_path / "parts"), "0", jobs, restarts=1)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("child: ")]
    assert len(said) == 1
    assert "lost touch with another process" in said[0]
    assert done.stdout == f"Resuming from {tmp_path / 'parts' / 'run' / 'checkpoints' / 'step_000006'}.\n"
    assert len(losses(tmp_path / "parts" / "run")) == 12
    assert farthest(tmp_path / "parts" / "run", tmp_path / "whole" / "run") < 1e-9


def one_sentence(found: list[tuple[int, str, str]]) -> str:
    """What a job that ended by a user's mistake said: one rank, one line, exit code 2 on all."""
    assert {code for code, _, _ in found} <= {1, 2}
    said = [line for _, output, errors in found for line in (output + errors).splitlines()]
    assert len(said) == 1, said
    return said[0]


def test_a_batch_that_cannot_be_divided_is_one_sentence(data: Path, tmp_path: Path) -> None:
    command = ["-m", "wren", *arguments(data, tmp_path / "run", "--set", "batch_size=3")]
    assert one_sentence(start(2, *command).ends()) == (
        "wren: The batch of 3 rows cannot be divided among 2 processes; set train.batch_size to a multiple of 2, such "
        "as 4, or start another number of processes."
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.name != "posix", reason="locks are POSIX")
def test_two_jobs_in_one_directory_are_one_sentence(data: Path, tmp_path: Path) -> None:
    with Run(tmp_path / "run").lock():
        found = start(2, "-m", "wren", *arguments(data, tmp_path / "run")).ends()
    assert "Another process is training in" in one_sentence(found)


def test_a_missing_node_is_one_sentence(data: Path, tmp_path: Path) -> None:
    command = ["-m", "wren", *arguments(data, tmp_path / "run", "--join-timeout", "3s")]
    said = one_sentence(start(4, *command, ranks=range(2)).ends())
    assert said.startswith("wren: Not all 4 processes of the job came (rank 2 and 1 more did not) at localhost:")
    assert "within 3 seconds; check that every node was started" in said


def test_a_mistyped_flag_is_told_by_the_first_rank_alone(data: Path, tmp_path: Path) -> None:
    found = start(2, "-m", "wren", *arguments(data, tmp_path / "run", "--setp", "3")).ends()
    assert [code for code, _, _ in found] == [2, 2]
    assert "--setp" in found[0][2]
    assert found[1][1:] == ("", "")


def test_what_needs_torchrun_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ConfigError, match="start them with torchrun"), joined("cpu", sharded=True):
        pytest.fail("one process is no job")
    for name, value in environment(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR")
    with pytest.raises(ConfigError, match=r"WORLD_SIZE is set and MASTER_ADDR is not"), joined("cpu"):
        pytest.fail("half an environment is no job")
