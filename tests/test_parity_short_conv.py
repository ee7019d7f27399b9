"""The gated short convolution beside transformers' own, from the same weights, in fp32 on the CPU."""

import logging
import warnings

import parity
import pytest
import torch

from wren.mixers import short_conv

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # transformers' own, while it loads
    pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers import Lfm2Config
    from transformers.models.lfm2.modeling_lfm2 import Lfm2ShortConv

logging.getLogger("transformers").setLevel(logging.ERROR)  # it says at length that its kernels are not installed


@pytest.mark.parametrize(("size", "bias"), [(3, False), (3, True), (5, True)])
@pytest.mark.parametrize("length", parity.LENGTHS)
def test_short_conv_is_lfm2s(length: int, size: int, bias: bool):
    """It names the parts b, c, u in this order too."""
    config = Lfm2Config(hidden_size=32, num_hidden_layers=1, layer_types=["conv"], conv_L_cache=size, conv_bias=bias)
    torch.manual_seed(0)
    theirs = Lfm2ShortConv(config, layer_idx=0)
    parity.randomise(theirs)
    mixer = short_conv.Config(conv_size=size, bias=bias).build(32)
    parity.assert_same(mixer, theirs, _as_ours, length, 32)


def _as_ours(theirs: parity.Weights) -> parity.Weights:
    names = {"in_proj.weight": "inputs.weight", "in_proj.bias": "inputs.bias", "conv.bias": "conv_bias"}
    names |= {"out_proj.weight": "out.weight", "out_proj.bias": "out.bias"}
    ours = {names[name]: value for name, value in theirs.items() if name in names}
    return ours | {"conv": theirs["conv.weight"].squeeze(1)}
