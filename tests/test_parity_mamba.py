"""The mamba mixer beside transformers' own, from the same weights, in fp32 on the CPU."""

import logging
import warnings

import parity
import pytest
import torch

from wren.mixers import mamba

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # transformers' own, while it loads
    pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

logging.getLogger("transformers").setLevel(logging.ERROR)  # it says at length that its kernels are not installed


@pytest.mark.parametrize(("expand", "states", "rank"), [(2, 16, None), (1, 3, 5)])
@pytest.mark.parametrize("length", parity.LENGTHS)
def test_mamba_is_transformers(length: int, expand: int, states: int, rank: int | None):
    """Outputs, and gradients of the inputs and of every weight."""
    theirs = _theirs(expand, states, rank)
    mixer = mamba.Config(expand=expand, num_states=states, dt_rank=rank).build(32)
    parity.assert_same(mixer, theirs, _as_ours, length, 32)


def _theirs(expand: int, states: int, rank: int | None) -> MambaMixer:
    """With random numbers added to every weight, so that none is at its even start."""
    config = MambaConfig(hidden_size=32, expand=expand, state_size=states, time_step_rank=rank or "auto")
    torch.manual_seed(0)
    theirs = MambaMixer(config, layer_idx=0)
    parity.randomise(theirs)
    return theirs


def _as_ours(theirs: parity.Weights) -> parity.Weights:
    """It keeps u and the gate in one matrix, and A with the channels first."""
    u, gate = theirs["in_proj.weight"].chunk(2)
    return {
        "u.weight": u,
        "gate.weight": gate,
        "conv": theirs["conv1d.weight"].squeeze(1),
        "conv_bias": theirs["conv1d.bias"],
        "select.weight": theirs["x_proj.weight"],
        "dt_up": theirs["dt_proj.weight"],
        "dt_bias": theirs["dt_proj.bias"],
        "A_log": theirs["A_log"].T.flatten(),
        "D": theirs["D"],
        "out.weight": theirs["out_proj.weight"],
    }
