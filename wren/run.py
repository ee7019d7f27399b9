"""The run directory: everything needed to sample, resume, export or judge a run lies in it.

config.json  env.json  metrics.jsonl  log.txt  tokenizer.json  loss.png  report.html  checkpoints/  samples/  evals/
"""

import contextlib
import ctypes
import errno
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wren import __version__
from wren.errors import ConfigError
from wren.files import disk_errors, read_json, write_json, write_text

_OURS = {"env.json", "log.txt", "data", "base"}  # what may lie in the folder before config.json makes it a run


class Run:
    """A run directory. Making the object touches no disk; `create` and the writers do.

    writes: False = they do nothing, where another process of the same job writes.
    """

    def __init__(self, path: Path | str, *, writes: bool = True):
        self.path = Path(path)
        self.writes = writes

    config_path = property(lambda self: self.path / "config.json")
    metrics_path = property(lambda self: self.path / "metrics.jsonl")
    tokenizer_path = property(lambda self: self.path / "tokenizer.json")
    checkpoints_path = property(lambda self: self.path / "checkpoints")

    def exists(self) -> bool:
        return self.config_path.is_file()

    def check_free(self) -> None:
        """Raises ConfigError when the folder holds other things than a run's beginning."""
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"{self.path} is a file; name a folder for the run.")
        if self.path.is_dir():
            others = [e.name for e in self.path.iterdir() if not e.name.startswith(".") and e.name not in _OURS]
            if others:
                raise ConfigError(
                    f"{self.path} holds '{min(others)}' and no run (no config.json); choose another --run folder."
                )

    def create(self, config: Any) -> None:
        """Writes env.json and then config.json (JSON values); raises ConfigError when the folder holds other things."""
        if not self.writes:
            return
        self.check_free()
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "env.json", environment())
        write_json(self.config_path, config)

    def config(self) -> Any:
        """config.json; raises ConfigError when this is not a run directory."""
        if not self.exists():
            raise ConfigError(f"{self.path} is not a run directory (it has no config.json); check --run.")
        return read_json(self.config_path)

    def metrics(self) -> list[dict[str, Any]]:
        """Every whole line of metrics.jsonl; a line cut short by a crash or a full disk is left out."""
        if not self.metrics_path.exists():
            return []
        rows = []
        for line in self.metrics_path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                row = json.loads(line)
                if isinstance(row, dict) and isinstance(row.get("step"), int):
                    rows.append(row)
        return rows

    def log_metrics(self, row: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl; a number that is not finite becomes null. Raises DiskError."""
        if not self.writes:
            return
        line = json.dumps({key: _finite(value) for key, value in row.items()}, allow_nan=False)
        _append(self.metrics_path, line)

    def sync_metrics(self) -> None:
        """Makes the metrics so far survive a power cut."""
        if not self.writes:
            return
        if self.metrics_path.exists():
            with disk_errors(self.metrics_path), open(self.metrics_path, "rb+") as file:
                os.fsync(file.fileno())

    def rewind_metrics(self, step: int) -> None:
        """Drops the rows past `step`, which a resumed run writes anew, and the temporary files that a kill left."""
        if not self.writes:
            return
        for stray in self.path.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                stray.unlink()
        if self.metrics_path.exists():
            rows = [row for row in self.metrics() if row["step"] <= step]
            write_text(self.metrics_path, "".join(json.dumps(row) + "\n" for row in rows))

    def write_sample(self, step: int, texts: list[str]) -> None:
        """samples/step_<step>.txt: what the model wrote at that step."""
        if not self.writes:
            return
        write_text(self.path / "samples" / f"step_{step:06d}.txt", "\n\n-----\n\n".join(texts) + "\n")

    def log(self, text: str) -> None:
        """A dated line in log.txt; raises DiskError."""
        if not self.writes:
            return
        _append(self.path / "log.txt", f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps a second process from training in the same folder; a process that died leaves no lock behind."""
        if os.name != "posix" or not self.writes:
            yield
            return
        import fcntl

        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / ".lock").touch()
        with open(self.path / ".lock", "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(
                    f"Another process is training in {self.path}; wait for it or choose another folder."
                ) from error
            yield


def _append(path: Path, line: str) -> None:
    """Adds a line with one write, on a line of its own even when a full disk cut the last one short."""
    with disk_errors(path), open(path, "ab+", buffering=0) as file:
        whole = file.tell() == 0
        if not whole:
            file.seek(-1, os.SEEK_END)
            whole = file.read(1) == b"\n"
        data = (("" if whole else "\n") + line + "\n").encode()
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def environment() -> dict[str, Any]:
    """What a reader of the run needs to judge its speed and to repeat it."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "wren": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


class _WindowsMemory(ctypes.Structure):
    """MEMORYSTATUSEX of Windows; its fields after the first three are not used."""

    _fields_ = (("length", ctypes.c_uint32), ("load", ctypes.c_uint32), ("total", ctypes.c_uint64))
    _fields_ += tuple((f"other_{i}", ctypes.c_uint64) for i in range(6))


def memory_bytes() -> int | None:
    """Main memory of this machine; None where the system does not say."""
    if sys.platform.startswith("linux") or sys.platform == "darwin":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if sys.platform != "win32":
        return None
    status = _WindowsMemory(length=ctypes.sizeof(_WindowsMemory))
    known = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined]
    return status.total if known else None


def peak_memory_bytes() -> int | None:
    """Bytes this process held at most; None where the system does not say.

    Linux's ru_maxrss would begin with what the parent held, so the process's own mark is read there.
    """
    if sys.platform == "win32":
        return None
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def context_len(run: Run) -> int:
    """The length of the rows that a run was trained on; raises ConfigError where it does not say."""
    try:
        return int(run.config()["train"]["context_len"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{run.config_path} lacks train.context_len; restore it.") from error
