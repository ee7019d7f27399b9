"""Settings of kda and rwkv7: mistakes end in one sentence, switches do what they say."""

import math
from dataclasses import replace

import pytest
import torch

from wren.errors import ConfigError
from wren.mixer import Context, MixerConfig
from wren.mixers import kda, rwkv7


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (kda.Config(num_heads=3), "num_heads that divides"),
        (kda.Config(num_heads=0), "num_heads is 0"),
        (kda.Config(num_heads=2, rank=0), "rank is 0"),
        (kda.Config(num_heads=2, value_head_dim=-1), "value_head_dim is -1"),
        (kda.Config(num_heads=2, conv_size=1), "conv_size is 1"),
        (kda.Config(num_heads=2, chunk_size=48), "power of two"),
        (kda.Config(num_heads=2, norm_eps=0.0), "norm_eps is 0.0"),
        (rwkv7.Config(num_heads=3), "num_heads that divides"),
        (rwkv7.Config(num_heads=2, head_dim=0), "head_dim is 0"),
        (rwkv7.Config(num_heads=2, decay_rank=0), "decay_rank is 0"),
        (rwkv7.Config(num_heads=2, chunk_size=0), "chunk_size is 0"),
        (rwkv7.Config(num_heads=2, chunk_size=33), "power of two"),
        (rwkv7.Config(num_heads=2, norm_eps=math.nan), "norm_eps is nan"),
    ],
)
def test_impossible_settings_are_one_sentence(config: MixerConfig, words: str):
    with pytest.raises(ConfigError, match=words):
        config.build(16)


@pytest.mark.parametrize("config", [kda.Config(num_heads=2), rwkv7.Config(num_heads=2)])
def test_refuses_a_state_of_other_settings(config: kda.Config | rwkv7.Config):
    mixer = config.build(16)
    state = replace(config, head_dim=4).build(16).new_state(1, 8)
    with pytest.raises(ConfigError, match="memories are of shape"):
        mixer(torch.zeros(1, 1, 16), Context(state=state))


def test_refuses_tails_of_other_settings():
    state = kda.Config(num_heads=2, conv_size=3).build(16).new_state(1, 8)
    with pytest.raises(ConfigError, match="convolution tails"):
        kda.Config(num_heads=2).build(16)(torch.zeros(1, 1, 16), Context(state=state))
    narrow = rwkv7.Config(num_heads=2, head_dim=8).build(12).new_state(1, 8)
    with pytest.raises(ConfigError, match="shifted inputs"):
        rwkv7.Config(num_heads=2).build(16)(torch.zeros(1, 1, 16), Context(state=narrow))


@torch.no_grad()
@pytest.mark.parametrize("negative", [False, True])
def test_kda_flips_signs_only_with_negative_eigenvalues(negative: bool):
    """A token whose b is near its bound: what the memory held along its key is kept, emptied or turned round."""
    mixer = kda.Config(num_heads=1, conv_size=None, negative_eigenvalues=negative).build(4)
    mixer.beta.weight.data.fill_(100.0)  # b = 1, or 2
    mixer.v.weight.data.zero_()
    mixer.A_log.data.fill_(-100.0)  # no decay
    state = mixer.new_state(1, 8)
    x_BTD = torch.ones(1, 1, 4)
    key = torch.nn.functional.silu(mixer.k(x_BTD))[0, 0]
    key = key / key.norm()
    state.memory_BHKV = torch.outer(key, torch.ones(4))[None, None]
    mixer(x_BTD, Context(state=state))
    along = key @ state.memory_BHKV[0, 0]
    torch.testing.assert_close(along, torch.full((4,), -1.0 if negative else 0.0), atol=2e-3, rtol=0)


@torch.no_grad()
def test_rwkv7_decays_by_no_more_than_it_says():
    """However large the inputs, a channel keeps at least exp(-exp(-1/2)) = 0.545 of what is not removed."""
    mixer = rwkv7.Config(num_heads=1).build(8)
    mixer.k.weight.data.zero_()  # nothing is read, removed or written
    for scale in (0.1, 10.0, 1000.0):
        state = mixer.new_state(1, 8)
        state.memory_BHKV.fill_(1.0)
        mixer(scale * torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(0)), Context(state=state))
        assert state.memory_BHKV.min() > 0.5452
        assert state.memory_BHKV.max() < 1


@torch.no_grad()
def test_rwkv7_sees_the_token_before_through_its_shift():
    """With an empty memory and mix 1 the values are those of the token before; 0 at the row's beginning."""
    mixer = rwkv7.Config(num_heads=2).build(16)
    x_BTD = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(0))
    changed = x_BTD.clone()
    changed[:, 0] += 1
    for name in "rwkvag":
        getattr(mixer, f"mix_{name}").data.zero_()
    mixer.rate_bias.data.fill_(-100.0)
    mixer.key_rate.data.fill_(1.0)  # k is scaled by a = 0: nothing is ever written
    blind = mixer(x_BTD, Context()), mixer(changed, Context())
    assert torch.equal(blind[0][:, 1:], blind[1][:, 1:])
    mixer.get_parameter("mix_g").data.fill_(1.0)
    mixer.norm_bias.data.fill_(1.0)
    seeing = mixer(x_BTD, Context()), mixer(changed, Context())
    assert (seeing[0][:, 1] - seeing[1][:, 1]).abs().max() > 1e-3
    assert torch.equal(seeing[0][:, 2], seeing[1][:, 2])
