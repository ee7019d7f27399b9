"""Delta net and delta product beside transformers' Qwen3-Next, whose block holds both as special cases, in fp32."""

import logging
import warnings

import parity
import pytest
import torch
from torch import Tensor

from wren.mixers import delta_net, delta_product
from wren.ops.gated_delta_rule import chunked_gated_delta_rule, naive_gated_delta_rule
from wren.ops.norm import l2_normalised

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # transformers' own, while it loads
    pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers.models.qwen3_next import modeling_qwen3_next as qwen
    from transformers.models.qwen3_next.configuration_qwen3_next import Qwen3NextConfig

logging.getLogger("transformers").setLevel(logging.ERROR)  # it says at length that fla is not installed
HEADS, KEY_DIM, VALUE_DIM = 2, 8, 6


def _theirs() -> qwen.Qwen3NextGatedDeltaNet:
    config = Qwen3NextConfig(
        hidden_size=32,
        linear_num_key_heads=HEADS,
        linear_num_value_heads=HEADS,
        linear_key_head_dim=KEY_DIM,
        linear_value_head_dim=VALUE_DIM,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
        rms_norm_eps=1e-5,
    )
    torch.manual_seed(0)
    theirs = qwen.Qwen3NextGatedDeltaNet(config, layer_idx=0)
    parity.randomise(theirs)
    theirs.A_log.data.clamp_(max=0.0)  # rates of 16 lose their own fp32 gradient 4e-4 of its exact value
    return theirs


def _as_product(theirs: parity.Weights) -> parity.Weights:
    """Its projections stand interleaved: for every head its q, k, v and gate."""
    sizes = [KEY_DIM, KEY_DIM, VALUE_DIM, VALUE_DIM]
    qkvg = theirs["in_proj_qkvz.weight"].unflatten(0, (HEADS, -1)).split(sizes, dim=1)
    gates = theirs["in_proj_ba.weight"].unflatten(0, (HEADS, -1)).split(1, dim=1)
    names = ("q", "k", "v", "gate", "beta", "decay")
    ours = {f"{name}.weight": w.flatten(0, 1) for name, w in zip(names, qkvg + gates, strict=True)}
    ours |= {"A_log": theirs["A_log"], "dt_bias": theirs["dt_bias"], "norm": theirs["norm.weight"]}
    return ours | {"out.weight": theirs["out_proj.weight"], "conv": theirs["conv1d.weight"].squeeze(1)}


def _as_delta_net(theirs: parity.Weights) -> parity.Weights:
    ours = _as_product(theirs)
    return {name: value for name, value in ours.items() if name not in ("decay.weight", "A_log", "dt_bias")}


@pytest.mark.parametrize("length", parity.LENGTHS)
def test_delta_net_is_qwen3_nexts_without_decay(length: int):
    theirs = _theirs()
    theirs.A_log.data.fill_(-60.0)  # a decay of exp(-60) a step
    mixer = delta_net.Config(num_heads=HEADS, head_dim=KEY_DIM, value_head_dim=VALUE_DIM, gate=True).build(32)
    parity.assert_same(mixer, theirs, _as_delta_net, length, 32)


@pytest.mark.parametrize("length", parity.LENGTHS)
def test_delta_product_of_one_step_is_qwen3_nexts(length: int):
    config = delta_product.Config(
        num_heads=HEADS, num_steps=1, head_dim=KEY_DIM, value_head_dim=VALUE_DIM, negative_eigenvalues=False
    )
    parity.assert_same(config.build(32), _theirs(), _as_product, length, 32)


@pytest.mark.parametrize("length", parity.LENGTHS)
@pytest.mark.parametrize(("num_steps", "decayed"), [(1, False), (2, False), (2, True), (3, True)])
def test_rule_is_transformers_on_a_row_of_steps(length: int, num_steps: int, decayed: bool):
    """Theirs has one step a token: it gets a row n times as long, and its last output of each token counts."""
    generator = torch.Generator().manual_seed(length)
    steps = length * num_steps
    q, k, v = (
        torch.randn(2, size, 2, width, generator=generator).requires_grad_()
        for size, width in ((length, 8), (steps, 8), (steps, 6))
    )
    log_decay = (-torch.rand(2, length, 2, generator=generator)).requires_grad_()
    beta = (2 * torch.rand(2, steps, 2, generator=generator)).requires_grad_()
    memory = torch.randn(2, 2, 8, 6, generator=generator).requires_grad_()
    given = [q, k, v, beta, memory, *([log_decay] if decayed else [])]
    g = _placed(log_decay if decayed else torch.zeros_like(log_decay), num_steps, 0)
    settings = {"initial_state": memory, "output_final_state": True, "use_qk_l2norm_in_kernel": True}
    o, last = qwen.torch_chunk_gated_delta_rule(_placed(q, num_steps, -1), k, v, g=g, beta=beta, **settings)
    expected = _with_gradients(o[:, num_steps - 1 :: num_steps], last, given)
    for rule in (naive_gated_delta_rule, chunked_gated_delta_rule):
        inputs = (l2_normalised(q), l2_normalised(k), v, log_decay if decayed else None, beta)
        found = _with_gradients(*rule(*inputs, memory_BHKV=memory), given)
        for ours, theirs in zip(found, expected, strict=True):
            parity.assert_near(ours, theirs)


def _placed(x: Tensor, num_steps: int, step: int) -> Tensor:
    """A token's numbers at one of its steps, zeros at the others."""
    parts = [torch.zeros_like(x)] * num_steps
    parts[step] = x
    return torch.stack(parts, dim=2).flatten(1, 2)


def _with_gradients(o: Tensor, last: Tensor, given: list[Tensor]) -> list[Tensor]:
    return [o, last, *torch.autograd.grad(o.cos().sum() + last.sum(), given)]
