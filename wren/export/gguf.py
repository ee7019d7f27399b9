"""The GGUF file format, version 3: a header, values by key, tensors by name; what llama.cpp reads.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. All numbers little-endian; the shape of a tensor is written
innermost dimension first; data begins at multiples of 32 bytes.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any, Literal

import numpy as np
import torch
from torch import Tensor

Kind = Literal["f32", "f16", "q8_0"]
KINDS: dict[Kind, int] = {"f32": 0, "f16": 1, "q8_0": 8}
BLOCK = 32  # numbers that share a scale in Q8_0
_ALIGNMENT = 32
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


@dataclass(frozen=True)
class Stored:
    """A tensor and the number format to write it in."""

    tensor: Tensor
    kind: Kind

    def num_bytes(self) -> int:
        count = self.tensor.numel()
        return count // BLOCK * (BLOCK + 2) if self.kind == "q8_0" else count * (4 if self.kind == "f32" else 2)


def write(file: IO[bytes], values: Mapping[str, Any], tensors: Mapping[str, Stored]) -> None:
    """values: bool, int (written as uint32), float, str, or a list of one of these; a list of int as int32."""
    file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values)))
    for key, value in values.items():
        file.write(_text(key) + _value(value))
    offset = 0
    for name, stored in tensors.items():
        shape = list(reversed(stored.tensor.shape))
        file.write(_text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
        file.write(struct.pack("<IQ", KINDS[stored.kind], offset))
        offset += _padded(stored.num_bytes())
    file.write(bytes(_padded(file.tell()) - file.tell()))
    for stored in tensors.values():
        data = _data(stored)
        file.write(data + bytes(_padded(len(data)) - len(data)))


def _data(stored: Stored) -> bytes:
    x = stored.tensor.detach().cpu()
    if stored.kind == "q8_0":
        return quantised(x)
    return np.ascontiguousarray(x.to(torch.float32 if stored.kind == "f32" else torch.float16).numpy()).tobytes()


def quantised(x: Tensor) -> bytes:
    """Q8_0: for every 32 numbers of a row a float16 scale d and 32 int8 q, x = d q."""
    blocks = x.to(torch.float32).reshape(-1, BLOCK).numpy()
    scale = np.abs(blocks).max(axis=1, keepdims=True) / 127
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    scaled = blocks * inverse
    rounded = np.sign(scaled) * np.floor(np.abs(scaled) + 0.5)  # halves away from zero, as ggml rounds
    result = np.empty((len(blocks), BLOCK + 2), dtype=np.uint8)
    result[:, :2] = scale.astype("<f2").view(np.uint8)
    result[:, 2:] = rounded.astype(np.int8).view(np.uint8)
    return result.tobytes()


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    head = struct.pack("<I", _ARRAY)
    if value and isinstance(value[0], str):
        return head + struct.pack("<IQ", _STRING, len(value)) + b"".join(_text(item) for item in value)
    kind, letter = (_INT32, "i") if all(isinstance(item, int) for item in value) else (_FLOAT32, "f")
    return head + struct.pack(f"<IQ{len(value)}{letter}", kind, len(value), *value)
