"""Gated attention beside transformers' Qwen3-Next attention, from the same weights, in fp32 on the CPU."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from wren.mixer import Context
from wren.mixers import attention

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # transformers' own, while it loads
    pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers.models.qwen3_next import modeling_qwen3_next as qwen
    from transformers.models.qwen3_next.configuration_qwen3_next import Qwen3NextConfig

HEADS, HEAD_DIM, DIM = 4, 8, 24


def _theirs(kv_heads: int, length: int) -> tuple[nn.Module, tuple[Tensor, Tensor], Tensor]:
    """Their layer with random weights, its rotary cosines and sines, and its causal mask."""
    config = Qwen3NextConfig(
        hidden_size=DIM,
        num_attention_heads=HEADS,
        num_key_value_heads=kv_heads,
        head_dim=HEAD_DIM,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
    )
    config._attn_implementation = "eager"
    layer = qwen.Qwen3NextAttention(config, layer_idx=0)
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    rotation = qwen.Qwen3NextRotaryEmbedding(config)(torch.zeros(1, length, DIM), torch.arange(length)[None])
    return layer.eval(), rotation, torch.full((1, 1, length, length), -torch.inf).triu(1)


def _as_ours(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their q_proj holds query and gate of each head beside one another."""
    query, gate = weights["q_proj.weight"].view(HEADS, 2, HEAD_DIM, DIM).unbind(1)
    names = {"k.weight": "k_proj.weight", "v.weight": "v_proj.weight", "out.weight": "o_proj.weight"}
    names |= {"q_norm": "q_norm.weight", "k_norm": "k_norm.weight"}
    split = {"q.weight": query.reshape(-1, DIM), "gate.weight": gate.reshape(-1, DIM)}
    return split | {ours: weights[name] for ours, name in names.items()}


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 130])
def test_gated_attention_is_qwen3_nexts(length: int, kv_heads: int):
    """Outputs, and gradients of inputs and weights."""
    theirs, rotation, mask = _theirs(kv_heads, length)
    config = attention.Config(num_heads=HEADS, num_kv_heads=kv_heads, head_dim=HEAD_DIM, qk_norm=True, gate="channel")
    mixer = config.build(DIM)
    own, other = dict(mixer.named_parameters()), dict(theirs.named_parameters())
    given = _as_ours({name: value.detach() for name, value in other.items()})
    assert own.keys() == given.keys()
    for name, value in given.items():
        own[name].data.copy_(value + 1 if name.endswith("norm") else value)  # their gains are kept less 1
    x_BTD = torch.randn(2, length, DIM, generator=torch.Generator().manual_seed(length)).requires_grad_()
    found, expected = mixer(x_BTD, Context()), theirs(x_BTD, rotation, mask)[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    weights = torch.linspace(-1, 1, found.numel()).view_as(found) / found.numel()
    found_x, *found_grads = torch.autograd.grad((found * weights).sum(), (x_BTD, *own.values()))
    x_grad, *grads = torch.autograd.grad((expected * weights).sum(), (x_BTD, *other.values()))
    torch.testing.assert_close(found_x, x_grad, atol=1e-5, rtol=1e-4)
    expected_grads = _as_ours(dict(zip(other, grads, strict=True)))
    for name, grad in zip(own, found_grads, strict=True):
        torch.testing.assert_close(grad, expected_grads[name], atol=1e-5, rtol=1e-4)
