"""Which files of the hub a dataset has, how they are pinned, and parts that download in the background."""

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import hub_parts as parts
import pytest
from hub_parts import FILES, REPO, locate, main, parquet, texts
from hub_server import Fault, Hub

from wren.data.hub import HubSource
from wren.data.hub_client import HubClient
from wren.data.hub_files import RemoteFile
from wren.data.hub_locate import Wanted, choose_files, look_up, pinned
from wren.errors import ConfigError, DataError, NetworkError

hub, lines, client = parts.hub, parts.lines, parts.client  # fixtures


# ---- which files


def test_the_card_says_which_files_a_config_has(client: HubClient, hub: Hub) -> None:
    hub.page = 2
    found = look_up(client, Wanted(repo=REPO, config="sample-10BT"))
    assert [file.path for file in found.files] == sorted(FILES)
    assert found.revision == main(hub)
    assert len(hub.requests("/tree/")) > 2
    total = sum(len(text) + 4 for text in texts(0))
    assert found.files[0].size * found.text_per_byte == pytest.approx(total, rel=0.05)
    assert found.num_files(total * 1.5) == 2
    assert found.num_files(10.0**12) == 5
    assert [f.path for f in look_up(client, Wanted(repo=REPO)).files] == ["data/a/0.parquet"]


def files(*paths: str) -> list[RemoteFile]:
    return [RemoteFile(path, 1, "0" * 64, None) for path in paths]


PLAIN = files("en/train-0.parquet", "en/train-1.parquet", "en/test-0.parquet", "de/train-0.parquet")


@pytest.mark.parametrize(
    ("data_files", "split", "expected"),
    [
        ("en/*", "train", ["en/test-0.parquet", "en/train-0.parquet", "en/train-1.parquet"]),
        (["en/train-1*", "de/**"], "train", ["de/train-0.parquet", "en/train-1.parquet"]),
        ([{"split": "test", "path": ["**/test-*"]}], "test", ["en/test-0.parquet"]),
        ({"train": "de", "test": "en"}, "train", ["de/train-0.parquet"]),
    ],
)
def test_every_form_of_the_card(data_files: Any, split: str, expected: list[str]) -> None:
    card = {"configs": [{"config_name": "x", "data_files": data_files}]}
    name, chosen = choose_files(PLAIN, card, Wanted(repo="a/b", split=split))
    assert (name, [file.path for file in chosen]) == ("x", expected)


def test_without_a_card_folders_are_configs_and_names_are_splits() -> None:
    name, chosen = choose_files(PLAIN, {}, Wanted(repo="a/b", config="en"))
    assert (name, [f.path for f in chosen]) == ("en", ["en/train-0.parquet", "en/train-1.parquet"])
    _, chosen = choose_files(PLAIN, {}, Wanted(repo="a/b", split="test"))
    assert [f.path for f in chosen] == ["en/test-0.parquet"]
    _, chosen = choose_files(files("b.jsonl.zst", "a.txt", "infos.json"), {}, Wanted(repo="a/b"))
    assert [f.path for f in chosen] == ["a.txt", "b.jsonl.zst"]
    _, chosen = choose_files(PLAIN, {}, Wanted(repo="a/b", path_glob="*/train-0.*"))
    assert [f.path for f in chosen] == ["de/train-0.parquet", "en/train-0.parquet"]


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (Wanted(repo=REPO, config="sample-10B"), r"Config of .* 'sample-10B' is unknown; did you mean 'sample-10BT'\?"),
        (Wanted(repo=REPO, split="val"), r"Split of .*\(default\) 'val' is unknown. It can be: train"),
        (
            Wanted(repo=REPO, column="txet"),
            r"Column of .* 'txet' is unknown; did you mean 'text'\? It can be: id, text",
        ),
        (Wanted(repo=REPO, path_glob="*.csv"), r"No file of .* matches '\*\.csv'; it has data/a/0\.parquet"),
        (Wanted(repo="empty/one"), r"holds no file of text; Wren reads \.txt"),
        (Wanted(repo="broken/one"), r"is not a parquet file"),
        (Wanted(repo="several/ones"), r"has several configs; choose one with --config: a, b"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(
    client: HubClient, hub: Hub, wanted: Wanted, sentence: str
) -> None:
    hub.repo("empty/one", {"README.md": b"", "picture.png": b"x"})
    hub.repo("broken/one", {"a.parquet": b"0123456789"})
    configs = [{"config_name": name, "data_files": f"{name}.parquet"} for name in "ab"]
    hub.repo("several/ones", {"a.parquet": parquet(["a"])}, {"configs": configs})
    with pytest.raises(DataError, match=sentence):
        look_up(client, wanted)


@pytest.mark.parametrize("name", ["", "a/b/c", "a b/c", "../x", "https://hub/a"])
def test_a_wrong_name_is_refused_before_anything_is_asked(name: str) -> None:
    with pytest.raises(ConfigError, match="is no name of a dataset; write owner/name"):
        Wanted(repo=name)


def test_the_commit_is_pinned_even_when_main_moves(client: HubClient, hub: Hub, tmp_path: Path) -> None:
    wanted = Wanted(repo=REPO, config="sample-10BT")
    first = locate(client, wanted, tmp_path)
    asked = len(hub.log)
    hub.repos[REPO].commit({"sample/10BT/new.parquet": parquet(["new"])})
    assert locate(client, wanted, tmp_path) == first
    assert len(hub.log) == asked, "a pinned dataset needs no network"
    assert pinned(replace(wanted, revision=first.revision), tmp_path) == first
    with pytest.raises(ConfigError, match=r"with column=text \(not body\); choose another --out"):
        locate(client, Wanted(repo=REPO, config="sample-10BT", column="body"), tmp_path)
    (tmp_path / "hub.json").write_text("{}")
    with pytest.raises(DataError, match="is not a record of a dataset; delete it"):
        locate(client, wanted, tmp_path)


# ---- the source


def source(client: HubClient, tmp_path: Path, **settings: Any) -> HubSource:
    return HubSource(client, locate(client, Wanted(repo=REPO, config="sample-10BT"), tmp_path), tmp_path, **settings)


def raw(tmp_path: Path) -> list[str]:
    return sorted(path.name[:3] for path in tmp_path.rglob("*.parquet"))


def test_parts_give_every_text_in_order_and_leave_no_more_than_needed(client: HubClient, tmp_path: Path) -> None:
    most = 0
    with source(client, tmp_path, ahead=1, keep_spent=0) as data:
        assert data.name == "hub:someone/texts/sample-10BT/train"
        for number, part in enumerate(data.parts()):
            assert part.name == sorted(FILES)[number]
            assert list(part.documents()) == texts(number)
            most = max(most, len(raw(tmp_path)))
        assert most <= 3
        assert "004" in raw(tmp_path)
        data.remove_raw()
    assert [path.name for path in tmp_path.iterdir()] == ["hub.json"]


def test_raw_files_stay_when_wanted_and_need_no_network_later(client: HubClient, hub: Hub, tmp_path: Path) -> None:
    with source(client, tmp_path, keep_raw=True) as data:
        for part in data.parts():
            list(part.documents())
        data.remove_raw()
    assert raw(tmp_path) == ["000", "001", "002", "003", "004"]
    hub.faults = [Fault("", times=999, status=500)]
    with source(client, tmp_path) as data:
        assert [list(part.documents()) for part in data.parts()] == [texts(n) for n in range(5)]


def test_a_raw_file_that_was_damaged_on_the_disk_is_fetched_anew(client: HubClient, tmp_path: Path) -> None:
    with source(client, tmp_path, keep_raw=True) as data:
        first = data.parts()[0]
        list(first.documents())
    path = data.path(0)
    spoiled = bytearray(path.read_bytes())
    spoiled[len(spoiled) // 2] ^= 1  # in a text
    path.write_bytes(spoiled)
    with source(client, tmp_path) as data:
        assert list(data.parts()[0].documents()) == texts(0)


def test_a_removed_part_can_be_asked_for_again(client: HubClient, hub: Hub, tmp_path: Path) -> None:
    with source(client, tmp_path, ahead=0, keep_spent=0) as data:
        parts = data.parts()
        for number in (0, 1, 2, 0, 4):
            assert list(parts[number].documents()) == texts(number)
    assert len(hub.requests("/cdn/")) - 2 == 5, "two requests read the footer"


def test_no_more_is_fetched_than_the_estimate_says(client: HubClient, hub: Hub, tmp_path: Path) -> None:
    with source(client, tmp_path, ahead=3, num_needed=2) as data:
        list(data.parts()[0].documents())
        deadline = time.monotonic() + 10
        while raw(tmp_path) != ["000", "001"] and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert raw(tmp_path) == ["000", "001"]
        assert list(data.parts()[3].documents()) == texts(3), "an estimate is no limit"


def test_a_half_read_part_and_an_early_end_leave_no_thread(client: HubClient, tmp_path: Path) -> None:
    with source(client, tmp_path) as data:
        assert next(data.parts()[0].documents()) == texts(0)[0]
    assert not [thread for thread in threading.enumerate() if thread.name == "hub"]


def test_trouble_in_the_background_reaches_the_reader(client: HubClient, hub: Hub, tmp_path: Path) -> None:
    data = source(client, tmp_path)
    hub.faults = [Fault("/resolve/", times=4, status=500)]
    with data, pytest.raises(NetworkError, match="failed 4 times"):
        list(data.parts()[0].documents())
    with data:
        assert list(data.parts()[0].documents()) == texts(0), "asked again, it tries again"


def test_the_fingerprint_names_commit_files_and_column(client: HubClient, hub: Hub, tmp_path: Path) -> None:
    mark = source(client, tmp_path).fingerprint()
    assert mark["revision"] == main(hub)
    assert mark["column"] == "text"
    assert mark["files"][0][:2] == ["sample/10BT/000_00000.parquet", len(FILES["sample/10BT/000_00000.parquet"])]
    assert source(client, tmp_path).approximate_bytes() > 0


def test_json_lines_called_json_are_read(client: HubClient, hub: Hub, tmp_path: Path) -> None:
    hub.repo(REPO, {"train.json": b'{"text": "one"}\n{"text": "two"}\n'})
    with HubSource(client, locate(client, Wanted(repo=REPO), tmp_path / "o"), tmp_path) as data:
        assert [list(part.documents()) for part in data.parts()] == [["one", "two"]]
