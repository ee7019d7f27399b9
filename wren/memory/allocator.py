"""What torch's caching allocator takes from a GPU for a list of allocations: its rules, played through.

Sizes are rounded up to 512 bytes. Up to 1 MiB they come from segments of 2 MiB, below 10 MiB from segments of 20 MiB,
above from segments of their own, rounded up to 2 MiB. A request gets the smallest free block that holds it, cut where
more than 512 bytes (small) or 1 MiB (large) are left; a freed block joins its free neighbours. Segments are kept, and
given back where a new one finds no room (c10/cuda/CUDACachingAllocator.cpp).
"""

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_MIB = 2**20
_LEAST, _SMALL, _LARGE = 512, _MIB, 10 * _MIB


@dataclass(eq=False)
class _Block:
    segment: int
    start: int
    size: int
    small: bool
    free: bool = False
    before: "_Block | None" = None
    after: "_Block | None" = None


class Allocator:
    """reserved: bytes of all segments; peak: the most they were; limit: how many may be taken."""

    def __init__(self, limit: float = float("inf")):
        self.limit = limit
        self.reserved = self.peak = 0
        self._segments = 0
        self._free: dict[bool, list[tuple[int, int, int, _Block]]] = {True: [], False: []}

    def take(self, size: int) -> _Block | None:
        """None where there is no room, even with all unused segments given back."""
        size = max(_LEAST, -(-size // _LEAST) * _LEAST)
        small = size <= _SMALL
        free = self._free[small]
        place = bisect.bisect_left(free, (size, -1, -1))
        block = free.pop(place)[3] if place < len(free) else self._segment(size, small)
        if block is None:
            return None
        block.free = False
        left = block.size - size
        if left >= _LEAST if small else left > _SMALL:
            rest = _Block(block.segment, block.start + size, left, small, True, block, block.after)
            if rest.after is not None:
                rest.after.before = rest
            block.size, block.after = size, rest
            self._insert(rest)
        return block

    def give(self, block: _Block) -> None:
        for other in (block.before, block.after):
            if other is not None and other.free:
                self._remove(other)
                block.start, block.size = min(block.start, other.start), block.size + other.size
                if other is block.before:
                    block.before = other.before
                    if other.before is not None:
                        other.before.after = block
                else:
                    block.after = other.after
                    if other.after is not None:
                        other.after.before = block
        block.free = True
        self._insert(block)

    def _segment(self, size: int, small: bool) -> _Block | None:
        whole = 2 * _MIB if small else 20 * _MIB if size < _LARGE else -(-size // (2 * _MIB)) * 2 * _MIB
        if self.reserved + whole > self.limit:
            self._release()
        if self.reserved + whole > self.limit:
            return None
        self._segments += 1
        self.reserved += whole
        self.peak = max(self.peak, self.reserved)
        return _Block(self._segments, 0, whole, small)

    def _release(self) -> None:
        """Gives back segments that nothing lies in."""
        for small, free in self._free.items():
            self.reserved -= sum(x[0] for x in free if x[3].before is None and x[3].after is None)
            self._free[small] = [x for x in free if x[3].before is not None or x[3].after is not None]

    def _key(self, block: _Block) -> tuple[int, int, int, _Block]:
        return block.size, block.segment, block.start, block

    def _insert(self, block: _Block) -> None:
        bisect.insort(self._free[block.small], self._key(block), key=lambda x: x[:3])

    def _remove(self, block: _Block) -> None:
        free = self._free[block.small]
        del free[bisect.bisect_left(free, self._key(block)[:3], key=lambda x: x[:3])]


def reserved(
    standing: Sequence[int], sizes: Sequence[int], events: Iterable[int], limit: float = float("inf"), steps: int = 2
) -> int | None:
    """Bytes reserved at most by `steps` steps beside tensors that stand all the time; None where there is no room.

    events: numbers of storages of these sizes that come, ~number where they go. What is left at the end of a step goes.
    """
    allocator, events = Allocator(limit), list(events)
    if any(allocator.take(size) is None for size in standing):
        return None
    for _ in range(steps):
        there: dict[int, _Block] = {}
        for event in events:
            if event < 0:
                if (block := there.pop(~event, None)) is not None:
                    allocator.give(block)
            elif sizes[event]:
                block = allocator.take(sizes[event])
                if block is None:
                    return None
                there[event] = block
        for block in there.values():
            allocator.give(block)
    return allocator.peak
