"""The hub over HTTP: JSON answers, ranges and whole verified files, with retries that are told and bounded.

Sessions, tokens, proxies and the end point are huggingface_hub's. Files come by plain range requests to its `resolve`
addresses and not by its `hf_hub_download`: that one (2.4.0) writes to a random name and deletes it when it fails, so a
kill in the middle of a 2 GB file would begin it anew. Here a partial file stays, named after its checksum, and grows.
"""

import email.utils
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from huggingface_hub import __version__, constants, get_session, get_token
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import httpx

from wren.data.hub_files import RemoteFile, remote_file
from wren.errors import ConfigError, DataError, NetworkError, WrenError
from wren.files import disk_errors, fsync_dir

OFFLINE = (
    "without a network `wren quickstart` needs no download and `wren data --source FILE... --out DIR` takes any text, "
    "also a .parquet file that was copied over by hand"
)
AGAIN = "the same command goes on where it stopped"
_PASSING = {408, 425, 429, 500, 502, 503, 504}
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Exponential back-off with jitter: waits of first_s * 2^n * (0.5 to 1.5) seconds, at most longest_s each."""

    attempts: int = 8  # in a row without one new byte
    unreached: int = 3  # of these while the hub was never reached: most likely there is no network
    damaged: int = 3  # downloads of one file whose checksum may be wrong
    first_s: float = 1.0
    longest_s: float = 60.0
    patience_s: float = 900.0  # a hub that asks for a longer wait than this ends the run

    def wait_s(self, failures: int, rng: random.Random) -> float:
        """Seconds to wait after that many failures in a row (1 or more)."""
        return min(self.first_s * 2.0 ** min(failures - 1, 30), self.longest_s) * rng.uniform(0.5, 1.5)


class _Fault(Exception):
    """Something that may pass: the request is made again after a wait."""

    def __init__(self, text: str, *, retry_after_s: float | None = None, damaged: bool = False) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s
        self.damaged = damaged


class Stopped(Exception):
    """`HubClient.stop` was set while this thread was waiting or downloading."""


class HubClient:
    """Asks one hub; every fault that passes is reported in a line and tried again.

    Args:
        endpoint: address of the hub; None is huggingface_hub's (HF_ENDPOINT or the public one).
        rng: makes the jitter of the waits.
        report: gets one line for each fault.
        timeout_s: seconds without a byte after which a connection is given up.

    Methods raise NetworkError when the hub stays unreachable or answers wrongly, DataError or ConfigError for what the
    user named wrongly, DiskError when a file cannot be written, and Stopped.
    """

    def __init__(
        self,
        rng: random.Random,
        report: Callable[[str], None],
        *,
        endpoint: str | None = None,
        retry: Retry | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self.retry = retry or Retry()
        self.stop = threading.Event()
        self._rng = rng
        self.report = report
        self._timeout = httpx.Timeout(timeout_s)
        self._reached = False

    def commit(self, repo: str, revision: str | None) -> tuple[str, dict[str, Any]]:
        """The commit that `revision` (a branch, tag or commit; None is main) names now, and the dataset's card."""
        url = f"{self.endpoint}/api/datasets/{repo}" + (f"/revision/{quote(revision, safe='')}" if revision else "")
        info, _ = self._json(url, repo)
        if not isinstance(info, dict) or not re.fullmatch(r"[0-9a-f]{40}", str(info.get("sha"))):
            raise NetworkError(f"{url} did not answer as a hub does; check HF_ENDPOINT and your proxy.")
        return info["sha"], info.get("cardData") or {}

    def tree(self, repo: str, revision: str) -> Iterator[RemoteFile]:
        """Every file of the dataset at that commit, page after page."""
        url: str | None = f"{self.endpoint}/api/datasets/{repo}/tree/{quote(revision, safe='')}?recursive=true"
        while url is not None:
            page, url = self._json(url, repo)
            yield from (remote_file(entry) for entry in page if entry.get("type") == "file")

    def url(self, repo: str, revision: str, path: str) -> str:
        return f"{self.endpoint}/datasets/{repo}/resolve/{revision}/{quote(path)}"

    def read_range(self, repo: str, revision: str, path: str, start: int, length: int) -> bytes | None:
        """`length` bytes of the file from `start`; None when the hub does not serve ranges."""
        headers = {"Range": f"bytes={start}-{start + length - 1}"}

        def action() -> bytes | None:
            with self._stream(self.url(repo, revision, path), headers) as response:
                self._check(response, repo)
                if response.status_code != 206:
                    return None
                data = response.read()
            if len(data) != length:
                raise _Fault(f"a range of {len(data)} bytes instead of {length}")
            return data

        return self._persist(f"Reading {path}", action)

    def download(
        self, repo: str, revision: str, file: RemoteFile, target: Path, progress: Callable[[int], None]
    ) -> None:
        """Brings the whole file to `target`, going on from what an earlier try left, and verifies its checksum.

        `progress` is called with the number of bytes that are there.
        """
        digest = file.sha256 or file.git_sha1 or "0" * 12
        partial = target.with_name(f".{target.name}.{digest[:12]}.part")
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)

        def action() -> None:
            with disk_errors(target):
                self._append(repo, revision, file, partial, progress)
                problem = file.problem(partial)
                if problem is not None:
                    partial.unlink()
                    progress(0)
                    raise _Fault(f"it came with {problem}, so it is deleted and fetched anew", damaged=True)
                os.replace(partial, target)
                fsync_dir(target.parent)

        self._persist(f"Downloading {file.path}", action, lambda: partial.stat().st_size if partial.exists() else 0)

    def _append(
        self, repo: str, revision: str, file: RemoteFile, partial: Path, progress: Callable[[int], None]
    ) -> None:
        """Downloads what `partial` still lacks."""
        have = partial.stat().st_size if partial.exists() else 0
        if have == file.size and partial.exists():
            return
        if have > file.size:
            partial.unlink()
            have = 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        with self._stream(self.url(repo, revision, file.path), headers) as response:
            if response.status_code == 416:
                partial.unlink(missing_ok=True)
                raise _Fault("the hub refused the rest of the file, so it is begun anew", damaged=True)
            self._check(response, repo)
            if response.status_code != 206:
                have = 0  # the whole file comes, whatever was asked
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                raise _Fault("the hub sent another range than asked", damaged=True)
            with open(partial, "ab" if have else "wb") as out:
                for chunk in response.iter_bytes():  # as they arrive: a dropped connection loses nothing
                    have += out.write(chunk)
                    progress(have)
                    if self.stop.is_set():
                        raise Stopped
                    if have > file.size:
                        break
                out.flush()
                os.fsync(out.fileno())
        if have < file.size:
            raise _Fault(f"the connection ended after {have:,} of {file.size:,} bytes")

    def _json(self, url: str, repo: str) -> tuple[Any, str | None]:
        """The answer and the address of the next page, if any."""

        def action() -> tuple[Any, str | None]:
            with self._stream(url, {}) as response:
                self._check(response, repo)
                response.read()
                try:
                    return response.json(), response.links.get("next", {}).get("url")
                except ValueError as error:
                    raise _Fault("an answer that is not JSON") from error

        return self._persist(f"Asking for {repo}", action)

    def _stream(self, url: str, headers: dict[str, str]) -> Any:
        # not build_hf_headers: it asks the hub for a list first, and tells it which packages are installed
        token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
        headers = {"User-Agent": f"wren; hf_hub/{__version__}", **headers}
        headers["Accept-Encoding"] = "identity"  # compressed, lengths and ranges would be those of another file
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return get_session().stream("GET", url, headers=headers, timeout=self._timeout, follow_redirects=True)

    def _persist(self, what: str, action: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
        """Runs `action` until it succeeds; the count of failures starts anew with each new byte of progress."""
        failures = damaged = 0
        while True:
            before = progress()
            try:
                return action()
            except (_Fault, httpx.TransportError) as error:
                if isinstance(error, httpx.UnsupportedProtocol):
                    raise ConfigError(
                        f"'{self.endpoint}' is no address of a hub; unset or mend HF_ENDPOINT."
                    ) from error
                fault = error
            except OfflineModeIsEnabled as error:
                raise NetworkError(f"HF_HUB_OFFLINE forbids the network; unset it, or: {OFFLINE}.") from error
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise NetworkError(f"{what} failed ({_reason(error)}); check HF_ENDPOINT and your proxy.") from error
            failures = 1 if progress() > before else failures + 1
            damaged += isinstance(fault, _Fault) and fault.damaged
            most = self.retry.attempts if self._reached else min(self.retry.attempts, self.retry.unreached)
            if failures >= most or damaged >= self.retry.damaged:
                raise self._surrender(what, fault, failures, damaged) from fault
            self._pause(what, fault, failures)

    def _surrender(self, what: str, fault: Exception, failures: int, damaged: int) -> WrenError:
        if isinstance(fault, httpx.ConnectError | httpx.ConnectTimeout):
            return NetworkError(
                f"The hub at {self.endpoint} cannot be reached ({_reason(fault)}): check the connection and {AGAIN}; "
                f"{OFFLINE}."
            )
        times = damaged if damaged >= self.retry.damaged else failures
        return NetworkError(f"{what} failed {times} times, the last time because: {_reason(fault)}; later {AGAIN}.")

    def _pause(self, what: str, fault: Exception, failures: int) -> None:
        asked = fault.retry_after_s if isinstance(fault, _Fault) else None
        if asked is not None and asked > self.retry.patience_s:
            raise NetworkError(f"{what}: the hub asks to wait {asked:.0f} seconds; after that {AGAIN}.") from fault
        wait = max(asked or 0.0, self.retry.wait_s(failures, self._rng))
        self.report(f"{what}: {_reason(fault)}; trying again in {wait:.1f} s (failure {failures})")
        if self.stop.wait(wait):
            raise Stopped

    def _check(self, response: Any, repo: str) -> None:
        """Raises for an answer that is none: _Fault when it may pass, a WrenError when it will not."""
        self._reached = True
        status, code = response.status_code, response.headers.get("X-Error-Code", "")
        if status < 400:
            return
        if status in _PASSING:
            raise _Fault(f"the hub answered {status}", retry_after_s=_retry_after(response.headers))
        message = response.headers.get("X-Error-Message", "")
        page = f"{self.endpoint}/datasets/{repo}"
        if status == 401 and "credential" in message.lower():
            raise ConfigError("The hub does not accept your token; set HF_TOKEN to a valid one, or unset it.")
        if code == "GatedRepo":
            raise DataError(
                f"Dataset '{repo}' is gated: accept its terms at {page} and set HF_TOKEN to a token of that account."
            )
        if code == "RevisionNotFound":
            raise DataError(f"Dataset '{repo}' has no such revision; look at {page}/commits/main for what exists.")
        if code == "EntryNotFound":
            raise DataError(f"Dataset '{repo}' has no file {response.url.path} any more; choose another --revision.")
        if status == 404 or status == 401 or code == "RepoNotFound":
            raise DataError(
                f"Dataset '{repo}' is not on the hub at {self.endpoint}, or it is private: check the spelling "
                "(owner/name), or set HF_TOKEN to a token that may read it."
            )
        if status == 403:
            raise DataError(f"The hub forbids reading '{repo}' ({message or 403}); set HF_TOKEN to a token that may.")
        raise NetworkError(f"The hub answered {status} to {response.url}; check HF_ENDPOINT and your proxy.")


def _retry_after(headers: Any) -> float | None:
    """Seconds the hub asks to wait: `Retry-After` (seconds or a date), or the hub's `RateLimit: "api";r=0;t=55`."""
    value = headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    if value:
        try:
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
        except ValueError:
            return None
    limit = re.search(r"\br\s*=\s*0\s*;\s*t\s*=\s*(\d+)", headers.get("RateLimit", ""))
    return float(limit.group(1)) if limit else None


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
