"""The caching allocator played through: rounding, segments, cuts, joins, and what happens without room."""

import random

from wren.memory.allocator import Allocator, reserved

MIB = 2**20


def test_sizes_are_taken_from_segments():
    assert reserved([1], [], []) == 2 * MIB  # small ones share
    assert reserved([MIB] * 2, [], []) == 2 * MIB
    assert reserved([MIB + 1], [], []) == 20 * MIB
    assert reserved([9 * MIB, 9 * MIB], [], []) == 20 * MIB
    assert reserved([11 * MIB - 1], [], []) == 12 * MIB
    assert reserved([], [], []) == 0


def test_what_is_freed_is_used_again():
    sizes = [30 * MIB, 30 * MIB]
    assert reserved([], sizes, [0, ~0, 1, ~1]) == 30 * MIB
    assert reserved([], sizes, [0, 1, ~0, ~1]) == 60 * MIB
    assert reserved([], [30 * MIB, 10 * MIB, 20 * MIB], [0, ~0, 1, 2, ~1, ~2]) == 30 * MIB  # cut in two


def test_neighbours_join():
    allocator = Allocator()
    blocks = [allocator.take(size * MIB) for size in (5, 5, 5, 5)]
    assert allocator.reserved == 20 * MIB
    assert all(blocks)
    for i in (1, 3, 0, 2):
        block = blocks[i]
        assert block is not None
        allocator.give(block)
    assert allocator.take(9 * MIB) is not None
    assert allocator.take(9 * MIB) is not None
    assert allocator.reserved == 20 * MIB


def test_unused_segments_are_given_back_before_there_is_no_room():
    sizes = [40 * MIB, 60 * MIB]
    assert reserved([], sizes, [0, ~0, 1, ~1]) == 100 * MIB
    assert reserved([], sizes, [0, ~0, 1, ~1], limit=64 * MIB) == 60 * MIB
    assert reserved([], sizes, [0, 1, ~0, ~1], limit=64 * MIB) is None
    assert reserved([70 * MIB], [], [], limit=64 * MIB) is None


def test_nothing_is_lost_in_a_long_game():
    draw, allocator, there = random.Random(0), Allocator(), []
    for _ in range(3000):
        if there and draw.random() < 0.5:
            allocator.give(there.pop(draw.randrange(len(there))))
        else:
            there.append(allocator.take(draw.choice((100, 3000, 700_000, 2 * MIB, 15 * MIB))))
    for block in there:
        allocator.give(block)
    free = [block for blocks in allocator._free.values() for *_, block in blocks]
    assert sum(block.size for block in free) == allocator.reserved
    assert all(block.before is None and block.after is None for block in free)  # whole segments again
