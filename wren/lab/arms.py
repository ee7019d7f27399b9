"""What is compared: arms (a recipe with settings), sizes and context lengths, read from the command line.

--recipes  small,plain=small:depth=4:optimizer.kind=adamw,big=small:vocab_size=4096
--sizes    "dim=64;dim=128,depth=4"      settings that join those of every arm
--contexts 256,1024
"""

import dataclasses
import hashlib
import inspect
import re
from collections.abc import Sequence

from wren import dial, recipes, units
from wren.errors import ConfigError, unknown_key
from wren.lab.schema import Arm
from wren.recipes import RunConfig

# what the comparison decides for all arms alike, by the flag that does it
_DECIDED = {
    "seed": "--seeds",
    "steps": "--budget",
    "train.steps": "--budget",
    "train.dtype": "--dtype",
    "train.eval_every": "the comparison",
    "train.save_every": "the comparison",
    "train.sample_every": "the comparison",
    "train.eval_tokens": "the comparison",
    "train.keep": "the comparison",
}
_CONTEXT_KEYS = ("context_len", "train.context_len")


def read_arms(text: str, vocab_size: int) -> tuple[Arm, ...]:
    """The arms of --recipes, in order; raises ConfigError for unknown recipes, repeated names and bad settings.

    vocab_size: of the arms that do not set their own.
    """
    arms = tuple(_read_arm(item, vocab_size) for item in split_outside(text, ","))
    if not arms:
        raise ConfigError("There is nothing to compare: --recipes is empty; name recipes, such as small,llama.")
    for what, names in (("name", [a.name for a in arms]), ("folder", [folder_name(a.name) for a in arms])):
        for i, name in enumerate(names):
            if name in names[:i]:
                raise ConfigError(
                    f"Two arms have the {what} '{name}'; give one a name of its own: new={arms[i].recipe}."
                )
    return arms


def _read_arm(item: str, vocab_size: int) -> Arm:
    head, *settings = split_outside(item, ":")
    label, equals, recipe = head.partition("=")
    if not equals:
        label, recipe = item, head
    label, recipe = label.strip(), recipe.strip()
    if not label:
        raise ConfigError(f"The arm '{item}' has an empty name; write NAME=RECIPE, or the recipe alone.")
    if recipe not in recipes.names():
        raise ConfigError(unknown_key("Recipe", recipe, recipes.names()))
    kept = []
    for setting in settings:
        key, _, value = setting.partition("=")
        if key in _DECIDED:
            raise ConfigError(f"Arm '{label}' sets {key}, which {_DECIDED[key]} decides for all arms; leave it out.")
        if key == "vocab_size":
            vocab_size = units.count(value, "vocabulary size")
        else:
            kept.append(setting)
    return Arm(name=label, recipe=recipe, settings=tuple(kept), vocab_size=vocab_size)


def read_sizes(text: str | None) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(name, settings) of every size; without --sizes one, "own": as the recipes are."""
    if text is None:
        return (("own", ()),)
    sizes = []
    for item in split_outside(text, ";"):
        settings = tuple(split_outside(item, ","))
        for setting in settings:
            key = setting.partition("=")[0]
            if key in _DECIDED or key in (*_CONTEXT_KEYS, "vocab_size"):
                flag = _DECIDED.get(key, "--contexts" if key in _CONTEXT_KEYS else "--recipes or --vocab-size")
                raise ConfigError(f"--sizes sets {key}, which is for {flag} to say; leave it out.")
        sizes.append((",".join(settings), settings))
    if not sizes:
        raise ConfigError('--sizes is empty; write sizes such as "dim=64;dim=128,depth=4", or leave it out.')
    if len({name for name, _ in sizes}) < len(sizes):
        raise ConfigError("--sizes names one size twice; leave one out.")
    return tuple(sizes)


def read_contexts(text: str | None) -> tuple[int | None, ...]:
    """The context lengths; without --contexts (None,): each arm's own."""
    if text is None:
        return (None,)
    lengths = tuple(units.count(item, "context length") for item in split_outside(text, ","))
    if not lengths:
        raise ConfigError("--contexts is empty; write lengths such as 256,1024, or leave it out.")
    if len(set(lengths)) < len(lengths):
        raise ConfigError("--contexts names one length twice; leave one out.")
    return lengths


def config_of(
    arm: Arm, size: Sequence[str] = (), context_len: int | None = None, *, tokens: int | None = None
) -> RunConfig:
    """The arm's recipe at a size and a context length. tokens: how many will be trained on, for recipes that choose
    their batch by it.

    With a context length given, a batch keeps its tokens: the rows change. Raises ConfigError where arm and size set
    one key, or for a key the recipe lacks.
    """
    own = [setting.partition("=")[0] for setting in arm.settings]
    for setting in size:
        key = setting.partition("=")[0]
        if key in own:
            raise ConfigError(f"Arm '{arm.name}' sets {key}, and so does --sizes; leave one of them out.")
    settings = [*arm.settings, *size]
    if tokens is not None and dial.follows_horizon(arm.recipe, settings):
        settings.append(f"tokens={tokens}")
    try:
        config = recipes.build(arm.recipe, vocab_size=arm.vocab_size, settings=settings)
    except ConfigError as error:
        raise ConfigError(f"Arm '{arm.name}': {error}") from error
    if context_len is None or context_len == config.train.context_len:
        return config
    if set(own) & set(_CONTEXT_KEYS):
        raise ConfigError(f"Arm '{arm.name}' sets its context length, and so does --contexts; leave one of them out.")
    tokens = config.train.batch_size * config.train.context_len
    if "context_len" in inspect.signature(recipes.get(arm.recipe)).parameters:  # learned positions follow it
        settings.append(f"context_len={context_len}")
        config = recipes.build(arm.recipe, vocab_size=arm.vocab_size, settings=settings)
    changed = {"context_len": context_len, "batch_size": max(1, round(tokens / context_len))}
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **changed))


def split_outside(text: str, separator: str) -> list[str]:
    """The stripped pieces between separators that stand outside of brackets; empty pieces are left out."""
    pieces, depth, start = [], 0, 0
    for i, character in enumerate(text):
        depth += (character in "[{(") - (character in ")}]")
        if character == separator and depth == 0:
            pieces.append(text[start:i])
            start = i + 1
    return [piece.strip() for piece in (*pieces, text[start:]) if piece.strip()]


def folder_name(text: str) -> str:
    """The text as a file name; long ones end in a hash."""
    plain = re.sub(r"[^A-Za-z0-9_+.=-]+", ",", text)
    if len(plain) <= 80 and plain.strip("."):
        return plain
    return f"{plain[:70].strip('.')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
