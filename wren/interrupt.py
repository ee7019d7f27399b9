"""Ctrl-C and SIGTERM while training: the step ends and is saved first; a second one acts at once."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupted(Exception):
    """Ctrl-C or SIGTERM arrived; the run was saved at `step`."""

    def __init__(self, step: int, signal_number: int):
        super().__init__(f"Interrupted; saved at step {step}. The same command goes on from there.")
        self.step, self.signal_number = step, signal_number


class Stopped(BaseException):
    """Raised inside Signals.at_once. Not an Exception, so that no callback swallows it."""


class Signals:
    """Collects SIGINT and SIGTERM in `number`; a second one raises KeyboardInterrupt where it arrives.

    Outside the main thread, where Python allows no handlers, it collects nothing.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Work that may be cut off anywhere, since the run is saved: a signal raises Stopped instead of waiting."""
        self._at_once = True
        try:
            if self.number is not None:
                raise Stopped
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number
        if self._at_once:
            raise Stopped
