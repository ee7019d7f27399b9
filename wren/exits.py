"""How a command ends: 0 done, 2 a mistake that the printed sentence names, 130 Ctrl-C, 141 no reader, 143 SIGTERM."""

import os
import sys
from collections.abc import Callable

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


def _say(program: str, text: str, code: int) -> int:
    print(f"{program}: {text}", file=sys.stderr)
    return code
