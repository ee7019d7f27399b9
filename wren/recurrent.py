"""What mixers with a memory of one size share: its state, the short convolution before it, and what carries both on.

B batch, T time, C channels of all convolved parts, U = conv_size - 1, H heads, K key width, V value width.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from wren.mixer import Context, State, advance, check_tail, own_state
from wren.ops.short_convolution.parts import convolve_parts
from wren.ops.widen import wide_dtype

M = TypeVar("M", bound="MemoryState")
Shape = tuple[int, ...]


@dataclass
class MemoryState(State):
    """The memory, in fp32 at least, and the last inputs of the short convolution. A mixer's state is a kind of its own.

    tail_BUC holds the convolved parts beside one another; it has no rows without a convolution.
    """

    memory_BHKV: Tensor
    tail_BUC: Tensor


def new_memory_state(
    kind: type[M], batch_size: int, memory: Shape, tail: Shape, *, device: torch.device | str, dtype: torch.dtype
) -> M:
    """An empty state of these shapes a row; dtype is that of the tail."""
    return kind(
        torch.zeros(batch_size, dtype=torch.long, device=device),
        torch.zeros(batch_size, *memory, dtype=wide_dtype(dtype), device=device),
        torch.zeros(batch_size, *tail, dtype=dtype, device=device),
    )


def memory_state_bytes(memory: Shape, tail: Shape) -> int:
    """Bytes of a row's state: 4 a number of the memory, 2 a number of the tail."""
    return 4 * math.prod(memory) + 2 * math.prod(tail)


def own_memory_state(context: Context, kind: type[M], batch_size: int, memory: Shape, tail: Shape) -> M | None:
    """As own_state; raises ConfigError for a state of other shapes a row too."""
    state = own_state(context, kind, batch_size)
    if state is not None:
        check_tail("memories", state.memory_BHKV, memory)
        check_tail("convolution tails", state.tail_BUC, tail)
    return state


def new_conv(channels: int, conv_size: int | None) -> nn.Parameter | None:
    """First weights (C, conv_size) of a short convolution, uniform as torch's own; None without one."""
    if conv_size is None:
        return None
    bound = conv_size**-0.5
    return nn.Parameter(torch.empty(channels, conv_size).uniform_(-bound, bound))


def tail_shape(channels: int, conv_size: int | None) -> tuple[int, int]:
    """Of what a short convolution remembers of a row; no rows without one."""
    return (0 if conv_size is None else conv_size - 1, channels)


def convolved(parts: list[Tensor], conv_CW: Tensor | None, context: Context, state: MemoryState | None) -> list[Tensor]:
    """The parts, such as queries, keys and values, after their convolution if there is one; carries its tail on."""
    if conv_CW is None:
        return parts
    tail_BUC = None if state is None else state.tail_BUC
    parts, tail_BUC = convolve_parts(
        parts, conv_CW, tail_BUA=tail_BUC, documents_BT=context.documents_BT, valid_B=context.valid_B
    )
    if state is not None and tail_BUC is not None:
        state.tail_BUC = tail_BUC
    return parts


def carry_on(state: MemoryState | None, memory_BHKV: Tensor | None, num_tokens: int, valid_B: Tensor | None) -> None:
    """Puts the memory after num_tokens more, of which valid_B count, into the state, if there is one."""
    if state is None:
        return
    if memory_BHKV is not None:
        state.memory_BHKV = memory_BHKV
    state.lengths_B = advance(state.lengths_B, num_tokens, valid_B)
