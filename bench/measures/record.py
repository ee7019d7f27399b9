"""The JSON that a bench leaves: where and how it was run, and every part of it as soon as it is there."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wren.errors import ConfigError, DataError
from wren.files import disk_errors, read_json, write_json
from wren.lab.machine import this_machine
from wren.run import environment


@dataclass
class Record:
    """content: machine, command, versions, settings, load (of one minute, before it began) and the parts by name."""

    path: Path
    content: dict[str, Any]

    @classmethod
    def begin(cls, path: Path, device: torch.device, settings: dict[str, Any]) -> "Record":
        """Raises ConfigError or DiskError where the file could not be written in the end."""
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; name a file for --json.")
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        known = environment()
        content = {name: known[name] for name in ("wren", "python", "torch", "threads", "command", "started")}
        content["machine"] = this_machine(device)
        content["load"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        plain = {key: value if isinstance(value, int | float | None) else str(value) for key, value in settings.items()}
        return cls(path, {**content, "settings": plain, "parts": {}})

    def put(self, part: str, value: dict[str, Any]) -> None:
        """Keeps what there is of a part by now, and writes all."""
        self.content["parts"][part] = {**self.content["parts"].get(part, {}), **value}
        write_json(self.path, self.content)


def rows_of(path: Path, part: str) -> list[dict[str, Any]]:
    """The trainings of a part that an earlier record holds; raises DataError."""
    content = read_json(path)
    parts = content.get("parts") if isinstance(content, dict) else None
    if not isinstance(parts, dict):
        raise DataError(f"{path} is not a record of a bench.")
    return list(parts.get(part, {}).get("rows", []))


class OutOfTime(Exception):
    """What is to come does not fit into what is left."""


class Deadline:
    """So many seconds from now on."""

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        return self.end - time.monotonic()

    def need(self, seconds: float, what: str) -> None:
        """Raises OutOfTime where `what`, which takes about so long, would end too late."""
        if seconds > self.left():
            raise OutOfTime(
                f"{what} takes about {seconds:.0f} s and {max(0.0, self.left()):.0f} s are left: not begun."
            )
