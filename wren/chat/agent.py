"""The agent's loop: the model calls tools, reads their answers, and goes on until it calls no more.

`Loop` is the loop without the model: it takes the calls of a turn and gives what the tools answer, a bounded number of
times. `respond` runs it over a Conversation; a server or a rollout of many rows keeps one Loop a row and asks the model
its own way:

    loop = Loop(toolbox)
    while results := loop.follow(calls):
        ...  # each result's text is a message of role "tool"; then the model's next turn and its calls
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from wren.chat.conversation import Reply, Turn
from wren.chat.tools import Result, Toolbox
from wren.errors import ConfigError
from wren.generate import Sampling
from wren.tokenizer.chat import Message

MAX_CALLS = 8


class Loop:
    """One turn of the user. max_calls: that tools answer; the first one past it is told so, and then it is over."""

    def __init__(self, toolbox: Toolbox, max_calls: int = MAX_CALLS):
        if max_calls < 1:
            raise ConfigError(f"The number of calls is {max_calls}; it must be at least 1.")
        self.toolbox, self.max_calls, self.left = toolbox, max_calls, max_calls
        self.over = False

    def follow(self, calls: Sequence[str]) -> list[Result]:
        """The tools' answers, one a call, in order; none where there was no call, or they are used up."""
        if not calls or self.over:
            self.over = True
            return []
        self.over = self.left == 0  # the model is told so, has one more turn, and nothing follows that
        results = []
        for call in calls:
            if self.left == 0:
                text = f"Error: All {self.max_calls} calls are used up; answer without another."
                results.append(Result(call, "", text, failed=True))
            else:
                self.left -= 1
                results.append(self.toolbox.run(call))
        return results


class Talk(Protocol):
    """What `respond` needs of a Conversation."""

    def say(self, message: Message) -> Turn: ...

    def withdraw(self, first: Turn) -> None: ...

    def answer(
        self, sampling: Sampling, hear: Callable[[str], None] = ..., stopping: Callable[[], bool] = ...
    ) -> Reply: ...


def respond(
    talk: Talk,
    text: str,
    sampling: Sampling,
    toolbox: Toolbox | None = None,
    *,
    max_calls: int = MAX_CALLS,
    hear: Callable[[str], None] = lambda piece: None,
    told: Callable[[Result], None] = lambda result: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Reply:
    """Asks, lets tools answer the model's calls, and returns its last turn.

    told: hears every call with its answer. Where an error arises, or the model says nothing, the conversation is as it
    was before the question.
    """
    loop = Loop(toolbox, max_calls) if toolbox else None
    asked = talk.say(Message("user", text))
    done = False
    try:
        while True:
            reply = talk.answer(sampling, hear, stopping)
            results = loop.follow(reply.calls) if loop is not None and not stopping() else []
            if not results:
                break
            for result in results:
                told(result)
                talk.say(Message("tool", result.text))
        done = not reply.empty
    finally:
        if not done:
            talk.withdraw(asked)
    return reply
