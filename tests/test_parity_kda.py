"""Kimi Delta Attention beside transformers' own (Kimi Linear), from the same weights, in fp32 on the CPU."""

import logging
import warnings

import parity
import pytest
import torch

from wren.mixers import kda
from wren.ops.generalised_delta_rule import chunked_generalised_delta_rule, naive_generalised_delta_rule

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # transformers' own, while it loads
    pytest.importorskip("transformers.models.kimi_linear", reason="transformers with Kimi Linear is not installed")
    from transformers.models.kimi_linear import modeling_kimi_linear as kimi
    from transformers.models.kimi_linear.configuration_kimi_linear import KimiLinearConfig

logging.getLogger("transformers").setLevel(logging.ERROR)  # it says at length that fla is not installed
NAMES = {
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "decay_down": "forget_gate.f_a_proj",
    "decay_up": "forget_gate.f_b_proj",
    "gate_down": "g_a_proj",
    "gate_up": "g_b_proj",
    "beta": "b_proj",
    "out": "o_proj",
}


def _as_ours(theirs: parity.Weights) -> parity.Weights:
    """Their weights, or gradients of them, laid out as the mixer's."""
    own = {f"{ours}.weight": theirs[f"{name}.weight"] for ours, name in NAMES.items()}
    own |= {"A_log": theirs["forget_gate.A_log"].flatten(), "dt_bias": theirs["forget_gate.dt_bias"]}
    return own | {"norm": theirs["o_norm.weight"], "conv": theirs["conv1d.weight"].squeeze(1)}


def _theirs() -> kimi.KimiLinearDeltaAttention:
    config = KimiLinearConfig(
        hidden_size=32,
        linear_num_heads=2,
        linear_head_dim=8,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
        rms_norm_eps=1e-5,
    )
    module = kimi.KimiLinearDeltaAttention(config, layer_idx=0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.data = 1 + 0.1 * drawn if name == "o_norm.weight" else 0.3 * drawn
    return module.eval()


@pytest.mark.parametrize("length", parity.LENGTHS)
def test_kda_is_kimi_linears(length: int):
    """Outputs, and gradients of inputs and weights."""
    theirs, mixer = _theirs(), kda.Config(num_heads=2, head_dim=8).build(32)
    parity.assert_same(mixer, theirs, _as_ours, length, 32)


@pytest.mark.parametrize("length", parity.LENGTHS)
@pytest.mark.parametrize("name", ["chunk_kimi_delta_attention", "recurrent_kimi_delta_attention"])
def test_rule_is_transformers(length: int, name: str):
    generator = torch.Generator().manual_seed(length)
    q, k, v = (torch.randn(2, length, 2, width, generator=generator) for width in (8, 8, 6))
    q, k = torch.nn.functional.normalize(q, dim=-1), torch.nn.functional.normalize(k, dim=-1)
    log_decay, beta = -torch.rand(2, length, 2, 8, generator=generator), torch.rand(2, length, 2, generator=generator)
    memory = torch.randn(2, 2, 8, 6, generator=generator)
    given = [x.requires_grad_() for x in (q, k, v, log_decay, beta, memory)]
    expected = getattr(kimi, name)(
        q, k, v, g=log_decay, beta=beta, initial_state=memory, output_final_state=True, use_qk_l2norm_in_kernel=False
    )
    for rule in (naive_generalised_delta_rule, chunked_generalised_delta_rule):
        found = rule(q * 8**-0.5, beta[..., None] * k, v, log_decay, k, memory_BHKV=memory)
        both = []
        for o, last in (found, expected):
            both.append([o, last, *torch.autograd.grad(o.cos().sum() + last.sum(), given, retain_graph=True)])
        for ours, theirs in zip(*both, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
