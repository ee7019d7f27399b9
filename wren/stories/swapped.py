"""Stories with other words in the place of things, trades, animals and colors, to learn reading from.

A model that answers questions about words in their usual places may learn which of them each question has for answers,
and never says another. A hammer for a color it has to find in the story.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from random import Random

from wren.stories import words
from wren.stories.story import Story

_KNOWN = sorted({*words.KINDS, *words.COLORS, *words.ROLES, *words.PETS, *words.TRAITS})
_LEAST = 0.5  # odds of a word's being changed
_CHANGED = ("actor", "thing", "other", "place", "detail")  # fields of an event


def swap(told: Story, random: Random) -> Story:
    """The same story, in text and facts alike, with most of those words changed into others of any kind."""
    odds = random.uniform(_LEAST, 1)
    old = [word for word in sorted(set(_words(told))) if random.random() < odds]
    if not old:
        return told
    others = [word for word in _KNOWN if word not in old]
    new = dict(zip(old, random.sample(others, len(old)), strict=True))
    pattern = re.compile(rf"\b(?:(an?) )?({'|'.join(sorted(new, key=len, reverse=True))})(?=s?\b)", re.IGNORECASE)

    def put(found: re.Match[str]) -> str:
        article, word = found.groups()
        made = new[word.lower()]
        if article:
            made = f"{article[0]}{'n' if made[0] in 'aeiou' else ''} {made}"
        elif word[0].isupper():
            made = made.capitalize()
        return made

    facts = tuple(
        event._replace(**{name: pattern.sub(put, getattr(event, name)) for name in _CHANGED}) for event in told.facts
    )
    return replace(told, text=pattern.sub(put, told.text), facts=facts)


def _words(told: Story) -> Iterator[str]:
    """The words of a story that may be changed, in lower case."""
    for event in told.facts:
        if event.kind == "person":
            yield from (word for word in (event.thing, event.detail) if word in (*words.ROLES, *words.PETS))
        elif event.kind in ("thing", "make"):
            yield from event.thing.lower().split()
