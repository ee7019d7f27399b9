"""Byte-level BPE tokenizers that others trained (GPT-2, Llama 3, Qwen, SmolLM), encoded by `tokenizers` itself.

Their files are kept as they are, but for two things that are ordinary parts of such a file: a template that begins
every text with the token that starts a document, and added tokens for the turns of a conversation, spelled as Wren
spells them. So one tokenizer.json says everything, to Wren and to others.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from wren.errors import TokenizerError
from wren.tokenizer import hf, special

_STARTS = ("<|endoftext|>", "<|begin_of_text|>")  # what documents are kept apart by in pretraining, the likelier first
_PADS = ("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|endoftext|>")
_NEVER = {0xC0, 0xC1, *range(0xF5, 0x100)}  # bytes that no UTF-8 holds: a vocabulary may lack them


class Vocabulary:
    """text: the tokenizer.json. size: all ids. tokens: the bytes of each, none for added ones and for holes.

    special: Wren's names of tokens that it has. spellings: of added tokens, by id.
    """

    def __init__(self, text: str, where: Path | str):
        """Raises TokenizerError, naming the feature, for a file that is none of these."""
        value = json.loads(text)
        self.text = text
        model = value["model"]
        self.spellings = {int(token["id"]): str(token["content"]) for token in value.get("added_tokens") or []}
        _check(value, set(self.spellings.values()), where)
        self.size = 1 + max([*model["vocab"].values(), *self.spellings])
        self.tokens = [b""] * self.size
        for name, token in model["vocab"].items():
            if token not in self.spellings:
                self.tokens[token] = hf.bytes_of(name)
        self.special = _special(value, self.spellings, where)
        self.num_merges = len(model["merges"])
        # without its added tokens ordinary text gives none of them, whatever it spells
        plain = {**value, "added_tokens": [], "post_processor": None, "padding": None, "truncation": None}
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(plain))
        except Exception as error:
            raise TokenizerError(f"{where} cannot be read as a tokenizer: {error}.") from error

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(json.loads(self.text), sort_keys=True).encode()).hexdigest()


def is_foreign(value: Any) -> bool:
    """Whether this content of a tokenizer.json is one that `adopt` made."""
    if not isinstance(value, Mapping) or not isinstance(value.get("added_tokens"), list):
        return False
    names = {token.get("content") for token in value["added_tokens"] if isinstance(token, Mapping)}
    return special.spelling("document") not in names and _template_start(value) is not None


def adopt(value: Any, where: Path | str, *, first: str | None, turns: bool) -> str:
    """The text of another tokenizer.json in the form that Vocabulary takes.

    first: how the config beside it spells the token that starts a text, if it does. turns: whether tokens for a
    conversation's turns are added behind the last id. Raises TokenizerError.
    """
    if not isinstance(value, dict) or not isinstance(value.get("model"), dict):
        raise TokenizerError(f"{where} is not a tokenizer.json of Hugging Face; use the one that came with the model.")
    added = [dict(token) for token in value.get("added_tokens") or []]
    _check(value, {token["content"] for token in added}, where)
    by_name = {token["content"]: token["id"] for token in added}
    start = _template_start(value)
    start = start or next((name for name in (*_STARTS, first) if name in by_name), None)
    if start is None:
        raise TokenizerError(f"{where} names no token that starts or ends a document, which a Wren model needs.")
    if turns:
        unused = 1 + max([*value["model"]["vocab"].values(), *by_name.values()])
        for name in ("pad", *special.CHAT):
            if special.spelling(name) not in by_name:
                added.append(hf.added_token(unused, special.spelling(name)))
                unused += 1
    value = {**value, "added_tokens": added, "padding": None, "truncation": None}
    value["post_processor"] = hf.template(start, by_name[start])
    return json.dumps(value, ensure_ascii=False)


def _check(value: dict[str, Any], added: set[str], where: Path | str) -> None:
    """Raises TokenizerError for what is no byte-level BPE, naming the part."""
    model = value["model"]
    if model.get("type", "BPE") != "BPE" or not isinstance(model.get("merges"), list):
        raise _refused(where, f"it is of the kind {model.get('type')}, not BPE")
    if model.get("byte_fallback"):
        raise _refused(where, "it cuts text by SentencePiece's rules (as Llama 1 and 2 do), not into bytes")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise _refused(where, "it marks the insides or ends of words")
    normalizer = value.get("normalizer")
    if normalizer is not None and normalizer.get("type") != "NFC":
        raise _refused(where, f"it changes text by the normalizer {normalizer.get('type')} before it is cut")
    steps = value.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", []) if steps.get("type") == "Sequence" else [steps]
    levels = [step for step in steps if step.get("type") == "ByteLevel"]
    if not levels:
        raise _refused(where, "its pre_tokenizer does not go by bytes")
    if any(step.get("add_prefix_space") for step in levels):
        raise _refused(where, "it puts a space before every text (add_prefix_space)")
    names = [name for name in model["vocab"] if name not in added]
    if not hf.is_of_bytes(names):
        raise _refused(where, "a token of it is not made of bytes")
    missing = [byte for byte in range(256) if hf.character(byte) not in model["vocab"] and byte not in _NEVER]
    if missing:
        raise _refused(where, f"it has no token for the byte {missing[0]:#04x}")


def _refused(where: Path | str, reason: str) -> TokenizerError:
    return TokenizerError(f"{where} is not a byte-level BPE that Wren can use: {reason}.")


def _template_start(value: Mapping[str, Any]) -> str | None:
    """The special token that the file's template puts before a text."""
    steps = value.get("post_processor") or {}
    steps = steps.get("processors", []) if steps.get("type") == "Sequence" else [steps]
    for step in steps:
        single = step.get("single") if step.get("type") == "TemplateProcessing" else None
        if single and "SpecialToken" in single[0]:
            return str(single[0]["SpecialToken"]["id"])
    return None


def _special(value: Mapping[str, Any], spellings: Mapping[int, str], where: Path | str) -> dict[str, int]:
    by_name = {name: token for token, name in spellings.items()}
    start = _template_start(value)
    if start not in by_name:
        raise _refused(where, "it has no token that starts a document")
    found = {"document": by_name[start]}
    pads = (special.spelling("pad"), *_PADS, start)
    found["pad"] = next(by_name[name] for name in pads if name in by_name)
    for name in special.CHAT:
        if special.spelling(name) in by_name:
            found[name] = by_name[special.spelling(name)]
    return found
