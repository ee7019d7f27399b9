"""Text out of tokens, for several rows at once: whole characters only, and up to a stop string.

B batch.
"""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import replace

from wren.generate.engine import Engine
from wren.generate.loading import Loaded
from wren.generate.sample import Event, Handle
from wren.generate.settings import Finish, Request, Sampling, row_seed
from wren.precision import Precision
from wren.tokenizer import Tokenizer


class Pieces:
    """One row's text as it comes: bytes go in, pieces of whole characters come out.

    What may be the beginning of a stop string is held back. stopped: the stop string that ended the text, None as long
    as none did; it is not part of the text, and nothing comes after it.
    """

    def __init__(self, stop: Sequence[str] = ()):
        self.stop = [text for text in stop if text]
        self.stopped: str | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    def push(self, data: bytes) -> str:
        """The text that is certain now; "" where there is none."""
        return self.push_text(self._decoder.decode(data))

    def push_text(self, piece: str) -> str:
        if self.stopped is not None:
            return ""
        self._held += piece
        found = [(self._held.find(text) + len(text), self._held.find(text), text) for text in self.stop]
        complete = [each for each in found if each[1] >= 0]
        if complete:
            _, start, self.stopped = min(complete)
            ready, self._held = self._held[:start], ""
            return ready
        starts = (n for text in self.stop for n in range(1, len(text)) if self._held.endswith(text[:n]))
        cut = len(self._held) - max(starts, default=0)
        ready, self._held = self._held[:cut], self._held[cut:]
        return ready

    def finish(self) -> str:
        """What was held back, once no more comes; half a character becomes U+FFFD."""
        ready = self.push_text(self._decoder.decode(b"", final=True)) + self._held
        self._held = ""
        return ready


class TextRow:
    """A sample's text. push takes the sample's events; text and finish are what there is of it so far."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()):
        self.tokenizer, self.pieces = tokenizer, Pieces(stop)
        self.text = ""
        self.finish: Finish | None = None

    def push(self, event: Event) -> str:
        """The new piece of text. Where a stop string ended it, finish is "stop" and the sample is to be cancelled."""
        if self.finish is not None:
            return ""
        piece = ""
        if event.drawn is not None and event.finish != "stop":
            piece = self.pieces.push(self.tokenizer.decode_bytes([event.drawn.token]))
        self.finish = "stop" if self.pieces.stopped is not None else event.finish
        if event.finish is not None and self.pieces.stopped is None:
            piece += self.pieces.finish()
        self.text += piece
        return piece


def stream_rows(
    engine: Engine, tokenizer: Tokenizer, handles: Sequence[Handle], stop: Sequence[str] = ()
) -> Iterator[tuple[int, str]]:
    """(row, piece) for every new piece of text of the samples, numbered through all handles, until all have ended.

    Raises the error of a row that had one. The engine runs these requests alone; what they leave undone when the
    caller stops listening is cancelled.
    """
    first, count = {}, 0
    for handle in handles:
        first[handle] = count
        count += len(handle.samples)
    rows = [TextRow(tokenizer, stop) for _ in range(count)]
    try:
        while engine.busy:
            for event in engine.step():
                row = first[event.handle] + event.sample
                error = event.handle.completions[event.sample].error
                if error is not None:
                    raise error
                if piece := rows[row].push(event):
                    yield row, piece
                if rows[row].finish is not None:
                    engine.cancel(event.handle, event.sample)
    finally:
        for handle in handles:
            engine.cancel(handle)


def stream_text(
    loaded: Loaded,
    prompt: str,
    sampling: Sampling,
    precision: Precision,
    *,
    stop: Sequence[str] = (),
    row: int = 0,
) -> Iterator[str]:
    """Yields the continuation of `prompt` in pieces of whole characters; ends at a document's end or a stop string.

    row: number of the sample, so that samples of one seed differ. A stop string is not part of the text.
    """
    engine = Engine(loaded.model, precision, vocab_size=loaded.tokenizer.vocab_size)
    own = replace(sampling, seed=row_seed(sampling.seed, row))
    handle = engine.submit(text_request(loaded.tokenizer, prompt, own))
    for _, piece in stream_rows(engine, loaded.tokenizer, [handle], stop):
        yield piece


def text_request(tokenizer: Tokenizer, prompt: str, sampling: Sampling, n: int = 1) -> Request:
    """A document that begins with `prompt`, until it ends."""
    tokens = [tokenizer.document_id, *tokenizer.encode(prompt)]
    return Request(prompt=tokens, n=n, sampling=sampling, stop_ids=frozenset(tokenizer.special.values()))


def sample_texts(loaded: Loaded, prompts: Sequence[str], precision: Precision, sampling: Sampling) -> list[str]:
    """One text for each prompt, prompt included; shorter where learned positions end."""
    texts, positions = list(prompts), loaded.model.config.learned_positions
    engine = Engine(loaded.model, precision, vocab_size=loaded.tokenizer.vocab_size)
    handles, rows = [], []
    for row, prompt in enumerate(prompts):
        room = sampling.max_tokens
        if positions is not None:  # the document's start takes one of them
            room = min(room, positions - 1 - len(loaded.tokenizer.encode(prompt)))
        if room > 0:
            least = min(sampling.min_tokens, room)
            own = replace(sampling, max_tokens=room, min_tokens=least, seed=row_seed(sampling.seed, row))
            handles.append(engine.submit(text_request(loaded.tokenizer, prompt, own)))
            rows.append(row)
    for i, piece in stream_rows(engine, loaded.tokenizer, handles):
        texts[rows[i]] += piece
    return texts


def until_stop(pieces: Iterator[str], stop: Sequence[str]) -> Iterator[str]:
    """The pieces up to the stop string that is complete first; what may be the beginning of one is held back."""
    row = Pieces(stop)
    for piece in pieces:
        if ready := row.push_text(piece):
            yield ready
        if row.stopped is not None:
            return
    if ready := row.finish():
        yield ready
