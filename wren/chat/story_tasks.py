"""Questions that want a tool: sums of numbers that a story tells, and questions about a story that lies in a folder.

Every problem comes with the conversation that answers it, tool by tool, and can be asked without tools as well: then a
sum is to be done in the head, and of a story in a folder nothing but the question is known. What training never sees:
pairs of numbers, and the pairs of a question's parts (stories/questions.py), are split by a hash; stories differ by
seed. Plain Python, the same for the same seed.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, Literal, NamedTuple

from wren.chat.calculator import CALCULATOR, calculate
from wren.chat.search import Index, Passage, passages, search_tool
from wren.chat.tools import Toolbox
from wren.errors import DataError
from wren.stories import words
from wren.stories.questions import Asked, Question, Split, asked
from wren.stories.story import story
from wren.tokenizer.chat import Message

Kind = Literal["sum", "search"]
KINDS: tuple[Kind, ...] = ("sum", "search")
MAX_CHARACTERS = 800  # of a story in a folder
_BEGINNING = 350  # characters of the story before a sum, at most
_SHARE = 4  # one in so many pairs of numbers is held out
_THINGS = ("apples", "pears", "plums", "shells", "stones", "buttons", "acorns", "feathers", "ribbons", "cherries")

# What the story tells, what is asked, the expression, and the answer: a and b the numbers, n the result.
_SUMS = (
    ("{A} had {a} {things}, and {B} had {b}.", "How many {things} did {A} and {B} have together?", "{a} + {b}",
     "Together they had {n} {things}."),
    ("{A} found {a} {things}, and {B} found only {b}.", "How many more {things} did {A} find than {B}?", "{a} - {b}",
     "{A} found {n} more."),
    ("{A} had {a} {things} and gave {b} of them to {B}.", "How many {things} did {A} have left?", "{a} - {b}",
     "{A} had {n} {things} left."),
    ("{A} and {B} filled {b} baskets with {a} {things} each.", "How many {things} were in the baskets?", "{a} * {b}",
     "There were {n} {things} in them."),
    ("{A} shared {ab} {things} fairly among {b} friends.", "How many {things} did each friend get?", "{ab} / {b}",
     "Each friend got {n} {things}."),
)  # fmt: skip


class Problem(NamedTuple):
    """asked: the user's words. answer: the only right one. call: what is to be called. toolbox: what answers it.

    folder: what is searched. source: where in it the answer stands; "" for a sum.
    """

    kind: Kind
    asked: str
    answer: str
    call: str
    toolbox: Toolbox
    folder: tuple[Passage, ...] = ()
    source: str = ""

    def messages(self, *, tools: bool) -> list[Message]:
        """The conversation that answers it."""
        turns = [Message("user", self.asked)]
        if tools:
            turns += [Message("assistant", "", (self.call,)), Message("tool", self.toolbox.run(self.call).text)]
        return [*turns, Message("assistant", self.answer)]

    def as_conversation(self, *, tools: bool) -> dict[str, Any]:
        """A row that `wren tune` reads."""
        row: dict[str, Any] = {"messages": [message.as_dict() for message in self.messages(tools=tools)]}
        return {**row, "tools": self.toolbox.schemas()} if tools else row


def problems(seed: int, count: int, split: Split, *, per_folder: int = 4) -> Iterator[Problem]:
    """`count` problems of a split, sums and searches in turn. per_folder: stories in a folder that is searched.

    Raises DataError for a count below 1.
    """
    if count < 1 or per_folder < 1:
        raise DataError(f"{count} problems with {per_folder} stories a folder cannot be asked; ask for 1 or more.")
    kinds = itertools.cycle((sums(seed, split), searches(seed, split, per_folder)))
    return (next(each) for each in itertools.islice(kinds, count))


def sums(seed: int, split: Split) -> Iterator[Problem]:
    """Without end: two of three behind the beginning of a story, the others by themselves."""
    random, box = Random(f"wren sums {seed} {split}"), toolbox(Index([]))
    for index in itertools.count():
        expression, text, answer = _sum(random, split, seed, index) if index % 3 else _bare_sum(random, split)
        answer = answer.replace("{n}", calculate(expression))
        yield Problem("sum", text, answer, _call("calculator", expression=expression), box)


def _sum(random: Random, split: Split, seed: int, index: int) -> tuple[str, str, str]:
    told, question, expression, answer = random.choice(_SUMS)
    beginning = _beginning(seed, index)
    names = [name for name in (*words.GIRLS, *words.BOYS) if not re.search(rf"\b{name}\b", beginning)]
    a, b = _numbers(random, split, small="{b} baskets" in told or "{b} friends" in told)
    here = [name for name in (*words.GIRLS, *words.BOYS) if name not in names]
    slots = {"A": random.choice(here or names), "B": random.choice(names), "things": random.choice(_THINGS)}
    while slots["A"] == slots["B"]:
        slots["B"] = random.choice(names)
    slots |= {"a": str(a), "b": str(b), "ab": str(a * b), "n": "{n}"}
    text = f"{beginning} {told.format_map(slots)}\n\n{question.format_map(slots)}"
    return expression.format_map(slots), text, answer.format_map(slots)


def _bare_sum(random: Random, split: Split) -> tuple[str, str, str]:
    a, b = _numbers(random, split)
    expression = f"{a} {random.choice('+-*')} {b}"
    if random.random() < 0.3:
        expression = f"({expression}) {random.choice('+-*')} {random.randrange(2, 100)}"
    return expression, f"What is {expression}?", "It is {n}."


def _numbers(random: Random, split: Split, *, small: bool = False) -> tuple[int, int]:
    """Two numbers of the split, the first one larger. small: the second is of one digit or two."""
    while True:
        a, b = random.randrange(11, 1000), random.randrange(3, 40 if small else 1000)
        digest = hashlib.blake2b(f"{a} {b}".encode(), digest_size=8).digest()
        held = int.from_bytes(digest, "little") % _SHARE == 0
        if a > b and held == (split == "test"):
            return a, b


def _beginning(seed: int, index: int) -> str:
    """The first sentences of a story."""
    paragraph = story(seed, index).text.split("\n\n")[0]
    if len(paragraph) <= _BEGINNING:
        return paragraph
    ends = [match.end() for match in re.finditer(r"[.!?]\"?(?= )", paragraph[:_BEGINNING])]
    return paragraph[: ends[-1]] if ends else paragraph


def searches(seed: int, split: Split, per_folder: int) -> Iterator[Problem]:
    """Without end: folders of stories, and of each story a question that no other one of the folder could answer.

    What the search does not put first is left out of training, and stays among what is tested.
    """
    told = asked(seed, 1 << 62, split, per_story=1, max_characters=MAX_CHARACTERS)
    while True:
        group = list(itertools.islice(told, per_folder))
        sources = [f"story-{number}.txt" for number in range(1, len(group) + 1)]
        folder = [each for source, one in zip(sources, group, strict=True) for each in passages(source, one.story)]
        index = Index(folder)
        box = toolbox(index)
        for source, one in zip(sources, group, strict=True):
            question = one.questions[0]
            query = question.text.rstrip("?")
            if _is_clear(question, one, group) and (split == "test" or _first(index, query) == source):
                call = _call("search", query=query)
                yield Problem("search", question.text, question.answer, call, box, tuple(folder), source)


def _first(index: Index, query: str) -> str:
    return next((passage.source for passage in index.ranked(query)), "")


def _is_clear(question: Question, own: Asked, group: Sequence[Asked]) -> bool:
    """Whether no other story of the group has all that the question names."""
    fixed = set(re.findall(r"\w+", question.template))
    named = [word for word in re.findall(r"\w+", question.text) if word not in fixed]
    others = [set(re.findall(r"\w+", one.story)) for one in group if one is not own]
    return not any(all(word in other for word in named) for other in others)


def toolbox(index: Index) -> Toolbox:
    """What `wren chat --tools calculator search` offers too, in the same words."""
    return Toolbox([CALCULATOR, search_tool(index)])


def _call(name: str, **arguments: str) -> str:
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
