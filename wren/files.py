"""Files that are whole or absent: written under a temporary name, fsynced, renamed; and their checksums."""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from wren.errors import DataError, DiskError

_MENDS = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EFBIG: "a file may not grow that large here; raise the limit (ulimit -f) or choose another folder",
    errno.EACCES: "permission is denied; choose a folder you may write to",
    errno.EROFS: "the file system is read-only; choose a folder you may write to",
    errno.EEXIST: "a part of that path is a file, not a folder; choose another path",
    errno.ENOTDIR: "a part of that path is a file, not a folder; choose another path",
    errno.EISDIR: "that path is a folder, not a file; choose another path",
}


@contextlib.contextmanager
def disk_errors(path: Path | str) -> Iterator[None]:
    """Turns the operating system's errors about writing `path` into one sentence (DiskError)."""
    try:
        yield
    except OSError as error:
        if error.errno not in _MENDS:
            raise
        raise DiskError(f"Cannot write {path}: {_MENDS[error.errno]}.") from error


def describe(error: OSError) -> str:
    """One sentence for a user about what the operating system refused."""
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.EACCES:  # of reading too, so no advice on where to write
        return f"{where}permission is denied; change its permissions or choose another path."
    mend = _MENDS.get(error.errno or 0)
    return f"{where}{mend or f'{error.strerror or error}; check the path and try again'}."


def fsync_dir(path: Path) -> None:
    """Makes a rename inside `path` survive a power cut, where the platform can."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_writer(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Opens a temporary file beside `path`; on leaving without an error it replaces `path`, else it is removed.

    Raises DiskError when the disk is full or may not be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            fsync_dir(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    with atomic_writer(path, "w") as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises DataError when the file is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; check the path.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); restore it or make it anew.") from error


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
