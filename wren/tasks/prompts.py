"""How a problem is put to a model, and how its answer is taken out of what the model says.

plain   "Question: 17+25=\\nAnswer:", for a base model that has read such pairs; other problems may stand before it
bare    "17+25=\\n", for a small model trained on nothing else
chat    the user's turn of a conversation, for a tuned model
"""

import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

from wren.errors import ConfigError, unknown_key
from wren.tasks.task import Problem, Split, Task
from wren.tokenizer import Tokenizer
from wren.tokenizer.chat import Chat, Message

Form = Literal["plain", "bare", "chat"]
FORMS: tuple[Form, ...] = get_args(Form)
STOPS: dict[Form, tuple[str, ...]] = {"plain": ("\nQuestion:",), "bare": ("\n\n",), "chat": ()}
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_HASHES = re.compile(r"^\s*####[ \t]*(.*\S)", re.MULTILINE)
_SAID = re.compile(r"(?:^|\n|[.!:] )[ \t]*\**(?:the )?(?:final )?answer(?: is|:)+\**:?[ \t]*", re.IGNORECASE)
_BOXED = "\\boxed{"


def text(problem: Problem, form: Form = "plain", shots: Sequence[Problem] = ()) -> str:
    """The beginning of a document that a model goes on with; shots: solved problems before it. Not for form "chat"."""
    if form not in ("plain", "bare"):
        raise ConfigError(unknown_key("The form of a prompt's text", form, ("plain", "bare")))
    return "".join([*(f"{document(shot, form)}\n\n" for shot in shots), _begun(problem, form)])


def document(problem: Problem, form: Form = "plain") -> str:
    """A problem with its solution, to train a base model on."""
    return f"{text(problem, form)}{' ' if form == 'plain' else ''}{problem.said}"


def _begun(problem: Problem, form: Form) -> str:
    return f"Question: {problem.prompt}\nAnswer:" if form == "plain" else f"{problem.prompt}\n"


def messages(problem: Problem, shots: Sequence[Problem] = (), system: str = "") -> list[Message]:
    """The conversation that ends with the problem; shots: solved problems, as turns before it."""
    turns = [Message("system", system)] if system.strip() else []
    for shot in shots:
        turns += [Message("user", shot.prompt), Message("assistant", shot.said)]
    return [*turns, Message("user", problem.prompt)]


def tokens(problem: Problem, tokenizer: Tokenizer, form: Form, shots: Sequence[Problem] = ()) -> list[int]:
    """What a model reads before it answers, from the document's start on.

    Raises TokenizerError where form is "chat" and the vocabulary has no tokens for turns.
    """
    if form == "chat":
        return Chat(tokenizer).prompt(messages(problem, shots))
    begun = text(problem, form, shots)
    return [tokenizer.document_id, *tokenizer.encode(begun)]


def examples(task: Task, split: Split, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Conversations in the `messages` form that `wren tune` reads."""
    problems = task.problems(seed, count, split)
    return [
        {"messages": [message.as_dict() for message in (*messages(problem), Message("assistant", problem.said))]}
        for problem in problems
    ]


def answer_in(reply: str, form: Form = "chat") -> str:
    """The answer alone: the last of <answer>...</answer>, \\boxed{...}, "#### ..." or "Answer: ...", else all of it.

    What follows a stop of the form is not the model's answer any more, and left out.
    """
    reply = reply.lstrip("\n") if form == "bare" else reply
    for stop in STOPS[form]:
        reply = reply.partition(stop)[0]
    found = marked_answer(reply)
    return reply.strip() if found is None else found


def marked_answer(reply: str) -> str | None:
    """The answer that a text marks as its own, None where it marks none."""
    if tags := _TAG.findall(reply):
        return tags[-1].strip()
    if (start := reply.rfind(_BOXED)) >= 0:
        return _braced(reply[start + len(_BOXED) :])
    if hashes := _HASHES.findall(reply):
        return hashes[-1].strip()
    said = list(_SAID.finditer(reply))
    return reply[said[-1].end() :].strip() if said and reply[said[-1].end() :].strip() else None


def _braced(text: str) -> str:
    """Up to the brace that closes, or all of it."""
    depth = 1
    for place, sign in enumerate(text):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth == 0:
            return text[:place].strip()
    return text.strip()


def score(task: Task, problem: Problem, reply: str, form: Form = "chat") -> float:
    """The task's score of the answer in a reply, from 0 to 1."""
    return task.score(problem, answer_in(reply, form))
