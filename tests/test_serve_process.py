"""`wren serve` as a process: what SIGTERM does, and the mistakes that end in a sentence before anything is loaded."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import serve_parts as parts
import torch
import tune_parts

from wren.cli import main
from wren.generate import load_run
from wren.serve.command import Options, prepare, read_key


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tune_parts.base_run(tmp_path_factory.mktemp("serve") / "wren1")


@contextlib.contextmanager
def process(run: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its address."""
    command = [sys.executable, "-m", "wren", "serve", "--run", str(run), "--port", "0", "--device", "cpu", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as started:
        try:
            assert started.stdout is not None
            first, second = started.stdout.readline(), started.stdout.readline()
            assert first.startswith("wren1: step 3, ")
            found = re.search(r"http://127\.0\.0\.1:\d+", second)
            assert found is not None
            yield started, found[0]
        finally:
            started.kill()


def test_sigterm_lets_what_runs_end(run: Path):
    with process(run, "--context", "20000") as (started, url):
        body = {"prompt": "The", "max_tokens": 300, "stream": True, "logit_bias": parts.NO_END}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120) as response:
            lines = response.iter_lines()
            next(lines)
            started.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert '"finish_reason":"length"' in rest[-2]
        _, errors = started.communicate(timeout=60)
        assert (started.returncode, errors) == (143, "Stopped; what ran was finished first.\n")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


@pytest.mark.slow
def test_what_does_not_end_in_time_is_told(run: Path):
    with process(run, "--context", "200000", "--drain", "1s") as (started, url):
        body = {"prompt": "The", "max_tokens": 150_000, "stream": True, "logit_bias": parts.NO_END}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120) as response:
            lines = response.iter_lines()
            next(lines)
            started.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert '"code":"shutting_down"' in rest[-2]
        assert rest[-1] == "data: [DONE]"
        started.communicate(timeout=60)
        assert started.returncode == 143


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["serve", *arguments]) == 2
    return capsys.readouterr().err


def test_mistakes_end_in_a_sentence(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        wanted = f"wren: Port {port} on 127.0.0.1 is in use; choose another with --port, or 0 for any that is free.\n"
        assert said(capsys, "--run", str(run), "--port", str(port)) == wanted
    here = ("--run", str(run), "--port", "0", "--device", "cpu")
    assert "99999 is no port" in said(capsys, "--run", str(run), "--port", "99999")
    assert "no address of this machine" in said(capsys, *here, "--host", "no such host")
    assert "give a smaller --context" in said(capsys, *here, "--state-memory", "1k")
    assert "has no room for a prompt" in said(capsys, *here, "--context", "1")
    assert "is empty; put the key" in said(capsys, *here, "--api-key-file", str(_file(tmp_path, b" \n")))
    assert "no text file" in said(capsys, *here, "--api-key-file", str(_file(tmp_path, b"\xff\xfe")))
    assert "cannot be read" in said(capsys, *here, "--api-key-file", str(tmp_path / "none"))


def _file(folder: Path, content: bytes) -> Path:
    path = folder / "key"
    path.write_bytes(content)
    return path


def test_where_the_key_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WREN_API_KEY", raising=False)
    assert read_key(None) is None
    monkeypatch.setenv("WREN_API_KEY", "one")
    assert read_key(None) == "one"
    assert read_key(_file(tmp_path, b"two\n")) == "two"


def test_nothing_is_unpickled(run: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was opened")

    for owner, name in ((torch, "load"), (torch.serialization, "load")):
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr("pickle.load", refuse)
    monkeypatch.setattr("pickle.loads", refuse)
    monkeypatch.setattr("pickle.Unpickler", refuse)
    loaded = load_run(run, torch.device("cpu"))
    assert prepare(loaded, Options(run=run, state_memory=1 << 24), tune_parts.FP32).served.names == ("wren1",)


def test_the_context_is_the_one_of_training(run: Path):
    loaded = load_run(run, torch.device("cpu"))
    limits = prepare(loaded, Options(run=run, state_memory=1 << 24), tune_parts.FP32).served.limits
    assert (limits.context_len, limits.max_prompt, limits.max_tokens) == (tune_parts.CONTEXT,) * 3
