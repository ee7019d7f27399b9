"""Documents out of files: .txt, .jsonl and .parquet, plain or compressed with .gz or .zst, streamed in bounded memory.

A reader yields `str`. Where bytes that are not UTF-8 were replaced, it yields a `MendedText`, which counts them.
A damaged file, a binary one or a wrong line raises DataError, which names the file and the place.
"""

import contextlib
import itertools
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from wren.errors import DataError
from wren.files import disk_errors

BLOCK = 1 << 20
PIECE = 4 << 20  # bytes: a longer .txt becomes several documents, cut at blank lines
MAX_LINE = 64 << 20  # bytes: one document has to fit in memory several times over
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
FORMATS = (".txt", ".jsonl", ".parquet")
_BOM = b"\xef\xbb\xbf"
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class MendedText(str):
    """A text in which `replaced` broken characters were replaced by U+FFFD."""

    __slots__ = ("replaced",)
    replaced: int

    def __new__(cls, text: str, replaced: int) -> "MendedText":
        self = super().__new__(cls, text)
        self.replaced = replaced
        return self


def parted(text: str, place: int) -> tuple[str, str]:
    """The text before and from `place` on; what was replaced is counted where it stands."""
    before, after = text[:place], text[place:]
    if not isinstance(text, MendedText):
        return before, after
    first = min(text.replaced, before.count("\ufffd"))  # a U+FFFD that was there already may stand for one
    return MendedText(before, first), MendedText(after, text.replaced - first)


def read_blocks(path: Path, compression: str | None, size: int = BLOCK) -> Iterator[bytes]:
    """The decompressed bytes of `path` in blocks of `size` (the last one is shorter); frames may follow each other."""
    try:
        with pa.input_stream(str(path), compression=compression) as stream:
            while block := stream.read(size):
                yield block
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; check the path.") from error
    except PermissionError as error:
        raise DataError(f"{path} may not be read; change its permissions.") from error
    except OSError as error:
        raise DataError(f"{path} is damaged or cut short ({brief(error)}); copy or download it again.") from error


def read_text(path: Path, compression: str | None = None, strict: bool = False) -> Iterator[str]:
    """One document, or, over PIECE bytes, several that are cut at blank lines; laid end to end they are the text."""
    offset, rest = 0, b""
    for block in _text_blocks(path, compression):
        rest += block
        while len(rest) >= PIECE:
            cut = _cut(rest[:PIECE])
            yield _decode(rest[:cut], path, f"byte {offset:,}", strict, offset)
            offset, rest = offset + cut, rest[cut:]
    if rest or not offset:
        yield _decode(rest, path, f"byte {offset:,}", strict, offset)


def read_jsonl(path: Path, text_key: str, compression: str | None = None, strict: bool = False) -> Iterator[str]:
    """The string under `text_key` of every line; blank lines are passed over."""
    for number, line in enumerate(read_lines(path, compression), 1):
        if not line or line.isspace():
            continue
        decoded = _decode(line, path, f"line {number:,}", strict)
        text = _json_text(decoded, text_key, f"{path}:{number}")
        replaced = decoded.replaced if isinstance(decoded, MendedText) else 0
        if b"\\ud" in line or b"\\uD" in line:
            text, lone = _LONE_SURROGATE.subn("\ufffd", text)
            if lone and strict:
                raise DataError(f"{path}:{number} holds half a surrogate pair; mend it or leave out --strict.")
            replaced += lone
        yield MendedText(text, replaced) if replaced else text


def read_parquet(
    path: Path, column: str, compression: str | None = None, strict: bool = False, batch_size: int = 512
) -> Iterator[str]:
    """The strings of `column`, read `batch_size` rows at a time; a null is an empty document."""
    row = 0
    try:
        with seekable(path, compression) as file, pq.ParquetFile(file, buffer_size=BLOCK) as table:
            _check_column(path, table.schema_arrow, column)
            for batch in table.iter_batches(batch_size=batch_size, columns=[column], use_threads=False):
                yield from _strings(batch.column(0), path, row, strict)
                row += batch.num_rows
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; check the path.") from error
    except (pa.ArrowException, OSError) as error:
        place = f" after row {row:,}" if row else ""
        raise DataError(
            f"{path} is damaged or not parquet{place} ({brief(error)}); copy or download it again."
        ) from error


@contextlib.contextmanager
def seekable(path: Path, compression: str | None) -> Iterator[IO[bytes]]:
    """`path` opened for reading at any place; a compressed file is first unpacked into a temporary one."""
    if compression is None:
        with open(path, "rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as unpacked:
        with disk_errors(tempfile.gettempdir()):
            unpacked.writelines(read_blocks(path, compression))
            unpacked.seek(0)
        yield unpacked


def _text_blocks(path: Path, compression: str | None) -> Iterator[bytes]:
    """The blocks of a text file without its byte order mark; raises DataError for a binary file."""
    blocks = read_blocks(path, compression)
    first = next(blocks, b"")
    _check_text(path, first[: 1 << 16])
    return itertools.chain([first.removeprefix(_BOM)], blocks)


def _check_text(path: Path, head: bytes) -> None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\0" in head:
        raise DataError(f"{path} is UTF-16; convert it first, for example with iconv -f UTF-16 -t UTF-8.")
    if b"\0" in head:
        raise DataError(f"{path} is a binary file, not text; give a .txt, .jsonl or .parquet of text.")
    bad = head.decode("utf-8", "replace").count("\ufffd") - head.count(b"\xef\xbf\xbd")
    if bad > 64 and bad > 0.3 * len(head):
        raise DataError(f"{path} is binary or not in UTF-8 ({bad:,} bad bytes at its start); convert it to UTF-8.")


def read_lines(path: Path, compression: str | None) -> Iterator[bytes]:
    """The lines of a text file as bytes, without their ends and without a byte order mark."""
    held: list[bytes] = []
    length = 0
    for block in _text_blocks(path, compression):
        first, *others = block.split(b"\n")
        held.append(first)
        length += len(first)
        if length > MAX_LINE:
            raise DataError(
                f"{path} has a line of more than {MAX_LINE >> 20} MiB; cut that document into smaller ones."
            )
        if others:
            yield b"".join(held)
            yield from others[:-1]
            held, length = [others[-1]], len(others[-1])
    yield b"".join(held)


def _cut(window: bytes) -> int:
    """Where to cut: after the last blank line, else line, else space, else character, in the second half."""
    for mark in (b"\n\n", b"\n\r\n", b"\n", b" "):
        place = window.rfind(mark, len(window) // 2)
        if place >= 0:
            return place + len(mark)
    cut = len(window)
    while cut > len(window) - 4 and window[cut - 1] & 0xC0 == 0x80:  # back over continuation bytes
        cut -= 1
    return cut - 1 if window[cut - 1] >= 0xC0 else len(window)


def _decode(raw: bytes, path: Path, where: str, strict: bool, offset: int | None = None) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if strict:
            place = f"{where}, byte {error.start:,} of it" if offset is None else f"byte {offset + error.start:,}"
            raise DataError(
                f"{path}: {place} is not UTF-8; mend the file, or leave out --strict to replace such bytes."
            ) from error
    text = raw.decode("utf-8", "replace")
    return MendedText(text, text.count("\ufffd") - raw.count(b"\xef\xbf\xbd"))


def _json_text(line: str, text_key: str, where: str) -> str:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON ({brief(error)}); mend or remove that line.") from error
    if not isinstance(value, dict):
        raise DataError(f"{where} holds a {type(value).__name__}, not an object with a text key; mend that line.")
    if text_key not in value:
        keys = ", ".join(f"'{key}'" for key in list(value)[:20]) or "no keys"
        raise DataError(f"{where} has no key '{text_key}'; it has {keys}: choose one with --text-key.")
    text = value[text_key]
    if not isinstance(text, str):
        raise DataError(f"{where}: '{text_key}' is a {type(text).__name__}, not a string; choose another --text-key.")
    return text


def _check_column(path: Path, schema: pa.Schema, column: str) -> None:
    texts = [field.name for field in schema if _is_text(field.type)]
    if column in texts:
        return
    have = ", ".join(f"'{name}'" for name in texts) or "none"
    what = "is not a column of strings" if column in schema.names else "is not one of its columns"
    raise DataError(f"{path}: '{column}' {what}; its columns of strings: {have} (choose one with --text-key).")


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _strings(column: pa.Array, path: Path, first_row: int, strict: bool) -> Iterator[str]:
    try:
        texts = column.to_pylist()
    except UnicodeDecodeError:  # arrow does not check on reading
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        raws = column.cast(pa.large_binary()).to_pylist()
        texts = [
            None if raw is None else _decode(raw, path, f"row {first_row + index:,}", strict)
            for index, raw in enumerate(raws)
        ]
    for text in texts:
        yield text or ""


def brief(error: BaseException) -> str:
    """The first line of an error's text, to stand inside a sentence."""
    return str(error).split("\n", 1)[0].rstrip(". ") or type(error).__name__
