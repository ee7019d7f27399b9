"""The run directory: everything needed to sample, resume, export or judge a run lies in it.

config.json  env.json  metrics.jsonl  log.txt  tokenizer.json  loss.png  report.html  checkpoints/  samples/  evals/
"""

import contextlib
import json
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


class Run:
    """A run directory. Making the object touches no disk; `create` and the writers do."""

    def __init__(self, path: Path | str):
        self.path = Path(path)

    config_path = property(lambda self: self.path / "config.json")
    metrics_path = property(lambda self: self.path / "metrics.jsonl")
    tokenizer_path = property(lambda self: self.path / "tokenizer.json")
    checkpoints_path = property(lambda self: self.path / "checkpoints")

    def exists(self) -> bool:
        return self.config_path.is_file()

    def create(self, config: Any) -> None:
        """Writes config.json (JSON values) and env.json; raises ConfigError when the folder holds other things."""
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"{self.path} is a file; name a folder for the run.")
        if self.path.is_dir() and any(not entry.name.startswith(".") for entry in self.path.iterdir()):
            raise ConfigError(f"{self.path} is not empty and holds no run; choose another --run folder.")
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
        """Every whole line of metrics.jsonl; a line cut short by a crash is left out."""
        if not self.metrics_path.exists():
            return []
        rows = []
        for line in self.metrics_path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
        return rows

    def log_metrics(self, row: dict[str, Any]) -> None:
        with disk_errors(self.metrics_path), open(self.metrics_path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rewind_metrics(self, step: int) -> None:
        """Drops the rows past `step`: a resumed run writes them anew."""
        rows = [row for row in self.metrics() if row["step"] <= step]
        write_text(self.metrics_path, "".join(json.dumps(row) + "\n" for row in rows))

    def write_sample(self, step: int, texts: list[str]) -> None:
        """samples/step_<step>.txt: what the model wrote at that step."""
        write_text(self.path / "samples" / f"step_{step:06d}.txt", "\n\n-----\n\n".join(texts) + "\n")

    def log(self, text: str) -> None:
        """A dated line in log.txt."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        with disk_errors(self.path), open(self.path / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"{stamp} {text}\n")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps a second process from training in the same folder; a process that died leaves no lock behind."""
        if os.name != "posix":
            yield
            return
        import fcntl

        with open(self.path / ".lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(
                    f"Another process is training in {self.path}; wait for it or use another --run."
                ) from error
            yield


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
