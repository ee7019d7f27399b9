"""Checkpoints: safetensors and JSON, never pickle; whole or absent; verified by checksum before use.

    checkpoints/step_001000/model.safetensors  optimizer.safetensors  state.json

A checkpoint is written into a temporary folder, fsynced and renamed, so that no kill or power cut leaves half of one
under its final name. state.json holds the checksums of the others and of itself. Where several processes hold parts of
the tensors, files with these parts (parts.py) take the place of the first two.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wren.errors import CheckpointError, DiskError
from wren.files import disk_errors, fsync_dir, sha256_file
from wren.parts import Parts

_NAME = re.compile(r"step_(\d{6,})")
_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"


class Checkpoint(NamedTuple):
    """model, optimizer: named tensors on the CPU. state: JSON values (step, loader, counters, ...)."""

    path: Path
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]

    @property
    def step(self) -> int:
        return self.state["step"]


def save(
    folder: Path, step: int, model: dict[str, Tensor], optimizer: dict[str, Tensor], state: dict[str, Any]
) -> Path:
    """Writes folder/step_<step> and returns its path; raises DiskError, leaving earlier checkpoints untouched."""
    temporary = begin(folder, step)
    with removed_on_error(temporary):
        _write(temporary, model, optimizer)
        sums = {name: sha256_file(temporary / name) for name in (_MODEL, _OPTIMIZER)}
        return finish(temporary, step, state, sums)


def begin(folder: Path, step: int) -> Path:
    """An empty temporary folder for the files of a checkpoint; raises DiskError."""
    temporary = folder / f".step_{step:06d}.tmp"
    with disk_errors(folder / f"step_{step:06d}"):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    return temporary


def finish(temporary: Path, step: int, state: dict[str, Any], sums: dict[str, str]) -> Path:
    """Adds state.json to the files of a checkpoint, whose checksums are `sums`, and gives the folder its final name."""
    folder, final = temporary.parent, temporary.parent / f"step_{step:06d}"
    with removed_on_error(temporary):
        state = {**state, "step": step, "sha256": dict(sums)}
        state["sha256"][_STATE] = _digest(state)
        (temporary / _STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
        _fsync(temporary / _STATE)
        fsync_dir(temporary)
        if final.exists():  # a damaged one of the same step: out of the way first, a folder is never overwritten
            os.replace(final, aside := folder / f".{final.name}.old.tmp")
            shutil.rmtree(aside, ignore_errors=True)
        os.replace(temporary, final)
        fsync_dir(folder)
        fsync_dir(folder.parent)
    return final


@contextlib.contextmanager
def removed_on_error(temporary: Path) -> Iterator[None]:
    """Deletes what begin() gave when an error leaves the block; raises DiskError for one of the disk."""
    with disk_errors(temporary.with_name(temporary.name.removeprefix(".").removesuffix(".tmp"))):
        try:
            yield
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def joined(path: Path) -> None:
    """Writes the checkpoint of several processes anew as one of a single process; raises DiskError, leaving it as it
    is.

    Reads one tensor at a time: the model need not fit into main memory.
    """
    state = json.loads((path / _STATE).read_text(encoding="utf-8"))
    temporary = begin(path.parent, state["step"])
    with removed_on_error(temporary), Parts(path) as parts:
        for file, ours in ((_MODEL, False), (_OPTIMIZER, True)):
            parts.write(temporary / file, (name for name in parts.names() if ("/" in name) == ours))
            _fsync(temporary / file)
        sums = {name: sha256_file(temporary / name) for name in (_MODEL, _OPTIMIZER)}
        finish(temporary, state["step"], state, sums)


def _write(folder: Path, model: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None:
    for name, tensors in ((_MODEL, model), (_OPTIMIZER, optimizer)):
        try:
            save_file({key: value.detach().contiguous().cpu() for key, value in tensors.items()}, folder / name)
        except SafetensorError as error:  # it reports a full disk as text
            raise DiskError(
                f"Cannot write {folder / name}: {error}; free some space or choose another folder."
            ) from error
        _fsync(folder / name)


def _fsync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _digest(state: dict[str, Any]) -> str:
    """Checksum of state.json's content, its own checksum left out."""
    others = {name: value for name, value in state["sha256"].items() if name != _STATE}
    return hashlib.sha256(json.dumps({**state, "sha256": others}, sort_keys=True).encode()).hexdigest()


def steps(folder: Path) -> list[int]:
    """The steps of all checkpoints under their final name, good or not, oldest first."""
    if not folder.is_dir():
        return []
    matches = (_NAME.fullmatch(entry.name) for entry in folder.iterdir() if entry.is_dir())
    return sorted(int(match[1]) for match in matches if match)


def verify(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None when its checksums hold."""
    try:
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        if state["sha256"][_STATE] != _digest(state):
            return f"{_STATE} does not match its checksum"
        files = [name for name in state["sha256"] if name != _STATE]
        if not files or any(name != Path(name).name for name in files):
            return f"{_STATE} names no files of its own folder"
        for name in files:
            if state["sha256"][name] != sha256_file(path / name):
                return f"{name} does not match its checksum"
    except OSError as error:
        return f"{Path(error.filename or path).name} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError) as error:
        return f"{_STATE} is not what was written ({type(error).__name__}: {error})"
    return None


def load(path: Path, *, verified: bool = False) -> Checkpoint:
    """Reads one checkpoint; raises CheckpointError when it is damaged. verified: its checksums were just compared."""
    fault = None if verified else verify(path)
    if fault is not None:
        raise CheckpointError(f"Checkpoint {path} is damaged: {fault}. Delete it to go on from the one before it.")
    state = json.loads((path / _STATE).read_text(encoding="utf-8"))
    if not is_parted(state):
        return Checkpoint(path, load_file(path / _MODEL), load_file(path / _OPTIMIZER), state)
    with Parts(path) as parts:
        tensors = {name: parts.read(name) for name in parts.names()}
    model = {name: tensors.pop(name) for name in list(tensors) if "/" not in name}
    return Checkpoint(path, model, tensors, state)


def is_parted(state: dict[str, Any]) -> bool:
    """Whether several processes wrote this checkpoint, each its parts of the tensors."""
    return _MODEL not in state["sha256"]


def newest_good(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose checksums hold (or None), and a sentence on every newer, damaged one."""
    warnings = []
    for step in reversed(steps(folder)):
        path = folder / f"step_{step:06d}"
        fault = verify(path)
        if fault is None:
            return path, warnings
        warnings.append(f"Checkpoint {path} is damaged ({fault}); the newest good one before it is used instead.")
    return None, warnings


def prune(folder: Path, keep: int) -> None:
    """Deletes all but the newest `keep` checkpoints, and what a crash left under temporary names."""
    for step in steps(folder)[:-keep]:
        shutil.rmtree(folder / f"step_{step:06d}", ignore_errors=True)
    clean(folder)


def clean(folder: Path) -> None:
    """Deletes what a crash left under temporary names; nobody else may be writing here (Run.lock)."""
    for leftover in folder.glob(".step_*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def weights(module: nn.Module) -> dict[str, Tensor]:
    """The module's named tensors; of tied ones only the first name."""
    unique: dict[int, str] = {}
    tensors = module.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        unique.setdefault(id(tensor), name)
    return {name: tensors[name].detach() for name in unique.values()}


def load_weights(module: nn.Module, tensors: dict[str, Tensor], where: Path | str) -> None:
    """Puts back what weights() gave; raises CheckpointError naming the first difference."""
    wanted = weights(module)
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or extra:
        what = f"lacks '{missing[0]}'" if missing else f"holds '{extra[0]}', which the model lacks"
        raise CheckpointError(f"{where} is a checkpoint of another model: it {what}. Use the run it belongs to.")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{where} is a checkpoint of another model: '{name}' is {list(tensor.shape)} there and "
                f"{list(wanted[name].shape)} here. Use the run it belongs to."
            )
    with torch.no_grad():
        for name, tensor in tensors.items():
            wanted[name].copy_(tensor)
