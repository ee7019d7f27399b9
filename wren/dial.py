"""One number for a model's size: `wren train --depth` and `--params` as settings of any recipe."""

import inspect
from collections.abc import Sequence

from wren import recipes
from wren.errors import ConfigError
from wren.shapes import ASPECT, head_dim, shape


def settings(
    recipe: str, *, vocab_size: int, depth: int | None, params: int | None, given: Sequence[str] = ()
) -> list[str]:
    """Settings that give a recipe the wanted size; none where neither depth nor params is given.

    given: the other settings. Raises ConfigError where the size is said twice, or is no size.
    """
    if depth is not None and params is not None:
        raise ConfigError("--depth and --params both say how large the model is; give one of them.")
    if depth is None and params is None:
        return []
    if depth is not None and depth < 1:
        raise ConfigError(f"--depth is {depth}; it must be at least 1.")
    layers, dim = (depth, depth * ASPECT) if depth is not None else shape(params or 0, vocab_size)
    chosen = {"depth": layers, "dim": dim, "head_dim": head_dim(dim), "num_heads": dim // head_dim(dim)}
    known = inspect.signature(recipes.get(recipe)).parameters
    for name in _named(given) & chosen.keys() & known.keys():
        flag = "--depth" if depth is not None else "--params"
        raise ConfigError(f"--set gives {name}, and {flag} chooses it; leave one of them out.")
    return [f"{name}={value}" for name, value in chosen.items() if name in known]


def follows_horizon(recipe: str, given: Sequence[str]) -> bool:
    """Whether the recipe's batch and learning rate follow from how long is trained, and `given` leaves that open."""
    return "tokens" in inspect.signature(recipes.get(recipe)).parameters and not _named(given) & {"tokens", "steps"}


def _named(given: Sequence[str]) -> set[str]:
    return {setting.partition("=")[0] for setting in given}
