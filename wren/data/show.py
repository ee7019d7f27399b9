"""What a person sees while data is prepared: a progress bar, or plain lines where there is no terminal."""

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from wren import units
from wren.data import prepare
from wren.data.shards import Manifest, dtype_for
from wren.data.sources import Source

_STAGES = {"tokenizer": "Training the tokenizer", "shards": "Writing shards", "rebuild": "Rebuilding shards"}
_SECONDS_BETWEEN_LINES = 10.0


class DataDisplay:
    """A context manager whose `update` takes the progress that prepare() reports and whose `say` prints a line."""

    def __init__(self, console: Console | None = None):
        self._console = console or Console(stderr=not sys.stdout.isatty())
        self._live = self._console.is_terminal
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=self._console, transient=True)
        self._task = None
        self._stage = ""
        self._start = self._last = time.monotonic()
        self._first_bytes = 0

    def __enter__(self) -> Self:
        if self._live:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def update(self, now: prepare.Progress) -> None:
        if now.stage != self._stage:
            self._stage, self._start, self._first_bytes = now.stage, time.monotonic(), now.bytes
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(_STAGES.get(now.stage, now.stage), total=now.total_bytes, rate="")
            if not self._live:
                self.say(f"{_STAGES.get(now.stage, now.stage)} ...")
        seconds = max(time.monotonic() - self._start, 1e-6)
        rate = (
            f"{now.documents:,} documents, {units.short(now.tokens)} tokens, "
            f"{units.size((now.bytes - self._first_bytes) / seconds)}/s"
        )
        if self._live and self._task is not None:
            self._bar.update(self._task, completed=now.bytes, total=now.total_bytes, rate=rate)
        elif time.monotonic() - self._last > _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            self.say(f"  {rate}")


def plan(sources: Sequence[Source], out: Path, vocab_size: int) -> str:
    """What `wren data` would do, for --dry-run: nothing is read but sizes, nothing is written."""
    lines, total = [f"Would write shards of a vocabulary of {vocab_size:,} into {out} from:"], 0
    for source in sources:
        about = source.approximate_bytes()
        total += about or 0
        size = f"about {units.size(about)} of text" if about is not None else "of unknown size"
        lines.append(f"  {source.name}: {len(source.parts()):,} file(s), {size}")
    need = total / 4 * dtype_for(vocab_size).itemsize
    folder = next(parent for parent in [out.absolute(), *out.absolute().parents] if parent.exists())
    free = shutil.disk_usage(folder).free
    lines.append(
        f"That is about {units.short(total / 4)} tokens (at 4 bytes each) and {units.size(need)} of shards; "
        f"{units.size(free)} are free there."
    )
    return "\n".join(lines)


def summary(manifest: Manifest, out: Path) -> str:
    """What was written, in a few lines."""
    lines = [f"{out}: vocabulary {manifest.vocab_size:,}, {manifest.dtype}."]
    for name, split in manifest.splits.items():
        per_token = f", {split.bytes / split.tokens:.2f} bytes a token" if split.tokens else ""
        lines.append(
            f"  {name:<5} {split.documents:>12,} documents {split.tokens:>15,} tokens "
            f"{units.size(split.bytes):>9} of text{per_token}  ({split.name})"
        )
    removed = {kind.replace("_", " "): count for kind, count in manifest.removed.items() if count}
    if removed:
        lines.append("  removed: " + ", ".join(f"{count:,} {kind}" for kind, count in removed.items()))
    replaced = sum(source.get("replaced_characters", 0) for source in manifest.sources)
    if replaced:
        lines.append(f"  {replaced:,} broken characters were replaced by U+FFFD (--strict refuses them)")
    return "\n".join(lines)
