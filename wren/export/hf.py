"""A run as a folder that transformers loads: the class that exists where the mathematics is the same, else our own.

config.json  generation_config.json  model.safetensors  tokenizer.json  tokenizer_config.json  README.md
and, where no class of transformers fits,  modeling_wren.py
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from wren import checkpoint
from wren.ahead import AheadConfig
from wren.errors import DataError
from wren.export.card import model_card, use_hf
from wren.export.classes import Known, known_class
from wren.export.folder import check_new, new_folder
from wren.export.modelling import AUTO_MAP, FILE, modelling_file, settings_json
from wren.files import read_json, write_json, write_text
from wren.generate import Loaded, load_run
from wren.model import ModelConfig
from wren.run import Run
from wren.tokenizer import Tokenizer, special
from wren.tokenizer.chat import CHAT_TEMPLATE
from wren.tokenizer.hf import template

Dtype = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TEMPLATE_FILE = "chat_template.jinja"  # of a run directory; the folder of an export takes the same name
_DEFAULT_CONTEXT = 2048
_MAX_SHARD = 5 * 2**30  # bytes of a file of weights, as the hub likes them


def export_hf(
    run: Path | str,
    out: Path,
    *,
    dtype: Dtype = "fp32",
    own_code: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Writes the folder; returns {"out", "architecture", "dtype", "step", "parameters", "bytes"}.

    own_code: our own modelling file even where a class of transformers fits. Raises ConfigError where `out` exists,
    CheckpointError for a damaged run, DiskError when the disk is full; nothing half-written stays.
    """
    check_new(out)
    home = Run(run)
    loaded = load_run(run, torch.device("cpu"), say)
    config, tensors = inference_parts(loaded)
    known = None if own_code else known_class(config, tensors, context_len(home))
    names = known.tensors(tensors) if known else {f"lm.{name}": tensor for name, tensor in tensors.items()}
    with new_folder(out) as folder:
        weights = {name: tensor.to(DTYPES[dtype]).contiguous() for name, tensor in names.items()}
        _save_weights(weights, folder)
        settings = _config(config, known, home, loaded.tokenizer, dtype)
        write_json(folder / "config.json", settings)
        write_json(folder / "generation_config.json", _generation(config, loaded.tokenizer))
        write_tokenizer(folder, loaded.tokenizer, home)
        if known is None:
            write_text(folder / FILE, modelling_file(config))
        use = use_hf(out.name, own_code=known is None)
        write_text(folder / "README.md", model_card(home, loaded, "transformers", use, _remarks(loaded, known, dtype)))
    return {
        "out": str(out),
        "architecture": known.architecture if known else "WrenForCausalLM",
        "dtype": dtype,
        "step": loaded.step,
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "bytes": sum(file.stat().st_size for file in out.iterdir()),
    }


def inference_parts(loaded: Loaded) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and tensors without what acts in training only: dropout, and heads for tokens further ahead."""
    config = dataclasses.replace(loaded.model.config, ahead=AheadConfig(), dropout=0.0, embedding_dropout=None)
    tensors = checkpoint.weights(loaded.model)
    return config, {name: tensor for name, tensor in tensors.items() if not name.startswith("ahead.")}


def context_len(run: Run) -> int:
    """The length of the rows a run was trained on."""
    raw = run.config()
    train = raw.get("train") if isinstance(raw, dict) else None
    length = train.get("context_len") if isinstance(train, dict) else None
    return length if isinstance(length, int) else _DEFAULT_CONTEXT


def _config(config: ModelConfig, known: Known | None, run: Run, tokenizer: Tokenizer, dtype: Dtype) -> dict[str, Any]:
    shared = {
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": tokenizer.document_id,
        "eos_token_id": stop_ids(tokenizer),
        "pad_token_id": tokenizer.pad_id,
        "dtype": str(DTYPES[dtype]).removeprefix("torch."),
    }
    if known is not None:
        return {"architectures": [known.architecture], **known.config, **shared}
    return {
        "architectures": ["WrenForCausalLM"],
        "model_type": "wren",
        "auto_map": AUTO_MAP,
        "hidden_size": config.dim,
        "num_hidden_layers": config.depth,
        "max_position_embeddings": config.learned_positions or context_len(run),
        "use_cache": True,
        **shared,
        "wren": settings_json(config),
    }


def stop_ids(tokenizer: Tokenizer) -> list[int]:
    """Tokens that end a text: a new document's start, and the end of a turn where the vocabulary has one."""
    return sorted({tokenizer.special[name] for name in ("document", "end") if name in tokenizer.special})


def _generation(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    padding = list(range(tokenizer.vocab_size, config.vocab_size))  # rows that stand for no token
    return {
        "bos_token_id": tokenizer.document_id,
        "eos_token_id": stop_ids(tokenizer),
        "pad_token_id": tokenizer.pad_id,
        **({"suppress_tokens": padding} if padding else {}),
    }


def write_tokenizer(folder: Path, tokenizer: Tokenizer, run: Run) -> None:
    """tokenizer.json, which begins every text with the document token, and what transformers reads beside it."""
    path = folder / "tokenizer.json"
    tokenizer.save(path)
    names = tokenizer.spellings
    value = read_json(path)
    value["post_processor"] = template(names[tokenizer.document_id], tokenizer.document_id)
    write_json(path, value)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": names[tokenizer.document_id],
        "eos_token": names[tokenizer.special.get("end", tokenizer.document_id)],
        "pad_token": names[tokenizer.pad_id],
        "model_max_length": context_len(run),
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    chat = chat_template(run, tokenizer)
    if chat is not None:
        settings["chat_template"] = chat
        write_text(folder / TEMPLATE_FILE, chat)
    write_json(folder / "tokenizer_config.json", settings)


def chat_template(run: Run, tokenizer: Tokenizer) -> str | None:
    """The run's own chat_template.jinja, else Wren's where the vocabulary has its tokens, else None."""
    path = run.path / TEMPLATE_FILE
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text; restore it.") from error
    if not set(special.CHAT) <= tokenizer.special.keys():
        return None
    return CHAT_TEMPLATE.replace(special.spelling("document"), tokenizer.spellings[tokenizer.document_id])


def _save_weights(weights: dict[str, Tensor], folder: Path) -> None:
    """One file, or several with an index where they are large."""
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in weights.items()}
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > _MAX_SHARD:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    if len(shards) == 1:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return
    places = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file({name: weights[name] for name in names}, folder / file, {"format": "pt"})
        places |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
    write_json(folder / "model.safetensors.index.json", index)


def _remarks(loaded: Loaded, known: Known | None, dtype: Dtype) -> list[str]:
    what = known.architecture if known else "modeling_wren.py, cut from Wren's own source"
    remarks = [f"Computed by {what}; weights in {dtype}."]
    if loaded.tokenizer.special:
        remarks.append(
            "A special token that is spelled out in a text is read as that token; Wren itself reads it as text "
            "(in transformers: `split_special_tokens=True`)."
        )
    if loaded.model.config.ahead.tokens:
        remarks.append("The heads that predicted tokens further ahead in training are left out.")
    return remarks
