"""bench/adapt.py: documents of the wanted size from any kind of record, and the picture of its result."""

import json
from pathlib import Path

import bench_parts  # noqa: F401
import pytest

from wren.errors import DataError

import adapt as bench  # isort: skip


def test_documents_of_every_kind_of_record(tmp_path: Path):
    rows = [
        {"text": "a" * 30},
        {"messages": [{"role": "user", "content": "b" * 30}]},
        {"question": "c" * 20, "choices": ["x", "y"], "answer": "x"},
        {"text": "d" * 200},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = bench.documents(path, 3, 40)
    assert found[0] == f"{'a' * 30}\n\nuser: {'b' * 30}"[:60]
    assert found[1].startswith("c" * 20)
    assert "Answer: x" in found[1]
    assert found[2] == "d" * 60
    with pytest.raises(DataError, match="3 documents of 40 bytes, fewer than 4"):
        bench.documents(path, 4, 40)


def test_a_picture(tmp_path: Path):
    def form(name: str, saved: float) -> dict:
        interval = {"saved": saved, "saved_low": saved - 0.1, "saved_high": saved + 0.1}
        return {"name": name, "bits_per_byte": 2 * (1 - saved), "seconds": 2.0, "cpu_seconds": 1.0, **interval}

    forms = [
        form("context 192", 0.0),
        form("with the gate", 0.2),
        form("without a gate", 0.1),
        form("context 384", 0.0),
    ]
    bench.draw({"domains": [{"name": "inside", "forms": forms}, {"name": "other", "forms": forms}]}, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
