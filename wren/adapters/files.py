"""Adapters on disk: a small folder of their own, or in the checkpoints of the run that tuned them.

    adapter.safetensors      the tensors
    adapter.json             rank, scale and tokens, and which model it is for

A run that tuned an adapter holds the model it began with in base/model.safetensors (a second name of the same file
where the disk allows, so that it costs no room), and in config.json an "adapter" and the "bits" it was trained on.
"""

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from wren import checkpoint
from wren import config as configs
from wren.adapters.adapter import Adapter, AdapterConfig, fingerprint
from wren.adapters.bits import rounded_to_four_bits
from wren.errors import CheckpointError, DiskError
from wren.files import disk_errors, read_json, sha256_file, write_json
from wren.model import LM

_TENSORS, _ABOUT = "adapter.safetensors", "adapter.json"
BASE = Path("base") / "model.safetensors"


def save(adapter: Adapter, folder: Path, model_fingerprint: str) -> None:
    """Writes an adapter for the model of that fingerprint, each file whole or not at all. Raises DiskError."""
    tensors = {name: p.detach().cpu().contiguous() for name, p in adapter.named_parameters()}
    save_tensors(tensors, folder / _TENSORS)
    about = {"format": 1, "model": model_fingerprint, "sha256": sha256_file(folder / _TENSORS)}
    write_json(folder / _ABOUT, {**about, "adapter": configs.to_json(adapter.config)})


def load(folder: Path, model: LM, model_fingerprint: str | None = None) -> Adapter:
    """The adapter in a folder; raises CheckpointError for one that is damaged or was made for another model.

    model_fingerprint: the model's, None = it is computed, which reads all weights.
    """
    about = read_json(folder / _ABOUT)
    try:
        made_for, raw, digest = about["model"], about["adapter"], about["sha256"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / _ABOUT} does not describe an adapter; restore the folder.") from error
    if made_for != (model_fingerprint or fingerprint(model)):
        raise CheckpointError(
            f"The adapter in {folder} was made for another model; use the run that it was tuned from."
        )
    config = configs.from_json(AdapterConfig, raw, "adapter")
    adapter = Adapter(model, config, torch.Generator())
    try:
        if sha256_file(folder / _TENSORS) != digest:
            raise CheckpointError(f"{folder / _TENSORS} does not match its checksum; restore it or tune it anew.")
        tensors = load_file(folder / _TENSORS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / _TENSORS} cannot be read ({error}); restore it or tune it anew.") from error
    checkpoint.load_weights(adapter, tensors, folder / _TENSORS)
    return adapter


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes a .safetensors file whole or not at all. Raises DiskError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(tensors, temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except SafetensorError as error:  # it reports a full disk as text
            raise DiskError(f"Cannot write {path}: {error}; free some space or choose another folder.") from error
        finally:
            temporary.unlink(missing_ok=True)


def keep_base(model: LM, source: Path | None, run: Path) -> str:
    """Puts the model that tuning begins with into the run, and returns the sha256 of its file.

    source: a checkpoint's model.safetensors with just these weights, None = there is none.
    """
    target = run / BASE
    if source is not None and source.is_file():
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another disk, or one without such names: a copy will do
            os.link(source, target)
            return sha256_file(target)
    save_tensors({name: x.cpu().contiguous() for name, x in checkpoint.weights(model).items()}, target)
    return sha256_file(target)


def load_tuned(model: LM, run: Path, raw: dict[str, Any], tensors: dict[str, Tensor], where: Path) -> None:
    """Gives the model the weights of a run: those of its checkpoint, or its base's with the adapter merged in.

    raw: config.json. tensors: the checkpoint's. Raises CheckpointError for files that do not belong together.
    """
    if not raw.get("adapter"):
        checkpoint.load_weights(model, tensors, where)
        return
    load_base(model, run, raw)
    if raw.get("bits"):
        rounded_to_four_bits(model)
    config = configs.from_json(AdapterConfig, raw["adapter"], "adapter")
    adapter = Adapter(model, config, torch.Generator())
    checkpoint.load_weights(adapter, {name.removeprefix("adapter."): x for name, x in tensors.items()}, where)
    adapter.merge_into(model)


def load_base(model: LM, run: Path, raw: dict[str, Any]) -> None:
    """The weights that a run's adapter stands on; raises CheckpointError when they are missing or damaged."""
    path = run / BASE
    if not path.is_file() or sha256_file(path) != raw.get("base_sha256"):
        raise CheckpointError(f"{path} is missing or damaged, and the run's adapter stands on it; restore that file.")
    checkpoint.load_weights(model, load_file(path), path)
