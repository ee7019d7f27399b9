"""bench/memory.py in a tiny form: its rows, its peer, its curves."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import bench_parts  # noqa: F401
import memory
import pytest

TINY = ["--params", "200k", "--vocab-size", "256", "--context-len", "32", "--rows", "1", "--device", "cpu"]


def rows(path: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    assert memory.main([*TINY, *arguments, "--json", str(path)]) == 0
    found = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {f"{row['name']}{row.get('seed') or ''}": row for row in found}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_ours_and_the_peer_are_the_same_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(tmp_path / "out.json", "--ways", "plain;full checkpointing;transformers;transformers, checkpointing")
    assert len({row["params"] for row in found.values()}) == 1
    assert found["full checkpointing"]["activations"] < found["plain"]["activations"]
    assert found["transformers, checkpointing"]["activations"] < found["transformers"]["activations"]
    assert "full checkpointing" in capsys.readouterr().out


def test_every_way_is_measured_for_a_recipe_without_peer(tmp_path: Path) -> None:
    found = rows(tmp_path / "out.json", "--recipe", "wren")
    assert list(found) == list(memory.WAYS)
    # not less than plain's, whose gradients of n-gram tables hold only the rows that were read
    assert found["all"]["peak"] < found["step in backward"]["peak"]
    assert found["all"]["peak"] < found["8-bit states"]["peak"]
    assert found["8-bit states"]["moments"] < found["bf16 states"]["moments"] < found["plain"]["moments"]


def test_curves_are_compared_with_plain_ones_of_several_seeds(tmp_path: Path) -> None:
    found = rows(
        tmp_path / "out.json", "--curves", "6", "--seeds", "2", "--ways", "plain;8-bit states;step in backward"
    )
    assert list(found) == ["plain", "plain1", "8-bit states", "step in backward"]
    assert all(len(row["losses"]) == 6 for row in found.values())
    assert found["step in backward"]["losses"] == pytest.approx(found["plain"]["losses"], rel=1e-4)


def test_a_mistake_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        memory.main([*TINY, "--ways", "4-bit states"])
    assert end.value.code == 2
    assert "'4-bit states' is unknown; name some of: plain; selective" in capsys.readouterr().err
