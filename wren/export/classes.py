"""Which class of transformers computes what a model of ours computes, exactly; and its configuration.

Exactly: the same sums of the same numbers, not a near relative. What none of them has (tables, token shift, a softcap,
other mixers) goes into a folder with its own modelling file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from wren.export import layouts
from wren.mixer import MixerConfig
from wren.mixers import attention, gated_delta_net, short_conv
from wren.mlps import gelu, swiglu
from wren.model import ModelConfig
from wren.ops.rope import Llama3Scaling

Tensors = dict[str, Tensor]
_QK_EPS = 1e-6  # of attention's QK-norm


@dataclass(frozen=True)
class Known:
    """A class of transformers: its name, its config.json, its names for our tensors."""

    architecture: str
    config: dict[str, Any]
    tensors: Callable[[Tensors], Tensors]


def layers_of(config: ModelConfig) -> list[MixerConfig]:
    """The mixer of every layer."""
    return [config.mixers[i % len(config.mixers)] for i in range(config.depth)]


def known_class(config: ModelConfig, tensors: Tensors, context_len: int) -> Known | None:
    """The class that is this model, None where there is none. context_len: written as the most positions."""
    if not _is_plain(config):
        return None
    layers = layers_of(config)
    if all(isinstance(layer, attention.Config) for layer in layers):
        mixers = [layer for layer in layers if isinstance(layer, attention.Config)]
        return _gpt2(config, mixers, tensors) or _llama(config, mixers, tensors, context_len)
    return _lfm2(config, layers, tensors, context_len) or _qwen3_next(config, layers, tensors, context_len)


def _is_plain(config: ModelConfig) -> bool:
    """Embedding, blocks of norm, mixer, norm, MLP, and a head: nothing around them."""
    near, skips, tables = config.near, config.skips, config.tables
    return (
        config.loops == 1
        and config.norm_gate is None
        and config.logit_softcap is None
        and not (near.token_shift or near.canon)
        and not (skips.x0 or skips.unet or skips.values)
        and not (tables.values is not None or tables.bigrams or tables.trigrams)
    )


def _gpt2(config: ModelConfig, layers: Sequence[attention.Config], tensors: Tensors) -> Known | None:
    mlp = config.mlp
    plain = all(_is_gpt2_attention(layer, config.dim) for layer in layers)
    if not (plain and config.norm == "layer" and config.learned_positions and isinstance(mlp, gelu.Config)):
        return None
    if len({layer.num_heads for layer in layers}) > 1:
        return None
    settings = {
        "model_type": "gpt2",
        "n_positions": config.learned_positions,
        "n_embd": config.dim,
        "n_layer": config.depth,
        "n_head": layers[0].num_heads,
        "n_inner": mlp.hidden or 4 * config.dim,
        "activation_function": "gelu" if mlp.approximate == "none" else "gelu_new",
        "layer_norm_epsilon": config.norm_eps,
        **{f"{name}_pdrop": 0.0 for name in ("resid", "embd", "attn")},
    }
    return Known("GPT2LMHeadModel", settings, layouts.to_gpt2)


def _is_gpt2_attention(layer: attention.Config, dim: int) -> bool:
    whole = (layer.num_kv_heads or layer.num_heads) == layer.num_heads
    head = layer.head_dim is None or layer.head_dim * layer.num_heads == dim
    return _is_attention(layer) and whole and head and layer.positions == "none" and layer.window is None


def _is_attention(layer: attention.Config, *, qk_norm: bool = False, gate: str = "none") -> bool:
    return layer.values == "own" and layer.gate == gate and layer.qk_norm == qk_norm


def _llama(config: ModelConfig, layers: Sequence[attention.Config], tensors: Tensors, context_len: int) -> Known | None:
    settings = _llama_settings(config, layers, tensors, context_len)
    if settings is None:
        return None
    first = layers[0]
    windows = {layer.window for layer in layers}
    bias, out_bias = first.bias, first.bias if first.out_bias is None else first.out_bias
    kinds = ["full_attention" if layer.window is None else "sliding_attention" for layer in layers]
    width = next((window for window in windows if window is not None), None)
    sliding = {"use_sliding_window": width is not None, "sliding_window": width, "layer_types": kinds}
    if any(layer.positions == "none" for layer in layers):  # no_rope_layers: 1 where positions turn the keys
        turned = [int(layer.positions == "rope") for layer in layers]
        if first.qk_norm or bias != out_bias:
            return None
        more = {"no_rope_layers": turned, "attention_bias": bias, **sliding}
        return Known("SmolLM3ForCausalLM", {"model_type": "smollm3", **settings, **more}, layouts.to_llama)
    if first.qk_norm:
        if config.norm_eps != _QK_EPS or bias != out_bias:
            return None
        more = {"model_type": "qwen3", "attention_bias": bias, **sliding}
        return Known("Qwen3ForCausalLM", {**settings, **more}, layouts.to_llama)
    if windows == {None} and bias == out_bias:
        more = {"model_type": "llama", "attention_bias": bias, "mlp_bias": False}
        return Known("LlamaForCausalLM", {**settings, **more}, layouts.to_llama)
    if bias and not out_bias:
        return Known("Qwen2ForCausalLM", {"model_type": "qwen2", **settings, **sliding}, layouts.to_llama)
    if len(windows) == 1 and not bias and not out_bias:
        return Known(
            "MistralForCausalLM", {"model_type": "mistral", **settings, "sliding_window": width}, layouts.to_llama
        )
    return None


def _llama_settings(
    config: ModelConfig, layers: Sequence[attention.Config], tensors: Tensors, context_len: int
) -> dict[str, Any] | None:
    """What all of Llama's kin share; None where a part is none of theirs."""
    first = layers[0]
    same = ("num_heads", "num_kv_heads", "head_dim", "rope_base", "rope_scaling", "qk_norm", "bias", "out_bias")
    if any(getattr(layer, name) != getattr(first, name) for layer in layers for name in same):
        return None
    if not all(_is_attention(layer, qk_norm=first.qk_norm) for layer in layers):
        return None
    if len({layer.window for layer in layers} - {None}) > 1:
        return None
    return _rms_swiglu(config, first, tensors, context_len)


def _rms_swiglu(
    config: ModelConfig, layer: attention.Config, tensors: Tensors, context_len: int
) -> dict[str, Any] | None:
    if config.norm != "rms" or not isinstance(config.mlp, swiglu.Config) or config.learned_positions is not None:
        return None
    scaling = layer.rope_scaling
    return {
        "hidden_size": config.dim,
        "intermediate_size": len(tensors["blocks.0.mlp.up.weight"]),
        "num_hidden_layers": config.depth,
        "num_attention_heads": layer.num_heads,
        "num_key_value_heads": layer.num_kv_heads or layer.num_heads,
        "head_dim": layer.head_dim or config.dim // layer.num_heads,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": context_len,
        "rope_theta": layer.rope_base,
        "rope_scaling": None if scaling is None else _scaling(scaling),
        "attention_dropout": 0.0,
    }


def _scaling(scaling: Llama3Scaling) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_context_len,
    }


def _lfm2(config: ModelConfig, layers: Sequence[MixerConfig], tensors: Tensors, context_len: int) -> Known | None:
    turns = [layer for layer in layers if isinstance(layer, attention.Config)]
    convs = [layer for layer in layers if isinstance(layer, short_conv.Config)]
    if len(turns) + len(convs) < len(layers) or not turns or config.norm_eps != _QK_EPS:
        return None
    settings = _llama_settings(config, turns, tensors, context_len)
    same = len({(layer.conv_size, layer.bias) for layer in convs}) == 1
    plain = all(t.qk_norm and t.window is None and t.positions == "rope" and not (t.bias or t.out_bias) for t in turns)
    whole = turns[0].head_dim in (None, config.dim // turns[0].num_heads)
    if settings is None or not (same and plain and whole):
        return None
    kinds = ["full_attention" if isinstance(layer, attention.Config) else "conv" for layer in layers]
    more = {
        "model_type": "lfm2",
        "norm_eps": config.norm_eps,
        "conv_L_cache": convs[0].conv_size,
        "conv_bias": convs[0].bias,
        "block_auto_adjust_ff_dim": False,
        "layer_types": kinds,
    }
    return Known("Lfm2ForCausalLM", {**settings, **more}, lambda ours: layouts.to_lfm2(ours, list(layers)))


def _qwen3_next(config: ModelConfig, layers: Sequence[MixerConfig], tensors: Tensors, context_len: int) -> Known | None:
    turns = [layer for layer in layers if isinstance(layer, attention.Config)]
    deltas = [layer for layer in layers if isinstance(layer, gated_delta_net.Config)]
    if len(turns) + len(deltas) < len(layers) or not turns or not deltas or config.norm_eps != _QK_EPS:
        return None
    first, delta = turns[0], deltas[0]
    settings = _rms_swiglu(config, first, tensors, context_len)
    alike = all(layer == first for layer in turns) and all(layer == delta for layer in deltas)
    plain = _is_attention(first, qk_norm=True, gate="channel") and first.window is None and first.positions == "rope"
    bias = first.out_bias in (None, first.bias)
    theirs = delta.conv_size is not None and not delta.negative_eigenvalues and delta.norm_eps == config.norm_eps
    if settings is None or not (alike and plain and bias and theirs):
        return None
    key_dim = delta.head_dim or config.dim // delta.num_heads
    kinds = ["full_attention" if isinstance(layer, attention.Config) else "linear_attention" for layer in layers]
    rope = {"rope_type": "default", "rope_theta": first.rope_base, "partial_rotary_factor": 1.0}
    more = {
        "model_type": "qwen3_next",
        "attention_bias": first.bias,
        "rope_parameters": rope,
        "partial_rotary_factor": 1.0,
        "layer_types": kinds,
        "num_experts": 0,
        "mlp_only_layers": list(range(config.depth)),
        "linear_num_key_heads": delta.num_heads,
        "linear_num_value_heads": delta.num_value_heads or delta.num_heads,
        "linear_key_head_dim": key_dim,
        "linear_value_head_dim": delta.value_head_dim or key_dim,
        "linear_conv_kernel_dim": delta.conv_size,
    }
    if first.rope_scaling is not None:
        return None
    return Known("Qwen3NextForCausalLM", {**settings, **more}, lambda ours: layouts.to_qwen3_next(ours, list(layers)))
