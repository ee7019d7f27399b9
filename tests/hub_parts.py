"""A dataset on the stand-in for the hub, a client that asks it, and fixtures of both.

A test file names the fixtures it needs: `hub = parts.hub`.
"""

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Hub

from wren.data.hub_client import HubClient, Retry
from wren.data.hub_locate import Located, Wanted, look_up, pin, pinned

QUICK = Retry(attempts=4, first_s=0.001, longest_s=0.002)
REPO = "someone/texts"
CARD = {
    "configs": [
        {"config_name": "default", "default": True, "data_files": [{"split": "train", "path": "data/*/*"}]},
        {"config_name": "sample-10BT", "data_files": [{"split": "train", "path": "sample/10BT/*"}]},
    ]
}


def parquet(texts: list[str], column: str = "text", *, compression: str = "none", rows: int | None = None) -> bytes:
    """rows: of a row group, None = all that fit."""
    sink = io.BytesIO()
    pq.write_table(
        pa.table({"id": list(range(len(texts))), column: texts}), sink, compression=compression, row_group_size=rows
    )
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


def main(hub: Hub) -> str:
    return hub.repos[REPO].branches["main"]


def locate(client: HubClient, wanted: Wanted, out: Path) -> Located:
    located = pinned(wanted, out) or look_up(client, wanted)
    pin(located, out)
    return located
