"""Thinking longer for one request: an algorithm of wren/think inside the server's engine, beside all other requests.

A client asks with `budget` (generated tokens in all) and `algorithm`; what is told is the reply that was chosen, once
it is, and the usage counts every token that was generated for it. No task's verifier is at hand here: algorithms choose
by votes or by the model's own log-probabilities.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from wren import think
from wren.errors import ConfigError, WrenError
from wren.generate import Drawn, Engine, Event, Handle, Request
from wren.serve.errors import ApiError
from wren.serve.limits import Limits
from wren.serve.rows import Delta, Row
from wren.tasks.prompts import answer_in
from wren.think.algorithm import Algorithm
from wren.think.case import Case
from wren.think.thought import Thought
from wren.tokenizer.chat import Chat

DEFAULT = "vote"
_REPLIES, _SHORT = 8, 16  # where a client does not say how long a reply may be, so many fit; but none is shorter
_NOT_WITH = ("temperature", "top_p", "top_k", "logit_bias", "logprobs", "tools", "stop")  # fields of a request


@dataclass(frozen=True, kw_only=True)
class Thinking:
    """What is thought about, and how. case: without anything spent."""

    algorithm: Algorithm
    case: Case
    stop_ids: frozenset[int]

    def begin(self, engine: Engine, adapter: int = 0) -> Thought:
        """Asks the engine for the first branches; raises ConfigError for what does not fit."""
        case = replace(self.case, spent=0, replies=[])
        thought = Thought(self.algorithm, case, engine, self.stop_ids, adapter=adapter)
        thought.begin()
        return thought


def thinking(
    chat: Chat, request: Request, limits: Limits, *, algorithm: str | None, budget: int | None, given: Sequence[str]
) -> Thinking | None:
    """What a request asks to be thought, None where it asks for nothing of it. given: names of its fields that are set.

    Raises ApiError.
    """
    if algorithm is None and budget is None:
        return None
    if wrong := [name for name in _NOT_WITH if name in given]:
        sentence = f"{wrong[0]} does not go with a budget to think; leave one of them out."
        raise ApiError(400, sentence, param=wrong[0], code="unsupported")
    if request.n > 1:
        raise ApiError(400, "One answer is thought about at a time; give n 1, or no budget.", param="n")
    try:
        rules = think.read(algorithm or DEFAULT)
    except WrenError as error:
        raise ApiError(400, str(error), param="algorithm", code="invalid_value") from error
    if rules.needs_verifier:
        sentence = f"{algorithm} chooses by a task's verifier, and there is none here; choose vote or best_by_score."
        raise ApiError(400, sentence, param="algorithm", code="invalid_value")
    most, longest = limits.max_budget, request.sampling.max_tokens
    if budget is None:
        budget = min(most, 16 * longest)
    if budget > most:
        raise ApiError(
            400, f"budget is {budget}; at most {most} are thought here.", param="budget", code="invalid_value"
        )
    if "max_tokens" in given and budget < longest:
        sentence = (
            f"A budget of {budget} tokens is less than one answer of max_tokens {longest}; give more, or shorten it."
        )
        raise ApiError(400, sentence, param="budget", code="invalid_value")
    case = Case(
        prompt=tuple(request.prompt),
        budget=budget,
        max_tokens=min(longest, budget),
        seed=request.sampling.seed,
        text=lambda tokens: chat.reply(list(tokens)).content,
        answer=answer_in,
        encode=chat.tokenizer.encode,
    )
    return Thinking(algorithm=rules, case=case, stop_ids=request.stop_ids)


def fits(engine: Engine, case: Case, room: int) -> None:
    """Raises ConfigError where not even one reply's state, forked once, has room."""
    length = len(case.prompt) + case.max_tokens
    if 2 * engine.forward.row_bytes(length) > room:
        raise ConfigError(f"{length} tokens need more memory than the states may take here; ask for fewer.")


def told(row: Row, thought: Thought) -> Iterator[Delta]:
    """The chosen reply, as if it had been drawn just now."""
    assert thought.chosen is not None
    handle = Handle(Request(prompt=thought.case.prompt), 0)  # a row asks it only for an echo
    for token in thought.chosen.tokens:
        delta = row.push(Event(handle, 0, Drawn(token, 0.0, 0.0), None))
        if delta is not None:
            yield delta
    last = row.push(Event(handle, 0, None, "stop" if thought.chosen.ended else "length"))
    if last is not None:
        yield last
