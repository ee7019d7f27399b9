"""Delta net, delta product and short convolution: settings, and how the members of the family hold each other."""

from dataclasses import replace

import mixer_contract
import pytest
import torch

from wren import mixers
from wren.errors import ConfigError
from wren.mixer import Context, Mixer, MixerConfig
from wren.mixers import delta_net, delta_product, gated_delta_net, short_conv


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (delta_net.Config(num_heads=3), "num_heads that divides"),
        (delta_net.Config(num_heads=0), "delta_net.num_heads is 0; it must be"),
        (delta_net.Config(num_heads=2, head_dim=0), "head_dim is 0"),
        (delta_net.Config(num_heads=2, value_head_dim=-1), "value_head_dim is -1"),
        (delta_net.Config(num_heads=2, conv_size=1), "conv_size is 1; use 2 or more"),
        (delta_net.Config(num_heads=2, chunk_size=0), "chunk_size is 0"),
        (delta_product.Config(num_heads=3), "num_heads that divides"),
        (delta_product.Config(num_heads=2, num_steps=0), "delta_product.num_steps is 0; it must be"),
        (delta_product.Config(num_heads=2, conv_size=0), "conv_size is 0; use 2 or more"),
        (delta_product.Config(num_heads=2, chunk_size=-4), "chunk_size is -4"),
        (short_conv.Config(conv_size=1), "short_conv.conv_size is 1; use 2 or more"),
    ],
)
def test_impossible_settings_are_one_sentence(config: MixerConfig, words: str):
    with pytest.raises(ConfigError, match=words):
        config.build(16)


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (delta_net.Config(num_heads=2), {"head_dim": 4}),
        (delta_net.Config(num_heads=2), {"conv_size": 3}),
        (delta_product.Config(num_heads=2), {"value_head_dim": 4}),
        (delta_product.Config(num_heads=2), {"num_steps": 3}),
        (short_conv.Config(), {"conv_size": 4}),
    ],
)
def test_refuses_a_state_of_other_settings(config: MixerConfig, changes: dict[str, int]):
    state = replace(config, **changes).build(16).new_state(1, 8)  # type: ignore[type-var]
    with pytest.raises(ConfigError, match="other settings"):
        config.build(16)(torch.zeros(1, 1, 16), Context(state=state))


def test_a_state_of_the_nearest_relative_is_refused():
    config = {"num_heads": 2, "gate": True}
    state = delta_net.Config(**config).build(16).new_state(1, 8)
    with pytest.raises(ConfigError, match="delta_net was given"):
        delta_product.Config(num_steps=1, **config).build(16)(torch.zeros(1, 1, 16), Context(state=state))


def test_are_named_by_short_texts():
    assert mixers.read("short_conv:bias", num_heads=4) == short_conv.Config(bias=True)
    assert mixers.read("delta_product:num_steps=3", num_heads=4) == delta_product.Config(num_heads=4, num_steps=3)
    assert mixers.read("delta_net:negative_eigenvalues", num_heads=4) == delta_net.Config(
        num_heads=4, negative_eigenvalues=True
    )


@pytest.mark.parametrize(
    ("general", "special"),
    [
        (
            delta_product.Config(num_heads=2, num_steps=1, norm_eps=1e-6),
            gated_delta_net.Config(num_heads=2, negative_eigenvalues=True),
        ),
        (
            delta_product.Config(num_heads=2, num_steps=1, decay=False, gate=False, negative_eigenvalues=False),
            delta_net.Config(num_heads=2),
        ),
        (
            delta_product.Config(num_heads=2, num_steps=1, decay=False),
            delta_net.Config(num_heads=2, gate=True, negative_eigenvalues=True),
        ),
    ],
)
def test_one_step_is_the_known_mixer(general: MixerConfig, special: MixerConfig):
    one, other = mixer_contract.build(general), mixer_contract.build(special)
    one.load_state_dict(other.state_dict())
    x_BTD = mixer_contract.Inputs(one, 2, 70).x_BTD
    torch.testing.assert_close(one(x_BTD, Context()), other(x_BTD, Context()))


def _second_step_silent() -> Mixer:
    """Two steps, the second of which always has b near 0."""
    mixer = mixer_contract.build(delta_product.Config(num_heads=2, conv_size=None, decay=False))
    assert isinstance(mixer, delta_product.DeltaProduct)
    mixer.beta.weight.data[2:] = 0
    mixer.beta.weight.data[2:, 0] = -1e4  # the first channel of the input is 1
    return mixer


@torch.no_grad()
def test_steps_are_laid_out_one_after_another():
    """With the second step silent the first half of each projection is a mixer of one step."""
    two = _second_step_silent()
    one = delta_product.Config(num_heads=2, num_steps=1, conv_size=None, decay=False).build(16).double()
    weights = two.state_dict()
    one.load_state_dict(
        {name: w[: len(w) // 2] if name.split(".")[0] in ("k", "v", "beta") else w for name, w in weights.items()}
    )
    x_BTD = mixer_contract.Inputs(two, 2, 70).x_BTD
    x_BTD[..., 0] = 1
    torch.testing.assert_close(two(x_BTD, Context()), one(x_BTD, Context()))


@torch.no_grad()
@pytest.mark.parametrize("config", [delta_net.Config(num_heads=2), delta_product.Config(num_heads=2)])
def test_chunk_size_changes_no_number(config: MixerConfig):
    inputs = mixer_contract.Inputs(mixer_contract.build(config), 2, 130)
    expected = inputs.run()
    for size in (1, 5, 64, 500):
        inputs.mixer = mixer_contract.build(replace(config, chunk_size=size))  # type: ignore[type-var]
        torch.testing.assert_close(inputs.run(), expected)


@torch.no_grad()
def test_short_conv_sees_its_taps_and_no_further():
    mixer = mixer_contract.build(short_conv.Config(conv_size=3))
    inputs = mixer_contract.Inputs(mixer, 1, 10)
    before = inputs.run()
    inputs.x_BTD[:, 4] += 1
    changed = (inputs.run() - before).abs().amax(-1)[0] > 0
    assert changed.nonzero().flatten().tolist() == [4, 5, 6]
