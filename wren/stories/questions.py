"""Questions about a story, with the answers that its facts give; and which of them training never sees.

A question is a template filled with a name and a thing (an object, or a trade, a kind of pet, a color). Pairs of a
template and a name, of a template and a thing, and of a name and a thing are split by a hash: training sees questions
none of whose three pairs is held out, testing asks those of which all are. So every word of a test question is known
from training, but no two of its parts were ever asked about together.

Nor does training ask where a rival of the answer (another name, thing, color of the same story) would make a held-out
pair: it would teach that such pairs are never right, when they are merely never asked about.
"""

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, NamedTuple

from wren.errors import DataError
from wren.stories.language import article
from wren.stories.story import Story, story
from wren.stories.swapped import swap
from wren.stories.world import Event

Split = Literal["train", "test"]
_SHARE = 4  # one in so many pairs is held out
# what happens in a plot without the story's saying it
_UNTOLD = {("trade", "give"), ("shared_meal", "give"), ("mended", "lend"), ("making", "return"), ("making", "lend")}
_MOVES = ("give", "lend", "return", "buy")  # a thing goes to another person

# Template, and which of its parts is the answer: A who acts, B the other, x the thing, s the spot or the kind.
TEMPLATES: dict[str, tuple[tuple[str, str], ...]] = {
    "give": (
        ("Who gave the {x} to {B}?", "A"),
        ("Who gave {B} the {x}?", "A"),
        ("To whom did {A} give the {x}?", "B"),
        ("Who got the {x} from {A}?", "B"),
        ("What did {A} give to {B}?", "x"),
        ("What did {B} get from {A}?", "x"),
    ),
    "lend": (
        ("Who lent the {x} to {B}?", "A"),
        ("From whom did {B} borrow the {x}?", "A"),
        ("To whom did {A} lend the {x}?", "B"),
        ("What did {A} lend to {B}?", "x"),
    ),
    "return": (
        ("Who gave the {x} back to {B}?", "A"),
        ("Who brought the {x} back to {B}?", "A"),
        ("To whom did {A} give the {x} back?", "B"),
        ("What did {A} give back to {B}?", "x"),
    ),
    "find": (
        ("Who found the {x}?", "A"),
        ("Who was it that found the {x}?", "A"),
        ("What did {A} find?", "x"),
        ("Where did {A} find the {x}?", "s"),
        ("Where was the {x} when {A} found it?", "s"),
    ),
    "break": (("Who broke the {x}?", "A"), ("What did {A} break?", "x"), ("Whose mistake broke the {x}?", "A")),
    "mend": (("Who mended the {x}?", "A"), ("What did {A} mend?", "x"), ("Who made the {x} whole again?", "A")),
    "make": (("Who made the {x}?", "A"), ("What did {A} make?", "x"), ("Whose hands made the {x}?", "A")),
    "role": (("What was {A}'s work?", "x"), ("Who was the {x}?", "A"), ("What did {A} do for a living?", "x")),
    "pet": (("What kind of animal was {A}?", "x"), ("What was the name of the {x}?", "A")),
    "color": (("What color was the {A}?", "x"), ("The {A} had a color. Which one?", "x")),
}


@dataclass(frozen=True, kw_only=True)
class Question:
    """text and answer; template, name and thing: its parts, of which one is the answer or says where it is.

    rivals: names and things that would stand in the place of the answer's, were another of the story's the answer.
    """

    text: str
    answer: str
    template: str
    name: str
    thing: str
    rivals: tuple[tuple[str, str], ...] = ()

    @property
    def split(self) -> Split | None:
        """Where it belongs, None where only some of its pairs, or pairs of rivals, are held out: nowhere."""
        if all(self._held(self.name, self.thing)):
            return "test"
        return None if any(any(self._held(*rival)) for rival in ((self.name, self.thing), *self.rivals)) else "train"

    def _held(self, name: str, thing: str) -> list[bool]:
        return [_is_held(*pair) for pair in itertools.combinations((self.template, name, thing), 2)]


class Asked(NamedTuple):
    """A story's text and questions about it."""

    story: str
    questions: tuple[Question, ...]

    def as_conversation(self) -> dict[str, Any]:
        """The story and the first question are the user's first turn."""
        messages = []
        for number, question in enumerate(self.questions):
            asked = question.text if number else f"{self.story}\n\n{question.text}"
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": question.answer}]
        return {"messages": messages}


def _is_held(left: str, right: str) -> bool:
    digest = hashlib.blake2b(f"{left}\n{right}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % _SHARE == 0


def questions(told: Story) -> list[Question]:
    """All that can be asked about a story with one right answer, in the order of its facts.

    The names and things of a question and its answer all stand in the story's text.
    """
    words = set(re.findall(r"[A-Za-z]+", told.text))
    nouns = Counter(event.thing.split()[-1] for event in told.facts if event.kind in ("thing", "make"))
    found: list[Question] = []
    for kind, slots in [*_happened(told, nouns), *_described(told, nouns)]:
        if all(word in words for key in ("A", "B", "x") for word in slots[key].split()):
            others = {"A": _names(told, kind), "x": _things(told, kind)}
            found.extend(
                _filled(template, answer, slots, others.get(answer, ())) for template, answer in TEMPLATES[kind]
            )
    return _unambiguous(found)


def _names(told: Story, kind: str) -> list[str]:
    """Those that an event of a kind may be about: of people and pets, or of colored things."""
    if kind == "color":
        return [event.thing.split()[-1] for event in told.facts if event.kind == "thing" and event.detail]
    return [event.actor for event in told.facts if event.kind == "person"]


def _things(told: Story, kind: str) -> list[str]:
    """Trades, animals, colors or things, whichever such events tell of."""
    people = [event for event in told.facts if event.kind == "person"]
    if kind == "role":
        return [event.thing for event in people if event.thing]
    if kind == "pet":
        return [event.detail for event in people if event.other]
    made = [event for event in told.facts if event.kind in ("thing", "make")]
    return [event.detail if kind == "color" else event.thing.split()[-1] for event in made if event.thing]


def _happened(told: Story, nouns: Counter[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Events that can be asked about, as kind and slots."""
    moved = Counter((e.thing, e.other) for e in told.facts if e.kind in _MOVES)
    received = Counter((e.thing, e.actor) for e in told.facts if e.kind in _MOVES)
    for event in told.facts:
        if event.kind not in TEMPLATES or (told.plot, event.kind) in _UNTOLD:
            continue
        noun = event.thing.split()[-1] if event.thing else ""
        if nouns[noun] != 1 or (event.kind in _MOVES and not _is_one_move(event, moved, received)):
            continue
        if event.kind == "find" and event.detail.lower() not in told.text.lower():
            continue
        yield event.kind, {"A": event.actor, "B": event.other if event.kind in _MOVES else "", "x": noun,
                           "s": event.detail}  # fmt: skip


def _is_one_move(event: Event, moved: Counter[tuple[str, str]], received: Counter[tuple[str, str]]) -> bool:
    """Whether the thing went only once to that person, and only once from this one."""
    return moved[event.thing, event.other] == 1 and received[event.thing, event.actor] == 1


def _described(told: Story, nouns: Counter[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """What people, pets and things are."""
    for event in told.facts:
        if event.kind == "person" and event.thing:
            yield "role", {"A": event.actor, "B": "", "x": event.thing, "s": ""}
        elif event.kind == "person" and event.other:
            yield "pet", {"A": event.actor, "B": "", "x": event.detail, "s": ""}
        elif event.kind == "thing" and event.detail and nouns[event.thing.split()[-1]] == 1:
            noun = event.thing.split()[-1]
            if re.search(rf"\b{event.detail} {noun}\b", told.text):
                yield "color", {"A": noun, "B": "", "x": event.detail, "s": ""}


def _filled(template: str, answer: str, slots: dict[str, str], others: Sequence[str]) -> Question:
    said = slots[answer]
    if answer == "x":
        is_kind = "work" in template or "living" in template or "kind of" in template
        said = article(said) if is_kind else f"it was {said}" if "color" in template else f"the {said}"
    name = slots["B"] if answer == "x" and "get from" in template else slots["A"]
    thing = slots["x"]
    rivals = {(name, other) if answer == "x" else (other, thing) for other in others} - {(name, thing)}
    return Question(
        text=template.format_map(slots),
        answer=f"{said[0].upper()}{said[1:]}.",
        template=template,
        name=name,
        thing=thing,
        rivals=tuple(sorted(rivals)),
    )


def _unambiguous(found: Sequence[Question]) -> list[Question]:
    """Those that were asked once, and once only have an answer."""
    answers: dict[str, set[str]] = {}
    for question in found:
        answers.setdefault(question.text, set()).add(question.answer)
    unique = {question.text: question for question in found if len(answers[question.text]) == 1}
    return list(unique.values())


def asked(
    seed: int, count: int, split: Split, *, per_story: int = 3, max_characters: int = 800, swapped: float = 0.0
) -> Iterator[Asked]:
    """`count` stories of `seed`, each with up to `per_story` questions of a split, chosen evenly over the kinds and
    first about what no other was asked about.

    max_characters: longer stories are passed over. swapped: share of stories with words in strange places.
    Raises DataError for a count below 1.
    """
    if count < 1 or per_story < 1:
        raise DataError(f"{count} stories with {per_story} questions each cannot be asked about; ask for 1 or more.")
    found = 0
    used: Counter[str] = Counter()
    for index in itertools.count():
        told = story(seed, index)
        random = Random(f"words of {index} of {seed}")
        told = swap(told, random) if random.random() < swapped else told
        if len(told.text) > max_characters:
            continue
        possible = [question for question in questions(told) if question.split == split]
        rank = _shuffled(seed, index)
        chosen: list[Question] = []
        while possible and len(chosen) < per_story:
            told_of = {(one.name, one.thing) for one in chosen}
            best = min(possible, key=lambda q: ((q.name, q.thing) in told_of, used[q.template], rank(q.text)))
            used[best.template] += 1
            chosen.append(best)
            possible.remove(best)
        if chosen:
            yield Asked(told.text, tuple(chosen))
            found += 1
            if found == count:
                return


def _shuffled(seed: int, index: int) -> Callable[[str], bytes]:
    """An order of texts that differs from story to story."""
    return lambda text: hashlib.blake2b(f"{seed} {index} {text}".encode(), digest_size=8).digest()
