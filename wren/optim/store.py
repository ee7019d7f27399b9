"""How an optimizer keeps its moments: in float32, bf16 or 8 bits; on the device of the weights or in main memory.

A moment is read as float32 a piece at a time, changed, and written back, so that nothing but a piece of it is ever
wide. In main memory it is pinned: the next piece travels to the device while one is computed, and the changed ones
travel back.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from wren.ops.place import is_stand_in, kind
from wren.ops.widen import wide_dtype
from wren.optim.quantised import BLOCK, dequantised, num_blocks, quantised
from wren.optim.rounding import Draws, stochastically_rounded

StateDType = Literal["fp32", "bf16", "8bit"]
PIECE = 2**20  # numbers that are wide at once; a multiple of BLOCK
LEAST = 4096  # numbers of a tensor whose moments are worth narrowing, as in 2110.02861
_SCALE = "_scale"  # what the magnitudes of a moment's blocks are called after it
_UNSIGNED = ("exp_avg_sq",)


@dataclass(frozen=True)
class Piece:
    """A parameter, its state, and the stretch of its flat form that is at work."""

    param: Tensor
    state: dict[str, Any]
    start: int
    stop: int

    def of(self, x: Tensor) -> Tensor:
        """The stretch of a tensor of the parameter's shape."""
        return x.view(-1)[self.start : self.stop]


class Store:
    """kind: the number format of moments. offload: they lie in main memory while the weights are on a GPU."""

    def __init__(self, kind: StateDType, *, offload: bool, draws: Draws):
        self.kind, self.offload, self.draws = kind, offload, draws
        self.index: dict[int, int] = {}  # of a parameter (its id) in the model
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def is_away(self, param: Tensor) -> bool:
        """Whether the moments of a parameter lie elsewhere than itself."""
        return self.offload and kind(param) == "cuda"

    def layout(self, param: Tensor, field: str) -> dict[str, tuple[list[int], torch.dtype]]:
        """Shape and dtype of every tensor that keeps a moment of a parameter."""
        shape, count = list(param.shape), param.numel()
        if self.kind == "fp32" or count < LEAST:
            return {field: (shape, wide_dtype(param.dtype))}
        if self.kind == "bf16":
            return {field: (shape, torch.bfloat16)}
        return {field: (shape, torch.uint8), field + _SCALE: ([num_blocks(count)], torch.float32)}

    def new(self, param: Tensor, field: str) -> dict[str, Tensor]:
        """A moment of zeros, as it is kept."""
        return {name: self.room(param, shape, dtype) for name, (shape, dtype) in self.layout(param, field).items()}

    def room(self, param: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Zeros where the moments of a parameter lie."""
        if self.is_away(param):
            return torch.zeros(shape, dtype=dtype, pin_memory=not is_stand_in())
        return torch.zeros(shape, dtype=dtype, device=param.device)

    def pieces(self, param: Tensor, state: dict[str, Any], *, whole: bool = False) -> list[Piece]:
        """whole: in one, as also where nothing has to be widened or moved."""
        count = param.numel()
        narrow = self.kind != "fp32" or self.is_away(param) or param.dtype != wide_dtype(param.dtype)
        size = PIECE if narrow and not whole else max(count, 1)
        return [Piece(param, state, start, min(start + size, count)) for start in range(0, count, size)]

    def each(self, pieces: Sequence[Piece], *fields: str) -> Iterator[tuple[Piece, dict[str, Tensor]]]:
        """Every piece with what is kept of its moments, on the parameter's device; the next one is under way already.

        What is changed in these tensors until the next piece is asked for is kept.
        """
        coming = None
        for i, piece in enumerate(pieces):
            kept = _views(piece, fields)
            if not self.is_away(piece.param):
                yield piece, kept
                continue
            here, arrived = coming or self._fetched(piece, kept)
            if arrived is not None:
                torch.cuda.current_stream(piece.param.device).wait_event(arrived)
            follower = pieces[i + 1] if i + 1 < len(pieces) else None
            coming = None
            if follower is not None and self.is_away(follower.param):
                coming = self._fetched(follower, _views(follower, fields))
            yield piece, here
            self._put_back(piece, here, kept)

    def _stream(self, device: torch.device) -> torch.cuda.Stream:
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        return self._streams[device]

    def _fetched(self, piece: Piece, kept: dict[str, Tensor]) -> tuple[dict[str, Tensor], Any]:
        """A copy on the device that is under way, and the event of its arrival."""
        device = piece.param.device
        if is_stand_in():  # a plan's, which has no streams
            return {name: x.clone() for name, x in kept.items()}, None
        with torch.cuda.stream(stream := self._stream(device)):
            here = {name: x.to(device, non_blocking=True) for name, x in kept.items()}
        for x in here.values():  # their memory is not given to others before the computation is through with it
            x.record_stream(torch.cuda.current_stream(device))
        return here, stream.record_event()

    def _put_back(self, piece: Piece, here: dict[str, Tensor], kept: dict[str, Tensor]) -> None:
        if is_stand_in():
            return
        device = piece.param.device
        stream = self._stream(device)
        stream.wait_event(torch.cuda.current_stream(device).record_event())
        with torch.cuda.stream(stream):
            for name, x in here.items():
                kept[name].copy_(x, non_blocking=True)

    def wait(self) -> None:
        """Until everything is back in main memory, where it may be read then."""
        for stream in self._streams.values():
            stream.synchronize()

    def wide(self, kept: dict[str, Tensor], field: str) -> Tensor:
        """A moment in float32 at least: the kept tensor itself where that is so."""
        if field + _SCALE in kept:
            return dequantised(kept[field], kept[field + _SCALE], signed=field not in _UNSIGNED)
        return kept[field].to(wide_dtype(kept[field].dtype))

    def keep(self, piece: Piece, kept: dict[str, Tensor], field: str, value: Tensor) -> None:
        """Writes a changed moment, that wide() gave, into what is kept."""
        if field + _SCALE in kept:
            codes, scale = quantised(value, signed=field not in _UNSIGNED)
            kept[field].copy_(codes)
            kept[field + _SCALE].copy_(scale)
        elif kept[field].dtype == torch.bfloat16:
            kept[field].copy_(stochastically_rounded(value, self.generator(piece, field)))

    def generator(self, piece: Piece, what: str) -> torch.Generator:
        """For rounding a piece of a moment, or of the weights."""
        index = self.index[id(piece.param)]
        return self.draws.at(piece.param.device, index, piece.start, int.from_bytes(what[-8:].encode(), "little"))


def _views(piece: Piece, fields: Sequence[str]) -> dict[str, Tensor]:
    """The stretch of everything that keeps the moments of a piece."""
    views = {}
    for field in fields:
        views[field] = piece.of(piece.state[field])
        if (scale := piece.state.get(field + _SCALE)) is not None:
            views[field + _SCALE] = scale[piece.start // BLOCK : num_blocks(piece.stop)]
    return views
