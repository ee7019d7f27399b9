"""Tools that a model may call: what they are told to be, and how a call as the model wrote it is answered.

A call is the JSON text `{"name": ..., "arguments": {...}}`. Whatever is wrong with one is answered with a sentence that
the model reads like any other answer; nothing that a model writes raises an error here.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from wren.errors import ConfigError, DataError

MAX_ANSWER = 4000  # characters of a tool's answer; what is longer is cut
_KINDS: dict[str, tuple[type, ...]] = {"string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,)}


class ToolError(DataError):
    """A call that a tool cannot answer; its sentence is what the model reads."""


@dataclass(frozen=True, kw_only=True)
class Tool:
    """parameters: a JSON schema of an object whose properties are texts, numbers or truth values.

    run: takes the arguments, once they fit the schema, and gives the answer's text; raises ToolError.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    run: Callable[[Mapping[str, Any]], str]

    def schema(self) -> dict[str, Any]:
        """As an OpenAI client describes a tool."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


class Result(NamedTuple):
    """call: as it was written. name: the tool's, "" where none could be read. text: the answer, or what was wrong."""

    call: str
    name: str
    text: str
    failed: bool = False


class Toolbox:
    """The tools of a conversation, by name."""

    def __init__(self, tools: Sequence[Tool] = ()):
        self.tools = {tool.name: tool for tool in tools}
        if len(self.tools) != len(tools):
            raise ConfigError("Two tools have one name; give each its own.")

    def __len__(self) -> int:
        return len(self.tools)

    def schemas(self) -> list[dict[str, Any]]:
        """What the template's system turn lists."""
        return [tool.schema() for tool in self.tools.values()]

    def run(self, call: str) -> Result:
        """Answers a call."""
        name = ""
        try:
            name, arguments = _read(call)
            if name not in self.tools:
                known = ", ".join(self.tools) or "none"
                raise ToolError(f"There is no tool '{_short(name)}'; the tools are: {known}.")
            tool = self.tools[name]
            _check(arguments, tool)
            text = tool.run(arguments)
        except ToolError as error:
            return Result(call, name, f"Error: {error}", failed=True)
        cut = len(text) > MAX_ANSWER
        return Result(call, name, text[:MAX_ANSWER] + ("\n[cut here]" if cut else ""))


def _read(call: str) -> tuple[str, Mapping[str, Any]]:
    """Name and arguments; raises ToolError."""
    try:
        read = json.loads(call)
        arguments = read["arguments"]
        if isinstance(arguments, str):  # some clients write the object as a text
            arguments = json.loads(arguments)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ToolError('A call is one JSON object: {"name": "...", "arguments": {...}}.') from error
    if not isinstance(read.get("name"), str) or not isinstance(arguments, dict):
        raise ToolError('A call is one JSON object: {"name": "...", "arguments": {...}}.')
    return read["name"], arguments


def _check(arguments: Mapping[str, Any], tool: Tool) -> None:
    properties: Mapping[str, Any] = tool.parameters.get("properties", {})
    for name in tool.parameters.get("required", ()):
        if name not in arguments:
            raise ToolError(f"{tool.name} needs '{name}'.")
    for name, value in arguments.items():
        if name not in properties:
            raise ToolError(f"{tool.name} knows no '{_short(name)}'; it takes: {', '.join(properties)}.")
        kind = properties[name].get("type", "string")
        fits = isinstance(value, _KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))
        if not fits:
            raise ToolError(f"{tool.name}: '{name}' must be a {kind}.")
        longest = properties[name].get("maxLength")
        if isinstance(value, str) and longest is not None and len(value) > longest:
            raise ToolError(f"{tool.name}: '{name}' has {len(value):,} characters; it may have {longest:,}.")


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "..."
