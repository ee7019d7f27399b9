"""Conversations as examples to learn from: their tokens end to end, which of them are learned, and what was left out.

An example is one document, or two for a preference pair: the better one, then the worse. N tokens, D documents.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from wren.errors import ConfigError, DataError
from wren.tokenizer.chat import Chat, Encoded
from wren.tune.formats import Conversation

OnLong = Literal["truncate", "drop"]
VAL_FRACTION, MAX_VAL = 0.02, 1000  # what is held out where no files are named for it: a share, and at most so many
_ALL = 1 << 64


@dataclass(frozen=True)
class Examples:
    """tokens_N uint32, learned_N bool; starts: where each document begins, and the end; documents: in one example.

    reference_N: log-probability of each token after those before it by the model that tuning began with, where wanted.
    """

    tokens_N: np.ndarray
    learned_N: np.ndarray
    starts: np.ndarray
    documents: int = 1
    reference_N: np.ndarray | None = None

    def __len__(self) -> int:
        return (len(self.starts) - 1) // self.documents

    def lengths(self) -> np.ndarray:
        """Places that each example takes in a row: a document's last token is only a target."""
        return (np.diff(self.starts) - 1).reshape(-1, self.documents).sum(1)

    def num_learned(self) -> int:
        return int(self.learned_N.sum())

    def fingerprint(self) -> str:
        """sha256 (hex) of all that a training learns from."""
        digest = hashlib.sha256(str(self.documents).encode())
        for array in (self.tokens_N, self.learned_N, self.starts):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Long:
    """What became of conversations that are longer than the context: numbers of them. empty: of the cut ones, those
    whose answer was cut off whole, which are left out."""

    dropped: int = 0
    truncated: int = 0
    empty: int = 0

    def sentence(self, context_len: int) -> str | None:
        done = [f"{self.truncated:,} were cut"] if self.truncated else []
        done += [f"{self.dropped:,} were left out"] if self.dropped else []
        done += [f"{self.empty:,} were left out since nothing of their answers fits"] if self.empty else []
        return f"Longer than the context of {context_len:,} tokens: {', '.join(done)}." if done else None


def encode(
    conversations: Sequence[Conversation], chat: Chat, context_len: int, on_long: OnLong = "truncate"
) -> tuple[Examples, Long]:
    """Raises DataError where nothing is left to learn, or everything would be learned."""
    kept: list[Encoded] = []
    dropped = truncated = empty = 0
    documents = 2 if conversations and conversations[0].rejected else 1
    for conversation in conversations:
        encoded = _documents(conversation, chat)
        if sum(len(one.tokens) - 1 for one in encoded) > context_len:
            if on_long == "drop":
                dropped += 1
                continue
            stop = context_len // documents + 1
            encoded = [Encoded(one.tokens[:stop], one.learned[:stop]) for one in encoded]
            if not all(any(one.learned) for one in encoded):
                empty += 1
                continue
            truncated += 1
        kept.extend(encoded)
    long = Long(dropped, truncated, empty)
    if not kept:
        raise DataError(
            f"No conversation is left to learn from. {long.sentence(context_len) or ''} Use a longer --context."
        )
    starts = np.cumsum([0, *(len(one.tokens) for one in kept)])
    tokens_N = np.fromiter((token for one in kept for token in one.tokens), np.uint32, count=starts[-1])
    learned_N = np.fromiter((learns for one in kept for learns in one.learned), bool, count=starts[-1])
    examples = Examples(tokens_N, learned_N, starts, documents)
    check_learned(examples)
    return examples, long


def _documents(conversation: Conversation, chat: Chat) -> list[Encoded]:
    """The tokens of a conversation, up to the last one that is learned; those of a pair's two sides."""
    sides = [conversation.messages, conversation.rejected] if conversation.rejected else [conversation.messages]
    found = []
    for messages in sides:
        encoded = chat.encode(messages, conversation.tools, learned_from=conversation.answer)
        stop = max((place for place, learns in enumerate(encoded.learned, 1) if learns), default=0)
        found.append(Encoded(encoded.tokens[:stop], encoded.learned[:stop]))
    return found


def check_learned(examples: Examples) -> None:
    """Raises DataError for a mask that trains nothing, or everything."""
    inner = np.ones(len(examples.learned_N), dtype=bool)
    inner[examples.starts[:-1]] = False  # a document's first token follows nothing
    learned = int(examples.learned_N[inner].sum())
    if learned == 0:
        raise DataError("Nothing would be learned: no token of these conversations is the assistant's.")
    if learned == int(inner.sum()):
        raise DataError(
            "Everything would be learned, the user's words too: these conversations hold the assistant's turns alone. "
            "Use `wren train` for plain text."
        )


def split(
    conversations: Sequence[Conversation], fraction: float = VAL_FRACTION
) -> tuple[list[Conversation], list[Conversation]]:
    """Conversations to learn from and held-out ones, chosen by a hash of their words: equal ones stay together.

    Raises DataError where there are fewer than two different ones.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"The held-out share is {fraction}; it must lie between 0 and 1.")
    marks = [_mark(conversation) for conversation in conversations]
    different = sorted(set(marks))
    threshold = different[min(MAX_VAL, max(1, round(fraction * len(different)))) - 1]
    train = [one for one, mark in zip(conversations, marks, strict=True) if mark > threshold]
    held = [one for one, mark in zip(conversations, marks, strict=True) if mark <= threshold]
    if not train:
        raise DataError(
            "There are too few different conversations to hold one out; add more, or name files with --val."
        )
    return train, held


def _mark(conversation: Conversation) -> int:
    """A number that depends on what is said alone."""
    said = repr([tuple(message) for message in conversation.messages]).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "little")


def better_answers(examples: Examples) -> Examples:
    """The first document of every pair, by itself."""
    if examples.documents == 1:
        return examples
    spans = [slice(*examples.starts[d : d + 2]) for d in range(0, len(examples.starts) - 1, 2)]
    lengths = [span.stop - span.start for span in spans]
    tokens_N, learned_N = (np.concatenate([x[s] for s in spans]) for x in (examples.tokens_N, examples.learned_N))
    return replace(
        examples, tokens_N=tokens_N, learned_N=learned_N, starts=np.cumsum([0, *lengths]), documents=1, reference_N=None
    )
