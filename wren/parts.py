"""A checkpoint that several processes wrote: safetensors files, each with its part of every tensor.

torch.distributed.checkpoint's safetensors form: shard-<number>-...safetensors, whose metadata says at which offsets a
file's part of a tensor begins. Here it is read by one process, without a process group.
"""

import contextlib
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

PATTERN = "shard-*.safetensors"
_OFFSETS = "DCP_SHARDING_INFO"


class Parts:
    """The tensors of a folder by name, each put together when it is read."""

    def __init__(self, folder: Path):
        self._stack = contextlib.ExitStack()
        self._places: dict[str, list[tuple[Any, list[int]]]] = {}  # (open file, offsets)
        self._about: dict[str, tuple[list[int], str]] = {}  # shape and dtype as safetensors name it
        for path in sorted(folder.glob(PATTERN)):
            file = self._stack.enter_context(safe_open(path, framework="pt"))
            offsets = json.loads(file.metadata()[_OFFSETS])
            for name in file.keys():  # noqa: SIM118
                self._add(name, file, offsets[name]["saved_offsets"])

    def _add(self, name: str, file: Any, offsets: list[int]) -> None:
        piece = file.get_slice(name)
        end = [offset + length for offset, length in zip(offsets, piece.get_shape(), strict=True)]
        shape, _ = self._about.get(name, (end, ""))
        self._about[name] = [max(pair) for pair in zip(shape, end, strict=True)], piece.get_dtype()
        self._places.setdefault(name, []).append((file, offsets))

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def names(self) -> list[str]:
        return sorted(self._places)

    def read(self, name: str) -> Tensor:
        """The whole tensor, on the CPU."""
        pieces = [(file.get_tensor(name), offsets) for file, offsets in self._places[name]]
        whole = torch.empty(self._about[name][0], dtype=pieces[0][0].dtype)
        for piece, offsets in pieces:
            whole[tuple(slice(at, at + n) for at, n in zip(offsets, piece.shape, strict=True))] = piece
        return whole

    def write(self, path: Path, names: Iterable[str]) -> None:
        """An ordinary safetensors file of the named tensors; holds one of them at a time."""
        names, header, end = list(names), {}, 0
        for name in names:
            shape, dtype = self._about[name]
            size = self._places[name][0][0].get_tensor(name).element_size()
            for length in shape:
                size *= length
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
            end += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for name in names:
                file.write(self.read(name).reshape(-1).view(torch.uint8).numpy().data)
