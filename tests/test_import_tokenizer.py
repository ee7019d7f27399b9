"""Tokenizers that others trained: the same tokens as `tokenizers` gives, and everything else that ours can."""

import json
import pickle
from pathlib import Path
from typing import Any

import export_parts as parts
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Theirs

from wren.errors import TokenizerError
from wren.tokenizer import Tokenizer, foreign, special

_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL
KINDS = ("gpt2", "smollm", "qwen", "llama3")


def byte_level(**options: bool) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, **options)


def split_by(pattern: str) -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level(use_regex=False)])


def trained(kind: str) -> Theirs:
    made = Theirs(models.BPE(ignore_merges=kind == "llama3"))
    made.pre_tokenizer = {
        "gpt2": byte_level(),
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level()]),
        "qwen": split_by(QWEN),
        "llama3": split_by(LLAMA3),
    }[kind]
    if kind == "qwen":
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    names = ["<|begin_of_text|>", "<|eot|>"] if kind == "llama3" else ["<|endoftext|>", "<|im_start|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([parts.TEXT] * 5, trainer)
    if kind == "qwen":
        made.add_tokens(["<think>"])  # an added token that is not a special one
    if kind == "llama3":
        start = ("<|begin_of_text|>", 0)
        made.post_processor = processors.TemplateProcessing("<|begin_of_text|> $A", special_tokens=[start])
    return made


MADE = {kind: trained(kind) for kind in KINDS}


def adopted(kind: str, turns: bool = True) -> Tokenizer:
    text = foreign.adopt(json.loads(MADE[kind].to_str()), "here", first=None, turns=turns)
    return Tokenizer.adopted(foreign.Vocabulary(text, "here"))


OURS = {kind: adopted(kind) for kind in KINDS}


def expected(kind: str, text: str) -> list[int]:
    """What `tokenizers` gives for text in which added tokens, spelled out, are text."""
    plain = json.loads(MADE[kind].to_str())
    plain["added_tokens"] = []
    plain["post_processor"] = None
    return Theirs.from_str(json.dumps(plain)).encode(text).ids


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_tokenizers(kind: str):
    theirs = MADE[kind]
    theirs.encode_special_tokens = True
    for text in parts.NASTY:
        tokens = OURS[kind].encode(text)
        assert tokens == expected(kind, text), text
        assert tokens == theirs.encode(text, add_special_tokens=False).ids, text
        assert not set(tokens) & set(OURS[kind].special.values())
        normal = normalizers.NFC().normalize_str(text) if kind == "qwen" else text
        assert OURS[kind].decode(tokens) == normal
        assert OURS[kind].decode_bytes(tokens) == normal.encode()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.text(max_size=60))
def test_any_text(kind: str, text: str):
    text = text.encode("utf-8", "replace").decode()
    assert OURS[kind].encode(text) == expected(kind, text)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rest_of_the_interface(kind: str, tmp_path: Path):
    ours = OURS[kind]
    texts = ["hello world", "", parts.TEXT * 20, "\ud83d"]
    expected_ids = [ours.encode(text) for text in texts]
    assert ours.encode_batch(texts) == expected_ids
    assert [x.tolist() for x in ours.encode_to_numpy(texts, 2)] == expected_ids
    tokens, lengths = ours.encode_documents(texts[:2])
    assert tokens.dtype == np.uint32
    assert tokens.tolist() == [ours.document_id, *expected_ids[0], ours.document_id]
    assert lengths.tolist() == [1 + len(expected_ids[0]), 1]
    sizes = ours.token_bytes()
    assert len(sizes) == ours.vocab_size
    assert sizes[expected_ids[2]].sum() == len((parts.TEXT * 20).encode())
    assert not sizes[list(ours.special.values())].any()
    ours.save(tmp_path / "tokenizer.json")
    for copy in (Tokenizer.load(tmp_path / "tokenizer.json"), pickle.loads(pickle.dumps(ours))):
        assert copy.fingerprint() == ours.fingerprint() != parts.TOKENIZER.fingerprint()
        assert copy.special == ours.special
        assert copy.encode(parts.TEXT) == ours.encode(parts.TEXT)
    begun = Theirs.from_file(str(tmp_path / "tokenizer.json")).encode("hello").ids
    assert begun == [ours.document_id, *ours.encode("hello")]
    with pytest.raises(TokenizerError, match="not in this vocabulary"):
        ours.decode([ours.vocab_size])
    assert ours.decode([ours.special["user"]], keep_special=True) == "<|wren:user|>"
    assert ours.decode([ours.special["user"]]) == ""


def test_special_tokens_have_wrens_names():
    assert set(OURS["gpt2"].special) == {*special.ESSENTIAL, *special.CHAT}
    assert OURS["gpt2"].spellings[OURS["gpt2"].document_id] == "<|endoftext|>"
    assert OURS["llama3"].spellings[OURS["llama3"].document_id] == "<|begin_of_text|>"
    plain = adopted("qwen", turns=False)
    assert plain.special == {"document": 0, "pad": 0}
    assert plain.vocab_size == MADE["qwen"].get_vocab_size()
    assert OURS["qwen"].vocab_size == plain.vocab_size + 7
    assert OURS["qwen"].num_unused == 0


def without_bytes(value: dict[str, Any]) -> None:
    value["model"]["vocab"] = {name: i for name, i in value["model"]["vocab"].items() if name != "Ġ"}


CHANGES: dict[str, tuple[Any, str]] = {
    "another kind": (lambda v: v["model"].update(type="Unigram"), "of the kind Unigram"),
    "SentencePiece": (lambda v: v["model"].update(byte_fallback=True), "SentencePiece"),
    "word ends": (lambda v: v["model"].update(end_of_word_suffix="</w>"), "ends of words"),
    "lower case": (lambda v: v.update(normalizer={"type": "Lowercase"}), "normalizer Lowercase"),
    "no bytes": (lambda v: v.update(pre_tokenizer={"type": "Whitespace"}), "does not go by bytes"),
    "prefix": (lambda v: v["pre_tokenizer"].update(add_prefix_space=True), "add_prefix_space"),
    "other signs": (lambda v: v["model"]["vocab"].update({"▁the": 999}), "not made of bytes"),
    "a byte less": (without_bytes, "no token for the byte 0x20"),
    "no start": (lambda v: v.update(added_tokens=[]), "starts or ends a document"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_others_are_refused_by_name(case: str):
    value = json.loads(MADE["gpt2"].to_str())
    change, sentence = CHANGES[case]
    change(value)
    with pytest.raises(TokenizerError) as caught:
        foreign.adopt(value, "tokenizer.json", first=None, turns=False)
    assert sentence in str(caught.value)


def test_a_file_that_is_no_tokenizer(tmp_path: Path):
    with pytest.raises(TokenizerError, match=r"not a tokenizer\.json"):
        foreign.adopt([], "here", first=None, turns=True)
    MADE["gpt2"].save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="not a tokenizer of Wren"):
        Tokenizer.load(tmp_path / "tokenizer.json")  # not adopted: nothing says where a document starts
