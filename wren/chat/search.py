"""A search over a folder of the user's own: paragraphs of its text files, ranked by their words (BM25).

    score(q, p) = sum over words w of q:  ln(1 + (N - n + 0.5) / (n + 0.5)) * f (k + 1) / (f + k (1 - b + b |p| / mean))

N passages, n of them with w, f times in p, k = 1.5, b = 0.75 (Robertson & Zaragoza 2009). A passage is a few
paragraphs that stand together. Only regular files below the folder are read: no links, no hidden files or folders,
nothing that is not UTF-8 text; files, bytes and answers are bounded. Whatever changes in the folder is seen at the next
search.
"""

import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wren.chat.tools import Tool, ToolError
from wren.errors import ConfigError

MAX_FILES, MAX_ENTRIES = 2000, 20_000  # that are read, and names that are looked at
MAX_FILE_BYTES, MAX_BYTES = 1_000_000, 20_000_000  # of a file, and of all that are read
MAX_QUERY = 300  # characters
PASSAGE = 900  # characters of a passage; paragraphs join up to it, a longer one is cut
MAX_FOUND = 1000  # characters of all passages of an answer; the best one is always whole
_K, _B = 1.5, 0.75
_WORD = re.compile(r"\w+")


class Passage(NamedTuple):
    """source: its file, as a path below the folder."""

    source: str
    text: str


class Index:
    """Passages, ready to be ranked."""

    def __init__(self, passages: Sequence[Passage]):
        self.passages = list(passages)
        self._counts = [Counter(_words(passage.text)) for passage in self.passages]
        self._lengths = [counts.total() for counts in self._counts]
        self._mean = sum(self._lengths) / max(1, len(self._lengths))
        self._in = Counter(word for counts in self._counts for word in counts)

    def ranked(self, query: str) -> list[Passage]:
        """Passages that have a word of the query, the best first; equal ones in their own order."""
        words = dict.fromkeys(_words(query))
        scores = [self._score(words, number) for number in range(len(self.passages))]
        order = sorted((number for number, score in enumerate(scores) if score > 0), key=lambda i: (-scores[i], i))
        return [self.passages[number] for number in order]

    def _score(self, words: Iterable[str], number: int) -> float:
        counts, total = self._counts[number], len(self.passages)
        norm = _K * (1 - _B + _B * self._lengths[number] / self._mean) if self._mean else 1.0
        score = 0.0
        for word in words:
            if times := counts[word]:
                rare = math.log(1 + (total - self._in[word] + 0.5) / (self._in[word] + 0.5))
                score += rare * times * (_K + 1) / (times + norm)
        return score

    def answer(self, query: str) -> str:
        """The best passages behind their sources, as many as MAX_FOUND lets in."""
        found, room = [], MAX_FOUND
        for passage in self.ranked(query):
            if found and len(passage.text) > room:
                break
            found.append(f"[{passage.source}]\n{passage.text}")
            room -= len(passage.text)
        return "\n\n".join(found) or "Nothing was found; try other words."


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def passages(source: str, text: str) -> Iterator[Passage]:
    """A text's paragraphs, joined up to PASSAGE characters; a longer paragraph is cut where a word ends."""
    joined = ""
    for piece in (piece for paragraph in re.split(r"\n\s*\n", text) for piece in _cut(paragraph.strip())):
        if joined and len(joined) + 2 + len(piece) > PASSAGE:
            yield Passage(source, joined)
            joined = ""
        joined = f"{joined}\n\n{piece}" if joined else piece
    if joined:
        yield Passage(source, joined)


def _cut(paragraph: str) -> Iterator[str]:
    while len(paragraph) > PASSAGE:
        space = paragraph.rfind(" ", 1, PASSAGE)
        end = space if space > 0 else PASSAGE
        yield paragraph[:end].rstrip()
        paragraph = paragraph[end:].lstrip()
    if paragraph:
        yield paragraph


class Folder:
    """A folder that is searched; raises ConfigError where it is none."""

    def __init__(self, path: Path):
        if not path.is_dir():
            raise ConfigError(f"{path} is not a folder; name one whose text files may be searched.")
        self.root = path.resolve()
        self._seen: list[tuple[str, int, int]] = []
        self._index: Index | None = None

    def search(self, query: str) -> str:
        """What a tool answers; raises ToolError."""
        if not _words(query):
            raise ToolError("The query has no words; name what is looked for.")
        return self.index().answer(query)

    def index(self) -> Index:
        """Read anew where a file has changed, come or gone."""
        seen = [(str(path), size, changed) for path, size, changed in self._files()]
        if self._index is None or seen != self._seen:
            self._index, self._seen = Index([each for path, _, _ in seen for each in self._read(Path(path))]), seen
        return self._index

    def _files(self) -> Iterator[tuple[Path, int, int]]:
        """Regular files with their sizes and times, in the order of their names, as far as the bounds go."""
        count = total = entries = 0
        for where, folders, names in os.walk(self.root, followlinks=False):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            entries += 1 + len(names)
            if entries > MAX_ENTRIES:
                return
            for name in sorted(names):
                if name.startswith("."):
                    continue
                path = Path(where) / name
                try:
                    about = path.lstat()
                except OSError:
                    continue  # it has gone meanwhile
                if not stat.S_ISREG(about.st_mode) or not 0 < about.st_size <= MAX_FILE_BYTES:
                    continue
                count, total = count + 1, total + about.st_size
                if count > MAX_FILES or total > MAX_BYTES:
                    return
                yield path, about.st_size, about.st_mtime_ns

    def _read(self, path: Path) -> Iterator[Passage]:
        data = self._bytes(path)
        if data is None or b"\0" in data:
            return
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            return  # not a text
        yield from passages(path.relative_to(self.root).as_posix(), text)

    def _bytes(self, path: Path) -> bytes | None:
        """Of a file that still is a regular one below the folder, whatever took its name's place meanwhile."""
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(path, flags)
        except OSError:
            return None
        with open(descriptor, "rb") as file:
            inside = path.resolve() == path and path.is_relative_to(self.root)
            if not inside or not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            data = file.read(MAX_FILE_BYTES + 1)
        return data if len(data) <= MAX_FILE_BYTES else None


def search_tool(folder: Folder | Index) -> Tool:
    """Over a folder, or over passages that are in memory."""

    def run(arguments: Mapping[str, Any]) -> str:
        query = arguments["query"]
        return folder.search(query) if isinstance(folder, Folder) else folder.answer(query)

    return Tool(
        name="search",
        description="Finds passages in the user's files.",
        parameters={
            "type": "object",
            "properties": {"query": {"type": "string", "maxLength": MAX_QUERY}},
            "required": ["query"],
        },
        run=run,
    )
