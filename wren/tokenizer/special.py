"""Special tokens: what each is for, how it is spelled in a saved file, and how many a vocabulary has room for.

    document   starts every document          system, user, assistant, tool   start a turn of that speaker
    pad        fills a row; never learned     end                             ends a turn
                                              think                           starts a thought inside a turn

They take the last ids of the vocabulary. Encoding ordinary text never gives one of them, even where the text holds
their spelling; but programs that read the saved tokenizer.json do look for the spelling in text, so it is one that
prose does not hold.
"""

ESSENTIAL = ("document", "pad")
CHAT = ("system", "user", "assistant", "tool", "end", "think")
NUM_BYTES = 256
MIN_VOCAB_SIZE = NUM_BYTES + len(ESSENTIAL)
MIN_CHAT_VOCAB_SIZE = MIN_VOCAB_SIZE + len(CHAT)
MAX_VOCAB_SIZE = 200_000


def names(vocab_size: int) -> tuple[str, ...]:
    """The special tokens of a vocabulary of that size, in the order of their ids."""
    return ESSENTIAL + CHAT if vocab_size >= MIN_CHAT_VOCAB_SIZE else ESSENTIAL


def spelling(name: str) -> str:
    """How a special token is written in tokenizer.json: `<|wren:document|>`."""
    return f"<|wren:{name}|>"


def unused_spelling(token: int) -> str:
    """The name in tokenizer.json of an id that training found no merge for."""
    return f"<|wren:unused:{token}|>"
