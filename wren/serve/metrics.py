"""Counters and histograms in the text format that Prometheus reads (version 0.0.4). Threads may share them."""

import bisect
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """Of durations in seconds."""

    def __init__(self, edges: Sequence[float] = _SECONDS):
        self.edges, self.counts, self.total = tuple(edges), [0] * (len(edges) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.edges, value)] += 1
        self.total += value

    def lines(self, name: str) -> Iterable[str]:
        up_to = 0
        for edge, count in zip((*self.edges, "+Inf"), self.counts, strict=True):
            up_to += count
            yield f'{name}_bucket{{le="{edge}"}} {up_to}'
        yield f"{name}_sum {self.total!r}"
        yield f"{name}_count {up_to}"


_COUNTERS = {
    "prompt_tokens": "Tokens of prompts.",
    "cached_tokens": "Tokens of prompts that a kept state had read before.",
    "generated_tokens": "Tokens that were drawn.",
    "learned_tokens": "Tokens that adapters went through before an answer.",
    "cancelled_requests": "Requests whose client went away.",
    "failed_requests": "Requests that ended in an error of the server.",
}
_HISTOGRAMS = {
    "time_to_first_token_seconds": "From a request's admission to its first token.",
    "time_between_tokens_seconds": "Between two tokens of a sample.",
    "request_seconds": "From a request's admission to its end.",
}


class Metrics:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters = dict.fromkeys(_COUNTERS, 0)
        self._histograms = {name: Histogram() for name in _HISTOGRAMS}
        self._requests: dict[tuple[str, int], int] = {}

    def count(self, name: str, by: int = 1) -> None:
        with self._lock:
            self._counters[name] += by

    def observe(self, name: str, seconds: float) -> None:
        with self._lock:
            self._histograms[name].add(seconds)

    def answered(self, path: str, status: int) -> None:
        """An HTTP request; path: one of the server's own, so that no client makes up labels."""
        with self._lock:
            self._requests[path, status] = self._requests.get((path, status), 0) + 1

    def mean(self, name: str) -> float:
        """The mean of a histogram in seconds; 0 before the first one."""
        with self._lock:
            found = self._histograms[name]
            return found.total / max(1, sum(found.counts))

    def text(self, gauges: dict[str, tuple[str, float]]) -> str:
        """gauges: name -> (help, value of now)."""
        with self._lock:
            lines: list[str] = []
            for name, about in _COUNTERS.items():
                lines += [*_head(f"{name}_total", about, "counter"), f"wren_{name}_total {self._counters[name]}"]
            lines += _head("http_requests_total", "HTTP requests by path and status.", "counter")
            for (path, status), count in sorted(self._requests.items()):
                lines.append(f'wren_http_requests_total{{path="{path}",status="{status}"}} {count}')
            for name, about in _HISTOGRAMS.items():
                lines += [*_head(name, about, "histogram"), *self._histograms[name].lines(f"wren_{name}")]
        for name, (about, value) in gauges.items():
            lines += [*_head(name, about, "gauge"), f"wren_{name} {value}"]
        return "\n".join(lines) + "\n"


def _head(name: str, about: str, kind: str) -> list[str]:
    return [f"# HELP wren_{name} {about}", f"# TYPE wren_{name} {kind}"]


def resident_bytes() -> int:
    """Main memory that this process holds; 0 where the system does not say."""
    try:
        fields = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    line = next((line for line in fields.splitlines() if line.startswith("VmRSS:")), "VmRSS: 0 kB")
    return int(line.split()[1]) * 1024
