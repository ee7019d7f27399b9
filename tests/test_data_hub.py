"""The hub's client: HTTP with faults, tokens, and one sentence for what cannot succeed."""

import random
import socket
import threading
from pathlib import Path

import hub_parts as parts
import huggingface_hub
import pytest
from hub_parts import ALL, FILES, REPO, main, make_client
from hub_server import Fault, Hub, git_sha1

from wren.data.hub_client import HubClient, Retry, Stopped
from wren.data.hub_files import RemoteFile
from wren.errors import ConfigError, DataError, NetworkError

hub, lines, client = parts.hub, parts.lines, parts.client  # fixtures


def sample(hub: Hub) -> RemoteFile:
    client = make_client(hub.endpoint, [])
    return next(f for f in client.tree(REPO, main(hub)) if f.path == "sample/10BT/000_00000.parquet")


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
