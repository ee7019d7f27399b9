"""A process that takes this machine for one of Windows: nothing of POSIX can be imported or called in it.

    python foreign_machine.py MODULE,MODULE,... [-- ARGUMENTS OF wren]...

The modules are imported twice: the first time so that what they need of others is there, which adapts to the system by
itself; the second time as on Windows. Then `wren` runs with each of the arguments.
"""

import importlib
import os
import pathlib
import signal
import sys
import sysconfig

MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "readline", "curses", "syslog")
OF_OS = (
    "fork", "forkpty", "getuid", "geteuid", "getgid", "getegid", "getpgid", "setsid", "setpgid", "sched_getaffinity",
    "sched_setaffinity", "sysconf", "getloadavg", "killpg", "mkfifo", "mknod", "nice", "chown", "chroot", "wait3",
    "wait4", "pread", "pwrite", "posix_fadvise", "posix_fallocate", "sync", "fchown", "lchown", "ttyname", "openpty",
    "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "register_at_fork",
)  # fmt: skip
OF_SIGNAL = (
    "SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGPIPE", "SIGQUIT", "SIGSTOP", "alarm",
    "setitimer", "sigwait",
)  # fmt: skip


def become_windows() -> None:
    """Takes away what Windows lacks, and says that this is Windows."""
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for module, names in ((os, OF_OS), (signal, OF_SIGNAL)):
        for name in names:
            if name in vars(module):
                delattr(module, name)
    sys.platform = "win32"
    os.name = "nt"
    sys.modules[pathlib.Path.__module__].WindowsPath = pathlib.PosixPath  # type: ignore[attr-defined]


def main() -> int:
    names = sys.argv[1].split(",")
    for name in (*names, "torch._dynamo", "matplotlib.font_manager", "matplotlib.backends.backend_agg"):
        importlib.import_module(name)
    sysconfig.get_config_vars()  # kept from now on
    for name in [name for name in sys.modules if name.split(".")[0] == "wren"]:
        del sys.modules[name]
    become_windows()
    for name in names:
        importlib.import_module(name)
    from wren.cli import main as wren

    commands = " ".join(sys.argv[2:]).split("-- ")[1:]
    return max((wren(command.split()) for command in commands), default=0)


if __name__ == "__main__":
    sys.exit(main())
