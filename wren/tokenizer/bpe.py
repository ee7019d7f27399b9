"""Byte-level BPE: text is cut by SPLIT_PATTERN, and inside a piece the pair of earliest rank merges first (1508.07909).

rustbpe trains, tiktoken encodes, and a Hugging Face tokenizer.json keeps it; `tokenizers` and `transformers` read that
file and give the same tokens. Ids: 0-255 are the bytes, then the merges in the order they were learned, then ids that
stay unused if the text held too few pairs, then the special tokens.

Lone surrogates (half a character, as broken JSON can bring) cannot be written as UTF-8: each becomes one U+FFFD, here
as in `tokenizers` after `clean`; two halves that belong together become their character.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import rustbpe
import tiktoken

from wren.errors import TokenizerError
from wren.files import write_text
from wren.tokenizer import foreign, hf, special

# Words with the one sign before them, numbers in twos, signs, line ends, spaces. Numbers in twos cost 0.1 % more
# tokens than in threes and leave a thousand ids to words. White space is bounded because the lookahead makes the regex
# engine remember every step of it: tiktoken panics on a million spaces without the bound. The rest has no lookaround
# and takes linear time at any length. "don't" is "don" + "'t" without a rule of its own.
SPLIT_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
    r"|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s{0,128}[\r\n]"
    r"|\s{1,128}(?!\S)"
    r"|\s"
)

_TRAIN_CHARS = 4096  # a longer run without a space is cut for training: a merge walks the whole of a word
_TRAIN_BUFFER = 2048  # strings that wait for the trainer's threads
_JOB_CHARS = 1 << 18  # text that one thread encodes before it asks for more
# No piece crosses this place whatever stands around it, so a long text can be encoded from here on by itself.
_SAFE_CUT = re.compile(r"\n(?=[A-Za-z])")


def clean(text: str) -> str:
    """The same text with each lone surrogate replaced by U+FFFD; ordinary text comes back as it is."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


class Tokenizer:
    """A trained byte-level BPE. Immutable, thread-safe, and cheap to send to another process.

    vocab_size   all ids: bytes, merges, unused ones, special ones
    num_merges   merges that were learned; less than asked for when the text held too few pairs (see `num_unused`)
    num_unused   ids that no text gives: the vocabulary keeps the size that was asked for, so that model and data agree
    special      name -> id, see wren/tokenizer/special.py
    spellings    of special tokens, by id
    document_id  starts every document          pad_id  fills rows

    One that others trained (foreign.py) has the same methods; its ids stand in another order, and it may have more
    special tokens than Wren has names for.
    """

    def __init__(self, tokens: Sequence[bytes], vocab_size: int):
        """tokens: the bytes of ids 0, 1, 2, ...: 256 single bytes, then one per merge. Raises TokenizerError."""
        check_vocab_size(vocab_size)
        names = special.names(vocab_size)
        first = vocab_size - len(names)
        if [bytes([i]) for i in range(special.NUM_BYTES)] != list(tokens[: special.NUM_BYTES]):
            raise TokenizerError("The first 256 tokens must be the 256 bytes in order; train the tokenizer anew.")
        if len(tokens) > first or len(set(tokens)) != len(tokens):
            raise TokenizerError("The vocabulary has too many or repeated tokens; train the tokenizer anew.")
        self.vocab_size = vocab_size
        self.num_merges = len(tokens) - special.NUM_BYTES
        self.num_unused = first - len(tokens)
        self.special = {name: first + i for i, name in enumerate(names)}
        self.document_id = self.special["document"]
        self.pad_id = self.special["pad"]
        self.spellings = {i: special.spelling(name) for name, i in self.special.items()}
        self._foreign: foreign.Vocabulary | None = None
        self._tokens = tuple(tokens)
        blank = [b""] * (vocab_size - len(tokens))
        self._bytes = [*tokens, *blank]
        self._bytes_with_special = [*self._bytes[:first], *(special.spelling(name).encode() for name in names)]
        self._encoding = tiktoken.Encoding(
            "wren",
            pat_str=SPLIT_PATTERN,
            mergeable_ranks={token: i for i, token in enumerate(tokens)},
            special_tokens={special.spelling(name): i for name, i in self.special.items()},
        )

    @classmethod
    def adopted(cls, vocabulary: foreign.Vocabulary) -> "Tokenizer":
        """A tokenizer that others trained."""
        self = cls.__new__(cls)
        self.vocab_size = vocabulary.size
        self.num_merges = vocabulary.num_merges
        used = sum(map(bool, vocabulary.tokens)) + len(vocabulary.spellings)
        self.num_unused = vocabulary.size - used
        self.special = dict(vocabulary.special)
        self.document_id = self.special["document"]
        self.pad_id = self.special["pad"]
        self.spellings = dict(vocabulary.spellings)
        self._foreign = vocabulary
        self._tokens = tuple(vocabulary.tokens)
        self._bytes = list(vocabulary.tokens)
        self._bytes_with_special = [vocabulary.spellings.get(i, "").encode() or b for i, b in enumerate(self._bytes)]
        return self

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, *, max_bytes: int | None = None) -> "Tokenizer":
        """Learns `vocab_size` ids from the texts; the same texts give the same tokenizer on any number of threads.

        The texts are read once, in order, and not kept: memory grows with the number of different words only.
        max_bytes: read no more UTF-8 bytes of text than this. A text too small for so many merges leaves ids unused.
        Raises TokenizerError for a size outside 258..200,000 or when there is no text at all.
        """
        check_vocab_size(vocab_size)
        if isinstance(texts, str):
            raise TypeError("texts must be an iterable of strings, one per document, not one string")
        seen = _Seen()
        num_ranks = vocab_size - len(special.names(vocab_size))
        trainer = rustbpe.Tokenizer()  # pyright: ignore[reportAttributeAccessIssue]  (compiled, without types)
        pieces = training_pieces(seen.count(first_bytes(texts, max_bytes)))
        trainer.train_from_iterator(pieces, num_ranks, pattern=SPLIT_PATTERN, buffer_size=_TRAIN_BUFFER)
        if not seen.chars:
            raise TokenizerError("There is no text to train a tokenizer on; name a source that holds text.")
        ranks = sorted((rank, bytes(token)) for token, rank in trainer.get_mergeable_ranks())
        return cls([token for _, token in ranks], vocab_size)

    def encode(self, text: str) -> list[int]:
        """The tokens of ordinary text: never a special one, whatever the text spells."""
        if self._foreign is not None:
            return self._foreign.encode(clean(text))
        try:
            return self._encoding.encode_ordinary(text)
        except UnicodeEncodeError:
            return self._encoding.encode_ordinary(clean(text))

    def encode_batch(self, texts: Sequence[str], num_threads: int | None = None) -> list[list[int]]:
        """`encode` of each text, on several threads (all cores if None)."""
        return [tokens.tolist() for tokens in self.encode_to_numpy(texts, num_threads)]

    def encode_to_numpy(self, texts: Sequence[str], num_threads: int | None = None) -> list[np.ndarray]:
        """`encode` of each text as uint32 (num_tokens,), the fastest way; a long text is shared among the threads."""
        long = 2 * _JOB_CHARS if self._foreign is None else sys.maxsize  # where others may be cut is not known
        parts = [cut_text(text, _JOB_CHARS) if len(text) > long else [text] for text in texts]
        flat = self._encode_parts([part for cut in parts for part in cut], num_threads or num_cores())
        if len(flat) == len(parts):
            return flat
        results, start = [], 0
        for cut in parts:
            results.append(flat[start] if len(cut) == 1 else np.concatenate(flat[start : start + len(cut)]))
            start += len(cut)
        return results

    def encode_documents(self, texts: Sequence[str], num_threads: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """All texts behind one another, each led by `document_id`: tokens uint32 (N,) and lengths int64 (len(texts),).

        A length counts the document token too.
        """
        encoded = self.encode_to_numpy(texts, num_threads)
        start = np.array([self.document_id], dtype=np.uint32)
        lengths = np.fromiter((1 + len(tokens) for tokens in encoded), dtype=np.int64, count=len(encoded))
        rows = [row for tokens in encoded for row in (start, tokens)]
        return (np.concatenate(rows) if rows else start[:0]), lengths

    def _encode_parts(self, parts: list[str], num_threads: int) -> list[np.ndarray]:
        jobs = _jobs(parts)
        if num_threads == 1 or len(jobs) == 1:
            return self._encode_job(parts)
        with ThreadPoolExecutor(min(num_threads, max(1, len(jobs)))) as pool:
            return [tokens for job in pool.map(self._encode_job, jobs) for tokens in job]

    def _encode_job(self, texts: list[str]) -> list[np.ndarray]:
        return [self._encode_one(text) for text in texts]

    def _encode_one(self, text: str) -> np.ndarray:
        if self._foreign is not None:
            return np.array(self.encode(text), dtype=np.uint32)
        # Nothing allowed and nothing refused: the spelling of a special token is text like any other.
        try:
            return self._encoding.encode_to_numpy(text, allowed_special=set(), disallowed_special=())
        except UnicodeEncodeError:
            return self._encoding.encode_to_numpy(clean(text), allowed_special=set(), disallowed_special=())

    def decode(self, tokens: Iterable[int], *, keep_special: bool = False) -> str:
        """The text of the tokens; bytes that are not UTF-8 become U+FFFD. keep_special shows special tokens' spelling.

        Raises TokenizerError for an id outside the vocabulary.
        """
        return self._join(tokens, self._bytes_with_special if keep_special else self._bytes).decode(errors="replace")

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """The bytes of the tokens; special and unused ids stand for none. Raises TokenizerError as `decode`."""
        return self._join(tokens, self._bytes)

    def _join(self, tokens: Iterable[int], table: list[bytes]) -> bytes:
        ids = [int(token) for token in tokens]
        if ids and (min(ids) < 0 or max(ids) >= self.vocab_size):
            wrong = next(i for i in ids if not 0 <= i < self.vocab_size)
            raise TokenizerError(
                f"Token {wrong} is not in this vocabulary of {self.vocab_size:,} ids; use the tokenizer it came from."
            )
        return b"".join([table[i] for i in ids])

    def token_bytes(self) -> np.ndarray:
        """int32 (vocab_size,): how many bytes of text each id stands for; 0 for special and unused ids."""
        return np.array([len(token) for token in self._bytes], dtype=np.int32)

    def fingerprint(self) -> str:
        """sha256 (hex) over the pattern, the vocabulary and the special tokens; equal only for equal tokenizers."""
        if self._foreign is not None:
            return self._foreign.fingerprint()
        specials = {special.spelling(name): i for name, i in self.special.items()}
        value = [SPLIT_PATTERN, self.vocab_size, [token.hex() for token in self._tokens], specials]
        return hashlib.sha256(json.dumps(value).encode()).hexdigest()

    def save(self, path: Path | str) -> None:
        """Writes a Hugging Face tokenizer.json, whole or not at all. Raises DiskError."""
        if self._foreign is not None:
            write_text(Path(path), self._foreign.text)
            return
        hf.write(Path(path), SPLIT_PATTERN, self._tokens, self.vocab_size, self.special)

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Reads a tokenizer.json that `save` wrote. Raises TokenizerError for any other file."""
        path = Path(path)
        value = hf.content(path)
        if foreign.is_foreign(value):
            return cls.adopted(foreign.Vocabulary(json.dumps(value, ensure_ascii=False), path))
        return cls(*hf.read(path, value, SPLIT_PATTERN))

    def __reduce__(self) -> tuple:
        if self._foreign is not None:
            return _adopted, (self._foreign.text,)
        return Tokenizer, (self._tokens, self.vocab_size)

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, num_merges={self.num_merges})"


def _adopted(text: str) -> Tokenizer:
    return Tokenizer.adopted(foreign.Vocabulary(text, "the tokenizer"))


def check_vocab_size(vocab_size: int) -> None:
    """Raises TokenizerError outside 258..200,000."""
    if not special.MIN_VOCAB_SIZE <= vocab_size <= special.MAX_VOCAB_SIZE:
        raise TokenizerError(
            f"A vocabulary of {vocab_size:,} is not possible; choose a size from {special.MIN_VOCAB_SIZE} "
            f"(256 bytes and two special tokens) to {special.MAX_VOCAB_SIZE:,}."
        )


def num_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class _Seen:
    """Counts the characters that pass, since the trainer does not tell an empty corpus from one without pairs."""

    def __init__(self) -> None:
        self.chars = 0

    def count(self, texts: Iterable[str]) -> Iterator[str]:
        for text in texts:
            self.chars += len(text)
            yield text


def first_bytes(texts: Iterable[str], max_bytes: int | None) -> Iterator[str]:
    """The texts, cleaned, up to max_bytes of UTF-8; the last one is cut between two characters."""
    left = None if max_bytes is None else max(0, max_bytes)
    for text in texts:
        text = clean(text)
        if left is None:
            yield text
            continue
        data = text.encode()
        yield text if len(data) <= left else data[:left].decode(errors="ignore")
        left -= len(data)
        if left <= 0:
            return


def training_pieces(texts: Iterable[str]) -> Iterator[str]:
    """The texts in pieces of at most _TRAIN_CHARS, cut before a space where there is one."""
    for text in texts:
        start = 0
        while len(text) - start > _TRAIN_CHARS:
            end = start + _TRAIN_CHARS
            space = text.rfind(" ", start + 1, end)
            end = space if space > 0 else end
            yield text[start:end]
            start = end
        yield text[start:] if start else text


def cut_text(text: str, size: int) -> list[str]:
    """The text in parts of at least `size` characters whose tokens, one after another, are the tokens of the whole.

    Parts end where a line ends and a Latin letter follows; a text without such a place stays whole.
    """
    parts, start = [], 0
    while match := _SAFE_CUT.search(text, start + size):
        parts.append(text[start : match.end()])
        start = match.end()
    return [*parts, text[start:]]


def _jobs(texts: list[str]) -> list[list[str]]:
    """Groups of neighbouring texts of about _JOB_CHARS: one task per text would cost more than a short text itself."""
    jobs: list[list[str]] = []
    size = _JOB_CHARS
    for text in texts:
        if size >= _JOB_CHARS:
            jobs.append([])
            size = 0
        jobs[-1].append(text)
        size += len(text)
    return jobs
