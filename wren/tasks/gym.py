"""Any generator of reasoning-gym (2505.24760, `pip install 'wren-llm[tasks]'`) as a task, such as gym:mini_sudoku.

Its own verifier scores, but for those listed in gym_verifiers.py, which would run a model's text as code or take a
wrong answer for right. A drawn problem whose gold answer its verifier refuses is drawn again. The gold answers of
intermediate_integration, knight_swap and word_ladder, one of many, may differ between processes; the problems do not.
"""

import copy
import dataclasses
import importlib
import json
import math
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from random import Random
from typing import Any

import numpy as np

from wren.errors import ConfigError, DataError, unknown_key
from wren.tasks import gym_verifiers
from wren.tasks.answers import MAX_CHARACTERS
from wren.tasks.task import RIGHT, Problem, Task, written

PACKAGE = "reasoning_gym"
_CHANGES = "its problems change from process to process, since they follow the order of Python's sets"
EXCLUDED = {  # as measured with 0.1.25
    "composite": "it mixes other generators; name them one by one",
    "boxnet": "it gives no gold answer",
    "rush_hour": "it gives no gold answer",
    "isomorphic_strings": _CHANGES,
    "polynomial_multiplication": _CHANGES,
    "ransom_note": _CHANGES,
}
# generators that keep their gold answer elsewhere
_GOLD = {
    "graph_color": "possible_answer",
    "propositional_logic": "example_answer",
    "rubiks_cube": "example_correct_answer",
}
_OWN = ("seed", "size")  # settings that the splits need
_SIZE = 1024  # problems of one seed; drawn are seed and place
_DRAWS = 50
_LOWEST, _HIGHEST = 0, 1 << 31  # seeds that NumPy takes too, with a place added
_STRANGE = re.compile(
    r"\d[eE][+-]?\d{4}|\b(nan|inf|infinity)\b", re.IGNORECASE
)  # numbers that eat memory, or compare oddly


def names() -> list[str]:
    """Every generator that can be a task, sorted; raises ConfigError where the package is missing."""
    return sorted(set(_registered()) - set(EXCLUDED))


class Rules(Task):
    """A generator with its settings. changed: those that the user gave, as they are written."""

    def __init__(self, generator: str, config: Any, changed: dict[str, str]) -> None:
        self.generator, self.config, self._changed = generator, config, changed

    @property
    def name(self) -> str:
        return ":".join(["gym", self.generator, *(f"{key}={value}" for key, value in self._changed.items())])

    @cached_property
    def _dataset(self) -> Any:
        with _own_randomness(0), self._mistakes():
            return _registered()[self.generator][0](self.config)

    def draw(self, rng: Random) -> Problem:
        for _ in range(_DRAWS):
            found = self.candidate(rng)
            if self.score(found, found.answer) >= RIGHT:
                return found
        raise DataError(
            f"The verifier of gym:{self.generator} fails all of {_DRAWS} gold answers of its own; choose another task."
        )

    def candidate(self, rng: Random) -> Problem:
        """A problem whose gold answer nobody has checked."""
        seed, place = rng.randrange(_LOWEST, _HIGHEST), rng.randrange(_SIZE)
        with _own_randomness(seed), self._mistakes():
            dataset = copy.copy(self._dataset)  # what a generator reads or makes once is kept
            dataset.config = dataclasses.replace(self.config, seed=seed)
            dataset.seed = seed
            entry = dataset[place]
        gold = entry["answer"]
        if gold is None and self.generator in _GOLD:
            gold = entry["metadata"][_GOLD[self.generator]]
        answer = gold.strip("\n") if isinstance(gold, str) else json.dumps(gold)
        return Problem(prompt=entry["question"].strip(), answer=answer, data=entry)

    def score(self, problem: Problem, text: str) -> float:
        if len(text) > MAX_CHARACTERS or (text != problem.answer and _STRANGE.search(text)):
            return 0.0
        own = gym_verifiers.OWN.get(self.generator)
        if own is not None:
            return own(problem, text)
        with _own_randomness(0):
            try:
                found = float(self._dataset.score_answer(text, problem.data))
            except Exception:  # noqa: BLE001  (another's verifier, and any text: what it stumbles over is no answer)
                return 0.0
        return min(1.0, max(0.0, found)) if math.isfinite(found) else 0.0

    @contextmanager
    def _mistakes(self) -> Iterator[None]:
        """Turns what a generator raises into a sentence about its settings."""
        try:
            yield
        except Exception as error:
            said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise ConfigError(f"{self.name} cannot make problems with these settings: {said:.200}.") from error


def read(text: str) -> Rules:
    """The task that "chain_sum:min_terms=2:max_terms=3" names; raises ConfigError with the nearest name."""
    generator, *settings = text.split(":")
    if generator in EXCLUDED:
        raise ConfigError(f"gym:{generator} cannot be a task, since {EXCLUDED[generator]}.")
    if generator not in names():
        raise ConfigError(_brief(unknown_key("reasoning-gym's generator", generator, names())))
    config = _registered()[generator][1](seed=0, size=_SIZE)
    changed: dict[str, str] = {}
    for setting in filter(None, settings):
        key, equals, value = setting.partition("=")
        fields = [field.name for field in dataclasses.fields(config) if field.name not in _OWN]
        where = f"gym:{generator} setting"
        if key not in fields:
            raise ConfigError(unknown_key(where, key, fields))
        read = _read(value if equals else "true", getattr(config, key), f"gym:{generator}:{key}")
        config = dataclasses.replace(config, **{key: read})
        changed[key] = written(read)
    try:
        getattr(config, "validate", lambda: None)()  # two of them check nothing
    except (AssertionError, ValueError, TypeError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(f"gym:{text} has a setting out of range: {said:.200}.") from error
    return Rules(generator, config, changed)


def _read(text: str, default: Any, where: str) -> Any:
    """A setting of the type that its default has; lists as JSON."""
    if isinstance(default, str):
        return text
    try:
        value = json.loads(text)
    except ValueError as error:
        if default is None:
            return text
        raise ConfigError(f"{where} is '{text}', but should be like {default!r:.60}; write it as JSON.") from error
    if isinstance(default, tuple) and isinstance(value, list):
        value = tuple(value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if default is not None and type(value) is not type(default):
        raise ConfigError(f"{where} is {text}, but should be like {default!r:.60}.")
    return value


def _brief(sentence: str) -> str:
    """The nearest name, without the list of more than a hundred."""
    return f"{sentence.partition(' It can be: ')[0]} `wren tasks gym` lists them."


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Seeds the generators of the whole process, which a few tasks draw from, and leaves them as they were."""
    before, numpys = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpys)


@lru_cache(maxsize=1)
def _registered() -> dict[str, tuple[Any, Any]]:
    """Class and settings of every generator."""
    try:
        importlib.import_module(PACKAGE)
        return importlib.import_module(f"{PACKAGE}.factory").DATASETS
    except ImportError as error:
        raise ConfigError(
            f"Tasks of reasoning-gym need the package reasoning-gym ({error}): pip install 'wren-llm[tasks]'."
        ) from error
