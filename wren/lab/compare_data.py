"""What a comparison trains and judges on: a prepared folder for every vocabulary, and three streams in each.

    train        the training split without its end
    held_back    the last 5 % of the training split's text: curves and tuning are scored on it, nothing trains on it
    val          the validation split: read once by every final run, when it is trained

The cut is by bytes of text, so arms of different vocabularies hold back the same documents.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wren.build import content_hash
from wren.data.loader import TokenStream
from wren.data.shards import Manifest, open_shards
from wren.errors import ConfigError, DataError, TokenizerError
from wren.tokenizer import Tokenizer

HELD_BACK_SHARE = 0.05
HELD_BACK_BYTES = 150_000  # of text, at most: what every point of a curve reads
_NEAR = (0.5, 2.0)  # a document boundary is taken where it holds back so much of the share
VAL_FRACTION, VAL_TOKENS = 0.02, 1_000_000


@dataclass(frozen=True)
class Text:
    """A prepared folder, opened."""

    folder: Path
    manifest: Manifest
    tokenizer: Tokenizer
    train_shards: tuple[np.ndarray, ...]
    held_back_shards: tuple[np.ndarray, ...]
    content: str  # what identifies tokens and cut

    @classmethod
    def open(cls, folder: Path) -> "Text":
        """Raises DataError for a folder that is missing, damaged or too small, TokenizerError for another tokenizer."""
        manifest = Manifest.load(folder)
        tokenizer = Tokenizer.load(folder / "tokenizer.json")
        if tokenizer.fingerprint() != manifest.tokenizer:
            raise TokenizerError(
                f"{folder / 'tokenizer.json'} is not the tokenizer of the shards beside it; restore it."
            )
        shards = open_shards(folder, "train", check=True)
        if not manifest.splits["val"].tokens:
            raise DataError(f"The validation split of {folder} is empty; give --val FILE or more text.")
        cut = cut_of(shards, tokenizer.token_bytes(), manifest.splits["train"].bytes, manifest.document_id)
        before, after = split_at(shards, cut)
        identity = f"{content_hash(manifest)}-{cut}"
        return cls(folder, manifest, tokenizer, tuple(before), tuple(after), identity)

    def train(self, context_len: int) -> TokenStream:
        return TokenStream(self.train_shards, self.manifest.document_id, context_len)

    def held_back(self, context_len: int) -> TokenStream:
        return TokenStream(self.held_back_shards, self.manifest.document_id, context_len)

    def val(self, context_len: int) -> TokenStream:
        return TokenStream(open_shards(self.folder, "val", check=True), self.manifest.document_id, context_len)

    def held_back_tokens(self) -> int:
        """How many tokens of the held-back end a point of a curve reads: HELD_BACK_BYTES of text at most."""
        split = self.manifest.splits["train"]
        return max(1, round(HELD_BACK_BYTES * split.tokens / max(split.bytes, 1)))


def cut_of(shards: Sequence[np.ndarray], token_bytes_V: np.ndarray, num_bytes: int, document_id: int) -> int:
    """The token where the held-back end begins: the document start nearest to the last 5 % of the bytes.

    Where no document starts near there, the cut goes through one. Reads only the end. Raises DataError for a split
    too small to cut.
    """
    too_small = DataError("The training split is too small to hold back its last 5 %; give more text.")
    if not num_bytes:
        raise too_small
    wanted, held, stop = HELD_BACK_SHARE * num_bytes, 0, sum(len(shard) for shard in shards)
    starts: list[tuple[float, int]] = []  # (share of the wanted bytes that a cut here holds back, place)
    crossing = None
    for shard in reversed(shards):
        tokens = np.asarray(shard)
        behind = held + np.cumsum(token_bytes_V[tokens][::-1])[::-1]  # bytes from each token to the end of the split
        begin = stop - len(tokens)
        starts += [(float(behind[i]) / wanted, begin + int(i)) for i in np.flatnonzero(tokens == document_id)]
        enough = np.flatnonzero(behind >= wanted)
        if crossing is None and len(enough):
            crossing = begin + int(enough[-1])
        held, stop = int(behind[0]) if len(tokens) else held, begin
        if held > _NEAR[1] * wanted:
            break
    near = [(abs(share - 1), place) for share, place in starts if _NEAR[0] <= share <= _NEAR[1] and place > 0]
    cut = min(near)[1] if near else crossing
    if not cut:
        raise too_small
    return cut


def split_at(shards: Sequence[np.ndarray], cut: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The shards before and from token `cut` on."""
    before, after, start = [], [], 0
    for shard in shards:
        place = min(max(cut - start, 0), len(shard))
        before.append(shard[:place])
        after.append(shard[place:])
        start += len(shard)
    return [x for x in before if len(x)], [x for x in after if len(x)]


def prepare_all(
    vocab_sizes: Sequence[int],
    out: Path,
    *,
    source: Sequence[str],
    val: Sequence[str],
    data: Path | None,
    text_key: str,
    fresh: bool,
    say: Callable[[str], None],
) -> dict[int, Text]:
    """The opened folder of every vocabulary size: prepared under out/data from `source`, or `data` as it is.

    Raises ConfigError where --data is of another vocabulary, or where neither or both are given.
    """
    check_source(source, data, val, text_key)
    if data is not None:
        text = Text.open(data)
        for size in vocab_sizes:
            if size < text.manifest.vocab_size:
                raise ConfigError(
                    f"An arm has a vocabulary of {size:,} and {data} one of {text.manifest.vocab_size:,}; "
                    "give --source instead of --data, so that each vocabulary gets its own folder."
                )
        return dict.fromkeys(vocab_sizes, text)
    return {size: _prepared(size, out, source, val, text_key, fresh, say) for size in dict.fromkeys(vocab_sizes)}


def check_source(source: Sequence[str], data: Path | None, val: Sequence[str] = (), text_key: str = "text") -> None:
    """Raises ConfigError or DataError, before anything is written or removed, for what prepare_all could not read."""
    from wren.data.sources import open_sources

    if bool(source) == (data is not None):
        raise ConfigError(
            "Give either --source PATH... or --data FOLDER (prepared by `wren data`); exactly one of them."
        )
    if data is not None and val:
        raise ConfigError(f"{data} has a validation split of its own; leave --val out, or give --source with it.")
    if data is not None:
        Manifest.load(data)
    open_sources([*source, *val], text_key=text_key)


def _prepared(
    size: int, out: Path, source: Sequence[str], val: Sequence[str], text_key: str, fresh: bool, say: Callable
) -> Text:
    from wren.data.prepare import prepare
    from wren.data.sources import open_sources

    folder = out / "data" / f"vocab{size}"
    prepare(
        open_sources(source, text_key=text_key),
        folder,
        vocab_size=size,
        val_sources=open_sources(val, text_key=text_key) if val else (),
        val_fraction=None if val else VAL_FRACTION,
        val_tokens=VAL_TOKENS,
        fresh=fresh,
        say=say,
    )
    return Text.open(folder)
