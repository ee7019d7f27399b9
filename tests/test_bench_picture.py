"""bench/picture.py: what is drawn of the records, and what it says where there is nothing to draw."""

import json
from pathlib import Path
from typing import Any

import bench_parts  # noqa: F401
import picture
import pytest

from wren.errors import DataError


def record(path: Path, rows: list[dict[str, Any]], **parts: Any) -> Path:
    path.write_text(json.dumps({"parts": {"text": {"rows": rows}, **parts}}))
    return path


def row(name: str, seed: int, seconds: float, loss: float | None) -> dict[str, Any]:
    return {"name": name, "fraction": 1.0, "seed": seed, "seconds": seconds, "bits_per_byte": loss}


def test_the_seeds_of_a_training_are_one_point_and_records_join_into_lines(tmp_path: Path):
    long = record(tmp_path / "a.json", [row("a", 0, 10, 2.0), row("a", 1, 12, 2.2), row("b", 0, 10, None)])
    short = record(tmp_path / "b.json", [row("a", 0, 5, 2.5)])
    found = picture.races([long, short])
    assert list(found) == ["a"]
    assert [point[:2] for point in found["a"]] == [(5, 2.5), (11, pytest.approx(2.1))]
    assert found["a"][0][2] == 0 < found["a"][1][2]


def test_both_panels_are_drawn(tmp_path: Path):
    speed = {
        "state": [{"name": "a", "length": n, "state_bytes": n * 10} for n in (8, 32)],
        "decode": [{"name": "a", "context": n, "decode_tokens_per_second": 1000 / n} for n in (4, 8)],
    }
    path = record(tmp_path / "a.json", [row("a", 0, 10, 2.0)], inference=speed)
    assert picture.inference([path]) == [("a\n(32 / 8 tokens)", 320, 125.0)]
    assert picture.main([str(path), "--out", str(tmp_path / "new" / "p.png")]) == 0
    assert (tmp_path / "new" / "p.png").read_bytes()[:4] == b"\x89PNG"


def test_nothing_to_draw_is_a_sentence(tmp_path: Path):
    with pytest.raises(DataError, match="no trainings on text"):
        picture.main([str(record(tmp_path / "a.json", []))])
    (tmp_path / "b.json").write_text("[1]")
    with pytest.raises(DataError, match="not a record"):
        picture.main([str(tmp_path / "b.json")])
