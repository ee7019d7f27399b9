"""Conversations as tokens, and which of them a model learns: the assistant's words and what ends its turn.

    <|wren:document|>
    <|wren:system|>Be brief.<|wren:end|>
    <|wren:user|>2 + 2?<|wren:end|>
    <|wren:assistant|>4<|wren:end|>                                 (one after another, without line ends between them)

Every turn is encoded by itself, so the tokens of a conversation's first turns are a prefix of the tokens of all. The
assistant calls tools inside its turn, each call behind a <|wren:tool|>, which the model writes like any other token; a
turn that begins with it holds a tool's answer:

    <|wren:assistant|>Let me see.<|wren:tool|>{"name": "add", "arguments": {"a": 2}}<|wren:end|>
    <|wren:tool|>4<|wren:end|>

These tokens are reserved when a tokenizer is trained (special.py), so embedding, head and every table by token have
their rows from the first step of pretraining on, untrained; tuning trains them, an adapter by rows of its own.
CHAT_TEMPLATE gives the same text in Jinja, as `transformers` reads it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from wren.errors import DataError, TokenizerError
from wren.tokenizer import special
from wren.tokenizer.bpe import Tokenizer

ROLES = ("system", "user", "assistant", "tool")
TOOLS = "Tools:"  # the line of the system turn above the tools' descriptions, one JSON object a line

CHAT_TEMPLATE = (
    "{%- macro text(content) -%}{%- if content is string -%}{{ content }}{%- elif content -%}{%- for part in content "
    "-%}{{ part['text'] }}{%- endfor -%}{%- endif -%}{%- endmacro -%}"
    "{{ '<|wren:document|>' }}"
    "{%- set named = messages and messages[0]['role'] == 'system' -%}"
    "{%- set system = text(messages[0]['content']) if named else '' -%}"
    "{%- if tools or system -%}{{ '<|wren:system|>' + system }}{%- if tools -%}{{ '\\n\\n' if system else '' }}"
    "{{ 'Tools:' }}{%- for tool in tools -%}{{ '\\n' + (tool | tojson) }}{%- endfor -%}{%- endif -%}"
    "{{ '<|wren:end|>' }}{%- endif -%}"
    "{%- for message in messages -%}{%- if not (loop.first and named) -%}"
    "{{ '<|wren:' + message['role'] + '|>' + text(message['content']) }}"
    "{%- for call in message['tool_calls'] or [] -%}{%- set call = call['function'] or call -%}"
    "{{ '<|wren:tool|>{\"name\": ' + (call['name'] | tojson) + ', \"arguments\": ' }}"
    "{{ call['arguments'] if call['arguments'] is string else (call['arguments'] | tojson) }}{{ '}' }}"
    "{%- endfor -%}{{ '<|wren:end|>' }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|wren:assistant|>' }}{%- endif -%}"
)


class Message(NamedTuple):
    """One turn. calls: the JSON texts of the assistant's calls of tools, `{"name": ..., "arguments": {...}}`."""

    role: str
    content: str
    calls: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As an OpenAI client writes it."""
        turn: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.calls:
            turn["tool_calls"] = [{"type": "function", "function": _function(call)} for call in self.calls]
        return turn


def _function(call: str) -> dict[str, str]:
    """Name and arguments of a call; the arguments as a text, the way they are written in the call."""
    read = json.loads(call)
    head = f'{{"name": {_json(read["name"])}, "arguments": '
    arguments = call[len(head) : -1] if call.startswith(head) else _json(read["arguments"])
    return {"name": read["name"], "arguments": arguments}


class Encoded(NamedTuple):
    """The tokens of a conversation, and whether each is one that a model learns to say."""

    tokens: list[int]
    learned: list[bool]


def read_messages(turns: Any, where: str = "The conversation") -> list[Message]:
    """Messages from a list of {"role", "content", "tool_calls"}; raises DataError, which begins with `where`.

    Checked: the roles, that nothing is empty, that the system's turn is the first and the user speaks before the
    assistant, that a tool answers a call. An empty system turn is left out.
    """
    return checked(read_turns(turns, where), where)


def read_turns(turns: Any, where: str = "The conversation") -> list[Message]:
    """As read_messages, of a part of a conversation: who speaks when is not checked."""
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise DataError(f"{where} holds no turns; give a list of objects with 'role' and 'content'.")
    messages = [_read_turn(turn, f"{where}, turn {number}") for number, turn in enumerate(turns, 1)]
    return [message for message in messages if message.role != "system" or message.content.strip()]


def checked(messages: list[Message], where: str = "The conversation") -> list[Message]:
    """The messages as they are; raises DataError for what no conversation has."""
    before = ""
    for number, message in enumerate(messages, 1):
        place = f"{where}, turn {number}"
        if message.role not in ROLES:
            raise DataError(f"{place} is of '{message.role}'; a role is one of {', '.join(ROLES)}.")
        if message.calls and message.role != "assistant":
            raise DataError(f"{place} of the {message.role} calls a tool; only the assistant does.")
        if not message.content.strip() and not message.calls and message.role != "tool":
            raise DataError(f"{place} of the {message.role} is empty; write its text or remove the turn.")
        if message.role == "system" and number > 1:
            raise DataError(f"{place} is the system's; a system turn stands first.")
        if message.role == "assistant" and before in ("", "system"):
            raise DataError(f"{where} begins with the assistant; a user's turn stands before it.")
        if message.role == "tool" and before not in ("assistant", "tool"):
            raise DataError(f"{place} is a tool's, but no assistant's turn stands before it.")
        before = message.role
    if before in ("", "system"):
        raise DataError(f"{where} holds no turn of a user.")
    return messages


def _read_turn(turn: Any, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise DataError(f"{where} is {turn!r:.40}, not an object with 'role' and 'content'.")
    role = turn.get("role")
    if not isinstance(role, str):
        raise DataError(f"{where} has no 'role'; a role is one of {', '.join(ROLES)}.")
    calls = turn.get("tool_calls") or ()
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise DataError(f"{where}: 'tool_calls' is not a list.")
    content = turn.get("content")
    if content is None and not calls:
        raise DataError(f"{where} has no 'content'.")
    return Message(role, _read_content(content, where), tuple(_read_call(call, where) for call in calls))


def _read_content(content: Any, where: str) -> str:
    """A text, or the text parts of a list, as OpenAI's clients may write it."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, Sequence) else [None]
    texts = [part.get("text") if isinstance(part, Mapping) else None for part in parts]
    if all(isinstance(text, str) for text in texts):
        return "".join(map(str, texts))
    raise DataError(f"{where}: 'content' is neither a text nor a list of text parts.")


def _read_call(call: Any, where: str) -> str:
    """A call as the JSON text that the template writes: arguments given as a text stay as they are written."""
    function = (call.get("function") or call) if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str):
        raise DataError(f"{where}: a tool call names no function; it is {{'function': {{'name', 'arguments'}}}}.")
    arguments = function.get("arguments", {})
    written = arguments if isinstance(arguments, str) else _json(arguments)
    try:
        json.loads(written)
    except ValueError as error:
        raise DataError(f"{where}: the arguments of the call of '{name}' are not valid JSON.") from error
    return f'{{"name": {_json(name)}, "arguments": {written}}}'


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # as transformers' `tojson` writes it


class Chat:
    """Writes conversations in a tokenizer's tokens and reads the model's turns.

    end_id: what ends every turn: generation stops there. assistant_id: what an answer follows. call_id: inside an
    assistant's turn, what every call of a tool follows.
    """

    def __init__(self, tokenizer: Tokenizer):
        """Raises TokenizerError for a vocabulary too small to hold the tokens of conversations."""
        missing = [name for name in special.CHAT if name not in tokenizer.special]
        if missing:
            raise TokenizerError(
                f"This vocabulary of {tokenizer.vocab_size} entries has no tokens for conversations; train a model "
                f"with one of at least {special.MIN_CHAT_VOCAB_SIZE}."
            )
        self.tokenizer = tokenizer
        self.end_id = tokenizer.special["end"]
        self.assistant_id = tokenizer.special["assistant"]
        self.call_id = tokenizer.special["tool"]

    def encode(
        self, messages: Sequence[Message], tools: Sequence[Any] | None = None, *, learned_from: int = 0
    ) -> Encoded:
        """All turns behind a document start. learned_from: the assistant's turns before this one are not learned."""
        tokens, learned = [self.tokenizer.document_id], [False]
        messages, system = list(messages), ""
        first = 0
        if messages and messages[0].role == "system":
            system, first = messages[0].content, 1
        if tools or system:
            tokens += self._turn(Message("system", system_text(system, tools)))
        learned += [False] * (len(tokens) - 1)
        for number, message in enumerate(messages[first:], first):
            turn = self._turn(message)
            teaches = message.role == "assistant" and number >= learned_from
            tokens += turn
            learned += [False, *([teaches] * (len(turn) - 1))]
        return Encoded(tokens, learned)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Any] | None = None) -> list[int]:
        """What the assistant's next turn follows, up to the token that starts it."""
        return [*self.encode(messages, tools).tokens, self.assistant_id]

    def turn(self, message: Message) -> list[int]:
        """The tokens that one more turn adds to a conversation."""
        return self._turn(message)

    def reply(self, tokens: Iterable[int]) -> Message:
        """The assistant's turn from the tokens that followed its start, with or without the one that ends it.

        A call that is not valid JSON, or names no function, stays in the text as it was written.
        """
        parts: list[list[int]] = [[]]
        for token in tokens:
            if token == self.end_id:
                break
            if token == self.call_id:
                parts.append([])
            else:
                parts[-1].append(token)
        content, *written = (self.tokenizer.decode(part) for part in parts)
        calls = [text for text in written if _is_call(text)]
        content += "".join(text for text in written if not _is_call(text))
        return Message("assistant", content, tuple(calls))

    def _turn(self, message: Message) -> list[int]:
        encode, call_id = self.tokenizer.encode, self.call_id
        calls = [token for call in message.calls for token in (call_id, *encode(call))]
        return [self.tokenizer.special[message.role], *encode(message.content), *calls, self.end_id]


def _is_call(text: str) -> bool:
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):  # the second: thousands of brackets
        return False
    return isinstance(call, dict) and isinstance(call.get("name"), str) and "arguments" in call


def system_text(system: str, tools: Sequence[Any] | None) -> str:
    """What the system's turn says: its own words, then the tools, one a line."""
    if not tools:
        return system
    described = "".join(f"\n{_json(tool)}" for tool in tools)
    return (f"{system}\n\n" if system else "") + TOOLS + described


def render(
    messages: Sequence[Message], tools: Sequence[Any] | None = None, *, add_generation_prompt: bool = False
) -> str:
    """The text of a conversation with its special tokens spelled out: what CHAT_TEMPLATE gives."""
    start, end, tool = (special.spelling(name) for name in ("document", "end", "tool"))
    messages = list(messages)
    system = messages.pop(0).content if messages and messages[0].role == "system" else ""
    text = start
    if tools or system:
        text += special.spelling("system") + system_text(system, tools) + end
    for message in messages:
        calls = "".join(tool + call for call in message.calls)
        text += special.spelling(message.role) + message.content + calls + end
    return text + (special.spelling("assistant") if add_generation_prompt else "")
