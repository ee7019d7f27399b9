"""Story k of a seed: a plot drawn at random, acted in a fresh world, and told."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from wren.errors import DataError
from wren.stories.plots import PLOTS
from wren.stories.teller import Teller
from wren.stories.world import Event, World, replay

MIN_CHARACTERS, MAX_CHARACTERS = 440, 1300  # about 80 to 250 words


@dataclass(frozen=True, slots=True)
class Story:
    """One story.

    text: paragraphs of ASCII prose, with an empty line between them.
    plot: the name of its plot.
    facts: the events in order (world.py says what each kind means); those before the first told one set the scene.
    """

    text: str
    plot: str
    facts: tuple[Event, ...]

    @property
    def world(self) -> World:
        """The world at the end of the story: who is where, who holds, owns, knows and feels what."""
        return replay(self.facts)


def story(seed: int, index: int) -> Story:
    """Story `index` of `seed`."""
    random = Random(f"wren story {index} of seed {seed}")  # text seeds are hashed: near seeds have nothing in common
    while True:
        teller = Teller(random)
        plot = teller.pick(PLOTS)
        plot(teller)
        text = teller.voice.text()
        if MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS:
            return Story(text, plot.__name__, tuple(teller.world.events))


def stories(seed: int, count: int | None = None) -> Iterator[Story]:
    """The first `count` stories of `seed`, or all of them without end. Raises DataError for a negative count."""
    if count is not None and count < 0:
        raise DataError(f"{count} stories cannot be told; ask for 0 or more.")
    return (story(seed, index) for index in (itertools.count() if count is None else range(count)))


def texts(seed: int, num_bytes: int) -> Iterator[str]:
    """Texts of the stories of `seed`, in order, until together they hold at least `num_bytes` UTF-8 bytes.

    Raises DataError for a negative number.
    """
    if num_bytes < 0:
        raise DataError(f"{num_bytes} bytes of stories cannot be told; ask for 0 or more.")

    def told() -> Iterator[str]:
        total = 0
        for index in itertools.count():
            if total >= num_bytes:
                return
            text = story(seed, index).text
            total += len(text)  # ASCII: a character is a byte
            yield text

    return told()
