"""From what a client asks to what the engine is asked; what cannot be done is refused with an ApiError."""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from wren.errors import WrenError
from wren.generate import Request, Sampling, row_seed
from wren.serve.adapting import adapting
from wren.serve.errors import ApiError
from wren.serve.jobs import Ask, Talk
from wren.serve.limits import Limits
from wren.serve.rows import Row
from wren.serve.schema import ChatMessage, ChatRequest, Common, CompletionRequest, NamedTool
from wren.serve.thinking import thinking
from wren.tokenizer import Tokenizer
from wren.tokenizer.chat import Chat, read_messages

COMPLETION_TOKENS = 16  # where a client of /v1/completions does not say
_LIKELIEST = 1e-9  # top_p 0


@dataclass(frozen=True)
class Served:
    """What is served: its names, the first of them its own; chat None where the vocabulary has no such tokens."""

    names: tuple[str, ...]
    tokenizer: Tokenizer
    chat: Chat | None
    limits: Limits
    longest: int  # bytes of the longest token


class Choices(NamedTuple):
    """A request as asks: choice number i n + j is sample j of prompt i."""

    asks: tuple[Ask, ...]
    total: int
    top: int | None  # log-probabilities: None = not asked for, else how many of the likeliest


def chat(served: Served, body: ChatRequest) -> Choices:
    """Raises ApiError."""
    _common(served, body)
    speaker = served.chat
    if speaker is None:
        sentence = "This model's vocabulary has no tokens for conversations; use /v1/completions."
        raise ApiError(400, sentence, code="no_chat")
    _chat_only(body)
    _size(served, sum(len(_text_of(m)) for m in body.messages), "messages")
    tools = None if body.tool_choice == "none" else body.tools
    try:
        messages = read_messages([_turn(message) for message in body.messages])
        prompt = speaker.prompt(messages, tools)
    except WrenError as error:
        raise ApiError(400, str(error), param="messages", code="invalid_messages") from error
    forced = _forced(body, speaker)
    tokens = (*prompt, *forced)
    n = body.n or 1
    top = (body.top_logprobs or 0) if body.logprobs else None
    request = Request(
        prompt=tokens,
        n=n,
        sampling=_sampling(body, _room(served, len(tokens), body.max_completion_tokens or body.max_tokens, None), 0),
        stop_ids=frozenset(served.tokenizer.special.values()) - ({speaker.call_id} if tools else set()),
        top_logprobs=top or 0,
        bias=_bias(served, body.logit_bias),
        keep=n == 1,
    )
    given = {name for name in body.model_fields_set if getattr(body, name) not in (None, False)}
    given |= {"max_tokens"} if "max_completion_tokens" in given else set()
    thought = thinking(
        speaker, request, served.limits, algorithm=body.algorithm, budget=body.budget, given=sorted(given)
    )
    written = forced[1:] if forced else None
    caller = speaker if tools else None
    rows = [Row(served.tokenizer, i, _stops(body.stop), chat=caller, written=written) for i in range(n)]
    lesson = adapting(served.tokenizer, served.limits, body.adapt, prompt)
    talk = Talk(chat=speaker, prompt=tuple(prompt), forced=forced, exact=body.seed is not None)
    return Choices((Ask(request=request, rows=rows, talk=talk, adapting=lesson, thinking=thought),), n, top)


def completion(served: Served, body: CompletionRequest) -> Choices:
    """Raises ApiError."""
    _common(served, body)
    n, echo = body.n or 1, bool(body.echo)
    if body.best_of not in (None, n):
        raise ApiError(400, f"best_of is {body.best_of} and n {n}; they must be equal here.", param="best_of")
    if body.suffix:
        raise ApiError(400, "A suffix is not supported; leave it out.", param="suffix")
    prompts = _prompts(served, body.prompt)
    _samples(served, len(prompts) * n)
    wanted = COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    if not wanted and not echo:
        raise ApiError(400, "max_tokens is 0; it must be at least 1 unless echo is true.", param="max_tokens")
    if body.adapt and (echo or len(prompts) > 1):
        param, what = ("echo", "an echo, whose tokens are learned") if echo else ("prompt", "several prompts")
        raise ApiError(400, f"adapt does not go with {what}; leave one of them out.", param=param, code="unsupported")
    seed = _seed(body)
    asks = []
    for i, (prompt, hidden) in enumerate(prompts):
        room = _room(served, len(prompt), wanted, "prompt")
        request = Request(
            prompt=prompt,
            n=n,
            sampling=_sampling(body, room, i * n, seed),
            stop_ids=frozenset(served.tokenizer.special.values()),
            top_logprobs=body.logprobs or 0,
            echo=echo,
            bias=_bias(served, body.logit_bias),
        )
        stop = _stops(body.stop)
        shown = (prompt, hidden) if echo else None
        rows = [Row(served.tokenizer, i * n + j, stop, echo=shown, silent=not wanted) for j in range(n)]
        lesson = adapting(served.tokenizer, served.limits, body.adapt, prompt)
        asks.append(Ask(request=request, rows=rows, adapting=lesson))
    return Choices(tuple(asks), len(prompts) * n, body.logprobs)


def _common(served: Served, body: Common) -> None:
    if body.model is not None and body.model not in served.names:
        names = ", ".join(served.names)
        raise ApiError(
            404, f"There is no model of that name here; it is {names}.", param="model", code="model_not_found"
        )
    for name in ("frequency_penalty", "presence_penalty"):
        if getattr(body, name):
            raise ApiError(400, f"{name} is not supported; leave it out or give 0.", param=name, code="unsupported")
    if body.stream_options is not None and not body.stream:
        sentence = "stream_options is for streams; give stream: true, or leave it out."
        raise ApiError(400, sentence, param="stream_options")
    _samples(served, body.n or 1)


def _samples(served: Served, count: int) -> None:
    most = served.limits.max_samples
    if count > most:
        raise ApiError(400, f"{count} completions are asked for; one request gives at most {most}.", param="n")


def _chat_only(body: ChatRequest) -> None:
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true.", param="top_logprobs")
    if body.response_format is not None and body.response_format.type != "text":
        sentence = "The only response_format here is {'type': 'text'}."
        raise ApiError(400, sentence, param="response_format", code="unsupported")
    if body.modalities not in (None, ["text"]):
        raise ApiError(400, 'The only modalities here are ["text"].', param="modalities", code="unsupported")
    both = (body.max_tokens, body.max_completion_tokens)
    if None not in both and both[0] != both[1]:
        sentence = "max_tokens and max_completion_tokens differ; give one of them."
        raise ApiError(400, sentence, param="max_tokens")


def _text_of(message: ChatMessage) -> str:
    """All that it will have encoded, about."""
    content = message.content
    text = content if isinstance(content, str) else "".join(part.text for part in content or ())
    return text + "".join(call.function.name + call.function.arguments for call in message.tool_calls or ())


def _turn(message: ChatMessage) -> dict[str, Any]:
    turn = message.model_dump(exclude_none=True)
    turn["role"] = "system" if message.role == "developer" else message.role
    if message.role == "tool" or message.tool_calls:
        turn.setdefault("content", "")
    return turn


def _forced(body: ChatRequest, speaker: Chat) -> tuple[int, ...]:
    """What the answer must begin with: a call of a tool, or of this one."""
    choice = body.tool_choice
    if choice is None or choice in ("none", "auto"):
        return ()
    names = [tool["function"]["name"] for tool in body.tools or ()]
    if not names:
        raise ApiError(400, "tool_choice asks for a tool, and there are no tools.", param="tool_choice")
    name = choice.function.name if isinstance(choice, NamedTool) else names[0]
    if name not in names:
        raise ApiError(400, f"tool_choice names a tool that is not among {', '.join(names)}.", param="tool_choice")
    begin = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments":'
    if not isinstance(choice, NamedTool) and len(names) > 1:
        begin = '{"name": "'
    return (speaker.call_id, *speaker.tokenizer.encode(begin))  # both end where a piece of the tokenizer's does


def _prompts(served: Served, given: Any) -> list[tuple[tuple[int, ...], int]]:
    """Each prompt's tokens, and how many of them the client did not write: a text stands behind a document's start."""
    document = served.tokenizer.document_id
    if given is None or given == []:
        given = ""
    several = isinstance(given, list) and not isinstance(given[0], int)
    prompts = []
    for each in given if several else [given]:
        if isinstance(each, str):
            _size(served, len(each), "prompt")
            prompts.append(((document, *served.tokenizer.encode(each)), 1))
            continue
        if not each:
            raise ApiError(400, "A prompt is an empty list; give at least one token.", param="prompt")
        wrong = next((token for token in each if token >= served.tokenizer.vocab_size), None)
        if wrong is not None:
            last = served.tokenizer.vocab_size - 1
            sentence = f"A prompt holds token {wrong}; this vocabulary has 0 to {last}."
            raise ApiError(400, sentence, param="prompt", code="invalid_token")
        prompts.append((tuple(each), 0))
    return prompts


def _size(served: Served, characters: int, param: str) -> None:
    """Refuses at once what cannot be short enough, before it is encoded."""
    if characters > served.limits.max_prompt * served.longest:
        raise too_long(served, f"A prompt of {characters:,} characters", param)


def too_long(served: Served, what: str, param: str) -> ApiError:
    sentence = f"{what} is too long; at most {served.limits.max_prompt:,} tokens are taken here."
    return ApiError(413, sentence, param=param, code="context_length_exceeded")


def _room(served: Served, length: int, wanted: int | None, param: str | None) -> int:
    """Tokens of a completion behind a prompt of that length; wanted None: as many as there may be."""
    limits = served.limits
    if length > limits.max_prompt or (length >= limits.context_len and wanted != 0):
        raise too_long(served, f"A prompt of {length:,} tokens", param or "messages")
    if wanted is None:
        return min(limits.max_tokens, limits.context_len - length)
    if wanted > limits.max_tokens:
        sentence = f"max_tokens is {wanted}; at most {limits.max_tokens} are given here."
        raise ApiError(400, sentence, param="max_tokens", code="invalid_value")
    if length + wanted > limits.context_len:
        raise ApiError(
            400,
            f"{length} tokens of the prompt and {wanted} more do not fit the context of {limits.context_len} tokens; "
            "shorten the prompt or ask for fewer.",
            param=param or "messages",
            code="context_length_exceeded",
        )
    return max(1, wanted)


def _seed(body: Common) -> int:
    return secrets.randbits(63) if body.seed is None else body.seed % 2**63


def _sampling(body: Common, room: int, first: int, seed: int | None = None) -> Sampling:
    """first: number of the prompt's first sample in the request."""
    return Sampling(
        max_tokens=room,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_k=body.top_k,
        top_p=None if body.top_p is None else body.top_p or _LIKELIEST,
        seed=row_seed(_seed(body) if seed is None else seed, first),
    )


def _stops(stop: str | list[str] | None) -> Sequence[str]:
    return [stop] if isinstance(stop, str) else stop or []


def _bias(served: Served, given: dict[str, float] | None) -> dict[int, float]:
    """As OpenAI's: 100 and -100 as good as force and ban a token."""
    most = served.tokenizer.vocab_size
    for name in given or {}:
        if not (name.isascii() and name.isdigit() and len(name) < 20 and int(name) < most):
            sentence = f"logit_bias names a token that is not among 0 to {most - 1}."
            raise ApiError(400, sentence, param="logit_bias", code="invalid_token")
    return {int(name): float(value) for name, value in (given or {}).items()}
