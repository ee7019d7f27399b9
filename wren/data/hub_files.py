"""A file of a dataset as the hub's tree tells of it: path, size and checksum, with which every copy is compared."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from wren.errors import DataError
from wren.files import sha256_file


class RemoteFile(NamedTuple):
    """A file of a dataset at one commit: its checksum is sha256 of the bytes (LFS), else git's sha1 of its blob."""

    path: str
    size: int
    sha256: str | None
    git_sha1: str | None

    def problem(self, local: Path) -> str | None:
        """What is wrong with this copy of the file, or None."""
        size = local.stat().st_size
        if size != self.size:
            return f"{size:,} bytes instead of {self.size:,}"
        if self.sha256 is not None:
            return None if sha256_file(local) == self.sha256 else "a wrong sha256 checksum"
        if self.git_sha1 is not None and _git_sha1(local) != self.git_sha1:
            return "a wrong git checksum"
        return None


def remote_file(entry: dict[str, Any]) -> RemoteFile:
    """From an entry of the tree; raises DataError for a path that leads out of the folder it is written to."""
    path, lfs = str(entry["path"]), entry.get("lfs")
    if path.startswith("/") or "\\" in path or ".." in path.split("/"):
        raise DataError(f"The dataset holds a file of the unsafe name '{path}'; choose another dataset.")
    if lfs:
        return RemoteFile(path, int(lfs["size"]), str(lfs["oid"]), None)
    return RemoteFile(path, int(entry["size"]), None, str(entry["oid"]))


def _git_sha1(path: Path) -> str:
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
