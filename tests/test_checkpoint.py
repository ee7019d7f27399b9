"""Checkpoints: whole or absent, verified, pruned; nothing but safetensors and JSON."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from wren import checkpoint
from wren.errors import CheckpointError, DiskError

FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


def tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "a": torch.randn(3, 4, generator=generator),
        "half": torch.randn(5, generator=generator).bfloat16(),
        "count": torch.tensor(float(seed)),
        "rng": torch.arange(7, dtype=torch.uint8),
    }


def save(folder: Path, step: int) -> Path:
    return checkpoint.save(folder, step, tensors(step), tensors(-step), {"progress": {"step": step}, "note": "é"})


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[k], right[k]) and left[k].dtype == right[k].dtype for k in left
    )


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = save(tmp_path / "checkpoints", 7)
    assert path.name == "step_000007"
    assert sorted(file.name for file in path.iterdir()) == sorted(FILES)
    loaded = checkpoint.load(path)
    assert loaded.step == 7
    assert same(loaded.model, tensors(7))
    assert same(loaded.optimizer, tensors(-7))
    assert loaded.state["progress"] == {"step": 7}
    assert same(load_file(path / "model.safetensors"), tensors(7))
    json.loads((path / "state.json").read_text(encoding="utf-8"))


def test_no_step_is_too_large_for_its_name(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000):
        save(tmp_path, step)
    newest, _ = checkpoint.newest_good(tmp_path)
    assert newest is not None
    assert newest.name == "step_1000000"
    assert checkpoint.steps(tmp_path) == [999_999, 1_000_000]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "remove", "folder"])
def test_damage_anywhere_is_found_and_the_one_before_is_used(name: str, damage: str, tmp_path: Path) -> None:
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    path = bad / name
    content = path.read_bytes()
    path.unlink()
    if damage == "flip":
        middle = content.index(b"progress") if name == "state.json" else len(content) - 3
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif damage == "cut":
        path.write_bytes(content[:-5])
    elif damage == "empty":
        path.touch()
    elif damage == "folder":
        path.mkdir()
    newest, warnings = checkpoint.newest_good(tmp_path)
    assert newest == good
    assert len(warnings) == 1
    assert warnings[0].startswith(f"Checkpoint {bad} is damaged ({name} ")
    with pytest.raises(CheckpointError, match=rf"step_000002 is damaged: {name} .*Delete it"):
        checkpoint.load(bad)


def test_every_single_byte_of_every_file_is_watched_over(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 3, {"w": torch.ones(2)}, {"m": torch.ones(1)}, {"k": 1})
    for name in FILES:
        content = (path / name).read_bytes()
        for place, byte in enumerate(content):
            if name == "state.json" and bytes([byte]).isspace():
                continue  # white space between JSON values carries nothing
            (path / name).write_bytes(content[:place] + bytes([byte ^ 0x15]) + content[place + 1 :])
            assert checkpoint.verify(path) is not None, (name, place)
        (path / name).write_bytes(content)
    assert checkpoint.verify(path) is None


def test_state_that_is_json_of_another_kind_is_damage(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    for text in ("[]", "null", "3", '{"sha256": []}', '{"sha256": {}}', '{"sha256": "x"}', "{", "\xff"):
        (path / "state.json").write_text(text, encoding="latin-1")
        assert "state.json" in str(checkpoint.verify(path))


def test_nothing_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.newest_good(tmp_path / "none") == (None, [])
    (tmp_path / "step_x").mkdir()
    (tmp_path / "step_000001").touch()
    assert checkpoint.newest_good(tmp_path) == (None, [])


@pytest.mark.parametrize("stage", ["fsync", "replace", "save_file", "sha256_file"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_save_that_breaks_off_anywhere_leaves_nothing_behind(
    stage: str, error: BaseException, tmp_path: Path, monkeypatch: Any
) -> None:
    save(tmp_path, 1)

    def fail(*arguments: Any, **keywords: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        if stage in ("fsync", "replace"):
            patch.setattr(os, stage, fail)
        else:
            patch.setattr(checkpoint, stage, fail)
        wanted = DiskError if isinstance(error, OSError) else KeyboardInterrupt
        with pytest.raises(wanted):
            save(tmp_path, 2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step_000001"]
    assert checkpoint.verify(tmp_path / "step_000001") is None


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    (save(tmp_path, 1) / "model.safetensors").write_bytes(b"x")
    assert checkpoint.verify(save(tmp_path, 1)) is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["step_000001"]


def test_prune_keeps_the_newest_and_sweeps_up(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        save(tmp_path, step)
    for stray in (".step_000025.tmp", ".step_000020.old.tmp"):
        (tmp_path / stray).mkdir()
        (tmp_path / stray / "model.safetensors").write_bytes(b"half")
    checkpoint.prune(tmp_path, 2)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step_000015", "step_000020"]
    checkpoint.prune(tmp_path, 5)
    assert checkpoint.steps(tmp_path) == [15, 20]


class Tied(nn.Module):
    def __init__(self, rows: int = 4):
        super().__init__()
        self.table = nn.Embedding(rows, 3)
        self.head = nn.Linear(3, rows, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("steps", torch.zeros(2))


def test_tied_weights_are_stored_once_and_come_back(tmp_path: Path) -> None:
    module, other = Tied(), Tied()
    assert set(checkpoint.weights(module)) == {"table.weight", "steps"}
    path = checkpoint.save(tmp_path, 1, checkpoint.weights(module), {}, {})
    checkpoint.load_weights(other, checkpoint.load(path).model, path)
    assert torch.equal(other.head.weight, module.table.weight)
    assert other.head.weight is other.table.weight


def test_weights_of_another_model_are_a_sentence_and_change_nothing() -> None:
    module = Tied()
    before = {name: x.clone() for name, x in checkpoint.weights(module).items()}
    stored = {name: x + 1 for name, x in before.items()}
    for change, sentence in (
        ({"steps": None}, "it lacks 'steps'"),
        ({"extra": torch.zeros(1)}, "holds 'extra', which the model lacks"),
        ({"steps": torch.zeros(3)}, r"'steps' is \[3\] there and \[2\] here"),
    ):
        others = {name: x for name, x in {**stored, **change}.items() if x is not None}
        with pytest.raises(CheckpointError, match=f"here is a checkpoint of another model: .*{sentence}"):
            checkpoint.load_weights(module, others, "here")
    assert same(checkpoint.weights(module), before)
