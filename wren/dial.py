"""One number for a model's size: `wren train --depth` and `--params` as settings of any recipe."""

import inspect
from collections.abc import Sequence

from wren import recipes
from wren.errors import ConfigError
from wren.shapes import ASPECT, head_dim, shape


def settings(recipe: str, *, vocab_size: int, depth: int | None, params: int | None) -> list[str]:
    """Settings that give a recipe the wanted size; none where neither is given.

    Raises ConfigError where both are.
    """
    if depth is not None and params is not None:
        raise ConfigError("--depth and --params both say how large the model is; give one of them.")
    if depth is not None:
        return [f"depth={depth}"] if recipe == "wren" else _shaped(recipe, depth, depth * ASPECT)
    return [] if params is None else _shaped(recipe, *shape(params, vocab_size))


def _shaped(recipe: str, depth: int, dim: int) -> list[str]:
    chosen = {"depth": depth, "dim": dim, "head_dim": head_dim(dim), "num_heads": dim // head_dim(dim)}
    known = inspect.signature(recipes.get(recipe)).parameters
    return [f"{name}={value}" for name, value in chosen.items() if name in known]


def follows_horizon(recipe: str, given: Sequence[str]) -> bool:
    """Whether the recipe's batch and learning rate follow from how long is trained, and `given` leaves that open."""
    named = {setting.partition("=")[0] for setting in given}
    return "tokens" in inspect.signature(recipes.get(recipe)).parameters and not named & {"tokens", "steps"}
