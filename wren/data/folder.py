"""The files of a prepared folder: their names, who may write there, what is left over, and what it was made from."""

import contextlib
import json
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from wren.data.shards import MANIFEST, SPLITS, partial_name, shard_name
from wren.errors import ConfigError, DataError
from wren.files import disk_errors, fsync_dir

PROGRESS = ".progress.json"
TOKENIZER = "tokenizer.json"
HASHES = "dedup.bin"
_OURS = re.compile(
    r"(train|val)_\d{6}\.bin|\.(train|val)_\d{6}\.bin\.partial|manifest\.json|tokenizer\.json|\.progress\.json|dedup\.bin"
    r"|\.((train|val)_\d{6}\.bin|manifest\.json|tokenizer\.json|\.progress\.json)\.\d+\.tmp|\.dedup\.tmp|\.stdin(\.tmp)?"
)
_SHARD = re.compile(r"(train|val)_\d{6}\.bin")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a second run out of the folder; the lock ends with the process, however that ends."""
    if os.name != "posix":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise DataError(f"{folder} is being written by another run; wait for it or choose another folder.") from error
    finally:
        os.close(descriptor)


def clean(folder: Path, keep: Collection[str]) -> None:
    """Removes what a run of `prepare` may have left, except the files named in `keep`."""
    with disk_errors(folder):
        for path in folder.iterdir():
            if path.name not in keep and _OURS.fullmatch(path.name):
                path.unlink()


def has_shards(folder: Path) -> bool:
    return any(_SHARD.fullmatch(path.name) for path in folder.iterdir())


def reopen(folder: Path, journal: dict[str, Any]) -> None:
    """Gives back its open name to a shard that was closed after the journal was last written."""
    for split in SPLITS if journal["state"] else ():
        writer = journal["state"]["writers"][split]
        index = len(writer["shards"])
        closed = folder / shard_name(split, index)
        if writer["open"][0] and closed.exists():
            with disk_errors(closed):
                os.replace(closed, folder / partial_name(split, index))
                fsync_dir(folder)


def files_of(journal: dict[str, Any]) -> set[str]:
    """The files that an unfinished run goes on from."""
    files = {PROGRESS, ".stdin"}
    if journal["tokenizer"] is not None:
        files.add(TOKENIZER)
    if journal["state"] is not None:
        files.add(HASHES)
        for split in SPLITS:
            writer = journal["state"]["writers"][split]
            files |= {shard["file"] for shard in writer["shards"]}
            files.add(partial_name(split, len(writer["shards"])))
    return files


def plain(value: Any) -> Any:
    """The value as it comes back from JSON."""
    return json.loads(json.dumps(value))


def check_same(folder: Path, what: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raises ConfigError, which names the first difference, when `folder` was made from something else."""
    mend = "repeat the first command, choose another folder, or start over with --fresh"
    for key, value in new["settings"].items():
        before = old["settings"].get(key)
        if before != value:
            raise ConfigError(f"{folder} holds {what} made with {key} = {before!r}, not {value!r}; {mend}.")
    names = [source["name"] for source in old["sources"]]
    if names != [source["name"] for source in new["sources"]]:
        raise ConfigError(f"{folder} holds {what} made from other sources ({', '.join(names)}); {mend}.")
    for before, source in zip(old["sources"], new["sources"], strict=True):
        if before != source:
            raise ConfigError(f"{folder} holds {what} made from {source['name']}, which changed since; {mend}.")


def is_complete(folder: Path) -> bool:
    return (folder / MANIFEST).exists()
