"""`download_data.py`: what it plans, sentences for every mistake, and the progress it shows."""

import io
import json
import random
from pathlib import Path
from typing import Any

import download_parts as parts
import pytest
from download_parts import FILES, REPO, SMALL, documents, download
from hub_server import Fault, Hub

from wren.data import prepare
from wren.data.download import Flags, main, run
from wren.data.hub_progress import Display
from wren.data.shards import Manifest
from wren.errors import ConfigError, DataError, DiskError, NetworkError


def jsonl(count: int) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in documents(9, count))


hub = parts.hub  # a fixture


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
