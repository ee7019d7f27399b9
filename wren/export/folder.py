"""A folder that is whole or absent: filled under a temporary name beside it, then renamed."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from wren.errors import ConfigError, DiskError
from wren.files import disk_errors, fsync_dir


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """The temporary folder to fill; on leaving without an error it becomes `path`, else it is removed.

    Raises ConfigError where `path` exists and is not an empty folder, DiskError where the disk is full.
    """
    check_new(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            with safetensors_errors(path):
                yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _fsync(file)
            fsync_dir(temporary)
            if path.is_dir():
                path.rmdir()
            os.replace(temporary, path)
            fsync_dir(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def check_new(path: Path) -> None:
    """Raises ConfigError where something lies at `path` already, an empty folder aside."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path} exists already; name a new folder with --out, or remove that one.")


@contextlib.contextmanager
def safetensors_errors(path: Path) -> Iterator[None]:
    """Turns safetensors' report of a disk that is full, which comes as text, into one sentence (DiskError)."""
    try:
        yield
    except SafetensorError as error:
        raise DiskError(f"Cannot write {path}: {error}; free some space or choose another folder.") from error


def _fsync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
