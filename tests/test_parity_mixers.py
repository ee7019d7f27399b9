"""The mixers beside transformers' own, from the same weights, in fp32 on the CPU."""

import logging
import warnings

import parity
import pytest
import torch

from wren.mixers import attention, gated_delta_net
from wren.ops.gated_delta_rule import chunked_gated_delta_rule, naive_gated_delta_rule
from wren.ops.norm import l2_normalised

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # transformers' own, while it loads
    pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers import GPT2Config, LlamaConfig
    from transformers.models.gpt2.modeling_gpt2 import GPT2Attention
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding
    from transformers.models.qwen3_next import modeling_qwen3_next as qwen
    from transformers.models.qwen3_next.configuration_qwen3_next import Qwen3NextConfig

logging.getLogger("transformers").setLevel(logging.ERROR)  # it says at length that fla is not installed


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("length", parity.LENGTHS)
def test_attention_is_llamas(length: int, kv_heads: int):
    config = LlamaConfig(
        hidden_size=32, num_attention_heads=4, num_key_value_heads=kv_heads, attn_implementation="eager"
    )
    theirs = LlamaAttention(config, layer_idx=0)
    parity.randomise(theirs)
    mixer = attention.Config(num_heads=4, num_kv_heads=kv_heads).build(32)
    names = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "o_proj"}
    rotation = LlamaRotaryEmbedding(config)(torch.zeros(2, length, 32), torch.arange(length)[None])
    parity.assert_same(
        mixer,
        theirs,
        lambda weights: {f"{ours}.weight": weights[f"{name}.weight"] for ours, name in names.items()},
        length,
        32,
        1e-5,
        call=lambda x_BTD: theirs(x_BTD, rotation, parity.causal_mask(length))[0],
    )


@pytest.mark.parametrize("length", parity.LENGTHS)
def test_attention_is_gpt2s(length: int):
    config = GPT2Config(n_embd=32, n_head=4, attn_pdrop=0.0, resid_pdrop=0.0, attn_implementation="eager")
    theirs = GPT2Attention(config, layer_idx=0)
    parity.randomise(theirs)
    mixer = attention.Config(num_heads=4, positions="none", bias=True).build(32)
    mask = parity.causal_mask(length)
    parity.assert_same(mixer, theirs, _from_gpt2, length, 32, call=lambda x_BTD: theirs(x_BTD, attention_mask=mask)[0])


def _from_gpt2(weights: parity.Weights) -> parity.Weights:
    """It keeps its weights turned, and q, k, v in one."""
    ours = {"out.weight": weights["c_proj.weight"].T, "out.bias": weights["c_proj.bias"]}
    for name, weight in zip("qkv", weights["c_attn.weight"].split(32, dim=1), strict=True):
        ours[f"{name}.weight"] = weight.T
    for name, bias in zip("qkv", weights["c_attn.bias"].split(32), strict=True):
        ours[f"{name}.bias"] = bias
    return ours


@pytest.mark.parametrize(("heads", "value_heads"), [(2, 2), (2, 4)])
@pytest.mark.parametrize("length", parity.LENGTHS)
def test_gated_delta_net_is_qwen3_nexts(length: int, heads: int, value_heads: int):
    config = Qwen3NextConfig(
        hidden_size=32,
        linear_num_key_heads=heads,
        linear_num_value_heads=value_heads,
        linear_key_head_dim=8,
        linear_value_head_dim=6,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
    )
    theirs = qwen.Qwen3NextGatedDeltaNet(config, layer_idx=0)
    parity.randomise(theirs)
    theirs.A_log.data.clamp_(max=0.0)  # rates of 16 lose their own fp32 gradient 4e-4 of its exact value
    mixer = gated_delta_net.Config(
        num_heads=heads, num_value_heads=value_heads, head_dim=8, value_head_dim=6, norm_eps=config.rms_norm_eps
    ).build(32)
    shared = value_heads // heads
    parity.assert_same(mixer, theirs, lambda w: _from_qwen(w, heads, shared, 8, 6), length, 32)


def _from_qwen(theirs: parity.Weights, heads: int, shared: int, key_dim: int, value_dim: int) -> parity.Weights:
    """Its projections stand interleaved: for every key head its q, k, then its values and gates."""
    sizes = [key_dim, key_dim, shared * value_dim, shared * value_dim]
    qkvg = theirs["in_proj_qkvz.weight"].unflatten(0, (heads, -1)).split(sizes, dim=1)
    gates = theirs["in_proj_ba.weight"].unflatten(0, (heads, -1)).split(shared, dim=1)
    names = ("q", "k", "v", "gate", "beta", "decay")
    projections = {f"{name}.weight": w.flatten(0, 1) for name, w in zip(names, qkvg + gates, strict=True)}
    own = {"A_log": theirs["A_log"], "dt_bias": theirs["dt_bias"], "norm": theirs["norm.weight"]}
    return projections | own | {"out.weight": theirs["out_proj.weight"], "conv": theirs["conv1d.weight"].squeeze(1)}


@pytest.mark.parametrize("length", parity.LENGTHS)
@pytest.mark.parametrize("name", ["torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule"])
def test_rule_is_transformers(length: int, name: str):
    generator = torch.Generator().manual_seed(length)
    q, k, v = (torch.randn(2, length, 2, width, generator=generator).requires_grad_() for width in (8, 8, 6))
    log_decay = (-torch.rand(2, length, 2, generator=generator)).requires_grad_()
    beta = torch.rand(2, length, 2, generator=generator).requires_grad_()
    memory = torch.randn(2, 2, 8, 6, generator=generator).requires_grad_()
    given = [q, k, v, log_decay, beta, memory]
    settings = {"initial_state": memory, "output_final_state": True, "use_qk_l2norm_in_kernel": True}
    expected = getattr(qwen, name)(q, k, v, g=log_decay, beta=beta, **settings)
    for rule in (naive_gated_delta_rule, chunked_gated_delta_rule):
        found = rule(l2_normalised(q), l2_normalised(k), v, log_decay, beta, memory_BHKV=memory)
        both = []
        for o, last in (found, expected):
            both.append([o, last, *torch.autograd.grad(o.cos().sum() + last.sum(), given, retain_graph=True)])
        for ours, theirs in zip(*both, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
