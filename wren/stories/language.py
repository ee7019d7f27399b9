"""From slots to sentences: names or pronouns, a or an, the first mention or the next, capitals.

A template is a sentence or several: `[Then|After that], {A} took {x} from {p}.`  Square brackets hold choices, curly
braces hold slots; the letter says what the slot is, the form after the dot how it is said:

    A B C D   people   {A} Anna or she   {A.o} Anna or her   {A.s} Anna's or her   {A.n} Anna   {A.kind} girl
                       {A.i} Anna, or "her friend Anna" at the first mention; in quotes {A} is always the bare name
                       {A.he} {A.him} {A.his} {A.self}: always the pronoun, for the second mention in a sentence
    x y z     things   {x} a shiny red kite, later the kite   {x.the}   {x.a} a kite   {x.n} kite   {x.c} red kite
                       {x.color}
    p q       places   {p} the market   {p.in} at the market
    others             said as they are; {a.thing} puts a or an before the text of the slot `thing`

After a closing quote with ! or ? the sentence goes on: a slot there is not capitalised.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

from wren.stories.words import HOME, KINDS, PLACES
from wren.stories.world import World

Part = Any  # str, or a slot ("slot", key, form), or a choice ("choice", (parts, ...))
_TOKEN = re.compile(r"\{[^{}]*\}|[\[\]|]|[^\[\]|{}]+")
_QUOTED = re.compile(r"\{([A-D])(?:\.[noi])?\}")
_STARTS = (". ", "! ", "? ", '." ', '"')
_VOWELS = "aeiou"  # no word of this world starts with a "you" sound written with a vowel
_OBJECT = {"she": "her", "he": "him"}
_POSSESSIVE = {"she": "her", "he": "his"}
_SELF = {"she": "herself", "he": "himself"}


@functools.cache
def parse(template: str) -> tuple[Part, ...]:
    """A template as text, slots ("slot", key, form) and choices ("choice", (parts, ...)). Raises ValueError."""
    quotes = template.split('"')
    quotes[1::2] = [_QUOTED.sub(r"{\1.q}", quote) for quote in quotes[1::2]]  # a name spoken is not yet an introduction
    template = '"'.join(quotes)
    tokens = _TOKEN.findall(template)
    if "".join(tokens) != template:
        raise ValueError(f"stray brace in {template!r}")
    parts, rest = _parse(tokens, 0, inside=False)
    if rest != len(tokens) or len(parts) != 1:
        raise ValueError(f"unbalanced brackets in {template!r}")
    return parts[0]


def _parse(tokens: list[str], index: int, *, inside: bool) -> tuple[list[tuple[Part, ...]], int]:
    options: list[tuple[Part, ...]] = []
    parts: list[Part] = []
    while index < len(tokens):
        token = tokens[index]
        index += 1
        if token == "[":
            choices, index = _parse(tokens, index, inside=True)
            parts.append(("choice", tuple(choices)))
        elif token == "]":
            if not inside:
                raise ValueError(f"stray ] in {''.join(tokens)!r}")
            return [*options, tuple(parts)], index
        elif token == "|":
            options.append(tuple(parts))
            parts = []
        elif token[0] == "{":
            key, _, form = token[1:-1].partition(".")
            parts.append(("slot", key, form))
        else:
            parts.append(token)
    if inside:
        raise ValueError(f"missing ] in {''.join(tokens)!r}")
    return [*options, tuple(parts)], index


def article(words: str) -> str:
    """`words` with a or an before it."""
    return ("an " if words[0] in _VOWELS or words.startswith("honest") else "a ") + words


def at_place(place: str) -> str:
    """With its preposition: "at the market", "at Anna's house"."""
    return f"{PLACES[place].at} the {place}" if place in PLACES else f"{HOME.at} {place}"


def the_place(place: str) -> str:
    return f"the {place}" if place in PLACES else place


class Voice:
    """Tells a world's events: remembers what was mentioned, and of whom "she" and "he" speak."""

    def __init__(self, world: World, rand: Callable[[], float]) -> None:
        self.world = world
        self.rand = rand
        self.paragraphs: list[list[str]] = [[]]
        self.intros: dict[str, str] = {}  # person -> how he or she is named the first time
        self.known: dict[str, bool] = {}  # things mentioned
        self.nouns: dict[str, int] = {}  # how many things of this noun the story has
        self.focus = {"she": "", "he": ""}
        self.streak = 0
        self.length = 0  # characters so far

    def paragraph(self) -> None:
        if self.paragraphs[-1]:
            self.paragraphs.append([])
            self.focus = {"she": "", "he": ""}

    def text(self) -> str:
        return "\n\n".join(" ".join(sentences) for sentences in self.paragraphs if sentences)

    def say(self, template: str, slots: dict[str, str]) -> None:
        out: list[str] = []
        mentioned: list[str] = []
        self._fill(parse(template), slots, out, mentioned)
        sentence = "".join(out).lstrip()  # an empty choice at the start leaves its space
        if sentence[0].islower():
            sentence = sentence[0].upper() + sentence[1:]
        elif sentence[0] == '"' and sentence[1].islower():
            sentence = '"' + sentence[1].upper() + sentence[2:]
        self.paragraphs[-1].append(sentence)
        self.length += len(sentence)
        people = self.world.people
        for she in ("she", "he"):
            same = [name for name in mentioned if people[name].she == she]
            if same:
                self.focus[she] = same[0] if same.count(same[0]) == len(same) else ""

    def _fill(self, parts: tuple[Part, ...], slots: dict[str, str], out: list[str], mentioned: list[str]) -> None:
        for part in parts:
            if part.__class__ is str:
                out.append(part)
            elif part[0] == "choice":
                options = part[1]
                self._fill(options[int(self.rand() * len(options))], slots, out, mentioned)
            else:
                words = self._slot(part[1], part[2], slots, mentioned)
                if out and words[0].islower() and out[-1].endswith(_STARTS):
                    words = words[0].upper() + words[1:]
                out.append(words)

    def _slot(self, key: str, form: str, slots: dict[str, str], mentioned: list[str]) -> str:
        if key in "ABCD":
            return self._person(slots[key], form, slots, mentioned)
        if key in "xyz":
            return self._thing(slots[key], form)
        if key in "pq":
            return at_place(slots[key]) if form == "in" else the_place(slots[key])
        if key == "a":
            return article(slots[form])
        return slots[key]

    def _person(self, name: str, form: str, slots: dict[str, str], mentioned: list[str]) -> str:
        person = self.world.people[name]
        she = person.she
        if form == "he":
            return she
        if form == "him":
            return _OBJECT[she]
        if form == "his":
            return _POSSESSIVE[she]
        if form == "self":
            return _SELF[she]
        if form == "kind":
            return person.kind
        if form == "q":
            return name
        if form not in ("n", "i") and self._may_be_pronoun(name, she, slots, mentioned):
            self.streak += 1
            mentioned.append(name)
            return she if form == "" else _OBJECT[she] if form == "o" else _POSSESSIVE[she]
        self.streak = 0
        mentioned.append(name)
        said = self.intros.pop(name, name) if form != "n" and name in self.intros else name
        return said + "'s" if form == "s" else said

    def _may_be_pronoun(self, name: str, she: str, slots: dict[str, str], mentioned: list[str]) -> bool:
        if self.focus[she] != name or self.streak > 2 or name in mentioned or self.rand() < 0.2:
            return False
        people = self.world.people
        for key in "ABCD":
            other = slots.get(key)
            if other and other != name and people[other].she == she:
                return False
        return True

    def _thing(self, name: str, form: str) -> str:
        thing = self.world.things[name]
        kind = KINDS[thing.noun]
        noun = name if self.nouns[thing.noun] > 1 else thing.noun
        if form == "n":
            return noun
        if form == "color":
            return thing.color
        if form == "c":
            self.known[name] = True
            return name
        if form == "a":
            self.known[name] = True
            return f"some {name}" if kind.mass else article(name)
        if form == "the" or name in self.known:
            self.known[name] = True
            return f"the {noun}"
        self.known[name] = True
        looks = kind.looks
        described = f"{looks[int(self.rand() * len(looks))]} {name}" if self.rand() < 0.6 else name
        return f"some {described}" if kind.mass else article(described)
