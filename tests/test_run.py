"""The run directory: creation, metrics that survive cut lines and full disks, and one process at a time."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wren.errors import ConfigError, DataError, DiskError
from wren.run import Run, environment


def test_a_run_is_created_once_and_read_again(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs" / "a")
    assert not run.exists()
    run.create({"recipe": "tiny", "steps": 3})
    assert run.exists()
    assert run.config() == {"recipe": "tiny", "steps": 3}
    assert json.loads((run.path / "env.json").read_text()).keys() == environment().keys()
    with pytest.raises(ConfigError, match=r"holds 'config.json'|holds 'checkpoints'"):
        run.create({})


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a run directory .*check --run"):
        Run(tmp_path).config()
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(ConfigError, match=r"holds 'thesis.docx' and no run .*choose another --run"):
        Run(tmp_path).create({})
    with pytest.raises(ConfigError, match="is a file; name a folder"):
        Run(tmp_path / "thesis.docx").create({})
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.docx"]


def test_a_creation_that_was_killed_can_be_repeated(tmp_path: Path) -> None:
    (tmp_path / "env.json").write_text("{}")
    (tmp_path / ".config.json.12.tmp").write_text("{")
    (tmp_path / "data").mkdir()
    Run(tmp_path).create({"a": 1})
    assert Run(tmp_path).config() == {"a": 1}


def test_a_damaged_config_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"recipe": ')
    with pytest.raises(DataError, match="is not valid JSON"):
        Run(tmp_path).config()


def row(step: int, **values: Any) -> dict[str, Any]:
    return {"step": step, "kind": "train", "loss": step / 3, **values}


def test_metrics_come_back_as_they_were_written(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.metrics() == []
    rows = [row(step, text="line\u2028break\n\x85") for step in range(5)]
    for each in rows:
        run.log_metrics(each)
    assert run.metrics() == rows


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.log_metrics(row(1, loss=math.nan, grad_norm=math.inf))
    assert "NaN" not in run.metrics_path.read_text()
    assert run.metrics() == [row(1, loss=None, grad_norm=None)]


@pytest.mark.parametrize("cut", [1, 2, 10, 37])
def test_a_cut_last_line_is_left_out_and_harms_no_other(cut: int, tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in (1, 2):
        run.log_metrics(row(step))
    run.metrics_path.write_bytes(run.metrics_path.read_bytes()[:-cut])
    left = [row(1), row(2)] if cut == 1 else [row(1)]
    assert run.metrics() == left
    run.log_metrics(row(3))  # on a line of its own
    assert run.metrics() == [*left, row(3)]


def test_rubbish_lines_are_left_out(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.metrics_path.write_bytes(b'\0\0\0\n[1]\n7\n"x"\n{"kind": "train"}\n\xff\xfe\n{"step": "2"}\n{"step": 1}\n')
    assert run.metrics() == [{"step": 1}]


def test_rewinding_drops_what_comes_again_and_sweeps_up(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in range(1, 6):
        run.log_metrics(row(step))
    with open(run.metrics_path, "a") as file:
        file.write('{"step": 6, "lo')
    (tmp_path / ".metrics.jsonl.123.tmp").write_text("half")
    run.rewind_metrics(3)
    assert run.metrics() == [row(step) for step in (1, 2, 3)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]
    run.rewind_metrics(0)
    assert run.metrics_path.read_text() == ""


def test_rewinding_nothing_makes_no_file(tmp_path: Path) -> None:
    Run(tmp_path).rewind_metrics(0)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="a part of that path is a file"):
        Run(tmp_path / "file").log_metrics(row(1))
    with pytest.raises(DiskError, match="a part of that path is a file"):
        Run(tmp_path / "file").log("hello")
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(DiskError, match="that path is a folder"):
        Run(tmp_path).log_metrics(row(1))


def test_log_and_samples(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.log("one")
    run.log("two")
    assert [line[20:] for line in (tmp_path / "log.txt").read_text().splitlines()] == ["one", "two"]
    run.write_sample(12, ["A wren.", "Another."])
    assert (tmp_path / "samples" / "step_000012.txt").read_text() == "A wren.\n\n-----\n\nAnother.\n"


def test_a_second_process_is_kept_out_until_the_first_leaves(tmp_path: Path) -> None:
    run = Run(tmp_path / "new")
    with run.lock(), pytest.raises(ConfigError, match=r"Another process is training in .*another folder"), run.lock():
        pytest.fail("two at once")
    with run.lock():
        pass


@pytest.mark.skipif(os.name != "posix", reason="locks are posix")
def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom wren.run import Run\n"
        "with Run(sys.argv[1]).lock():\n    print('locked', flush=True)\n    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"locked\n"
    with pytest.raises(ConfigError, match="Another process"), Run(tmp_path).lock():
        pytest.fail("two at once")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with Run(tmp_path).lock():
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not pass a peak on to children")
def test_the_peak_of_a_child_is_its_own():
    """A parent that once held 1 GiB must not show in what its child reports."""
    child = "from wren.run import peak_memory_bytes; print(peak_memory_bytes())"
    parent = (
        f"import subprocess, sys; x = bytes([1]) * 2**30; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    )
    told = subprocess.run([sys.executable, "-c", parent], check=True, capture_output=True, text=True)
    assert 0 < int(told.stdout) < 2**30
