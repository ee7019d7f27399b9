"""The terminal: lines in, answers out as they come, commands that begin with a slash.

On a terminal the user is prompted and told what happens; on a pipe standard output holds nothing but answers, and the
first mistake ends it. A line is a turn; three double quotes begin and end a turn of several lines.

Ctrl-C ends the answer that is being written, which stays as far as it came; a second one leaves. So do two where the
user is prompted, and Ctrl-D.
"""

import contextlib
import json
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from wren.chat.agent import MAX_CALLS, respond
from wren.chat.conversation import Conversation
from wren.chat.tools import Result, Toolbox
from wren.errors import ConfigError, WrenError
from wren.files import write_text
from wren.generate import Sampling
from wren.interrupt import Signals

HELP = """\
/reset         forget the conversation
/system TEXT   begin anew with this system text; without TEXT say what it is, - removes it
/tools         the tools that the model may call; /tools off and /tools on
/save FILE     write the conversation, in a form that wren tune reads
/help          this
\"\"\"            begins and ends a message of several lines
Ctrl-C stops an answer, a second one leaves; so does Ctrl-D."""
_MARK = '"""'
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a model's text must not steer a terminal
_DIM, _BOLD, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"


@dataclass
class Screen:
    """out: where answers go. notes: where all else goes. talks: whether a person sits there, who is prompted."""

    out: TextIO
    notes: TextIO
    talks: bool
    colour: bool = False
    inside: bool = False  # whether the last line of an answer has not ended

    def piece(self, text: str) -> None:
        self.out.write(_CONTROL.sub("\ufffd", text.replace("\r", "")))
        self.out.flush()
        self.inside = not text.endswith("\n")

    def end_line(self) -> None:
        if self.inside:
            self.piece("\n")

    def note(self, text: str) -> None:
        self.end_line()
        text = _CONTROL.sub("\ufffd", text)
        self.notes.write(f"{_DIM}{text}{_PLAIN}\n" if self.colour else f"{text}\n")
        self.notes.flush()


class Left(Exception):
    """The user leaves; code: of the process."""

    def __init__(self, code: int = 0):
        super().__init__()
        self.code = code


class Terminal:
    """A conversation at a terminal or on a pipe.

    lines: gives the next line without its end, None where there is none; it may raise KeyboardInterrupt.
    """

    def __init__(
        self,
        talk: Conversation,
        screen: Screen,
        lines: Callable[[str], str | None],
        sampling: Sampling,
        toolbox: Toolbox | None = None,
        *,
        max_calls: int = MAX_CALLS,
    ):
        self.talk, self.screen, self.lines, self.sampling = talk, screen, lines, sampling
        self.toolbox = toolbox or Toolbox()
        self.max_calls = max_calls
        self.tools_on = bool(self.toolbox)
        self._interrupts = 0
        self._saved: set[Path] = set()
        self._commands = {"/reset": self._reset, "/system": self._system, "/tools": self._tools}
        self._commands |= {"/save": self._save, "/help": self._help}
        talk.notice = screen.note

    def run(self) -> int:
        """Until the user leaves; the exit code. On a pipe a mistake raises its WrenError."""
        try:
            while (text := self._message()) is not None:
                if text.strip():
                    self._do(text)
        except Left as left:
            return left.code
        return 0

    def ask(self, text: str) -> None:
        """One question and its answer; raises Left where a signal says so."""
        with Signals() as signals:
            try:
                self._answer(text, lambda: signals.number is not None)
            except KeyboardInterrupt:
                self.screen.end_line()
                raise Left(130) from None
        if signals.number == signal.SIGTERM or (signals.number is not None and not self.screen.talks):
            raise Left(128 + signals.number)
        if signals.number is not None:
            self._interrupts = 1
            self.screen.note("(stopped; Ctrl-C again leaves)")

    def _answer(self, text: str, stopping: Callable[[], bool]) -> None:
        reply = respond(
            self.talk,
            text,
            self.sampling,
            self.toolbox if self.tools_on else None,
            max_calls=self.max_calls,
            hear=self.screen.piece,
            told=self._told,
            stopping=stopping,
        )
        self.screen.end_line()
        if reply.empty and not stopping():
            self.screen.note("(The model said nothing; the question is taken back.)")
        elif reply.empty:
            self.screen.note("(Stopped before the first word; the question is taken back.)")
        elif reply.finish == "length":
            self.screen.note("(Cut at the limit of tokens; --max-tokens and --context set it.)")

    def _told(self, result: Result) -> None:
        self.screen.note(f"[{result.call.strip()} -> {result.text}]")

    # lines

    def _message(self) -> str | None:
        """The next line, or several between marks; None at the end."""
        first = self._line("> ")
        if first is None or not first.lstrip().startswith(_MARK):
            return first
        parts = [first.lstrip()[len(_MARK) :]]
        while not parts[-1].rstrip().endswith(_MARK):
            following = self._line("| ")
            if following is None:
                return "\n".join(parts).strip("\n")
            parts.append(following)
        parts[-1] = parts[-1].rstrip()[: -len(_MARK)]
        return "\n".join(parts).strip("\n")

    def _line(self, prompt: str) -> str | None:
        while True:
            try:
                line = self.lines(prompt if self.screen.talks else "")
            except KeyboardInterrupt:
                self._interrupts += 1
                if self._interrupts > 1 or not self.screen.talks:
                    raise Left(130) from None
                self.screen.note("(Ctrl-C again, or Ctrl-D, leaves)")
                continue
            self._interrupts = 0
            return line

    def _do(self, text: str) -> None:
        try:
            if text.startswith("/"):
                word, _, rest = text.strip().partition(" ")
                if word not in self._commands:
                    raise ConfigError(f"There is no command {word}; /help lists them. A space in front makes it text.")
                self._commands[word](rest.strip())
            else:
                self.ask(text)
        except WrenError as error:
            if not self.screen.talks:
                raise
            self.screen.note(str(error))

    # commands

    def _reset(self, rest: str) -> None:
        self.talk.reset()
        self.screen.note("The conversation begins anew.")

    def _system(self, rest: str) -> None:
        if not rest:
            self.screen.note(f"System: {self.talk.system}" if self.talk.system else "There is no system text.")
            return
        self.talk.reset(system="" if rest == "-" else rest)
        self.screen.note("The conversation begins anew " + ("without a system text." if rest == "-" else "under it."))

    def _tools(self, rest: str) -> None:
        if rest in ("on", "off"):
            if rest == "on" and not self.toolbox:
                raise ConfigError("There are no tools; start with --tools calculator, or --tools search --folder DIR.")
            self.tools_on = rest == "on"
            self.talk.reset(tools=self.toolbox.schemas() if self.tools_on else ())
            self.screen.note(f"Tools are {rest}; the conversation begins anew.")
            return
        if rest:
            raise ConfigError(f"/tools takes on or off, not '{rest}'.")
        if not self.toolbox:
            self.screen.note("No tools; start with --tools calculator, or --tools search --folder DIR.")
        for tool in self.toolbox.tools.values():
            takes = ", ".join(tool.parameters["properties"])
            self.screen.note(f"{tool.name}({takes}): {tool.description}{'' if self.tools_on else ' (off)'}")

    def _save(self, rest: str) -> None:
        if not rest:
            raise ConfigError("Name a file: /save talk.jsonl.")
        path = Path(rest).expanduser()
        if not self.talk.turns:
            raise ConfigError("There is nothing to save yet.")
        if path.exists() and path.resolve() not in self._saved:
            raise ConfigError(f"{path} exists already; choose another name.")
        write_text(path, json.dumps(saved(self.talk), ensure_ascii=False) + "\n")
        self._saved.add(path.resolve())
        self.screen.note(f"{path}: {len(self.talk.turns)} turns.")

    def _help(self, rest: str) -> None:
        for line in HELP.splitlines():
            self.screen.note(line)


def saved(talk: Conversation) -> dict[str, object]:
    """The conversation as an OpenAI client writes it, and as `wren tune` reads it."""
    tools = {"tools": list(talk.tools)} if talk.tools else {}
    return {"messages": [message.as_dict() for message in talk.messages()], **tools}


def standard_screen() -> Screen:
    """Of this process: a person sits there where both ends are terminals."""
    talks = sys.stdin.isatty() and sys.stdout.isatty()
    return Screen(sys.stdout, sys.stdout if talks else sys.stderr, talks, colour=talks)


def standard_lines(screen: Screen) -> Callable[[str], str | None]:
    """Lines of standard input; on a terminal with editing and history, where Python has readline."""
    if not screen.talks:
        return lambda prompt: _decoded(sys.stdin.buffer.readline())
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (importing it is what makes input() edit)

    def line(prompt: str) -> str | None:
        try:
            return input(f"\001{_BOLD}\002{prompt}\001{_PLAIN}\002").encode(errors="replace").decode()
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:
            print()
            raise

    return line


def _decoded(data: bytes) -> str | None:
    return data.decode("utf-8", errors="replace").rstrip("\r\n") if data else None
