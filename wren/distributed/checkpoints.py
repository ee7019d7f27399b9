"""Checkpoints of a sharded model: every rank writes and reads its own part (torch.distributed.checkpoint).

The files are safetensors, so that opening somebody's checkpoint executes none of their code. They lie in the same
folders, under the same checksums and the same rename as those of a single process (checkpoint.py), which reads them
too. A checkpoint of any number of ranks, or of one process, is read by any other number.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.distributed.checkpoint.state_dict_saver import save as save_parts

from wren import checkpoint
from wren.checkpoint import Checkpoint
from wren.errors import CheckpointError, DiskError
from wren.files import disk_errors, fsync_dir, read_json, sha256_file
from wren.layout import is_sharded
from wren.model import LM
from wren.parts import PATTERN

T = TypeVar("T")
First = Callable[[Callable[[], T]], T]  # Ranks.first


def save(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any], first: First) -> None:
    """Writes folder/step_<step>; every rank raises DiskError when one of them could not write its part."""
    temporary = first(lambda: checkpoint.begin(folder, step))
    writer = HuggingFaceStorageWriter(path=str(temporary), save_distributed=True)
    try:
        save_parts(dict(tensors), storage_writer=writer)
    except CheckpointException as error:
        failure = error
        first(lambda: _give_up(temporary, failure))
    sums = _sums(temporary, folder / f"step_{step:06d}")
    first(lambda: checkpoint.finish(temporary, step, state, sums))


def _give_up(temporary: Path, error: CheckpointException) -> None:
    with checkpoint.removed_on_error(temporary):
        for rank, (cause, _) in sorted(error.failures.items()):
            if isinstance(cause, OSError):
                raise cause
            raise CheckpointError(f"Rank {rank} could not write its part of {temporary}: {cause}") from error


def _sums(temporary: Path, final: Path) -> dict[str, str]:
    """The checksums of all ranks' files, each computed by one of the ranks."""
    rank, size = dist.get_rank(), dist.get_world_size()
    own: dict[str, str] | DiskError
    try:
        with disk_errors(final):
            own = {path.name: sha256_file(path) for path in sorted(temporary.glob(PATTERN))[rank::size]}
            fsync_dir(temporary)
    except DiskError as error:
        own = error
    everyones: list[Any] = [None] * size
    dist.all_gather_object(everyones, own)
    for found in everyones:
        if isinstance(found, DiskError):
            raise found
    return {name: value for found in everyones for name, value in found.items()}


def load(path: Path, model: LM) -> Checkpoint:
    """A verified checkpoint, of one process or of any number of them, with this rank's part of what is sharded here."""
    reader = HuggingFaceStorageReader(path=str(path))
    wanted = checkpoint.weights(model)
    tensors: dict[str, Any] = {}
    for name, about in reader.read_metadata().state_dict_metadata.items():
        like = wanted.get(name.rpartition("/")[0] or name)
        tensors[name] = _room(like, about.size, about.properties.dtype)  # type: ignore[union-attr]
    try:
        load_parts(tensors, storage_reader=reader)
    except CheckpointException as error:
        raise CheckpointError(f"Checkpoint {path} cannot be read by all ranks: {error}.") from error
    optimizer = {name: tensors.pop(name) for name in list(tensors) if "/" in name}
    return Checkpoint(path, tensors, optimizer, read_json(path / "state.json"))


def _room(like: Tensor | None, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """An empty tensor, spread as the parameter it belongs to where that is sharded and of this shape, or of one column
    of it."""
    if like is not None and is_sharded(like) and like.shape == shape:
        return torch.zeros_like(like, dtype=dtype)
    if like is not None and is_sharded(like) and (like.shape[0], 1) == tuple(shape):
        return torch.zeros_like(like[:, :1], dtype=dtype)
    return torch.zeros(shape, dtype=dtype)
