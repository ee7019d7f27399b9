"""linear_attention beside transformers' Mamba-2, from the same weights, in fp32 on the CPU."""

import logging
import warnings

import pytest
import torch
from parity import LENGTHS, Weights, assert_same, randomise

from wren.mixers import linear_attention

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # transformers' own, while it loads
    pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

logging.getLogger("transformers").setLevel(logging.ERROR)  # it says at length that its kernels are not installed


@pytest.mark.parametrize(("groups", "expand", "bias", "conv_bias"), [(1, 2, False, True), (2, 1, True, False)])
@pytest.mark.parametrize("length", LENGTHS)
def test_linear_attention_is_mamba2(length: int, groups: int, expand: int, bias: bool, conv_bias: bool):
    """Outputs, and gradients of the inputs and of every weight."""
    torch.manual_seed(0)
    dim, heads, states = 32, 4, 12
    theirs = Mamba2Mixer(
        Mamba2Config(
            hidden_size=dim,
            num_heads=heads,
            head_dim=expand * dim // heads,
            state_size=states,
            expand=expand,
            n_groups=groups,
            use_bias=bias,
            use_conv_bias=conv_bias,
            chunk_size=48,
        ),
        layer_idx=0,
    )
    randomise(theirs)
    mixer = linear_attention.Config(
        num_heads=heads, state_dim=states, expand=expand, num_groups=groups, bias=bias, conv_bias=conv_bias
    ).build(dim)
    widths = [expand * dim, expand * dim, groups * states, groups * states, heads]
    assert_same(mixer, theirs, lambda weights: _as_ours(weights, widths), length, dim)


def _as_ours(theirs: Weights, widths: list[int]) -> Weights:
    """It keeps the gate, u, k, q and the times in one matrix."""
    own = {"conv": theirs["conv1d.weight"].squeeze(1), "norm": theirs["norm.weight"]}
    own |= {name: theirs[name] for name in ("A_log", "dt_bias", "D")}
    if "conv1d.bias" in theirs:
        own["conv_bias"] = theirs["conv1d.bias"]
    for kind in ("weight", "bias"):
        if f"in_proj.{kind}" in theirs:
            parts = theirs[f"in_proj.{kind}"].split(widths)
            own |= {f"{name}.{kind}": part for name, part in zip(("gate", "v", "k", "q", "time"), parts, strict=True)}
            own[f"out.{kind}"] = theirs[f"out_proj.{kind}"]
    return own
