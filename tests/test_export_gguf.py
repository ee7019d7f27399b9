"""GGUF: the file says what was meant, its numbers give our logits, and llama.cpp, where installed, writes our text."""

import dataclasses
import struct
from pathlib import Path
from typing import Any

import export_parts as parts
import numpy as np
import pytest
import test_import_tokenizer
import torch
from torch import Tensor
from train_faults import file_size_limit

from wren.errors import ConfigError, DiskError
from wren.export.classes import known_class
from wren.export.gguf import BLOCK, quantised
from wren.export.gguf_model import export_gguf, neighbours
from wren.mixers import attention
from wren.ops.rope import Llama3Scaling
from wren.recipes import RunConfig
from wren.tokenizer import Tokenizer

ATTENTION = attention.Config
GPT2_SIZE = ("depth=2", "dim=32", "num_heads=4", "context_len=64")
CASES: dict[str, tuple[RunConfig, str]] = {
    "gpt2": (parts.of_recipe("gpt2", *GPT2_SIZE, "model.mlp.approximate=tanh"), "gpt2"),
    "llama": (parts.of_recipe("llama", "depth=2", "dim=32", "num_heads=4", "num_kv_heads=2"), "llama"),
    "llama, tied, scaled": (
        parts.small(ATTENTION(num_heads=4, rope_scaling=Llama3Scaling(original_context_len=16)), tie_embeddings=True),
        "llama",
    ),
    "qwen2": (parts.small(ATTENTION(num_heads=4, num_kv_heads=2, bias=True, out_bias=False)), "qwen2"),
    "qwen3": (parts.small(ATTENTION(num_heads=4, qk_norm=True, head_dim=16)), "qwen3"),
}
FORMATS = {4: "<I", 5: "<i", 6: "<f", 7: "<?"}


class Reader:
    """A GGUF file read by its specification, step by step."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0
        assert self.take("<4sI") == (b"GGUF", 3)
        num_tensors, num_values = self.take("<QQ")
        self.values: dict[str, Any] = {}
        for _ in range(num_values):
            key = self.text()
            self.values[key] = self.value(self.take("<I")[0])
        infos = [self.info() for _ in range(num_tensors)]
        start = -(-self.at // 32) * 32
        self.kinds = {name: kind for name, _, kind, _ in infos}
        self.tensors = {name: self.tensor(shape, kind, start + offset) for name, shape, kind, offset in infos}

    def take(self, form: str) -> tuple:
        found = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return found

    def text(self) -> str:
        size = self.take("<Q")[0]
        self.at += size
        return self.data[self.at - size : self.at].decode()

    def value(self, kind: int) -> Any:
        if kind == 8:
            return self.text()
        if kind == 9:
            inner, count = self.take("<IQ")
            return [self.value(inner) for _ in range(count)]
        return self.take(FORMATS[kind])[0]

    def info(self) -> tuple[str, list[int], int, int]:
        name = self.text()
        shape = list(self.take(f"<{self.take('<I')[0]}Q"))
        kind, offset = self.take("<IQ")
        return name, shape[::-1], kind, offset

    def tensor(self, shape: list[int], kind: int, start: int) -> Tensor:
        assert start % 32 == 0
        count = int(np.prod(shape))
        if kind == 8:
            raw = np.frombuffer(self.data, dtype=np.uint8, count=count // 32 * 34, offset=start).reshape(-1, 34)
            values = raw[:, :2].copy().view("<f2").astype(np.float32) * raw[:, 2:].copy().view(np.int8)
        else:
            values = np.frombuffer(self.data, dtype={0: "<f4", 1: "<f2"}[kind], count=count, offset=start)
        return torch.from_numpy(values.astype(np.float32).reshape(shape))


def written(tmp_path: Path, config: RunConfig, dtype: Any = "fp32") -> tuple[torch.nn.Module, Reader, dict]:
    model = parts.make_run(tmp_path / "run", config)
    result = export_gguf(tmp_path / "run", tmp_path / "model.gguf", dtype=dtype)
    return model, Reader((tmp_path / "model.gguf").read_bytes()), result


@pytest.mark.parametrize("name", CASES)
def test_every_number_is_there(name: str, tmp_path: Path):
    config, architecture = CASES[name]
    model, reader, result = written(tmp_path, config)
    values = reader.values
    assert values["general.architecture"] == result["architecture"] == architecture
    assert values[f"{architecture}.block_count"] == 2
    assert values[f"{architecture}.attention.head_count"] == 4
    weights = model.state_dict()
    torch.testing.assert_close(reader.tensors["token_embd.weight"], weights["embedding.weight"])
    assert ("output.weight" in reader.tensors) == (not config.model.tie_embeddings)
    if architecture == "gpt2":
        joined = torch.cat([weights[f"blocks.1.mixer.{part}.weight"] for part in "qkv"])
        torch.testing.assert_close(reader.tensors["blk.1.attn_qkv.weight"], joined)
        torch.testing.assert_close(reader.tensors["position_embd.weight"], weights["positions.weight"])
        assert not reader.tensors["blk.0.ffn_up.bias"].any()
    else:
        query = weights["blocks.1.mixer.q.weight"]
        expected = neighbours(query, 4) if architecture == "llama" else query
        torch.testing.assert_close(reader.tensors["blk.1.attn_q.weight"], expected)
        torch.testing.assert_close(reader.tensors["blk.1.ffn_down.weight"], weights["blocks.1.mlp.out.weight"])
        assert values[f"{architecture}.rope.freq_base"] == 10_000
    assert ("rope_freqs.weight" in reader.tensors) == (name == "llama, tied, scaled")
    assert ("blk.0.attn_q_norm.weight" in reader.tensors) == (architecture == "qwen3")


def test_llamas_neighbouring_channels_turn_as_our_halves():
    """Pairs (2i, 2i + 1) of a permuted head are pairs (i, i + K/2) of ours: scores do not change."""
    weight = torch.arange(2 * 8).view(16, 1)
    order = neighbours(weight, 2)[:8, 0].tolist()
    assert order == [0, 4, 1, 5, 2, 6, 3, 7]


def test_scaled_positions_are_llama_cpps_factors(tmp_path: Path):
    _, reader, _ = written(tmp_path, CASES["llama, tied, scaled"][0])
    frequencies = 1.0 / 10_000 ** (torch.arange(0, 8, 2) / 8)
    expected = frequencies / Llama3Scaling(original_context_len=16).slowed(frequencies)
    torch.testing.assert_close(reader.tensors["rope_freqs.weight"], expected)
    assert expected.max() == pytest.approx(8.0)


@pytest.mark.parametrize(("dtype", "kind", "close"), [("fp16", 1, 2e-3), ("q8_0", 8, 2e-2)])
def test_smaller_formats(dtype: str, kind: int, close: float, tmp_path: Path):
    model, reader, result = written(tmp_path, CASES["llama"][0], dtype)
    assert {reader.kinds[name] for name in reader.kinds if "norm" in name} == {0}
    assert {reader.kinds[name] for name in reader.kinds if "norm" not in name} == {kind}
    found, expected = reader.tensors["blk.0.ffn_up.weight"], model.state_dict()["blocks.0.mlp.up.weight"]
    assert (found - expected).abs().max() < close * expected.abs().max()
    assert result["dtype"] == dtype


def test_rows_that_blocks_do_not_divide_are_float16(tmp_path: Path):
    _, reader, _ = written(tmp_path, CASES["qwen2"][0], "q8_0")
    assert reader.kinds["blk.0.ffn_down.weight"] == 1  # 48 wide
    assert reader.kinds["blk.0.ffn_up.weight"] == 8


def test_q8_0_by_hand():
    x = torch.zeros(2, BLOCK)
    x[0, 0], x[0, 1], x[0, 2] = 127.0, -0.5, 2.5
    data = np.frombuffer(quantised(x), dtype=np.uint8).reshape(2, 34)
    assert data[0, :2].view("<f2")[0] == 1.0
    assert data[0, 2:5].view(np.int8).tolist() == [127, -1, 3]
    assert not data[1].any()


def test_the_tokenizer_is_whole(tmp_path: Path):
    _, reader, _ = written(tmp_path, CASES["llama"][0])
    values, special = reader.values, parts.TOKENIZER.special
    names, kinds = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    assert len(names) == len(kinds) == parts.VOCAB == len(set(names))
    assert names[special["user"]] == "<|wren:user|>"
    assert {kinds[token] for token in special.values()} == {3}
    assert set(kinds[320:]) == {5}
    assert kinds[ord("a")] == 1
    assert names[ord(" ")] == "Ġ"
    merges = [merge.split(" ") for merge in values["tokenizer.ggml.merges"]]
    assert ["".join(merge) for merge in merges] == names[256 : 256 + len(merges)]
    assert values["tokenizer.ggml.bos_token_id"] == special["document"]
    assert values["tokenizer.ggml.eot_token_id"] == special["end"]
    assert values["tokenizer.ggml.add_bos_token"] is True
    assert "<|wren:assistant|>" in values["tokenizer.chat_template"]
    assert values["tokenizer.ggml.pre"] == "llama-bpe"


def test_what_has_no_home_is_refused(tmp_path: Path):
    for name, config in {
        "tiny": parts.of_recipe("tiny"),
        "wren": parts.of_recipe("wren", "depth=4", "dim=64"),
        "window": parts.small(ATTENTION(num_heads=4, window=8)),
    }.items():
        parts.make_run(tmp_path / name, config)
        with pytest.raises(ConfigError, match="GGUF has no home for it"):
            export_gguf(tmp_path / name, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_a_folder_gets_a_card_and_notes_are_told(tmp_path: Path):
    said: list[str] = []
    parts.make_run(tmp_path / "run", parts.of_recipe("gpt2", *GPT2_SIZE))
    export_gguf(tmp_path / "run", tmp_path / "out", say=said.append)
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == ["README.md", "model-f32.gguf"]
    assert "tanh" in said[0]
    assert "cuts text" in said[1]
    assert "llama-cli -m out/model-f32.gguf" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(ConfigError, match="exists already"):
        export_gguf(tmp_path / "run", tmp_path / "out")


@pytest.mark.parametrize("out", ["model.gguf", "folder"])
def test_a_full_disk_leaves_nothing(out: str, tmp_path: Path):
    parts.make_run(tmp_path / "run", CASES["llama"][0])
    with file_size_limit(50_000), pytest.raises(DiskError):
        export_gguf(tmp_path / "run", tmp_path / out)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_llama_cpp_writes_the_same_greedy_text(name: str, dtype: str, tmp_path: Path):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    model, _, _ = written(tmp_path, CASES[name][0], dtype)
    theirs = llama_cpp.Llama(str(tmp_path / "model.gguf"), n_ctx=64, n_threads=1, verbose=False, logits_all=True)
    tokenizer: Tokenizer = parts.TOKENIZER
    prompt = [tokenizer.document_id, *tokenizer.encode("hello world, the wren")]
    assert theirs.tokenize(b"hello world, the wren", add_bos=True) == prompt
    expected = parts.greedy(model, torch.tensor([prompt]), 24)[0, len(prompt) :].tolist()  # type: ignore[arg-type]
    found = [token for token, _ in zip(theirs.generate(prompt, temp=0.0), range(24), strict=False)]
    assert found == expected
    theirs.reset()
    theirs.eval(prompt)
    scores = torch.from_numpy(np.array(theirs.scores[: len(prompt)]))
    close = 0.01 if dtype == "fp32" else 0.03  # it keeps keys and values in float16
    torch.testing.assert_close(scores, model(torch.tensor([prompt]))[0], atol=close, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["own", *test_import_tokenizer.KINDS])
def test_llama_cpp_reads_the_same_tokens(kind: str, tmp_path: Path):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    tokenizer = parts.TOKENIZER if kind == "own" else test_import_tokenizer.OURS[kind]
    config = parts.small()
    model = dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size + 3)
    parts.make_run(tmp_path / "run", dataclasses.replace(config, model=model), tokenizer)
    export_gguf(tmp_path / "run", tmp_path / "model.gguf")
    theirs = llama_cpp.Llama(str(tmp_path / "model.gguf"), n_ctx=64, n_threads=1, verbose=False)
    for text in parts.NASTY:
        numbers = kind == "own" and "1234567890" in text  # what the note to the user says
        normal = kind == "qwen" and "\u0308" in text  # llama.cpp knows no normalizer
        if text and "\x00" not in text and not (numbers or normal):
            assert theirs.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text), text


def test_the_class_of_every_case_is_known():
    for config, _ in CASES.values():
        model = config.model.build()
        assert known_class(config.model, dict(model.named_parameters()), 64) is not None  # type: ignore[arg-type]
