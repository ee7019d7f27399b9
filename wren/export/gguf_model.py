"""A run as a GGUF file: GPT-2, Llama, Qwen2 and Qwen3 for llama.cpp and what is built on it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from wren import __version__
from wren.errors import ConfigError
from wren.export.card import model_card, use_gguf
from wren.export.classes import Known, known_class, layers_of
from wren.export.folder import check_new, new_folder
from wren.export.gguf import BLOCK, Kind, Stored, write
from wren.export.gguf_tokenizer import tokenizer_values
from wren.export.hf import chat_template, context_len, inference_parts
from wren.files import atomic_writer, write_text
from wren.generate import load_run
from wren.mixers import attention
from wren.mlps import gelu
from wren.model import ModelConfig
from wren.run import Run

Dtype = Literal["fp32", "fp16", "q8_0"]
DTYPES: dict[Dtype, Kind] = {"fp32": "f32", "fp16": "f16", "q8_0": "q8_0"}
_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}
_ARCHITECTURES = {
    "GPT2LMHeadModel": "gpt2",
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
_NAMES = {
    "mixer_norm": "attn_norm",
    "mlp_norm": "ffn_norm",
    "mixer.q": "attn_q",
    "mixer.k": "attn_k",
    "mixer.v": "attn_v",
    "mixer.out": "attn_output",
    "mlp.gate": "ffn_gate",
    "mlp.up": "ffn_up",
    "mlp.out": "ffn_down",
}


def export_gguf(
    run: Path | str, out: Path, *, dtype: Dtype = "fp32", say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Writes `out`, a .gguf file, or a folder with one and a README; returns what export_hf returns.

    Raises ConfigError where `out` exists or llama.cpp has no such model, DiskError when the disk is full; nothing
    half-written stays.
    """
    check_new(out)
    home = Run(run)
    loaded = load_run(run, torch.device("cpu"), say)
    config, tensors = inference_parts(loaded)
    known = known_class(config, tensors, context_len(home))
    architecture = _architecture(config, known)
    assert known is not None
    values, remark = tokenizer_values(loaded.tokenizer, config.vocab_size, chat_template(home, loaded.tokenizer))
    remarks = [text for text in (_activation_remark(config), remark) if text]
    for text in remarks:
        say(f"Note: {text}")
    kind = DTYPES[dtype]
    header: dict[str, Any] = {"general.architecture": architecture, "general.name": home.path.name}
    header |= {"general.alignment": 32, "general.file_type": _FILE_TYPES[kind], "general.source": f"Wren {__version__}"}
    header |= {f"{architecture}.{key}": value for key, value in _settings(architecture, config, known.config).items()}
    named = _gpt2_tensors(known.tensors(tensors)) if architecture == "gpt2" else _llama_tensors(config, tensors)
    stored = {name: Stored(tensor, _kind_of(name, tensor, kind)) for name, tensor in named.items()}
    if out.suffix == ".gguf":
        _write(out, {**header, **values}, stored)
    else:
        with new_folder(out) as folder:
            name = f"model-{kind}.gguf"
            _write(folder / name, {**header, **values}, stored)
            remarks.insert(0, f"llama.cpp's architecture `{architecture}`; weights in {dtype}.")
            use = use_gguf(out.name, name)
            write_text(folder / "README.md", model_card(home, loaded, "llama.cpp", use, remarks))
    files = [out] if out.is_file() else list(out.iterdir())
    return {
        "out": str(out),
        "architecture": architecture,
        "dtype": dtype,
        "step": loaded.step,
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "bytes": sum(file.stat().st_size for file in files),
    }


def _write(path: Path, values: dict[str, Any], tensors: dict[str, Stored]) -> None:
    with atomic_writer(path) as file:
        write(file, values, tensors)


def _activation_remark(config: ModelConfig) -> str | None:
    if not isinstance(config.mlp, gelu.Config) or config.mlp.approximate == "tanh":
        return None
    return (
        "llama.cpp computes GELU by its tanh form, this model was trained with the exact one: activations differ by "
        "less than 5e-4."
    )


def _architecture(config: ModelConfig, known: Known | None) -> str:
    """llama.cpp's name for the model; raises ConfigError where it has none."""
    layers = layers_of(config)
    windows = any(isinstance(layer, attention.Config) and layer.window is not None for layer in layers)
    found = _ARCHITECTURES.get(known.architecture) if known is not None else None
    if found is not None and not windows:
        return found
    kinds = sorted({type(layer).__module__.rpartition(".")[2] for layer in layers})
    what = "attention in a window" if windows and kinds == ["attention"] else f"these parts ({', '.join(kinds)})"
    raise ConfigError(
        f"llama.cpp has no model with {what} as this one has them, so GGUF has no home for it; write it with "
        "--format hf, which transformers runs."
    )


def _settings(architecture: str, config: ModelConfig, theirs: dict[str, Any]) -> dict[str, Any]:
    """The keys below the architecture's name; theirs: the config.json of transformers' class."""
    if architecture == "gpt2":
        return {
            "context_length": theirs["n_positions"],
            "embedding_length": config.dim,
            "block_count": config.depth,
            "feed_forward_length": theirs["n_inner"],
            "attention.head_count": theirs["n_head"],
            "attention.layer_norm_epsilon": config.norm_eps,
        }
    width = theirs["head_dim"]
    return {
        "vocab_size": config.vocab_size,
        "context_length": theirs["max_position_embeddings"],
        "embedding_length": config.dim,
        "block_count": config.depth,
        "feed_forward_length": theirs["intermediate_size"],
        "attention.head_count": theirs["num_attention_heads"],
        "attention.head_count_kv": theirs["num_key_value_heads"],
        "attention.key_length": width,
        "attention.value_length": width,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.dimension_count": width,
        "rope.freq_base": float(theirs["rope_theta"]),
    }


def _gpt2_tensors(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """From transformers' names; its matrices are transposed, those of GGUF are not."""
    outer = {
        "transformer.wte": "token_embd",
        "transformer.wpe": "position_embd",
        "transformer.ln_f": "output_norm",
        "lm_head": "output",
    }
    inner = {
        "ln_1": "attn_norm",
        "ln_2": "ffn_norm",
        "attn.c_attn": "attn_qkv",
        "attn.c_proj": "attn_output",
        "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
    }
    found = {}
    for name, tensor in theirs.items():
        stem, _, part = name.rpartition(".")
        if stem in outer:
            found[f"{outer[stem]}.{part}"] = tensor
            continue
        number, _, rest = stem.removeprefix("transformer.h.").partition(".")
        found[f"blk.{number}.{inner[rest]}.{part}"] = tensor.T.contiguous() if tensor.dim() == 2 else tensor
    return found


def _llama_tensors(config: ModelConfig, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """From our names. "llama" turns neighbouring channels of a head, where ours and Qwen's turn halves."""
    first = config.mixers[0]
    assert isinstance(first, attention.Config)
    ones = torch.ones(config.dim)
    found = {"token_embd.weight": ours["embedding.weight"], "output_norm.weight": ours.get("norm.weight", ones)}
    if "head.weight" in ours:
        found["output.weight"] = ours["head.weight"]
    if first.rope_scaling is not None:
        width = first.head_dim or config.dim // first.num_heads
        frequencies_K = 1.0 / first.rope_base ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
        found["rope_freqs.weight"] = frequencies_K / first.rope_scaling.slowed(frequencies_K)
    halves = not (first.qk_norm or (first.bias and first.out_bias is False))
    for i in range(config.depth):
        for mine, their in _NAMES.items():
            for part in ("weight", "bias"):
                tensor = ours.get(f"blocks.{i}.{mine}.{part}")
                if tensor is None and mine.endswith("norm") and part == "weight":
                    tensor = ones
                if tensor is not None and halves and mine in ("mixer.q", "mixer.k"):
                    heads = first.num_heads if mine == "mixer.q" else first.num_kv_heads or first.num_heads
                    tensor = neighbours(tensor, heads)
                if tensor is not None:
                    found[f"blk.{i}.{their}.{part}"] = tensor
        for mine, their in (("q_norm", "attn_q_norm"), ("k_norm", "attn_k_norm")):
            if f"blocks.{i}.mixer.{mine}" in ours:
                found[f"blk.{i}.{their}.weight"] = ours[f"blocks.{i}.mixer.{mine}"]
    return found


def neighbours(x: Tensor, num_heads: int) -> Tensor:
    """The rows of a projection, or its bias, with the two halves of every head interleaved."""
    return x.unflatten(0, (num_heads, 2, -1)).transpose(1, 2).flatten(0, 2).contiguous()


def _kind_of(name: str, tensor: Tensor, wanted: Kind) -> Kind:
    """Vectors and positions stay float32; rows that no block of 32 divides are written as float16."""
    if tensor.dim() < 2 or name.startswith("position_embd"):
        return "f32"
    return "f16" if wanted == "q8_0" and tensor.shape[-1] % BLOCK else wanted
