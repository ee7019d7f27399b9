"""`python download_data.py` against the stand-in: faults, kills, the plan, and sentences for every mistake."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Fault, Hub

from wren.data import prepare
from wren.data.download import Flags, main, run
from wren.data.hub_progress import Display
from wren.data.shards import Manifest, open_shards, verify
from wren.errors import ConfigError, DataError, DiskError, NetworkError
from wren.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
REPO = "HuggingFaceFW/fineweb-edu"
CARD = {
    "configs": [
        {"config_name": "default", "default": True, "data_files": [{"split": "train", "path": "data/*/*"}]},
        {"config_name": "sample-10BT", "data_files": [{"split": "train", "path": "sample/10BT/*"}]},
    ]
}
_rng = random.Random(0)
WORDS = ["".join(_rng.choice("abcdefghijklmnop") for _ in range(_rng.randint(2, 8))) for _ in range(500)]
SMALL = ("--vocab-size", "400", "--shard-tokens", "20k", "--retry-wait", "0.01")


def documents(seed: int, count: int = 300) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=100)) for _ in range(count)]


def parquet(texts: list[str]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": texts, "id": list(range(len(texts)))}), sink, row_group_size=50)
    return sink.getvalue()


def jsonl(count: int) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in documents(9, count))


FILES = {f"sample/10BT/{n:03d}_00000.parquet": parquet(documents(n)) for n in range(4)}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        hub.repo(REPO, {"README.md": b"", "data/CC/0.parquet": parquet(["other"]), **FILES}, CARD)
        yield hub


def command(endpoint: str, out: Path, *more: str) -> tuple[list[str], dict[str, str]]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(out.parent / "home"), "COLUMNS": "200"}
    return [sys.executable, str(ROOT / "download_data.py"), "--out", str(out), *SMALL, *more], environment


def download(endpoint: str, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    arguments, environment = command(endpoint, out, *more)
    return subprocess.run(arguments, env=environment, cwd=out.parent, capture_output=True, text=True, timeout=120)


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
    with Hub() as hub:
        hub.repo(REPO, {"README.md": b"", "data/CC/0.parquet": parquet(["other"]), **FILES}, CARD)
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
    hub.bytes_per_s = 200_000
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


# ---- plan and disk


def flags(out: Path, **more: Any) -> Flags:
    return Flags(**{"out": out, "vocab_size": "400", "retry_wait": 0.001, "retries": 3, **more})


def test_a_dry_run_tells_and_writes_nothing(hub: Hub, tmp_path: Path) -> None:
    done = download(hub.endpoint, tmp_path / "out", "--dry-run", "--json", "plan.json")
    assert done.returncode == 0, done.stderr
    for word in ("files     4 of 4", "tokens    about", "disk", "time      about", "(sample-10BT) at commit"):
        assert word in done.stdout
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["revision"] == hub.repos[REPO].branches["main"]
    assert plan["download_bytes"] == sum(map(len, FILES.values()))
    assert plan["disk_bytes"] == plan["raw_bytes_at_once"] + plan["shard_bytes"]
    assert plan["shard_bytes"] == int(plan["tokens"] / 0.995) * 2
    assert not (tmp_path / "out").exists()


def test_with_no_flag_it_is_a_billion_tokens_of_fineweb_edu(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run"], endpoint=hub.endpoint) == 0
    assert capsys.readouterr().out.startswith(f"{REPO} (sample-10BT) at commit ")
    assert (Flags().tokens, Flags().dataset, Flags().column, Flags().vocab_size) == ("1B", REPO, "text", "32768")
    assert main(["--dry-run", "--config", "default"], endpoint=hub.endpoint) == 0
    said = capsys.readouterr().out
    assert f" into {Path('data/fineweb-edu-default')}" in said
    assert "files     1 of 1" in said


def test_a_short_disk_is_named_before_anything_is_written(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"needs .* more and its disk has 1 kB free; free some space.*fewer --tokens"):
        run(flags(tmp_path / "out"), endpoint=hub.endpoint, rng=random.Random(0), free=lambda path: 1000)
    assert not (tmp_path / "out").exists()
    assert not hub.requests("/resolve/main"), "no file was fetched"


def test_wide_vocabularies_need_four_bytes_a_token(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = []
    for vocab_size in ("65536", "65537"):
        asked = flags(tmp_path / "out", vocab_size=vocab_size, dry_run=True, json=tmp_path / "plan.json")
        assert run(asked, endpoint=hub.endpoint) == 0
        sizes.append(json.loads((tmp_path / "plan.json").read_text())["shard_bytes"])
    assert sizes[1] == 2 * sizes[0]
    assert "shards" in capsys.readouterr().out


# ---- mistakes


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--dataset", "no/such"], "Dataset 'no/such' is not on the hub"),
        (["--dataset", "a b"], "'a b' is no name of a dataset; write owner/name"),
        (["--config", "sample-10B"], "'sample-10B' is unknown; did you mean 'sample-10BT'?"),
        (["--column", "txt"], "'txt' is unknown; did you mean 'text'? It can be: id, text."),
        (["--revision", "v7"], "has no such revision"),
        (["--tokens", "many"], "'many' is not a number of tokens"),
        (["--tokenizer", "absent.json"], "absent.json"),
        (["--vocab-size", "7"], "258"),
        (["--retries", "0"], "--retries is 0; it must be at least 1."),
        (["--val-fraction", "1.5"], "--val-fraction is 1.5"),
        (["--tokens", "1000T", "--dry-run", "--path-glob", "x*"], "No file of"),
    ],
)
def test_a_mistake_ends_in_one_sentence(
    hub: Hub, tmp_path: Path, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path / "out"), *SMALL, *arguments], endpoint=hub.endpoint) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.splitlines()) == 1
    assert said.startswith("download_data.py: ")
    assert not (tmp_path / "out").exists()


def test_no_network_at_all_is_one_sentence_at_the_end(tmp_path: Path) -> None:
    done = download("http://127.0.0.1:9", tmp_path / "out")
    assert done.returncode == 2
    *retries, last = done.stderr.splitlines()
    assert ["trying again in" in line for line in retries] == [True, True]
    assert last.startswith("download_data.py: The hub at http://127.0.0.1:9 cannot be reached")
    for choice in ("wren quickstart", "wren data --source", ".parquet file"):
        assert choice in last


def test_another_dataset_in_the_same_folder_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.repo("my/texts", {"train.jsonl": jsonl(50)})
    rng = random.Random(0)
    assert run(flags(tmp_path / "out", dataset="my/texts"), endpoint=hub.endpoint, rng=rng) == 0
    with pytest.raises(ConfigError, match=r"holds 'my/texts' with repo=my/texts.*choose another --out"):
        run(flags(tmp_path / "out"), endpoint=hub.endpoint, rng=rng)
    assert run(flags(tmp_path / "out", fresh=True, tokens="10k"), endpoint=hub.endpoint, rng=rng) == 0
    assert Manifest.load(tmp_path / "out").sources[0]["name"].startswith("hub:HuggingFaceFW")


def test_a_wrong_column_in_json_and_broken_text_are_named(hub: Hub, tmp_path: Path) -> None:
    hub.repo("my/texts", {"train.jsonl": b'{"body": "once"}\n', "bad/a.jsonl": jsonl(50).replace(b'"}', b'\xe9"}')})
    with pytest.raises(DataError, match=r"train\.jsonl:1 has no key 'text'; it has 'body'"):
        run(flags(tmp_path / "a", dataset="my/texts", path_glob="train.jsonl"), endpoint=hub.endpoint)
    bad = {"dataset": "my/texts", "path_glob": "bad/*"}
    with pytest.raises(DataError, match="is not UTF-8"):
        run(flags(tmp_path / "b", strict=True, **bad), endpoint=hub.endpoint)
    assert run(flags(tmp_path / "c", **bad), endpoint=hub.endpoint) == 0


def test_trouble_in_the_middle_keeps_what_is_there(hub: Hub, tmp_path: Path) -> None:
    hub.faults = [Fault("resolve", times=0), Fault("002_00000.parquet", times=3, status=503)]
    with pytest.raises(NetworkError, match=r"002_00000\.parquet failed 3 times.*the same command goes on"):
        run(flags(tmp_path / "out", tokens="all"), endpoint=hub.endpoint, rng=random.Random(0))
    assert (tmp_path / "out" / "raw" / "sample/10BT/000_00000.parquet").exists()
    assert run(flags(tmp_path / "out", tokens="all"), endpoint=hub.endpoint, rng=random.Random(0)) == 0


# ---- progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_tell_bytes_tokens_rates_and_time_left() -> None:
    clock, stream = [0.0], io.StringIO()
    display = Display(1_000_000, 8_000_000, stream=stream, every_s=10.0, now=lambda: clock[0])
    with display:
        display.raw("a.parquet", 1_000_000, 8_000_000)  # was there before
        display.raw("a.parquet", 5_000_000, 8_000_000)
        display.prepared(prepare.Progress("shards", 0, 0, 0, None))
        clock[0] = 10.0
        display.prepared(prepare.Progress("shards", 10, 400_000, 100_000, None))
        display.line("an event")
    assert stream.getvalue().splitlines() == [
        "downloaded 4 MB (a.parquet 62%), 400 kB/s; 100k of about 1M tokens, 10k tokens/s, 1m30s left",
        "an event",
    ]


def test_a_terminal_gets_bars() -> None:
    stream = Terminal()
    with Display(1_000_000, 8_000_000, stream=stream) as display:
        display.raw("a.parquet", 0, 8_000_000)
        display.raw("a.parquet", 4_000_000, 8_000_000)
        display.prepared(prepare.Progress("tokenizer", 1, 1000, 0, None))
        display.prepared(prepare.Progress("shards", 10, 400_000, 100_000, None))
        display.line("an event [bold]")
    assert "an event [bold]" in stream.getvalue()
    assert "download" in stream.getvalue()
