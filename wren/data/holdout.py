"""The validation split: which documents are held out of training, fixed by their content and by nothing else.

A document is held out when the 64-bit hash of its text is below a threshold, whatever comes before it; so equal
documents always land on the same side. A corpus of fewer than 20 documents gives its last tenth instead.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from wren.data.readers import parted
from wren.data.sources import Source, digest
from wren.errors import DataError

FRACTION = 0.005
TAIL_FRACTION = 0.1
FEW = 20  # documents
_ALL = 1 << 64
_BYTES_PER_TOKEN = 4.0  # of English; only the size of the split rests on it


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """The rule: documents with a hash below `threshold`, or all text from `cut` on.

    `cut` is (source, part, document, character): documents behind it are held out, and that one is split there.
    """

    name: str
    threshold: int = 0
    cut: tuple[int, int, int, int] | None = None

    def marked(self, source: int, part: int, texts: Iterable[str]) -> Iterator[tuple[str, bool | None]]:
        """The texts with whether they are held out; None where their hash has to tell."""
        if self.cut is None:
            yield from ((text, None) for text in texts)
            return
        *place, character = self.cut
        for number, text in enumerate(texts):
            here = [source, part, number]
            if here == place and character:
                before, after = parted(text, character)
                yield before, False
                yield after, True
            else:
                yield text, here >= place

    def visible(self, source: int, part: int, number: int, text: str) -> str:
        """What training may see of a document, perhaps nothing."""
        if self.cut is None:
            return text if content_hash(text) >= self.threshold else ""
        *place, character = self.cut
        here = [source, part, number]
        return text if here < place else text[:character] if here == place else ""


def raw_documents(sources: Sequence[Source], weights: Sequence[float] | None) -> Iterator[tuple[int, int, int, str]]:
    """(source, part, number, text) in the order of training; a mixture ends where one of its sources does."""
    streams = [_numbered(source) for source in sources]
    lengths = [0] * len(sources)
    if weights is None:
        for index, stream in enumerate(streams):
            yield from ((index, *place) for place in stream)
        return
    while True:
        index = next_source(lengths, weights)
        place = next(streams[index], None)
        if place is None:
            return
        lengths[index] += len(place[2])
        yield index, *place


def next_source(lengths: Sequence[int], weights: Sequence[float]) -> int:
    """The source that is furthest behind its share: at every moment each is within a document of it."""
    return min(range(len(weights)), key=lambda index: lengths[index] / weights[index])


def plan(
    sources: Sequence[Source],
    weights: Sequence[float] | None,
    fraction: float | None,
    max_val_tokens: int,
    max_tokens: int | None,
) -> Holdout:
    """The rule for these sources: about `fraction` of the text (0.5 %), at most about `max_val_tokens`, never nothing.

    Reads only up to the first document that is held out; raises DataError when there is no text at all.
    """
    if fraction == 0:
        return Holdout(name="none")
    share = _capped(FRACTION if fraction is None else fraction, sources, max_val_tokens, max_tokens)
    threshold = int(share * _ALL)
    lowest, size, complete = _ALL, 0, True
    lengths: list[tuple[tuple[int, int, int], int]] = []
    for *place, text in raw_documents(sources, weights):
        if not text.strip():
            continue
        lowest = min(lowest, content_hash(text))
        size += len(text)
        if len(lengths) < FEW:
            lengths.append(((place[0], place[1], place[2]), len(text)))
        # a limited run must meet a held-out document before its limit; a token is a byte or more
        if max_tokens is not None and size >= max_tokens:
            complete = False
            break
        if lowest < threshold and len(lengths) == FEW:
            break
    if not lengths:
        names = ", ".join(source.name for source in sources)
        raise DataError(f"{names}: there is no text in it; give a source with some.")
    if complete and len(lengths) < FEW:
        tail = TAIL_FRACTION if fraction is None else fraction
        return _tail(sources, lengths, min(tail, max_val_tokens * _BYTES_PER_TOKEN / size))
    if lowest >= threshold:
        return Holdout(name="the document with the lowest content hash", threshold=lowest + 1)
    return Holdout(name=f"{100 * share:.3g} % of the documents, by content hash", threshold=threshold)


def content_hash(text: str) -> int:
    return digest(text.encode("utf-8", "replace"))


def _numbered(source: Source) -> Iterator[tuple[int, int, str]]:
    for index, part in enumerate(source.parts()):
        yield from ((index, number, text) for number, text in enumerate(part.documents()))


def _capped(fraction: float, sources: Sequence[Source], max_val_tokens: int, max_tokens: int | None) -> float:
    sizes = [source.approximate_bytes() for source in sources]
    expected = [max_tokens] if max_tokens is not None else []
    if None not in sizes:
        expected.append(int(sum(size or 0 for size in sizes) / _BYTES_PER_TOKEN))
    return min(fraction, max_val_tokens / max(min(expected), 1)) if expected else fraction


def _tail(sources: Sequence[Source], lengths: Sequence[tuple[tuple[int, int, int], int]], fraction: float) -> Holdout:
    """Holds out the end: whole documents if a boundary lies at half to twice the fraction, else cuts one."""
    name = f"the last {100 * fraction:.3g} % of the text"
    left = sum(length for _, length in lengths)
    if left < 2:
        raise DataError("The source is a single character: too little to split; give more text.")
    target = left * fraction
    starts = []
    for place, length in lengths:
        starts.append((abs(left - target), left, place, length))
        left -= length
    _, left, place, _ = min(starts[1:], default=starts[0])
    if len(starts) > 1 and target / 2 <= left <= target * 2:
        return Holdout(name=name, cut=(*place, 0))
    _, left, place, length = [start for start in starts if start[1] >= target][-1]
    documents = sources[place[0]].parts()[place[1]].documents()
    text = next(text for number, text in enumerate(documents) if number == place[2])
    if len(text.strip()) > 1:
        return Holdout(name=name, cut=(*place, _boundary(text, round(length - (target - (left - length))))))
    if len(starts) == 1:
        raise DataError("The source is a single character: too little to split; give more text.")
    whole = place if place != starts[0][2] else starts[1][2]  # a document of one character is not cut
    return Holdout(name=name, cut=(*whole, 0))


def _boundary(text: str, wanted: int) -> int:
    """The end of a paragraph, line or word shortly before `wanted`; on both sides of it there is more than space."""
    first, last = len(text) - len(text.lstrip()) + 1, len(text.rstrip()) - 1
    wanted = min(max(wanted, first), last)
    for mark in ("\n\n", "\n", " "):
        place = text.rfind(mark, wanted // 2, wanted)
        if place >= 0:
            return min(max(place + len(mark), first), last)
    return wanted
