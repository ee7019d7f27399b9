"""A byte-level BPE as GGUF holds it: names, kinds and merges, and a word for how text is cut into pieces.

llama.cpp knows the ways of cutting by name and takes no pattern, so for a tokenizer whose pattern it does not know the
nearest way is named.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from wren.files import read_json
from wren.tokenizer import Tokenizer

_NORMAL, _CONTROL, _UNUSED = 1, 3, 5
_GPT2, _SMOLLM, _LLAMA3, _QWEN2 = "gpt-2", "smollm", "llama-bpe", "qwen2"
# by what only that pattern holds
_PATTERNS = ((r"\p{N}{1,3}", _LLAMA3), (r"|\p{N}|", _QWEN2))
_REMARK_OWN = (
    "llama.cpp has no name for the way this tokenizer cuts text and cuts it as Llama 3 does: numbers of three and more "
    "digits, letters with combining marks, and words after an apostrophe may become other tokens of the same text."
)
_REMARK_OTHER = "llama.cpp has no name for the way this tokenizer cuts text; it is cut as Llama 3 does."


def tokenizer_values(
    tokenizer: Tokenizer, vocab_size: int, chat_template: str | None
) -> tuple[dict[str, Any], str | None]:
    """The keys of tokenizer.ggml, and a remark where llama.cpp may cut text otherwise. vocab_size: the model's rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        tokenizer.save(path)
        value = read_json(path)
    model = value["model"]
    added = {token["id"]: token["content"] for token in value["added_tokens"]}
    by_id = {token: name for name, token in model["vocab"].items()} | added
    names, kinds = [], []
    sizes = tokenizer.token_bytes()
    for token in range(vocab_size):
        names.append(by_id.get(token, f"[PAD{token}]"))
        is_text = token < len(sizes) and sizes[token] > 0
        kinds.append(_CONTROL if token in added else _NORMAL if is_text else _UNUSED)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    pre, remark = _pre(value)
    result: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": tokenizer.document_id,
        "tokenizer.ggml.eos_token_id": tokenizer.document_id,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_id,
        "tokenizer.ggml.add_bos_token": True,
    }
    if "end" in tokenizer.special:
        result["tokenizer.ggml.eot_token_id"] = tokenizer.special["end"]
    if chat_template is not None:
        result["tokenizer.chat_template"] = chat_template
    return result, remark


def _pre(value: dict[str, Any]) -> tuple[str, str | None]:
    """llama.cpp's name for the pre_tokenizer."""
    steps = value["pre_tokenizer"]
    steps = steps["pretokenizers"] if steps["type"] == "Sequence" else [steps]
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return _GPT2, None
    if kinds == ["Digits", "ByteLevel"]:
        return _SMOLLM, None
    pattern = json.dumps(steps, ensure_ascii=False).replace("\\\\", "\\")
    if r"[\p{L}\p{M}]+" in pattern:
        return _LLAMA3, _REMARK_OWN
    return next(((name, None) for part, name in _PATTERNS if part in pattern), (_LLAMA3, _REMARK_OTHER))
