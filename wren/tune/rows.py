"""The rows of files of conversations, each with its place: .jsonl, .json, .parquet and .txt, plain, .gz or .zst.

A row of a .jsonl file is a line, of a .json file an item of its list, of a .parquet file a row, and of a .txt file a
block of text that begins with a question behind an empty line. A row that cannot be read carries the sentence
that says why.
"""

import glob
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from wren.data.readers import BLOCK, COMPRESSIONS, brief, read_blocks, read_lines, read_text, seekable
from wren.errors import DataError

FORMATS = (".jsonl", ".json", ".parquet", ".txt")
_LINES = {".ndjson": ".jsonl", ".jsonlines": ".jsonl", ".md": ".txt"}  # other names of the same

MARKS = {"q": "user", "question": "user", "user": "user", "human": "user", "system": "system"}
MARKS |= {"a": "assistant", "answer": "assistant", "assistant": "assistant", "bot": "assistant", "ai": "assistant"}
MARK = re.compile(rf"^\s*({'|'.join(MARKS)})\s*:[ \t]*", re.IGNORECASE | re.MULTILINE)  # begins a turn in a text


class Row(NamedTuple):
    """where: file and line. value: what stands there. fault: why it could not be read, else None."""

    where: str
    value: Any
    fault: str | None = None


def find_files(path: str) -> list[Path]:
    """The files of conversations that a path, folder or glob stands for, sorted; raises DataError where none is."""
    here = Path(path).expanduser()
    if here.is_dir():
        found = sorted(p for p in here.rglob("*") if p.is_file() and kind_of(p)[0] and not p.name.startswith("."))
    elif here.exists():
        found = [here]
    else:
        found = sorted(Path(match) for match in glob.glob(str(here), recursive=True))
        if not glob.has_magic(path):
            raise DataError(f"{path} does not exist; check the path.")
    if not found:
        raise DataError(f"{path} stands for no file of conversations ({', '.join(FORMATS)}, plain, .gz or .zst).")
    for file in found:
        if kind_of(file)[0] is None:
            names = ", ".join(FORMATS)
            raise DataError(f"{file} is of an unknown kind; name it {names}, with .gz or .zst if compressed.")
    return found


def kind_of(path: Path) -> tuple[str | None, str | None]:
    """(.jsonl, .json, .parquet, .txt or None; gzip, zstd or None) by the file's name."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    compression = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    if compression is not None:
        suffixes.pop()
    kind = _LINES.get(suffixes[-1], suffixes[-1]) if suffixes else None
    return (kind if kind in FORMATS else None), compression


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file in order; raises DataError for a file that cannot be read at all."""
    kind, compression = kind_of(path)
    if kind == ".parquet":
        return _parquet(path, compression)
    if kind == ".txt":
        return _blocks_of_text(path, compression)
    return _json(path, compression) if kind == ".json" else _json_lines(path, compression)


def _json_lines(path: Path, compression: str | None) -> Iterator[Row]:
    for number, line in enumerate(read_lines(path, compression), 1):
        where = f"{path}:{number}"
        if not line or line.isspace():
            continue
        try:
            yield Row(where, json.loads(line.decode("utf-8")))
        except UnicodeDecodeError:
            yield Row(where, None, f"{where} is not UTF-8; mend or remove that line.")
        except (ValueError, RecursionError) as error:
            yield Row(where, None, f"{where} is not valid JSON ({brief(error)}); mend or remove that line.")


def _json(path: Path, compression: str | None) -> Iterator[Row]:
    """One list of rows, alone or as the only list in an object; or lines of objects under a .json name."""
    raw = b"".join(read_blocks(path, compression)).removeprefix(b"\xef\xbb\xbf")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        first, _, rest = raw.lstrip().partition(b"\n")
        if rest.strip() and _is_object(first):
            yield from _json_lines(path, compression)
            return
        raise DataError(f"{path} is not valid JSON ({brief(error)}); mend the file.") from error
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], dict)]
        one_row = any(key in value for key in ("messages", "conversations", "conversation", "chosen"))
        value = lists[0] if len(lists) == 1 and not one_row else [value]
    if not isinstance(value, list):
        raise DataError(f"{path} holds a {type(value).__name__}; it should hold a list of conversations.")
    for number, item in enumerate(value, 1):
        yield Row(f"{path}, item {number}", item)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _parquet(path: Path, compression: str | None) -> Iterator[Row]:
    number = 0
    try:
        with seekable(path, compression) as file, pq.ParquetFile(file, buffer_size=BLOCK) as table:
            for batch in table.iter_batches(batch_size=512, use_threads=False):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}, row {number}", value)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged or not parquet after row {number} ({brief(error)}).") from error


def _blocks_of_text(path: Path, compression: str | None) -> Iterator[Row]:
    """Blocks between empty lines, each with the number of its first line; an answer belongs to the block before it."""
    lines = enumerate("".join(read_text(path, compression)).splitlines(), 1)
    held: Row | None = None
    for empty, group in itertools.groupby(lines, key=lambda numbered: not numbered[1].strip()):
        if empty:
            continue
        block = list(group)
        text = "\n".join(line for _, line in block)
        mark = MARK.match(text)
        if held is not None and (mark is None or MARKS[mark[1].lower()] == "assistant"):
            held = held._replace(value=f"{held.value}\n\n{text}")
            continue
        if held is not None:
            yield held
        held = Row(f"{path}:{block[0][0]}", text)
    if held is not None:
        yield held
