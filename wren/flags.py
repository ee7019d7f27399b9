"""Flags that several verbs share, and what each does with --json."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from wren.errors import ConfigError
from wren.files import write_json

Device = Annotated[str, arg(help="auto, cpu, cuda, cuda:1 or mps.")]
Json = Annotated[Path | None, arg(name="json", help="Write the result here for a program to read.")]
Settings = Annotated[tuple[str, ...], arg(name="set", help="KEY=VALUE ...: dials and keys: depth=6 optimizer.lr=1e-3.")]
Time = Annotated[str | None, arg(name="time", help="How long to train, such as 90s, 10m or 1h30m.")]


def check_json(path: Path | None) -> None:
    """Refuses before hours of work what could not be written after them."""
    if path is not None and (path.is_dir() or path.parent.is_file()):
        raise ConfigError(f"--json {path} cannot be a file there; name a file in a folder.")


def write(path: Path | None, result: dict[str, Any]) -> int:
    """Writes a verb's result where --json says; returns the exit code 0."""
    if path is not None:
        write_json(path, json.loads(json.dumps(result, default=str)))
    return 0


def listed(text: str, what: str) -> list[str]:
    """ "a, b" as ["a", "b"]; raises ConfigError for an empty list."""
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items:
        raise ConfigError(f"The list of {what} is empty; give at least one, separated by commas.")
    return items


def warn(text: str) -> None:
    """Says something beside a verb's result."""
    print(f"wren: {text}", file=sys.stderr)
