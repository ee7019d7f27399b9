"""The largest model of a recipe that a machine can train, with every means of saving memory."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wren import dial, recipes, units
from wren.errors import ConfigError
from wren.memory.trace import Tracer
from wren.planning.ladder import Fit, Ladder
from wren.planning.machine import Machine
from wren.planning.needs import least

_TRIES = 6


@dataclass(frozen=True)
class Wish:
    """A recipe with settings, at any size."""

    recipe: str
    vocab_size: int
    settings: tuple[str, ...]

    def config(self, params: int) -> recipes.RunConfig:
        """Of the shape nearest to so many parameters of blocks and head."""
        size = dial.settings(self.recipe, vocab_size=self.vocab_size, depth=None, params=params, given=self.settings)
        return recipes.build(self.recipe, vocab_size=self.vocab_size, settings=[*self.settings, *size])


def rounded(params: float) -> int:
    """Down to two digits."""
    unit = 10 ** (math.floor(math.log10(params)) - 1)
    return int(params // unit * unit)


def largest(
    wish: Wish, tracer: Tracer, machine: Machine, locked: frozenset[str], say: Callable[[str], None] = lambda text: None
) -> tuple[int, Fit] | None:
    """The size and its fit; None where not even the smallest one fits.

    Bytes grow nearly as a line with the parameters: each size tried foretells the next; what is returned was traced.
    """
    ladder, best, points = Ladder(tracer, machine, locked), None, []
    params, aim = _first(wish, tracer, machine, ladder), 0.97 * machine.room
    for _ in range(_TRIES):
        if params is None or params in (point[0] for point in points):
            break
        say(f"Looking at {units.short(params)} parameters ...")
        found = ladder.last(wish.config(params))
        points.append((params, found.needs.peak))
        if found.fits:
            best = (params, found) if best is None or params > best[0] else best
        else:  # its gaps did not fit either
            aim = min(aim, 0.98 * found.needs.peak)
        params = _next(points, aim)
        if best is not None and params <= 1.03 * best[0]:
            break
        params = params if _is_size(wish, params) else None if best is not None else _smallest(wish)
    return best


def _next(points: list[tuple[int, int]], aim: float) -> int:
    """Where the line through the last two points reaches `aim` bytes; with one point, that through the origin."""
    (params, held), (before, held_before) = points[-1], (points[-2] if len(points) > 1 else (0, 0))
    slope = (held - held_before) / (params - before)
    return max(1, rounded(max(100.0, params + (aim - held) / slope))) if slope > 0 else params


def _first(wish: Wish, tracer: Tracer, machine: Machine, ladder: Ladder) -> int | None:
    """A guess from what is there all the time."""
    params = rounded(machine.room / 4)
    for _ in range(3):
        if not _is_size(wish, params):
            return _smallest(wish)
        held = least(tracer, ladder.everything(wish.config(params)), machine)
        params = rounded(params * 0.85 * machine.room / held)
    return params if _is_size(wish, params) else _smallest(wish)


def _is_size(wish: Wish, params: int) -> bool:
    try:
        wish.config(params)
    except ConfigError:
        return False
    return True


def _smallest(wish: Wish) -> int | None:
    sizes: Sequence[int] = [rounded(10**6 * 1.5**n) for n in range(20)]
    return next((params for params in sizes if _is_size(wish, params)), None)
