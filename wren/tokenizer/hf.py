"""The Hugging Face tokenizer.json of a byte-level BPE: written whole, read strictly.

In that format a token is a string in which every byte is one printable character (GPT-2's table): printable Latin-1
stands for itself, the other 68 bytes take the characters from U+0100 on, in order.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wren.errors import DataError, TokenizerError
from wren.files import read_json, write_json
from wren.tokenizer import special


def _byte_characters() -> list[str]:
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


_CHARACTERS = _byte_characters()
_BYTES = {character: byte for byte, character in enumerate(_CHARACTERS)}


def character(byte: int) -> str:
    """How a byte is written inside a token's name."""
    return _CHARACTERS[byte]


def is_of_bytes(names: Iterable[str]) -> bool:
    """Whether every name is made of such characters."""
    return set().union(*names) <= _BYTES.keys()


def bytes_of(name: str) -> bytes:
    """The bytes that a token's name stands for; raises KeyError for a character that stands for none."""
    return bytes([_BYTES[character] for character in name])


def write(path: Path, pattern: str, tokens: Sequence[bytes], vocab_size: int, specials: Mapping[str, int]) -> None:
    """tokens: the bytes of ids 0, 1, 2, ...; ids from there to the first special one are unused. Raises DiskError."""
    names = ["".join([_CHARACTERS[byte] for byte in token]) for token in tokens]
    vocabulary = {name: i for i, name in enumerate(names)}
    # Unused ids get an entry of their own: a reader would otherwise count the special ids from the wrong place.
    vocabulary |= {special.unused_spelling(i): i for i in range(len(tokens), vocab_size - len(specials))}
    ranks = {token: i for i, token in enumerate(tokens)}
    merges = [[names[left], names[right]] for left, right in (_parents(token, ranks) for token in tokens[256:])]
    write_json(path, _layout(pattern, vocabulary, merges, specials))


def content(path: Path) -> Any:
    """The JSON of a tokenizer.json. Raises TokenizerError."""
    try:
        return read_json(path)
    except DataError as error:
        raise TokenizerError(f"Cannot read the tokenizer: {error}") from error
    except OSError as error:
        raise TokenizerError(f"Cannot read the tokenizer {path} ({error.strerror}); check the path.") from error


def read(path: Path, value: Any, pattern: str) -> tuple[list[bytes], int]:
    """The tokens' bytes in the order of their ids, and the vocabulary's size. Raises TokenizerError."""
    tokens, specials = _vocabulary(path, value)
    vocab_size = len(value["model"]["vocab"]) + len(specials)
    expected = {name: vocab_size - len(specials) + i for i, name in enumerate(special.names(vocab_size))}
    if specials != {special.spelling(name): i for name, i in expected.items()}:
        raise _foreign(path, "its special tokens are not Wren's")
    layout = _layout(pattern, value["model"]["vocab"], value["model"]["merges"], expected)
    # `tokenizers` writes a file it has read with further keys; those that decide on the tokens must be the same.
    for key in ("normalizer", "pre_tokenizer"):
        if value.get(key) != layout[key]:
            raise _foreign(path, f"its {key} is another one")
    return tokens, vocab_size


def _vocabulary(path: Path, value: Any) -> tuple[list[bytes], dict[str, int]]:
    try:
        model = value["model"]
        specials = {token["content"]: token["id"] for token in value["added_tokens"]}
        names = sorted(model["vocab"], key=model["vocab"].__getitem__)
        merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
        in_order = [model["vocab"][name] for name in names] == list(range(len(names)))
        kind = model["type"]
    except (KeyError, TypeError, AttributeError) as error:
        raise _foreign(path, f"it lacks a part of one ({type(error).__name__}: {error})") from error
    if kind != "BPE" or not in_order or names[:256] != _CHARACTERS:
        raise _foreign(path, "it is not a byte-level BPE with the bytes as ids 0 to 255")
    used = 256 + len(merges)
    if names[used:] != [special.unused_spelling(i) for i in range(used, len(names))]:
        raise _foreign(path, "its vocabulary and its merges do not fit together")
    if ["".join(merge) for merge in merges] != names[256:used] or any(len(merge) != 2 for merge in merges):
        raise _foreign(path, "its merges are not in the order of its ids")
    if not is_of_bytes(names[256:used]):
        raise _foreign(path, "a token of it is not made of bytes")
    return [bytes_of(name) for name in names[:used]], specials


def added_token(token: int, name: str) -> dict[str, Any]:
    """The entry of a special token."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token, "content": name, **plain}


def template(name: str, token: int) -> dict[str, Any]:
    """A post_processor that begins every text with this special token."""
    start, texts = {"SpecialToken": {"id": name, "type_id": 0}}, [{"Sequence": {"id": i, "type_id": 0}} for i in "AB"]
    return {
        "type": "TemplateProcessing",
        "single": [start, texts[0]],
        "pair": [start, texts[0], start, texts[1]],
        "special_tokens": {name: {"id": name, "ids": [token], "tokens": [name]}},
    }


def _foreign(path: Path, reason: str) -> TokenizerError:
    return TokenizerError(f"{path} is not a tokenizer of Wren: {reason}; train one with `wren tokenizer train`.")


def _parents(token: bytes, ranks: Mapping[bytes, int]) -> tuple[int, int]:
    """The two ids that merge into `token`: what its bytes become under the merges that were learned before it."""
    own, never = ranks[token], len(ranks)
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        costs = [ranks.get(parts[i] + parts[i + 1], never) for i in range(len(parts) - 1)]
        best = min(costs)
        if best >= own:
            raise TokenizerError(f"Token {own} cannot be reached by merging two others; train the tokenizer anew.")
        i = costs.index(best)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return ranks[parts[0]], ranks[parts[1]]


def _layout(
    pattern: str, vocabulary: Mapping[str, int], merges: Sequence[Sequence[str]], specials: Mapping[str, int]
) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(i, special.spelling(name)) for name, i in specials.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": dict(vocabulary),
            "merges": merges,
        },
    }
