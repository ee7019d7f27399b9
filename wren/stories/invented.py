"""Stories with other words in the place of names, things, trades, animals and colors, to learn reading from.

A model that answers questions about known words in their known places may learn which of them each question has for
answers, and never says another. A word that nobody knows, or a hammer for a color, it has to find in the story.
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
_KNOWN = sorted({*words.KINDS, *words.COLORS, *words.ROLES, *words.PETS, *words.TRAITS})
_LEAST = 0.5  # odds of a word's being changed
_CHANGED = ("actor", "thing", "other", "place", "detail")  # fields of an event


def invent(told: Story, random: Random) -> Story:
    """The same story, in text and facts alike, with most of those words changed: half of them into words that nobody
    knows, half, but names, into known ones of any kind."""
    odds = random.uniform(_LEAST, 1)
    new: dict[str, str] = {}
    for word, is_name in sorted(dict(_words(told)).items()):
        if random.random() < odds:
            known = not is_name and random.random() < 0.5
            new[word] = _other(random, known, taken={*new, *new.values()})
    if not new:
        return told
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


def _words(told: Story) -> Iterator[tuple[str, bool]]:
    """The words of a story that may be changed, in lower case, and whether each is a name."""
    for event in told.facts:
        if event.kind == "person":
            yield event.actor.lower(), True
            yield from ((word, False) for word in (event.thing, event.detail) if word in (*words.ROLES, *words.PETS))
        elif event.kind in ("thing", "make"):
            yield from ((word, False) for word in event.thing.lower().split())


def _other(random: Random, known: bool, taken: Collection[str]) -> str:
    """A word not among those taken."""
    while True:
        made = random.choice(_KNOWN) if known else "".join(random.choice(part) for part in _PARTS)
        if made not in taken:
            return made
