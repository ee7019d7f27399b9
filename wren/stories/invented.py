"""Stories with invented words in the place of names, things, trades, animals and colors, to learn reading from.

A model that answers questions about known words alone may learn which of them each question has for answers; a word
that nobody knows it has to find in the story.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from random import Random

from wren.stories import words
from wren.stories.story import Story

_SINGLE = "bdfgklmnprstvz"
_ONSETS = (*_SINGLE, "bl", "br", "dr", "fl", "gr", "kl", "pr", "sk", "sn", "st", "tr")
_CODAS = (*"bdfgklmnprstx", "nd", "rk", "lt")
_PARTS = (_ONSETS, "aeiou", _SINGLE, "aeiou", _CODAS)  # of two syllables
_CHANGED = ("actor", "thing", "other", "place", "detail")  # fields of an event


def invent(told: Story, random: Random) -> Story:
    """The same story, in text and facts alike, with some of those words invented, at odds drawn once for it."""
    odds = random.random()
    new: dict[str, str] = {}
    for word in sorted(set(_words(told))):
        if random.random() < odds:
            new[word] = _invented(random, taken=new.values())
    if not new:
        return told
    pattern = re.compile(rf"\b(?:(an?) )?({'|'.join(sorted(new, key=len, reverse=True))})(?=s?\b)", re.IGNORECASE)

    def put(found: re.Match[str]) -> str:
        article, word = found.groups()
        made = new[word.lower()]
        made = made.capitalize() if word[0].isupper() else made
        return f"{article[0]} {made}" if article else made  # invented words begin with a consonant

    facts = tuple(
        event._replace(**{name: pattern.sub(put, getattr(event, name)) for name in _CHANGED}) for event in told.facts
    )
    return replace(told, text=pattern.sub(put, told.text), facts=facts)


def _words(told: Story) -> Iterator[str]:
    """The words of a story that may be changed, in lower case."""
    for event in told.facts:
        if event.kind == "person":
            yield event.actor.lower()
            yield from filter(None, (event.thing, event.detail if event.detail in words.PETS else ""))
        elif event.kind in ("thing", "make"):
            yield from event.thing.lower().split()


def _invented(random: Random, taken: Collection[str]) -> str:
    while True:
        made = "".join(random.choice(part) for part in _PARTS)
        if made not in taken:
            return made
