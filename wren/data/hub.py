"""Any dataset on the hub as a Source: its files at one pinned commit, brought while earlier ones are being read.

    pinned(wanted, out) or look_up(client, wanted)  -> Located    (hub_locate.py) which files, at which commit
    HubSource(client, located, raw)                 its parts are those files; a background thread keeps a few ahead

A raw file lies at `raw/<its path in the dataset>`. It is verified when a run first needs it (so a file copied there by
hand is as good as a downloaded one). Once a later part has been read to its end it is removed, unless `keep_raw`; only
SPENT_BYTES of such files stay, because training a tokenizer reads the first ones before the shards do. Whoever asks for
a removed part again (to rebuild a damaged shard) gets it downloaded again.
"""

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from wren.data.hub_client import HubClient, Stopped
from wren.data.hub_locate import Located
from wren.data.sources import FilePart

SPENT_BYTES = 512 << 20


class HubPart:
    """One file of the dataset; `documents` waits until the file is there."""

    def __init__(self, source: "HubSource", index: int) -> None:
        self.name = source.located.files[index].path
        self._source = source
        self._index = index

    def documents(self) -> Iterator[str]:
        path = self._source.wait_for(self._index)
        yield from FilePart(path, self._source.located.wanted.column, self._source.strict).documents()
        self._source.spent(self._index)


class HubSource:
    """A Source over the hub's files; use it as a context manager, which ends the background thread.

    Args:
        raw: folder of the raw files.
        keep_raw: leave them there.
        strict: refuse text that is not UTF-8 instead of replacing what is broken.
        keep_spent: bytes of raw files that stay although they were read, besides the last one.
        ahead: how many files beyond the one being read are fetched.
        num_needed: files from there on are fetched only when asked for (an estimate of what `--tokens` needs).
        progress: gets (path, bytes there, bytes of the whole) as files grow, from another thread.
    """

    def __init__(
        self,
        client: HubClient,
        located: Located,
        raw: Path,
        *,
        keep_raw: bool = False,
        strict: bool = False,
        keep_spent: int = SPENT_BYTES,
        ahead: int = 2,
        num_needed: int | None = None,
        progress: Callable[[str, int, int], None] = lambda path, there, whole: None,
    ) -> None:
        self.located = located
        self.name = "/".join(filter(None, ["hub:" + located.wanted.repo, located.config, located.wanted.split]))
        self.strict = strict
        self._client = client
        self._raw = raw
        self._keep_raw = keep_raw
        self._keep_spent = keep_spent
        self._ahead = ahead
        self._num_needed = len(located.files) if num_needed is None else num_needed
        self._progress = progress
        self._changed = threading.Condition()
        self._asked: set[int] = set()  # the parts that are being waited for
        self._position = 0
        self._ready: set[int] = set()
        self._spent: list[int] = []  # the latest last
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def __enter__(self) -> "HubSource":
        self._closed = False
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fingerprint(self) -> dict[str, Any]:
        """What the shards depend on: equal fingerprints mean equal text in equal order."""
        wanted, files = self.located.wanted, self.located.files
        return {
            "kind": "hub",
            "repo": wanted.repo,
            "config": self.located.config,
            "split": wanted.split,
            "column": wanted.column,
            "revision": self.located.revision,
            "files": [[file.path, file.size, file.sha256 or file.git_sha1] for file in files],
        }

    def approximate_bytes(self) -> int:
        return int(sum(file.size for file in self.located.files) * self.located.text_per_byte)

    def parts(self) -> list[HubPart]:
        return [HubPart(self, index) for index in range(len(self.located.files))]

    def path(self, index: int) -> Path:
        return self._raw / _local_name(self.located.files[index].path)

    def wait_for(self, index: int) -> Path:
        """The raw file of that part, whole and verified; raises what went wrong in fetching it, Stopped when closed."""
        with self._changed:
            self._asked.add(index)
            self._position = index
            if index in self._spent:
                self._spent.remove(index)
            if not self._closed and (self._thread is None or not self._thread.is_alive()):
                self._client.stop.clear()
                self._error = None
                self._thread = threading.Thread(target=self._fetch, name="hub", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            try:
                while index not in self._ready:
                    if self._closed:
                        raise Stopped
                    if self._error is not None:
                        raise self._error
                    self._changed.wait()
            finally:
                self._asked.discard(index)
        return self.path(index)

    def spent(self, index: int) -> None:
        """The part was read to its end; what was read before it and is too much goes from the disk."""
        with self._changed:
            self._spent.append(index)
            sizes = [self.located.files[i].size for i in self._spent]
            while not self._keep_raw and len(sizes) > 1 and sum(sizes[:-1]) > self._keep_spent:
                oldest = self._spent.pop(0)
                sizes.pop(0)
                self._ready.discard(oldest)
                self.path(oldest).unlink(missing_ok=True)

    def remove_raw(self) -> None:
        """To be called when the shards are complete: removes the raw files unless they are kept."""
        self.close()
        if self._keep_raw:
            return
        targets = [self.path(index) for index in range(len(self.located.files))]
        for target in targets:
            for path in [target, *target.parent.glob(f".{target.name}.*.part")]:
                path.unlink(missing_ok=True)
        folders = {parent for target in targets for parent in target.parents}
        for folder in sorted((f for f in folders if f.is_relative_to(self._raw)), reverse=True):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def close(self) -> None:
        """Ends the background thread; what it had downloaded stays for the next time."""
        self._client.stop.set()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout=5)  # a silent connection may hold it longer; it is a daemon

    def _next(self) -> int | None:
        """The part to fetch now: the one that is waited for, else the first one ahead that is not there."""
        if self._asked - self._ready:
            return min(self._asked - self._ready)
        end = min(self._position + self._ahead + 1, self._num_needed)
        return next((i for i in range(self._position + 1, end) if i not in self._ready), None)

    def _fetch(self) -> None:
        try:
            while True:
                with self._changed:
                    while (index := self._next()) is None and not self._client.stop.is_set():
                        self._changed.wait()
                if index is None or self._client.stop.is_set():
                    return
                self._bring(index)
                with self._changed:
                    self._ready.add(index)
                    self._changed.notify_all()
        except Stopped:
            return
        except Exception as error:  # noqa: BLE001  the reader raises it: a thread that dies alone would hang it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _bring(self, index: int) -> None:
        file, target = self.located.files[index], self.path(index)
        if target.exists():
            if file.problem(target) is None:
                self._progress(file.path, file.size, file.size)
                return
            target.unlink()
        wanted, revision = self.located.wanted, self.located.revision
        self._client.download(
            wanted.repo, revision, file, target, lambda there: self._progress(file.path, there, file.size)
        )


def _local_name(path: str) -> str:
    """JSON lines are often called .json on the hub; on the disk they are called what they are."""
    return re.sub(r"\.json(?=(\.gz|\.zst)?$)", ".jsonl", path)
