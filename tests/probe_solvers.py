"""A hand-written solver for every probe: from the tokens read so far, the answer at the last of them, or None.

Solvers follow the drawing that opens the probe's file, not its generator, and get nothing but those tokens.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np

Seen = Sequence[int]


def _map_of_pairs(tokens: Seen) -> dict[int, int]:
    """The newest value of every key of k v k v ..."""
    return dict(zip(tokens[0::2], tokens[1::2], strict=False))


def _mqar(config: Any, seen: Seen) -> int | None:
    return _map_of_pairs(seen[: 2 * config.num_pairs]).get(seen[-1])


def _pairs(config: Any, seen: Seen) -> int | None:
    return _map_of_pairs(seen[:-1]).get(seen[-1])


def _key_overwrite(config: Any, seen: Seen) -> int | None:
    return _map_of_pairs(seen[: 2 * config.num_writes]).get(seen[-1])


def _fuzzy_recall(config: Any, seen: Seen) -> int | None:
    """A run of key tokens is a key, the run of value tokens behind it its value; the last run may still grow."""
    first_value = (config.vocab_size - 1) // 2
    values: dict[tuple[int, ...], tuple[int, ...]] = {}
    key: tuple[int, ...] = ()
    value: tuple[int, ...] = ()
    for token in seen:
        if token == config.vocab_size - 1:
            continue
        if token >= first_value:
            value += (token,)
        else:
            if value:
                values[key], key, value = value, (), ()
            key += (token,)
    known = values.get(key, ())
    return known[len(value)] if len(value) < len(known) else None


def _selective_copying(config: Any, seen: Seen) -> int | None:
    blank = config.vocab_size - 2
    mark = seen.index(blank + 1)
    letters = [token for token in seen[:mark] if token != blank]
    return letters[len(seen) - mark - 2]


def _compression(config: Any, seen: Seen) -> int | None:
    return seen[seen[-1] - config.letter_vocab - 1]


@cache
def _learned_map(config: Any) -> dict[int, int]:
    """From the targets of other rows, so many that every key comes up."""
    known = config.batch(2 * config.vocab_size, np.random.default_rng(99), train=True)
    keys, values = known.tokens_BT[:, 0::2].flatten().tolist(), known.targets_BT[:, 1::2].flatten().tolist()
    return dict(zip(keys, values, strict=True))


def _memorization(config: Any, seen: Seen) -> int | None:
    """The map is not in the row: it is learned from other rows first."""
    return _learned_map(config)[seen[-2]]


def _induction(config: Any, seen: Seen) -> int | None:
    return seen[seen.index(config.vocab_size - 1) + 1]


def _told(rule: Callable[[list[int]], list[int]]) -> Callable[[Any, Seen], int | None]:
    """copy, palindrome, sorting: what the rule makes of the letters before the mark, then the end."""

    def solver(config: Any, seen: Seen) -> int | None:
        mark = seen.index(config.letters + 1)
        told = [*rule(list(seen[1:mark])), config.letters + 2]
        return told[len(seen) - mark - 1]

    return solver


def _stack(config: Any, seen: Seen) -> int | None:
    stacks: dict[int, list[int]] = {}
    for operation, stack, letter in zip(seen[0::3], seen[1::3], seen[2::3], strict=False):
        if operation == 0:
            stacks.setdefault(stack, []).append(letter)
        else:
            assert stacks[stack].pop() == letter
    return stacks[seen[-1]][-1] if seen[-2] == 1 else None


def _word(elements: list[tuple[int, ...]]) -> Callable[[Any, Seen], int | None]:
    def solver(config: Any, seen: Seen) -> int | None:
        product = tuple(range(len(elements[0])))
        for token in seen[1:]:
            product = tuple(product[k] for k in elements[token])
        return elements.index(product)

    return solver


def _even(permutation: tuple[int, ...]) -> bool:
    """By its cycles: each of length n makes n - 1 swaps."""
    seen: set[int] = set()
    cycles = 0
    for start in range(len(permutation)):
        cycles += start not in seen
        while start not in seen:
            seen.add(start)
            start = permutation[start]
    return (len(permutation) - cycles) % 2 == 0


def _parity(config: Any, seen: Seen) -> int | None:
    return sum(seen[1:]) % 2


def _noisy_mqar(config: Any, seen: Seen) -> int | None:
    half = config.length // 2
    return dict(zip(seen[0:half:2], seen[1:half:2], strict=True))[seen[-1]]


def _dyck(config: Any, seen: Seen) -> int | None:
    open_ones: list[int] = []
    for token in seen:
        if token < config.kinds:
            open_ones.append(token)
        else:
            assert open_ones.pop() == token - config.kinds
    return open_ones[-1] + config.kinds if open_ones else None


def _linear_regression(config: Any, seen: Seen) -> int | None:
    """Least squares over the middles of the bins."""
    step = config.dims + 1
    rows = np.array([*seen, 0]).reshape(-1, step)
    x, y = config.middle(rows[:, :-1]), config.middle(rows[:-1, -1] - config.bins)
    inside = (rows[:-1, -1] > config.bins) & (rows[:-1, -1] < 2 * config.bins - 1)  # the outermost bins have no width
    w = np.linalg.lstsq(x[:-1][inside], y[inside], rcond=None)[0]
    return config.bins + int(config.bin(x[-1] @ w))


def _dfa(config: Any, seen: Seen) -> int | None:
    """The same beginning of a word leads to the same state: how did it go on before? None where it is new."""
    words = [[]]
    for token in seen:
        if token == config.letters:
            words.append([])
        else:
            words[-1].append(token)
    now = words.pop()
    return next((word[len(now)] for word in words if len(word) > len(now) and word[: len(now)] == now), None)


SOLVERS: dict[str, Callable[[Any, Seen], int | None]] = {
    "a5": _word([p for p in permutations(range(5)) if _even(p)]),
    "compression": _compression,
    "copy": _told(lambda letters: letters),
    "dfa": _dfa,
    "dyck": _dyck,
    "fuzzy_recall": _fuzzy_recall,
    "in_context_recall": _pairs,
    "induction": _induction,
    "key_overwrite": _key_overwrite,
    "linear_regression": _linear_regression,
    "memorization": _memorization,
    "mqar": _mqar,
    "noisy_mqar": _noisy_mqar,
    "noisy_recall": _pairs,
    "palindrome": _told(lambda letters: letters[::-1]),
    "parity": _parity,
    "s3": _word(list(permutations(range(3)))),
    "s5": _word(list(permutations(range(5)))),
    "selective_copying": _selective_copying,
    "sorting": _told(sorted),
    "stack": _stack,
}
