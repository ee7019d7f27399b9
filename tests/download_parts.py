"""FineWeb-Edu in small on the stand-in for the hub, and `python download_data.py` against it.

A test file names the fixture it needs: `hub = parts.hub`.
"""

import contextlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_parts import CARD, parquet
from hub_server import Hub

ROOT = Path(__file__).parents[1]
REPO = "HuggingFaceFW/fineweb-edu"
_rng = random.Random(0)
WORDS = ["".join(_rng.choice("abcdefghijklmnop") for _ in range(_rng.randint(2, 8))) for _ in range(500)]
SMALL = ("--vocab-size", "400", "--shard-tokens", "20k", "--retry-wait", "0.01")


def documents(seed: int, count: int = 300) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=100)) for _ in range(count)]


FILES = {f"sample/10BT/{n:03d}_00000.parquet": parquet(documents(n), compression="snappy", rows=50) for n in range(4)}


@contextlib.contextmanager
def stocked() -> Iterator[Hub]:
    """A stand-in that has the dataset."""
    with Hub() as hub:
        hub.repo(REPO, {"README.md": b"", "data/CC/0.parquet": parquet(["other"]), **FILES}, CARD)
        yield hub


@pytest.fixture
def hub() -> Iterator[Hub]:
    with stocked() as hub:
        yield hub


def command(endpoint: str, out: Path, *more: str) -> tuple[list[str], dict[str, str]]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(out.parent / "home"), "COLUMNS": "200"}
    return [sys.executable, str(ROOT / "download_data.py"), "--out", str(out), *SMALL, *more], environment


def download(endpoint: str, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    arguments, environment = command(endpoint, out, *more)
    return subprocess.run(arguments, env=environment, cwd=out.parent, capture_output=True, text=True, timeout=120)
