"""Moments in 8 bits: blocks of 256 numbers, each divided by its largest, as the nearest entry of a code (2110.02861).

The code is the paper's dynamic one: seven decades, and the higher a decade, the more numbers it holds, spread evenly
over it. A second moment is never rounded down to 0 in a block that holds anything: as a divisor, 0 would turn a small
first moment into a giant step.

N numbers of a flat tensor, M blocks.
"""

import functools

import torch
from torch import Tensor

BLOCK = 256
_DECADES = 7


def num_blocks(count: int) -> int:
    return -(-count // BLOCK)


@functools.cache
def code(*, signed: bool) -> Tensor:
    """The 256 numbers in [-1, 1] (or [0, 1]) that a byte stands for, ascending, float32 on the CPU."""
    values = [0.0, 1.0]
    for decade in range(_DECADES):
        cells = 2 ** (decade if signed else decade + 1)
        width = 0.9 / cells
        for cell in range(cells):
            value = (0.1 + width * (cell + 0.5)) * 10.0 ** (decade - _DECADES + 1)
            values.extend((value, -value) if signed else (value,))
    return torch.tensor(sorted(values), dtype=torch.float32)


@functools.cache
def _tables(device: torch.device, signed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """On a device: the code; the upper bound of each entry's numbers; and the entry of the least number of each of the
    65,536 cells that the upper half of a float32 tells apart. No cell holds more than one bound."""
    values = code(signed=signed)
    between = (values[1:] + values[:-1]) / 2
    cells = torch.arange(1 << 16, dtype=torch.int32) << 16
    least = torch.where(cells < 0, cells | 0xFFFF, cells).view(torch.float32).nan_to_num(nan=0.0)
    first = torch.bucketize(least, between, out_int32=True)
    bounds = torch.cat((between, torch.tensor([torch.inf])))
    return values.to(device), bounds.to(device), first.to(device)


def prepare(device: torch.device) -> None:
    """Makes the tables of a device, which are made once, ahead of their first use."""
    for signed in (True, False):
        _tables(device, signed)


def _nearest(x_N: Tensor, signed: bool) -> Tensor:
    """The nearest entry for each number in [-1, 1], int32; six times as fast as a binary search on a CPU."""
    _, bounds, first = _tables(x_N.device, signed)
    entry_N = first.index_select(0, (x_N.view(torch.int32) >> 16) & 0xFFFF)
    return entry_N + (x_N > bounds.index_select(0, entry_N))


def quantised(x_N: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """The bytes (N,) of float32 numbers, and the largest magnitude of each block (M,)."""
    scale_M = torch.cat([part.abs().amax(1) for part in _blocks(x_N)])
    shares = torch.empty_like(x_N)
    for share, part, scale in zip(_blocks(shares), _blocks(x_N), _of_blocks(scale_M, len(x_N)), strict=True):
        torch.div(part, torch.where(scale == 0, 1.0, scale), out=share)
    codes_N = _nearest(shares, signed)
    return (codes_N if signed else codes_N.clamp_(min=1)).to(torch.uint8), scale_M


def dequantised(codes_N: Tensor, scale_M: Tensor, *, signed: bool) -> Tensor:
    """The numbers (N,), float32, that bytes and the magnitudes of their blocks stand for."""
    values, _, _ = _tables(codes_N.device, signed)
    x_N = values.index_select(0, codes_N.int())
    for part, scale in zip(_blocks(x_N), _of_blocks(scale_M, len(x_N)), strict=True):
        part.mul_(scale)
    return x_N


def _blocks(x_N: Tensor) -> list[Tensor]:
    """Views (blocks, numbers): of the full blocks, and of the last one where it is shorter."""
    whole = len(x_N) // BLOCK * BLOCK
    parts = [x_N[:whole].view(-1, BLOCK)] if whole else []
    return [*parts, x_N[None, whole:]] if whole < len(x_N) else parts


def _of_blocks(scale_M: Tensor, count: int) -> list[Tensor]:
    """The magnitudes beside the views of _blocks, as columns."""
    whole = count // BLOCK
    parts = [scale_M[:whole, None]] if whole else []
    return [*parts, scale_M[whole:, None]] if whole < len(scale_M) else parts
