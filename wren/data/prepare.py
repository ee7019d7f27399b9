"""Sources to token shards, to be interrupted anywhere: the same call again goes on and ends with the same bytes.

`.progress.json` is written after every closed shard, when all that it names is on the disk: where in the sources the
next document is, how long the open shard of the other split is, and the counts. Whatever was written later is cut off
when the call is repeated. A finished folder is checked, and damaged shards are made again from where they began.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wren.data.dedup import Contamination, NearHasher
from wren.data.folder import (
    HASHES,
    PROGRESS,
    TOKENIZER,
    check_same,
    clean,
    files_of,
    has_shards,
    is_complete,
    locked,
    plain,
    reopen,
)
from wren.data.holdout import Holdout, plan, raw_documents
from wren.data.pipeline import Stream
from wren.data.settings import Progress, Settings
from wren.data.shards import FORMAT, MANIFEST, SPLITS, Manifest, Split, dtype_for
from wren.data.sources import Source, StdinSource
from wren.data.writing import ShardRun, Task, mend
from wren.errors import ConfigError, DataError, TokenizerError
from wren.files import disk_errors, read_json, write_json
from wren.tokenizer.bpe import Tokenizer, num_cores

SHARD_TOKENS = 1 << 24
TOKENIZER_BYTES = 128 << 20  # of text, from its beginning
_COUNTS = ("documents", "bytes", "tokens")


def prepare(
    sources: Sequence[Source],
    out: Path,
    *,
    tokenizer: Tokenizer | None = None,
    vocab_size: int = 32_768,
    val_sources: Sequence[Source] = (),
    val_fraction: float | None = None,
    val_tokens: int = 10_000_000,
    max_tokens: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
    weights: Sequence[float] | None = None,
    dedup: str = "none",
    decontaminate: Sequence[str] = (),
    workers: int | None = None,
    fresh: bool = False,
    progress: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Manifest:
    """Writes shards, tokenizer and manifest into `out`, goes on with an unfinished run, or mends a finished one.

    tokenizer      None: one of `vocab_size` is trained on the first 128 MiB of training text
    val_sources    the validation split; without them about `val_fraction` (None: 0.5 %) of the documents, chosen by
                   their content, and at most about `val_tokens`; 0 holds nothing out
    max_tokens     stop at the document with which the training split reaches this
    weights        one per source: their shares of the training text's bytes hold at every moment, and the data ends
                   where one of them runs out; None: one source after another
    dedup          none, exact or near (needs `datasketch`), see wren/data/dedup.py
    decontaminate  evaluation files whose text no training document may hold
    fresh          remove what an earlier run left in `out`
    Neither `workers` nor an interruption changes a byte. Raises WrenErrors; there is no manifest then.
    """
    if not sources:
        raise ConfigError("There is no source to read; name one with --source.")
    if workers is not None and workers < 1:
        raise ConfigError(f"The number of workers is {workers}; it must be at least 1.")
    if weights is not None and len(weights) != len(sources):
        raise ConfigError(f"There are {len(weights)} weights for {len(sources)} sources; give one to each.")
    contamination = Contamination(decontaminate) if decontaminate else None
    settings = Settings(
        tokenizer=tokenizer.fingerprint() if tokenizer else None,
        vocab_size=tokenizer.vocab_size if tokenizer else vocab_size,
        val_fraction=val_fraction,
        val_tokens=val_tokens,
        max_tokens=max_tokens,
        shard_tokens=shard_tokens,
        weights=tuple(map(float, weights)) if weights is not None else None,
        dedup=dedup,
        decontaminate=tuple(contamination.fingerprint()) if contamination else (),
    )
    near = NearHasher() if dedup == "near" else None
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        if fresh:
            clean(out, keep=())
        job = _Job(
            sources=sources,
            val_sources=val_sources,
            out=out,
            settings=settings,
            given=tokenizer,
            contamination=contamination,
            near=near,
            num_workers=workers or num_cores(),
            progress=progress or (lambda progress: None),
            say=say or (lambda message: None),
        )
        try:
            return job.run()
        finally:
            if not (out / PROGRESS).exists():  # finished, or not begun
                job.discard_copies()


@dataclass(kw_only=True)
class _Job:
    """One call of `prepare`."""

    sources: Sequence[Source]
    val_sources: Sequence[Source]
    out: Path
    settings: Settings
    given: Tokenizer | None
    contamination: Contamination | None
    near: NearHasher | None
    num_workers: int
    progress: Callable[[Progress], None]
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self.all_sources = [*self.val_sources, *self.sources]
        self._told = 0.0
        self._total = sum(source.approximate_bytes() or 0 for source in self.all_sources) or None
        splits = ["val"] * len(self.val_sources) + ["train"] * len(self.sources)
        named = [
            {"name": source.name, "split": split, "fingerprint": source.fingerprint()}
            for source, split in zip(self.all_sources, splits, strict=True)
        ]
        self.identity = plain({"settings": asdict(self.settings), "sources": named})

    def run(self) -> Manifest:
        if is_complete(self.out):
            manifest = Manifest.load(self.out)
            keys = ("name", "split", "fingerprint")
            old = {"settings": manifest.settings, "sources": [{k: s[k] for k in keys} for s in manifest.sources]}
            check_same(self.out, "a data set", old, self.identity)
            shards = {shard.file for split in manifest.splits.values() for shard in split.shards}
            clean(self.out, keep={MANIFEST, TOKENIZER, HASHES, *shards})
            task = self._task(_holdout(manifest.holdout), self._tokenizer(manifest.tokenizer))
            rebuilt = mend(task, manifest, self.say)
            self.say(f"{self.out} is complete{' again' if rebuilt else ' already'}: {_summary(manifest)}.")
            return manifest
        return self._write()

    def discard_copies(self) -> None:
        for source in self.all_sources:
            if isinstance(source, StdinSource):
                source.discard()

    def _write(self) -> Manifest:
        journal = self._begin()
        holdout = _holdout(journal["holdout"])
        if journal["tokenizer"] is None:
            new = self.given or self._train(holdout)
            new.save(self.out / TOKENIZER)
            journal["tokenizer"] = new.fingerprint()
            write_json(self.out / PROGRESS, journal)
        task = self._task(holdout, self._tokenizer(journal["tokenizer"]))
        resumed = journal["state"] is not None
        with ShardRun(task, journal["state"]) as run:
            run.write(journal)
            self._check_splits(run)
            run.finish()
        manifest = self._manifest(run, task)
        if resumed:  # a shard of the earlier run may have been damaged since
            mend(task, manifest, self.say)
        manifest.save(self.out)
        (self.out / PROGRESS).unlink()
        self.say(f"{self.out} is complete: {_summary(manifest)}.")
        return manifest

    def _begin(self) -> dict[str, Any]:
        """The journal of the unfinished run that is to go on, or a new one."""
        path = self.out / PROGRESS
        if path.exists():
            journal = read_json(path)
            if not isinstance(journal, dict) or journal.get("format") != FORMAT:
                raise DataError(f"{self.out} was begun by another version of Wren; start over with --fresh.")
            check_same(self.out, "an unfinished data set", journal["identity"], self.identity)
            reopen(self.out, journal)
            clean(self.out, keep=files_of(journal))
            if journal["state"]:
                count = sum(len(writer["shards"]) for writer in journal["state"]["writers"].values())
                self.say(f"Going on in {self.out} after {count} finished shards.")
            return journal
        if has_shards(self.out):
            raise DataError(f"{self.out} holds shards without a manifest; choose another folder or use --fresh.")
        settings = self.settings
        if self.val_sources:
            holdout = Holdout(name="given: " + ", ".join(source.name for source in self.val_sources))
        else:
            fraction, most = settings.val_fraction, settings.val_tokens
            holdout = plan(self.sources, settings.weights, fraction, most, settings.max_tokens)
        begun = {"format": FORMAT, "identity": self.identity, "holdout": plain(asdict(holdout))}
        journal = {**begun, "tokenizer": None, "state": None}
        write_json(path, journal)
        return journal

    def _train(self, holdout: Holdout) -> Tokenizer:
        self.say(f"Training a tokenizer of {self.settings.vocab_size:,} on the first {TOKENIZER_BYTES >> 20} MiB.")
        return Tokenizer.train(self._training_texts(holdout), self.settings.vocab_size, max_bytes=TOKENIZER_BYTES)

    def _training_texts(self, holdout: Holdout) -> Iterator[str]:
        """What is not held out, in the order of the shards."""
        documents = size = 0
        for source, part, number, text in raw_documents(self.sources, self.settings.weights):
            visible = holdout.visible(source, part, number, text)
            if visible:
                documents, size = documents + 1, size + len(visible)
                if self._is_time():
                    self.progress(Progress("tokenizer", documents, size, 0, TOKENIZER_BYTES))
                yield visible

    def _tokenizer(self, fingerprint: str) -> Tokenizer:
        """The given tokenizer, or the one that was trained; tokenizer.json holds it in either case."""
        path = self.out / TOKENIZER
        saved = None
        with contextlib.suppress(TokenizerError, DataError):
            saved = Tokenizer.load(path)
        if saved is not None and saved.fingerprint() == fingerprint:
            return self.given or saved
        if self.given is None:
            raise DataError(f"{path} is not the tokenizer of these shards; restore it or start over with --fresh.")
        self.given.save(path)
        return self.given

    def _task(self, holdout: Holdout, tokenizer: Tokenizer) -> Task:
        return Task(
            out=self.out,
            sources=self.all_sources,
            num_given=len(self.val_sources),
            settings=self.settings,
            holdout=holdout,
            tokenizer=tokenizer,
            contamination=self.contamination,
            near=self.near,
            num_workers=self.num_workers,
            tell=self._tell,
        )

    def _tell(self, stage: str, stream: Stream) -> None:
        if self._is_time():
            documents, size, tokens = (sum(counts[key] for counts in stream.counts) for key in _COUNTS)
            self.progress(Progress(stage, documents, size, tokens, self._total))

    def _is_time(self) -> bool:
        """Five times a second."""
        now = time.monotonic()
        if now - self._told < 0.2:
            return False
        self._told = now
        return True

    def _check_splits(self, run: ShardRun) -> None:
        removed = ", ".join(
            f"{count:,} {name.replace('_', ' ')}" for name, count in run.stream.removed.items() if count
        )
        hint = f" ({removed} left out)" if removed else ""
        if not run.writers["train"].tokens:
            raise DataError(
                f"No training text is left{hint}; give more text, or validation text of its own with --val."
            )
        if not run.writers["val"].tokens and self.settings.val_fraction != 0:
            raise DataError(f"No validation text was found{hint}; name some with --val.")

    def _manifest(self, run: ShardRun, task: Task) -> Manifest:
        holdout, tokenizer = task.holdout, task.tokenizer
        weights = [None] * len(self.val_sources) + list(self.settings.weights or [None] * len(self.sources))
        sources = [
            {**named, **counts, **({} if weight is None else {"weight": weight})}
            for named, counts, weight in zip(self.identity["sources"], run.stream.counts, weights, strict=True)
        ]
        names = {"train": "all that is not held out", "val": holdout.name}
        if self.val_sources:
            names["train"] = ", ".join(source.name for source in self.sources)
        splits = {split: Split(name=names[split], shards=tuple(run.writers[split].shards)) for split in SPLITS}
        return Manifest(
            tokenizer=tokenizer.fingerprint(),
            vocab_size=tokenizer.vocab_size,
            dtype=dtype_for(tokenizer.vocab_size).name,
            document_id=tokenizer.document_id,
            splits=splits,
            sources=sources,
            removed=run.stream.removed,
            settings=self.identity["settings"],
            holdout=plain(asdict(holdout)),
            positions={split: run.positions[split][: len(splits[split].shards)] for split in SPLITS},
        )


def _holdout(value: dict[str, Any]) -> Holdout:
    return Holdout(name=value["name"], threshold=value["threshold"], cut=value["cut"] and tuple(value["cut"]))


def _summary(manifest: Manifest) -> str:
    train, val = manifest.splits["train"], manifest.splits["val"]
    count = len(train.shards) + len(val.shards)
    return f"{train.tokens:,} training and {val.tokens:,} validation tokens in {count} shards"
