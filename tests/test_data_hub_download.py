"""`python download_data.py` against the stand-in: whole runs through faults, kills and Ctrl-C, memory."""

import io
import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import download_parts as parts
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from download_parts import FILES, REPO, WORDS, command, documents, download, stocked
from hub_parts import parquet
from hub_server import Fault, Hub

from wren.data.shards import Manifest, open_shards, verify
from wren.tokenizer import Tokenizer

hub = parts.hub  # a fixture


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def killed_when(
    hub: Hub, out: Path, condition: Callable[[], bool], *more: str, how: int = signal.SIGKILL
) -> tuple[int, str]:
    """Starts the download and ends it once the condition holds; its exit code and what it said."""
    arguments, environment = command(hub.endpoint, out, *more)
    process = subprocess.Popen(
        arguments, env=environment, cwd=out.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        until(condition, process)
        process.send_signal(how)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, said


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an uninterrupted run over all tokens writes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with stocked() as hub:
        done = download(hub.endpoint, out, "--tokens", "all")
    assert done.returncode == 0, done.stderr
    return content(out)


# ---- whole runs


def test_every_text_comes_once_through_every_fault(hub: Hub, tmp_path: Path, whole: dict[str, bytes]) -> None:
    second = "?signature=sample%2F10BT%2F001"  # at the CDN
    hub.faults = [
        Fault("/api/", status=503),
        Fault("/tree/", status=429, headers={"Retry-After": "0"}),
        Fault("000_00000", status=500),
        Fault(second, times=2, drop_after=20_000),
        Fault(second, ignore_range=True, flip_at=3000),
        Fault(second, cut=77),
        Fault(second.replace("001", "002"), extra=b"more"),
    ]
    done = download(hub.endpoint, tmp_path / "out", "--tokens", "all", "--json", "result.json")
    assert done.returncode == 0, done.stderr
    assert [fault.times for fault in hub.faults] == [0] * len(hub.faults), "every fault happened"
    for sentence in (
        "the hub answered 503",
        "answered 429",
        "answered 500",
        "peer closed",
        "wrong sha256",
        "ended after",
        "bytes instead of",
    ):
        assert sentence in done.stderr
    assert content(tmp_path / "out") == whole
    result = json.loads((tmp_path / "result.json").read_text())
    tokenizer = Tokenizer.load(tmp_path / "out" / "tokenizer.json")
    texts = [text for n in range(4) for text in documents(n)]
    written = [tokenizer.decode(d) for split in ("train", "val") for d in _split(tmp_path / "out", split, tokenizer)]
    assert sorted(written) == sorted(texts)
    assert sum(split["documents"] for split in result["splits"].values()) == len(texts)
    assert result["peak_memory_bytes"] < 1 << 30
    assert not (tmp_path / "out" / "raw").exists()


def _split(out: Path, split: str, tokenizer: Tokenizer) -> Iterator[list[int]]:
    tokens = [int(token) for shard in open_shards(out, split) for token in shard]
    starts = [i for i, token in enumerate(tokens) if token == tokenizer.document_id]
    for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
        yield tokens[start + 1 : end]


def test_a_limit_of_tokens_a_given_tokenizer_and_kept_raw_files(hub: Hub, tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(documents(0), 400)
    tokenizer.save(tmp_path / "tokenizer.json")
    done = download(hub.endpoint, tmp_path / "out", "--tokens", "10k", "--tokenizer", "tokenizer.json", "--keep-raw")
    assert done.returncode == 0, done.stderr
    manifest = Manifest.load(tmp_path / "out")
    assert 10_000 <= manifest.splits["train"].tokens < 10_400
    raw = tmp_path / "out" / "raw" / "sample/10BT/000_00000.parquet"
    assert raw.read_bytes() == FILES["sample/10BT/000_00000.parquet"]
    again = download(hub.endpoint, tmp_path / "out", "--tokens", "10k", "--tokenizer", "tokenizer.json", "--keep-raw")
    assert again.returncode == 0
    assert "complete already" in again.stderr


def test_a_complete_folder_needs_no_network_and_a_damaged_shard_is_made_again(
    hub: Hub, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name, data in whole.items():
        (out / name).write_bytes(data)
    hub.faults = [Fault("", times=99, status=500)]
    assert download(hub.endpoint, out, "--tokens", "all", "--retries", "1").returncode == 0
    (out / "train_000001.bin").write_bytes(b"spoiled")
    assert verify(out) == ["train_000001.bin"]
    hub.faults = []
    done = download(hub.endpoint, out, "--tokens", "all")
    assert done.returncode == 0, done.stderr
    assert "train_000001.bin" in done.stderr
    assert content(out) == whole


# ---- interruptions


def partial_bytes(out: Path) -> int:
    return sum(path.stat().st_size for path in out.rglob(".*.part"))


def test_a_kill_in_mid_download_goes_on_by_range(hub: Hub, tmp_path: Path, whole: dict[str, bytes]) -> None:
    out = tmp_path / "out"
    hub.bytes_per_s = 400_000
    code, _ = killed_when(hub, out, lambda: partial_bytes(out) > 30_000, "--tokens", "all")
    assert code == -signal.SIGKILL
    left = partial_bytes(out)
    assert left > 30_000
    hub.bytes_per_s = None
    before = len(hub.log)
    # main moves meanwhile: the commit stays
    hub.repos[REPO].commit({"sample/10BT/zzz.parquet": parquet(["new"])})
    done = download(hub.endpoint, out, "--tokens", "all")
    assert done.returncode == 0, done.stderr
    assert content(out) == whole
    later = hub.log[before:]
    assert f"bytes={left}-" in [request.range for request in later if "/cdn/" in request.path]
    assert not [request for request in later if "/api/" in request.path], "the files were pinned"


def test_a_kill_in_mid_tokenizing_ends_with_the_same_bytes(hub: Hub, tmp_path: Path, whole: dict[str, bytes]) -> None:
    (tmp_path / "tokenizer.json").write_bytes(whole["tokenizer.json"])
    more = ("--tokens", "all", "--tokenizer", "tokenizer.json")
    assert download(hub.endpoint, tmp_path / "uninterrupted", *more).returncode == 0
    out = tmp_path / "out"
    # the last part does not come, so that the kill finds some shards and not all
    hub.faults = [Fault("signature=sample%2F10BT%2F003", stall_s=60.0)]
    code, _ = killed_when(hub, out, lambda: (out / "train_000002.bin").exists(), *more)
    assert code == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    hub.faults = []
    done = download(hub.endpoint, out, *more)
    assert done.returncode == 0, done.stderr
    assert "Going on" in done.stderr
    assert content(out) == content(tmp_path / "uninterrupted")
    shards = {name: data for name, data in content(out).items() if name.endswith(".bin")}
    assert shards == {name: data for name, data in whole.items() if name.endswith(".bin")}


def test_control_c_says_how_to_go_on(hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "out"
    hub.bytes_per_s = 10_000  # so slow that a busy machine sees it under way
    code, said = killed_when(hub, out, lambda: partial_bytes(out) > 1000, "--tokens", "all", how=signal.SIGINT)
    assert code == 130
    assert said.splitlines()[-1].startswith("download_data.py: Interrupted; the same command goes on where it stopped")
    assert "Traceback" not in said


@pytest.mark.slow
def test_kills_at_twenty_random_moments(hub: Hub, tmp_path: Path, whole: dict[str, bytes]) -> None:
    out = tmp_path / "out"
    hub.bytes_per_s = 300_000
    rng = random.Random(1)
    began = time.monotonic()
    assert download(hub.endpoint, tmp_path / "timed", "--tokens", "all").returncode == 0
    whole_run_s = time.monotonic() - began
    kills = 0
    while kills < 20:
        arguments, environment = command(hub.endpoint, out, "--tokens", "all")
        process = subprocess.Popen(
            arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
        try:
            process.wait(timeout=rng.uniform(0.2, 0.9) * whole_run_s)
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        _, said = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), said
        if process.returncode == 0:  # resumed so often that it was done: the next kills hit a new folder
            assert content(out) == whole
            shutil.rmtree(out)
    done = download(hub.endpoint, out, "--tokens", "all")
    assert done.returncode == 0, done.stderr
    assert content(out) == whole


@pytest.mark.slow
def test_memory_stays_below_one_gibibyte(hub: Hub, tmp_path: Path) -> None:
    rng = random.Random(5)
    rows = [" ".join(rng.choices(WORDS, k=3000)) for _ in range(1000)]
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, pa.schema([("text", pa.string())]), compression="zstd") as writer:
        for start in range(16):  # 260 MB of text in row groups of 16 MB
            writer.write_table(pa.table({"text": [f"{start} {row}" for row in rows]}), row_group_size=1000)
    hub.repo("big/one", {"train.parquet": sink.getvalue()})
    done = download(
        hub.endpoint, tmp_path / "out", "--dataset", "big/one", "--tokens", "all", "--vocab-size", "2048",
        "--shard-tokens", "8M", "--json", "result.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["splits"]["train"]["bytes"] > 240_000_000
    assert result["peak_memory_bytes"] < 1 << 30
