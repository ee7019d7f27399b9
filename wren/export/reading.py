"""Checkpoints of transformers' GPT-2, Llama and kin as a ModelConfig and its tensors: what lies in a local folder.

Only JSON and safetensors are read. A feature that Wren's blocks lack is refused by name: a model that computed nearly
the same would be worse than none.
"""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wren import config as configs
from wren.errors import CheckpointError, ConfigError, DataError
from wren.export import layouts
from wren.export.modelling import AUTO_MAP
from wren.files import read_json
from wren.mixers import attention
from wren.mlps import gelu, swiglu
from wren.model import ModelConfig
from wren.ops.rope import Llama3Scaling

FAMILIES = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "smollm3", "wren")
_GELUS: dict[str, Literal["none", "tanh"]] = {
    "gelu": "none",
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
    "gelu_fast": "tanh",
}
_INDEX = "model.safetensors.index.json"


class Read(NamedTuple):
    """family: the model_type. context_len: the most positions it was made for. raw: its config.json."""

    family: str
    model: ModelConfig
    tensors: dict[str, Tensor]
    context_len: int
    raw: dict[str, Any]


def read_folder(folder: Path) -> Read:
    """Raises ConfigError for a model that Wren cannot compute exactly, CheckpointError for files that do not fit."""
    raw = read_json(folder / "config.json")
    family = raw.get("model_type") if isinstance(raw, dict) else None
    if family not in FAMILIES:
        raise ConfigError(
            f"{folder} holds a model of the type {family!r}; Wren reads {', '.join(FAMILIES)}, and trains others anew."
        )
    values = _Values(raw, folder)
    model, length = _MODELS.get(family, _llama)(values)
    theirs = read_tensors(folder)
    try:
        tensors = _named(family, theirs)
    except KeyError as error:
        raise CheckpointError(f"{folder} has no place for, or lacks, the tensor {error}; restore the model.") from error
    if model.tie_embeddings:
        tensors.pop("head.weight", None)
    return Read(family, model, tensors, length, raw)


def _named(family: str, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    if family == "gpt2":
        return layouts.from_gpt2(theirs)
    if family == "wren":
        return {name.removeprefix("lm."): tensor for name, tensor in theirs.items()}
    return layouts.from_llama({n: t for n, t in theirs.items() if not n.endswith("rotary_emb.inv_freq")})


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of model.safetensors, or of the files that its index names, in float32."""
    names = ["model.safetensors"]
    if (folder / _INDEX).is_file():
        index = read_json(folder / _INDEX)
        places = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(places, dict) or any(Path(str(n)).name != n for n in places.values()):
            raise CheckpointError(f"{folder / _INDEX} names no files of its own folder; restore it.")
        names = sorted(set(places.values()))
    tensors: dict[str, Tensor] = {}
    for name in names:
        path = folder / name
        if not path.is_file():
            pickled = sorted(file.name for file in folder.glob("*.bin"))
            more = f"; {pickled[0]} is a pickle, which could run any code: convert it to safetensors" if pickled else ""
            raise CheckpointError(f"{folder} has no {name}{more or '; restore it'}.")
        try:
            with safe_open(path, "pt") as file:
                tensors |= {key: file.get_tensor(key).to(torch.float32) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, RuntimeError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); copy or download it again.") from error
    return tensors


class _Values:
    """A config.json whose numbers are asked for by name."""

    def __init__(self, raw: dict[str, Any], folder: Path):
        self.raw, self.folder = raw, folder

    def get(self, name: str, kind: type, default: Any = ...) -> Any:
        """A value of this kind; a missing or null one is the default, if there is one."""
        value = self.raw.get(name)
        if value is None and default is not ...:
            return default
        if kind is float and isinstance(value, int):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ConfigError(f"{self.folder / 'config.json'}: {name} is {value!r}, not {kind.__name__}; restore it.")
        return value

    def refuse(self, feature: str) -> ConfigError:
        return ConfigError(f"{self.folder} is a model with {feature}, which Wren does not have; choose another model.")


def _gpt2(values: _Values) -> tuple[ModelConfig, int]:
    kind = values.get("activation_function", str, "gelu_new")
    if kind not in _GELUS:
        raise values.refuse(f"the activation {kind}")
    if values.get("scale_attn_by_inverse_layer_idx", bool, False) or not values.get("scale_attn_weights", bool, True):
        raise values.refuse("attention scores of another scale (scale_attn_by_inverse_layer_idx)")
    if values.get("add_cross_attention", bool, False):
        raise values.refuse("cross-attention")
    length, dim = values.get("n_positions", int, 1024), values.get("n_embd", int, 768)
    width = values.get("n_inner", int, 4 * dim)
    model = ModelConfig(
        vocab_size=values.get("vocab_size", int),
        dim=dim,
        depth=values.get("n_layer", int, 12),
        mixers=(attention.Config(num_heads=values.get("n_head", int, 12), positions="none", bias=True),),
        mlp=gelu.Config(hidden=None if width == 4 * dim else width, bias=True, approximate=_GELUS[kind]),
        norm="layer",
        norm_eps=values.get("layer_norm_epsilon", float, 1e-5),
        bias=True,
        learned_positions=length,
        documents=False,
        tie_embeddings=values.get("tie_word_embeddings", bool, True),
    )
    return model, length


def _llama(values: _Values) -> tuple[ModelConfig, int]:
    """Llama, Mistral, Qwen2, Qwen3, SmolLM3."""
    family = values.raw["model_type"]
    if values.get("hidden_act", str, "silu") not in ("silu", "swish"):
        raise values.refuse(f"the activation {values.raw['hidden_act']}")
    if values.get("mlp_bias", bool, False):
        raise values.refuse("biases in the MLP (mlp_bias)")
    if values.get("partial_rotary_factor", float, 1.0) != 1.0:
        raise values.refuse("positions on a part of the channels (partial_rotary_factor)")
    eps = values.get("rms_norm_eps", float, 1e-6)
    if family == "qwen3" and eps != 1e-6:
        raise values.refuse(f"a QK-norm of eps {eps:g}")
    depth, length = values.get("num_hidden_layers", int), values.get("max_position_embeddings", int, 2048)
    base = _attention(values, family)
    layers = tuple(
        base if turned and window is None else _changed(base, turned, window)
        for turned, window in zip(_turned(values, family, depth), _windows(values, family, depth), strict=True)
    )
    model = ModelConfig(
        vocab_size=values.get("vocab_size", int),
        dim=values.get("hidden_size", int),
        depth=depth,
        mixers=layers[:1] if len(set(layers)) == 1 else layers,
        mlp=swiglu.Config(hidden=values.get("intermediate_size", int)),
        norm_eps=eps,
        tie_embeddings=values.get("tie_word_embeddings", bool, family == "smollm3"),
    )
    return model, length


def _changed(base: attention.Config, turned: bool, window: int | None) -> attention.Config:
    return configs.replace(base, {"positions": "rope" if turned else "none", "window": window})


def _attention(values: _Values, family: str) -> attention.Config:
    heads = values.get("num_attention_heads", int)
    base, scaling = _rope(values, family)
    bias = values.get("attention_bias", bool, False) or family == "qwen2"
    return attention.Config(
        num_heads=heads,
        num_kv_heads=values.get("num_key_value_heads", int, heads),
        head_dim=values.get("head_dim", int, 128 if family == "qwen3" else values.get("hidden_size", int) // heads),
        rope_base=base,
        rope_scaling=scaling,
        qk_norm=family == "qwen3",
        bias=bias,
        out_bias=False if family == "qwen2" else None,
    )


def _rope(values: _Values, family: str) -> tuple[float, Llama3Scaling | None]:
    """The base of the angles and their scaling: rope_parameters of transformers 5, rope_theta and rope_scaling."""
    newer = values.get("rope_parameters", dict, {})
    older = values.get("rope_scaling", dict, {})
    default = 2_000_000.0 if family == "smollm3" else 10_000.0
    theta = newer.get("rope_theta", values.raw.get("rope_theta", default))
    scaling = {**older, **newer}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if not isinstance(theta, (int, float)):
        raise ConfigError(f"{values.folder / 'config.json'}: rope_theta is {theta!r}, not a number; restore it.")
    if kind == "default":
        return float(theta), None
    if kind != "llama3":
        raise values.refuse(f"positions scaled by '{kind}' (Wren has 'llama3')")
    try:
        return float(theta), Llama3Scaling(
            factor=float(scaling["factor"]),
            low_freq_factor=float(scaling["low_freq_factor"]),
            high_freq_factor=float(scaling["high_freq_factor"]),
            original_context_len=int(scaling["original_max_position_embeddings"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{values.folder / 'config.json'}: rope_scaling lacks {error}; restore it.") from error


def _turned(values: _Values, family: str, depth: int) -> list[bool]:
    """Whether each layer has rotary positions."""
    if family != "smollm3":
        return [True] * depth
    every = values.get("no_rope_layer_interval", int, 4)
    given = values.get("no_rope_layers", list, [(i + 1) % every != 0 for i in range(depth)])
    if len(given) != depth:
        raise ConfigError(f"{values.folder / 'config.json'}: no_rope_layers is not one number a layer; restore it.")
    return [bool(each) for each in given]


def _windows(values: _Values, family: str, depth: int) -> list[int | None]:
    """The window of each layer, None = it sees everything."""
    width = values.get("sliding_window", int, None)
    used = values.get("use_sliding_window", bool, family == "mistral") and width is not None
    if family == "llama" or not used:
        return [None] * depth
    first = values.get("max_window_layers", int, 0 if family in ("mistral", "smollm3") else 28)
    kinds = values.get("layer_types", list, None)
    if kinds is None:
        kinds = ["sliding_attention" if i >= first else "full_attention" for i in range(depth)]
    if family == "mistral":
        kinds = ["sliding_attention"] * depth
    if len(kinds) != depth or set(kinds) - {"sliding_attention", "full_attention"}:
        raise values.refuse(f"layers of the kinds {sorted(set(map(str, kinds)))}")
    return [width if kind == "sliding_attention" else None for kind in kinds]


def _own(values: _Values) -> tuple[ModelConfig, int]:
    """A folder that `wren export` wrote with its own modelling file."""
    if values.raw.get("auto_map") != AUTO_MAP or not isinstance(values.raw.get("wren"), dict):
        raise ConfigError(f"{values.folder} was not written by `wren export`; use one that was.")
    plain = _without_kinds(values.raw["wren"])
    return configs.from_json(ModelConfig, plain, "wren"), values.get("max_position_embeddings", int, 2048)


def _without_kinds(value: Any) -> Any:
    """Settings as Wren's own config.json has them, where only mixers and MLPs name their class."""
    if isinstance(value, list):
        return [_without_kinds(item) for item in value]
    if not isinstance(value, dict):
        return value
    named = str(value.get("type", "")).startswith(("mixers.", "mlps."))
    return {key: _without_kinds(item) for key, item in value.items() if key != "type" or named}


_MODELS = {"gpt2": _gpt2, "wren": _own}


def token_of(folder: Path, name: str) -> str | None:
    """How tokenizer_config.json spells a token such as "bos_token", if it does."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        try:
            value = json.loads((folder / file).read_text(encoding="utf-8")).get(name)
        except (OSError, ValueError, AttributeError):
            continue
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            return value
    return None


def chat_template_of(folder: Path) -> str | None:
    """The Jinja template of conversations, from its file or from tokenizer_config.json."""
    path = folder / "chat_template.jinja"
    try:
        if path.is_file():
            return path.read_text(encoding="utf-8")
        value = read_json(folder / "tokenizer_config.json").get("chat_template")
    except (DataError, OSError, UnicodeDecodeError, AttributeError):
        return None
    return value if isinstance(value, str) else None
