"""How a command ends: 0 done, 2 a mistake that the printed sentence names, 130 Ctrl-C, 141 no reader, 143 SIGTERM."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

from wren.errors import WrenError
from wren.files import describe
from wren.interrupt import Interrupted


def exit_code(program: str, call: Callable[[], int | None]) -> int:
    """Calls; turns what a user can mend, and an interruption, into a sentence on standard error and an exit code."""
    try:
        return call() or 0
    except Interrupted as stop:
        return _say(program, str(stop), 128 + stop.signal_number)
    except KeyboardInterrupt:
        return _say(program, "Interrupted; the same command goes on where it stopped, or begins anew.", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: no second complaint
        return 141
    except WrenError as error:
        return _say(program, str(error), 2)
    except OSError as error:
        return _say(program, describe(error), 2)


def is_rank() -> bool:
    """Whether this process is one of several in a torchrun job."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def leave_after(call: Callable[[], int]) -> NoReturn:
    """Calls and ends the process with the code at once, as a rank of a job should.

    torch's communication threads may outlive their process group, and now and then abort a process that takes Python
    down around them: its exit code would be lost, and torchrun would call a good end a failure.
    """
    try:
        code = call()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # its reader has gone
            stream.flush()
    os._exit(code)


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Silences what a process prints inside unless it is the first of a torchrun job, or alone."""
    if not is_rank() or os.environ.get("RANK", "0") == "0":
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def _say(program: str, text: str, code: int) -> int:
    print(f"{program}: {text}", file=sys.stderr)
    return code
