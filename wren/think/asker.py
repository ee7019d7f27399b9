"""How problems are put to a model, and what its replies are worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wren import tasks
from wren.errors import ConfigError
from wren.generate.settings import Completion
from wren.model import LM
from wren.tasks import prompts
from wren.tasks.prompts import FORMS, Form
from wren.tasks.task import Problem, Task, check_gold
from wren.tokenizer import Tokenizer
from wren.tokenizer.chat import Chat


@dataclass(frozen=True)
class Asker:
    """A task, in the form in which a model knows it."""

    task: Task
    tokenizer: Tokenizer
    form: Form

    def prompt(self, problem: Problem) -> list[int]:
        return prompts.tokens(problem, self.tokenizer, self.form)

    @property
    def stop_ids(self) -> frozenset[int]:
        """What ends a reply: any special token."""
        return frozenset(self.tokenizer.special.values())

    def text(self, completion: Completion) -> str:
        return self.text_of(completion.tokens)

    def text_of(self, tokens: Sequence[int]) -> str:
        """What a reply of these tokens says."""
        if self.form == "chat":
            return Chat(self.tokenizer).reply(list(tokens)).content
        return self.tokenizer.decode(list(tokens))

    def score(self, problem: Problem, completion: Completion) -> float:
        """From 0 to 1."""
        return prompts.score(self.task, problem, self.text(completion), self.form)

    def check_length(self, model: LM, prompt: Sequence[int], max_tokens: int) -> None:
        """Raises ConfigError for a prompt that leaves a position table no room for a reply."""
        room = model.config.learned_positions
        if room is not None and len(prompt) + max_tokens > room:
            raise ConfigError(
                f"A prompt of {self.task.name} has {len(prompt)} tokens, and with {max_tokens} of a reply that is more "
                f"than the {room} positions of this model; lower --max-tokens."
            )


def form_of(raw: Any) -> Form:
    """How problems are put to a run that was not told: a conversation where it was tuned for that. raw: its config."""
    raw = raw if isinstance(raw, dict) else {}
    for form in FORMS:
        if raw.get("form") == form:
            return form
    return "chat" if "objective" in raw else "bare"


def read_task(name: str) -> Task:
    """The task, once its verifier has agreed with its own gold answers; raises ConfigError and DataError."""
    task = tasks.read(name)
    check_gold(task)
    return task
