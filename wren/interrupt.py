"""Ctrl-C and SIGTERM while training: the step ends and is saved first; a second one acts at once."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupted(Exception):
    """Ctrl-C or SIGTERM arrived; the run was saved at `step`, None = nothing was begun that could be saved."""

    def __init__(self, step: int | None, signal_number: int):
        saved = f"saved at step {step}. The same command goes on from there."
        super().__init__(f"Interrupted; {'the same command begins anew.' if step is None else saved}")
        self.step, self.signal_number = step, signal_number


class Stopped(BaseException):
    """Raised inside Signals.at_once. Not an Exception, so that no callback swallows it."""


class Signals:
    """Collects SIGINT and SIGTERM in `number`; a second one raises KeyboardInterrupt where it arrives.

    Outside the main thread, where Python allows no handlers, it collects nothing. agreement: where several processes
    must stop at the same point, gives from what arrived in this one the signal that counts for all, if any; it is
    asked by agree() only, and whoever started the processes ends those that take too long.
    """

    def __init__(self, agreement: Callable[[int | None], int | None] | None = None) -> None:
        self.number: int | None = None
        self._agreement = agreement
        self._arrived: int | None = None
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

    def agree(self) -> None:
        """Where several processes train: the point at which all of them learn of a signal to one of them."""
        if self._agreement is None or self.number is not None:
            return
        self.number = self._agreement(self._arrived)
        if self.number is not None and self._at_once:
            raise Stopped

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
        if self._agreement is not None:
            self._arrived = self._arrived or number
            return
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number
        if self._at_once:
            raise Stopped
