"""How other programs name and lay out the same tensors; both ways, so that what goes out comes back equal.

GPT-2 keeps its matrices transposed and q, k, v as one; Llama and its kin name things only. LFM2 and Qwen3-Next are the
hybrids whose blocks are ours: short_conv and attention, gated_delta_net and attention.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from wren.mixer import MixerConfig
from wren.mixers import attention, gated_delta_net, short_conv

Tensors = dict[str, Tensor]

_OUTER = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
_HEAD = {"head.weight": "lm_head.weight"}
_GPT2_OUTER = {
    "embedding.weight": "transformer.wte.weight",
    "positions.weight": "transformer.wpe.weight",
    "norm": "transformer.ln_f",
}
_GPT2 = {
    "mixer_norm": "ln_1",
    "mlp_norm": "ln_2",
    "mixer.out": "attn.c_proj",
    "mlp.up": "mlp.c_fc",
    "mlp.out": "mlp.c_proj",
}
_LLAMA = {
    "mixer_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "mixer.q": "self_attn.q_proj",
    "mixer.k": "self_attn.k_proj",
    "mixer.v": "self_attn.v_proj",
    "mixer.out": "self_attn.o_proj",
    "mixer.q_norm": "self_attn.q_norm.weight",
    "mixer.k_norm": "self_attn.k_norm.weight",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.out": "mlp.down_proj",
}
_LFM2 = {
    **_LLAMA,
    "mixer_norm": "operator_norm",
    "mlp_norm": "ffn_norm",
    "mixer.out": "self_attn.out_proj",
    "mixer.q_norm": "self_attn.q_layernorm.weight",
    "mixer.k_norm": "self_attn.k_layernorm.weight",
    "mlp.gate": "feed_forward.w1",
    "mlp.up": "feed_forward.w3",
    "mlp.out": "feed_forward.w2",
}
_SHORT_CONV = {"mixer.inputs": "conv.in_proj", "mixer.out": "conv.out_proj", "mixer.conv_bias": "conv.conv.bias"}
_DELTA = {
    "mixer.out": "linear_attn.out_proj",
    "mixer.norm": "linear_attn.norm.weight",
    "mixer.A_log": "linear_attn.A_log",
    "mixer.dt_bias": "linear_attn.dt_bias",
}
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def to_gpt2(ours: Tensors) -> Tensors:
    """Biases and gains that the model lacks are written as zeros and ones: GPT-2 always has them."""
    depth = _depth(ours)
    dim = ours["embedding.weight"].shape[1]
    theirs = {name: ours[name] for name in ("head.weight",) if name in ours}
    theirs = {_HEAD[name]: value for name, value in theirs.items()}
    for name in ("embedding.weight", "positions.weight"):
        theirs[_GPT2_OUTER[name]] = ours[name]
    _gpt2_norm(theirs, ours, "norm", "transformer.ln_f", dim)
    for i in range(depth):
        mine, their = f"blocks.{i}.", f"transformer.h.{i}."
        for name in ("mixer_norm", "mlp_norm"):
            _gpt2_norm(theirs, ours, mine + name, their + _GPT2[name], dim)
        weights = [ours[f"{mine}mixer.{part}.weight"] for part in "qkv"]
        biases = [_bias(ours, f"{mine}mixer.{part}") for part in "qkv"]
        theirs[their + "attn.c_attn.weight"] = torch.cat(weights).T.contiguous()
        theirs[their + "attn.c_attn.bias"] = torch.cat(biases)
        for name in ("mixer.out", "mlp.up", "mlp.out"):
            theirs[f"{their}{_GPT2[name]}.weight"] = ours[f"{mine}{name}.weight"].T.contiguous()
            theirs[f"{their}{_GPT2[name]}.bias"] = _bias(ours, mine + name)
    return theirs


def _gpt2_norm(theirs: Tensors, ours: Tensors, mine: str, their: str, dim: int) -> None:
    like = ours["embedding.weight"]
    theirs[f"{their}.weight"] = ours.get(f"{mine}.weight", like.new_ones(dim))
    theirs[f"{their}.bias"] = ours.get(f"{mine}.bias", like.new_zeros(dim))


def _bias(ours: Tensors, name: str) -> Tensor:
    weight = ours[f"{name}.weight"]
    return ours.get(f"{name}.bias", weight.new_zeros(len(weight)))


def from_gpt2(theirs: Mapping[str, Tensor]) -> Tensors:
    """Takes names with and without the leading "transformer."; raises KeyError for a tensor that is missing."""
    prefix = "transformer." if any(name.startswith("transformer.") for name in theirs) else ""
    depth = 1 + max(int(m[1]) for name in theirs if (m := re.match(rf"{prefix}h\.(\d+)\.", name)))
    ours = {"head.weight": theirs["lm_head.weight"]} if "lm_head.weight" in theirs else {}
    for name in ("embedding.weight", "positions.weight"):
        ours[name] = theirs[prefix + _GPT2_OUTER[name].removeprefix("transformer.")]
    pairs = [("norm", f"{prefix}ln_f")]
    pairs += [
        (f"blocks.{i}.{n}", f"{prefix}h.{i}.{_GPT2[n]}") for i in range(depth) for n in ("mixer_norm", "mlp_norm")
    ]
    for mine, their in pairs:
        ours |= {f"{mine}.{part}": theirs[f"{their}.{part}"] for part in ("weight", "bias")}
    for i in range(depth):
        mine, their = f"blocks.{i}.", f"{prefix}h.{i}."
        weights = theirs[their + "attn.c_attn.weight"].T.chunk(3)
        biases = theirs[their + "attn.c_attn.bias"].chunk(3)
        for part, weight, bias in zip("qkv", weights, biases, strict=True):
            ours |= {f"{mine}mixer.{part}.weight": weight, f"{mine}mixer.{part}.bias": bias}
        for name in ("mixer.out", "mlp.up", "mlp.out"):
            ours[f"{mine}{name}.weight"] = theirs[f"{their}{_GPT2[name]}.weight"].T
            ours[f"{mine}{name}.bias"] = theirs[f"{their}{_GPT2[name]}.bias"]
    return {name: tensor.contiguous() for name, tensor in ours.items()}


def to_llama(ours: Tensors) -> Tensors:
    """Llama, Mistral, Qwen2, Qwen3, SmolLM3: one scheme of names."""
    return _with_gains(_renamed(ours, lambda i: _LLAMA), ours, _LLAMA)


def from_llama(theirs: Mapping[str, Tensor]) -> Tensors:
    """Raises KeyError for a tensor whose name is none of theirs."""
    outer = {their: mine for mine, their in (_OUTER | _HEAD).items()}
    inner = {their: mine for mine, their in _LLAMA.items()}
    ours = {}
    for name, tensor in theirs.items():
        match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
        if match is None:
            ours[outer[name]] = tensor
        elif match[2] in inner:
            ours[f"blocks.{match[1]}.{inner[match[2]]}"] = tensor
        else:
            stem, _, kind = match[2].rpartition(".")
            ours[f"blocks.{match[1]}.{inner[stem]}.{kind}"] = tensor
    return ours


def to_lfm2(ours: Tensors, layers: list[MixerConfig]) -> Tensors:
    names = {short_conv.Config: _LFM2 | _SHORT_CONV, attention.Config: _LFM2}
    theirs = _renamed(ours, lambda i: names[type(layers[i])])
    theirs["model.embedding_norm.weight"] = theirs.pop("model.norm.weight", None)
    theirs = {name: tensor for name, tensor in theirs.items() if tensor is not None}
    for i, layer in enumerate(layers):
        if isinstance(layer, short_conv.Config):
            theirs[f"model.layers.{i}.conv.conv.weight"] = ours[f"blocks.{i}.mixer.conv"][:, None]
    return _with_gains(theirs, ours, _LFM2, last="model.embedding_norm.weight")


def to_qwen3_next(ours: Tensors, layers: list[MixerConfig]) -> Tensors:
    """Its norms hold gain - 1, its gate of attention stands beside the queries, its delta net keeps q, k, v and gate
    of one key head beside one another."""
    names = {gated_delta_net.Config: {**_LLAMA, **_DELTA}, attention.Config: _LLAMA}
    plain = {name: tensor for name, tensor in ours.items() if not _is_joined(name)}
    theirs = _with_gains(_renamed(plain, lambda i: names[type(layers[i])]), ours, _LLAMA)
    for name in theirs:
        if name.endswith("norm.weight") and "linear_attn" not in name:
            theirs[name] = theirs[name] - 1
    for i, layer in enumerate(layers):
        mine, their = f"blocks.{i}.mixer.", f"model.layers.{i}."
        if isinstance(layer, attention.Config):
            for part in ("weight", "bias"):
                if f"{mine}q.{part}" in ours:
                    pair = [ours[f"{mine}{n}.{part}"].unflatten(0, (layer.num_heads, -1)) for n in ("q", "gate")]
                    theirs[f"{their}self_attn.q_proj.{part}"] = torch.cat(pair, dim=1).flatten(0, 1)
        else:
            assert isinstance(layer, gated_delta_net.Config)
            for parts, name in ((("q", "k", "v", "gate"), "in_proj_qkvz"), (("beta", "decay"), "in_proj_ba")):
                heads = [ours[f"{mine}{part}.weight"].unflatten(0, (layer.num_heads, -1)) for part in parts]
                theirs[f"{their}linear_attn.{name}.weight"] = torch.cat(heads, dim=1).flatten(0, 1)
            theirs[f"{their}linear_attn.conv1d.weight"] = ours[f"{mine}conv"][:, None]
    return theirs


def _is_joined(name: str) -> bool:
    """What to_qwen3_next joins with others, and the delta net's projections."""
    return bool(re.fullmatch(r"blocks\.\d+\.mixer\.((q|gate|beta|decay)\.(weight|bias)|conv)", name))


def _renamed(ours: Tensors, names_of: object) -> dict:
    """Tensors under their names; those of a mixer that have none there are left out."""
    theirs = {}
    for name, tensor in ours.items():
        match = _BLOCK.fullmatch(name)
        if match is None:
            theirs[(_OUTER | _HEAD)[name]] = tensor
            continue
        names = names_of(int(match[1]))  # type: ignore[operator]
        stem, _, kind = match[2].rpartition(".")
        if match[2] in names:
            theirs[f"model.layers.{match[1]}.{names[match[2]]}"] = tensor
        elif stem in names:
            theirs[f"model.layers.{match[1]}.{names[stem]}.{kind}"] = tensor
    return theirs


def _with_gains(theirs: Tensors, ours: Tensors, names: dict[str, str], last: str = "model.norm.weight") -> Tensors:
    """Gains of one for norms that the model has without."""
    ones = ours["embedding.weight"].new_ones(ours["embedding.weight"].shape[1])
    wanted = [f"model.layers.{i}.{names[n]}.weight" for i in range(_depth(ours)) for n in ("mixer_norm", "mlp_norm")]
    return {**{name: ones.clone() for name in [*wanted, last]}, **theirs}


def _depth(ours: Tensors) -> int:
    return 1 + max(int(match[1]) for name in ours if (match := _BLOCK.fullmatch(name)))
