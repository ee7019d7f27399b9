"""The hub's side of the data: HTTP with faults, choosing and pinning files, parts that download in the background."""

import io
import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Fault, Hub, git_sha1

from wren.data.hub import HubSource
from wren.data.hub_client import HubClient, Retry, Stopped
from wren.data.hub_files import RemoteFile
from wren.data.hub_locate import Located, Wanted, choose_files, look_up, pin, pinned
from wren.errors import ConfigError, DataError, NetworkError

QUICK = Retry(attempts=4, first_s=0.001, longest_s=0.002)
REPO = "someone/texts"
CARD = {
    "configs": [
        {"config_name": "default", "default": True, "data_files": [{"split": "train", "path": "data/*/*"}]},
        {"config_name": "sample-10BT", "data_files": [{"split": "train", "path": "sample/10BT/*"}]},
    ]
}


def parquet(texts: list[str], column: str = "text") -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": list(range(len(texts))), column: texts}), sink, compression="none")
    return sink.getvalue()


def texts(number: int, count: int = 400) -> list[str]:
    rng = random.Random(number)
    return [f"{number}-{i} " + " ".join(str(rng.random()) for _ in range(20)) for i in range(count)]


FILES = {f"sample/10BT/{n:03d}_00000.parquet": parquet(texts(n)) for n in range(5)}
ALL = {".gitattributes": b"*.parquet lfs", "README.md": b"# texts", "data/a/0.parquet": parquet(["whole"]), **FILES}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with Hub() as hub:
        hub.repo(REPO, ALL, CARD)
        yield hub


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def client(hub: Hub, lines: list[str]) -> HubClient:
    return make_client(hub.endpoint, lines)


def make_client(endpoint: str, lines: list[str], **settings: Any) -> HubClient:
    settings = {"retry": QUICK, "timeout_s": 10.0, **settings}
    return HubClient(random.Random(0), lines.append, endpoint=endpoint, **settings)


def sample(hub: Hub) -> RemoteFile:
    client = make_client(hub.endpoint, [])
    return next(f for f in client.tree(REPO, main(hub)) if f.path == "sample/10BT/000_00000.parquet")


def main(hub: Hub) -> str:
    return hub.repos[REPO].branches["main"]


def fetch(client: HubClient, hub: Hub, folder: Path, file: RemoteFile | None = None) -> bytes:
    file = file or sample(hub)
    client.download(REPO, main(hub), file, folder / "file.parquet", lambda there: None)
    assert sorted(path.name for path in folder.iterdir()) == ["file.parquet"]
    return (folder / "file.parquet").read_bytes()


# ---- the stand-in is asked by the real client of huggingface_hub


def test_the_stand_in_serves_huggingface_hub_itself(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    hub.page = 3
    api = huggingface_hub.HfApi(endpoint=hub.endpoint, token="hf_good")
    assert api.dataset_info(REPO).sha == main(hub)
    entries = list(api.list_repo_tree(REPO, repo_type="dataset", recursive=True))
    files = {e.path: e for e in entries if isinstance(e, huggingface_hub.RepoFile)}
    assert set(files) == set(ALL)
    for path in ("README.md", "sample/10BT/000_00000.parquet"):
        got = api.hf_hub_download(REPO, path, repo_type="dataset", local_dir=tmp_path)
        assert Path(got).read_bytes() == ALL[path]
    assert len(hub.requests("/tree/")) > 1
    assert {r.token for r in hub.requests("/cdn/")} == {None}
    assert {r.token for r in hub.requests("/resolve/", "HEAD")} == {"Bearer hf_good"}


# ---- downloads


def test_the_token_goes_to_the_hub_and_not_to_its_cdn(
    client: HubClient, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert fetch(client, hub, tmp_path) == FILES["sample/10BT/000_00000.parquet"]
    assert {r.token for r in hub.requests("/resolve/")} == {"Bearer hf_good"}
    assert {r.token for r in hub.requests("/cdn/")} == {None}


def test_a_dropped_connection_goes_on_by_range(client: HubClient, hub: Hub, tmp_path: Path, lines: list[str]) -> None:
    hub.faults = [Fault("/cdn/", times=6, drop_after=10_000)]
    file = sample(hub)
    assert fetch(client, hub, tmp_path) == FILES[file.path]
    ranges = [r.range for r in hub.requests("/cdn/")]
    assert ranges == [None] + [f"bytes={10_000 * n}-" for n in range(1, 7)]
    # each try brought something, so the count of failures in a row never grew
    assert len(lines) == 6
    assert all("trying again" in line and "(failure 1)" in line for line in lines)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_answers_are_tried_again(
    client: HubClient, hub: Hub, tmp_path: Path, lines: list[str], status: int
) -> None:
    hub.faults = [Fault("/resolve/", status=status), Fault("/cdn/", status=status)]
    fetch(client, hub, tmp_path)
    assert len(lines) == 2
    assert all(f"the hub answered {status}" in line for line in lines)


@pytest.mark.parametrize(
    "headers", [{"Retry-After": "1"}, {"RateLimit": '"resolvers";r=0;t=1'}, {"Retry-After": "soon"}]
)
def test_the_wait_that_the_hub_asks_for_is_kept(
    client: HubClient, hub: Hub, tmp_path: Path, lines: list[str], headers: dict[str, str]
) -> None:
    hub.faults = [Fault("/resolve/", status=429, headers=headers)]
    fetch(client, hub, tmp_path)
    assert len(lines) == 1
    assert ("trying again in 1.0 s" in lines[0]) == (headers.get("Retry-After") != "soon")


def test_a_date_to_retry_after_that_is_far_away_ends_the_run(client: HubClient, hub: Hub, tmp_path: Path) -> None:
    hub.faults = [Fault("/resolve/", status=429, headers={"Retry-After": "Fri, 31 Dec 2099 23:59:59 GMT"})]
    with pytest.raises(NetworkError, match=r"asks to wait .* seconds; after that the same command goes on"):
        fetch(client, hub, tmp_path)


@pytest.mark.parametrize(
    "fault",
    [Fault("/cdn/", flip_at=1000), Fault("/cdn/", extra=b"more"), Fault("/cdn/", cut=100, times=1)],
    ids=["flipped", "longer", "shorter"],
)
def test_a_damaged_file_is_never_kept(
    client: HubClient, hub: Hub, tmp_path: Path, lines: list[str], fault: Fault
) -> None:
    hub.faults = [fault]
    file = sample(hub)
    assert fetch(client, hub, tmp_path) == FILES[file.path]
    assert len(lines) == 1


def test_a_file_that_stays_damaged_ends_the_run(client: HubClient, hub: Hub, tmp_path: Path, lines: list[str]) -> None:
    hub.faults = [Fault("/cdn/", times=99, flip_at=1000)]
    with pytest.raises(NetworkError, match="failed 3 times, the last time because: it came with a wrong sha256"):
        fetch(client, hub, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(hub.requests("/cdn/")) == 3


def test_a_range_that_is_ignored_begins_anew(client: HubClient, hub: Hub, tmp_path: Path) -> None:
    hub.faults = [Fault("/cdn/", drop_after=5000), Fault("/cdn/", ignore_range=True)]
    assert fetch(client, hub, tmp_path) == FILES[sample(hub).path]
    assert [r.status for r in hub.requests("/cdn/")] == [200, 200]


def test_a_partial_file_that_is_too_long_is_thrown_away(client: HubClient, hub: Hub, tmp_path: Path) -> None:
    file = sample(hub)
    assert file.sha256 is not None
    (tmp_path / f".file.parquet.{file.sha256[:12]}.part").write_bytes(bytes(file.size + 1))
    assert fetch(client, hub, tmp_path) == FILES[file.path]


def test_a_small_file_is_checked_by_its_git_name(client: HubClient, hub: Hub, tmp_path: Path) -> None:
    hub.repo(REPO, {"a.txt": b"some text"})
    file = next(client.tree(REPO, main(hub)))
    assert (file.sha256, file.git_sha1) == (None, git_sha1(b"some text"))
    hub.faults = [Fault("a.txt", flip_at=2)]
    assert fetch(client, hub, tmp_path, file) == b"some text"
    assert len(hub.requests("/resolve/")) == 2


def test_a_silent_hub_is_given_up_and_asked_again(hub: Hub, tmp_path: Path, lines: list[str]) -> None:
    hub.faults = [Fault("/cdn/", stall_s=1.0)]
    client = make_client(hub.endpoint, lines, timeout_s=0.3)
    assert fetch(client, hub, tmp_path) == FILES[sample(hub).path]
    assert "timed out" in lines[0] or "Timeout" in lines[0]


def test_endless_trouble_ends_with_one_sentence(client: HubClient, hub: Hub, tmp_path: Path, lines: list[str]) -> None:
    hub.faults = [Fault("/cdn/", times=99, status=503)]
    with pytest.raises(NetworkError, match=r"failed 4 times, the last time because: the hub answered 503; later the"):
        fetch(client, hub, tmp_path)
    assert len(lines) == 3


def test_waiting_ends_when_it_is_told_to(hub: Hub, tmp_path: Path) -> None:
    hub.faults = [Fault("/cdn/", times=99, status=503)]
    client = make_client(hub.endpoint, [], retry=Retry(first_s=100.0, longest_s=100.0))
    threading.Timer(0.2, client.stop.set).start()
    with pytest.raises(Stopped):
        fetch(client, hub, tmp_path)


def test_waits_double_with_jitter_up_to_a_bound() -> None:
    retry = Retry(first_s=1.0, longest_s=10.0)
    rng = random.Random(0)
    for failures, middle in enumerate([1, 2, 4, 8, 10, 10], start=1):
        waits = [retry.wait_s(failures, rng) for _ in range(200)]
        assert 0.5 * middle <= min(waits) < 0.6 * middle
        assert 1.4 * middle < max(waits) <= 1.5 * middle
    assert retry.wait_s(10_000, rng) <= 15.0


# ---- sentences for what cannot succeed


def test_no_network_names_the_offline_choices(lines: list[str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        client = make_client(f"http://127.0.0.1:{closed.getsockname()[1]}", lines)
        with pytest.raises(NetworkError) as error:
            client.commit(REPO, None)
    for choice in ("cannot be reached", "wren quickstart", "wren data --source", ".parquet file that was copied over"):
        assert choice in str(error.value)
    assert len(lines) == 2, "a hub that was never reached is not asked for long"


def test_offline_mode_is_named(client: HubClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NetworkError, match="HF_HUB_OFFLINE forbids the network"):
        client.commit(REPO, None)


@pytest.mark.parametrize(
    ("token", "gated", "repo", "revision", "sentence"),
    [
        (None, None, "no/such", None, r"'no/such' is not on the hub .*owner/name.*HF_TOKEN"),
        ("hf_good", None, "no/such", None, r"'no/such' is not on the hub"),
        (None, "hf_member", REPO, None, r"is gated: accept its terms at .*/datasets/someone/texts and set HF_TOKEN"),
        ("hf_good", "hf_member", REPO, None, r"is gated"),
        ("hf_expired", None, REPO, None, r"does not accept your token; set HF_TOKEN"),
        (None, None, REPO, "v9", r"has no such revision"),
    ],
)
def test_refusals_are_one_sentence(
    client: HubClient,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    lines: list[str],
    token: str | None,
    gated: str | None,
    repo: str,
    revision: str | None,
    sentence: str,
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.repos[REPO].gated_for = gated
    with pytest.raises((DataError, ConfigError), match=sentence):
        client.commit(repo, revision)
    assert lines == []


def test_a_right_token_opens_a_gated_dataset(client: HubClient, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos[REPO].gated_for = "hf_member"
    monkeypatch.setenv("HF_TOKEN", "hf_member")
    assert client.commit(REPO, "main")[0] == main(hub)


def test_an_end_point_that_is_no_hub_is_named(hub: Hub) -> None:
    hub.faults = [Fault("/api/", times=99, status=200)]
    with pytest.raises(NetworkError, match="not JSON"):
        make_client(hub.endpoint, []).commit(REPO, None)
    with pytest.raises(ConfigError, match="'ftp://x' is no address of a hub; unset or mend HF_ENDPOINT"):
        make_client("ftp://x", []).commit(REPO, None)


def test_a_file_of_an_unsafe_name_is_refused(client: HubClient, hub: Hub) -> None:
    hub.repo(REPO, {"data/../../../etc/passwd.parquet": b"x"})
    with pytest.raises(DataError, match="unsafe name"):
        list(client.tree(REPO, main(hub)))


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


def locate(client: HubClient, wanted: Wanted, out: Path) -> Located:
    located = pinned(wanted, out) or look_up(client, wanted)
    pin(located, out)
    return located


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
