"""How far a download is: two bars on a terminal, else a line from time to time; and a line for each event."""

import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from wren import units
from wren.data import prepare

STAGES = {"tokenizer": "text for the tokenizer", "rebuild": "tokens (making damaged shards again)", "shards": "tokens"}


class Display:
    """A context manager that is told bytes by the downloading thread and tokens by the preparing one.

    Args:
        expected_tokens, expected_raw: what is expected in all, for the time left.
        stream: where to; bars if it is a terminal, else a line every `every_s` seconds.
    """

    def __init__(
        self,
        expected_tokens: int,
        expected_raw: int,
        *,
        stream: TextIO | None = None,
        every_s: float = 10.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stderr
        self._expected_tokens, self._expected_raw = expected_tokens, expected_raw
        self._every_s, self._now = every_s, now
        self._lock = threading.Lock()
        self._there: dict[str, int] = {}
        self.downloaded = 0  # bytes that came in this run
        self._file = ""
        self._state = prepare.Progress("shards", 0, 0, 0, None)
        self._first_tokens: int | None = None
        self._began = self._told_at = now()
        self._told = (0, 0)
        self._bars = _Bars(self._stream, expected_tokens, expected_raw) if self._stream.isatty() else None

    def __enter__(self) -> "Display":
        if self._bars is not None:
            self._bars.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.progress.stop()

    def raw(self, path: str, there: int, whole: int) -> None:
        """`there` of the `whole` bytes of a raw file are on the disk."""
        with self._lock:
            before = self._there.get(path)
            self._there[path] = there
            if before is not None and there > before:
                self.downloaded += there - before
            self._file = f"{path} {there / max(whole, 1):.0%}"
            self._tell()

    def prepared(self, state: prepare.Progress) -> None:
        """The preparation is that far."""
        with self._lock:
            if self._first_tokens is None and state.stage == "shards":
                self._first_tokens, self._began = state.tokens, self._now()
            self._state = state
            self._tell()

    def line(self, text: str) -> None:
        """An event in a line of its own."""
        with self._lock:
            if self._bars is not None:
                self._bars.progress.console.print(text, markup=False, highlight=False)
            else:
                print(text, file=self._stream, flush=True)

    def _tell(self) -> None:
        if self._bars is not None:
            self._bars.update(self._file, sum(self._there.values()), self._state)
            return
        passed = self._now() - self._told_at
        if passed < self._every_s:
            return
        state, (bytes_before, tokens_before) = self._state, self._told
        text = f"downloaded {units.size(self.downloaded)} ({self._file}), "
        text += f"{units.size((self.downloaded - bytes_before) / passed)}/s; "
        if state.stage == "tokenizer":
            text += f"{units.size(state.bytes)} of {STAGES['tokenizer']}"
        else:
            rate = max(state.tokens - tokens_before, 0) / passed
            text += f"{units.short(state.tokens)} of about {units.short(self._expected_tokens)} {STAGES[state.stage]}"
            text += f", {units.short(rate)} tokens/s{self._left()}"
        print(text, file=self._stream, flush=True)
        self._told_at += passed
        self._told = (self.downloaded, state.tokens)

    def _left(self) -> str:
        passed, done = self._now() - self._began, self._state.tokens - (self._first_tokens or 0)
        left = self._expected_tokens - self._state.tokens
        return f", {units.duration(left * passed / done)} left" if done > 0 and left > 0 else ""


class _Bars:
    def __init__(self, stream: TextIO, expected_tokens: int, expected_raw: int) -> None:
        columns = (TextColumn("{task.description:<10}"), BarColumn(), TextColumn("{task.fields[text]}"))
        console = Console(file=stream)
        self.progress = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
        self._raw: TaskID = self.progress.add_task("download", total=expected_raw, text="")
        self._tokens: TaskID = self.progress.add_task("tokens", total=expected_tokens, text="")
        self._expected = expected_tokens

    def update(self, file: str, there: int, state: prepare.Progress) -> None:
        raw, tokens = self.progress.tasks
        text = f"{units.size(there)}  {units.size(raw.speed or 0)}/s  {file}"
        self.progress.update(self._raw, completed=there, text=text)
        if state.stage == "tokenizer":
            self.progress.update(self._tokens, text=f"{units.size(state.bytes)} of {STAGES['tokenizer']}")
            return
        text = f"{units.short(state.tokens)} of about {units.short(self._expected)}  "
        text += f"{units.short(tokens.speed or 0)} tokens/s"
        self.progress.update(self._tokens, completed=state.tokens, text=text)
