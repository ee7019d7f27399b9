"""What linear_attention and gla promise beyond the contract."""

from dataclasses import replace

import mixer_contract
import pytest
import torch
import torch.nn.functional as F

from wren.errors import ConfigError
from wren.mixer import Context, MixerConfig
from wren.mixers import gla, linear_attention
from wren.mlps import none
from wren.model import ModelConfig


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (linear_attention.Config(num_heads=0), "num_heads is 0"),
        (linear_attention.Config(num_heads=3), "num_heads that divides"),
        (linear_attention.Config(num_heads=2, expand=0), "expand is 0"),
        (linear_attention.Config(num_heads=2, state_dim=0), "state_dim is 0"),
        (linear_attention.Config(num_heads=2, num_groups=0), "num_groups is 0"),
        (linear_attention.Config(num_heads=4, num_groups=3), "num_groups 3 does not divide num_heads 4"),
        (linear_attention.Config(num_heads=2, conv_size=1), "conv_size is 1"),
        (linear_attention.Config(num_heads=2, conv_size=-1), "conv_size is -1"),
        (linear_attention.Config(num_heads=2, chunk_size=0), "chunk_size is 0"),
        (linear_attention.Config(num_heads=2, norm_eps=0.0), "norm_eps is 0.0"),
        (gla.Config(num_heads=0), "num_heads is 0"),
        (gla.Config(num_heads=16), "makes 8 channels, which 16 heads"),
        (gla.Config(num_heads=3, expand_k=0.75), "expand_v 1.0 of a width of 16"),
        (gla.Config(num_heads=2, expand_k=0.3), "expand_k 0.3 of a width of 16"),
        (gla.Config(num_heads=2, expand_v=-1.0), "expand_v is -1.0"),
        (gla.Config(num_heads=2, rank=0), "rank is 0"),
        (gla.Config(num_heads=2, log_decay_divisor=0.0), "log_decay_divisor is 0.0"),
        (gla.Config(num_heads=2, conv_size=1), "conv_size is 1"),
        (gla.Config(num_heads=2, chunk_size=24), "chunk_size is 24; it must be a power of two"),
        (gla.Config(num_heads=2, chunk_size=1), "chunk_size is 1"),
        (gla.Config(num_heads=2, norm_eps=-1.0), "norm_eps is -1.0"),
    ],
)
def test_impossible_settings_are_one_sentence(config: MixerConfig, words: str):
    with pytest.raises(ConfigError, match=words):
        config.build(16)


@pytest.mark.parametrize(
    ("config", "other"),
    [
        (linear_attention.Config(num_heads=2), linear_attention.Config(num_heads=2, state_dim=8)),
        (linear_attention.Config(num_heads=2), linear_attention.Config(num_heads=2, conv_size=3)),
        (gla.Config(num_heads=2), gla.Config(num_heads=2, expand_k=1.0)),
        (gla.Config(num_heads=2), gla.Config(num_heads=2, conv_size=4)),
    ],
)
def test_refuses_a_state_of_other_settings(config: MixerConfig, other: MixerConfig):
    mixer, state = config.build(16), other.build(16).new_state(1, 8)
    with pytest.raises(ConfigError, match="other settings"):
        mixer(torch.zeros(1, 1, 16), Context(state=state))


@pytest.mark.parametrize("config", [linear_attention.Config(num_heads=2), gla.Config(num_heads=2)])
def test_chunks_change_nothing(config: linear_attention.Config | gla.Config):
    mixer = mixer_contract.build(config)
    inputs = mixer_contract.Inputs(mixer, 2, 100)
    expected = inputs.run()
    for chunk_size in (2, 16, 1024):
        inputs.mixer = replace(config, chunk_size=chunk_size).build(16).double()
        inputs.mixer.load_state_dict(mixer.state_dict())
        torch.testing.assert_close(inputs.run(), expected, atol=1e-10, rtol=1e-10)


def test_by_default_it_is_mamba2_and_fixed_or_no_decay_is_plain():
    mamba2 = linear_attention.Config(num_heads=4).build(32)
    assert (mamba2.values_dim, mamba2.key_dim, mamba2.num_groups) == (64, 128, 1)
    assert {"A_log", "dt_bias", "D", "conv", "conv_bias"} <= dict(mamba2.named_parameters()).keys()
    for decay in ("fixed", "none"):
        plain = linear_attention.Config(num_heads=4, decay=decay).build(32)
        assert (plain.values_dim, plain.key_dim, plain.num_groups) == (32, 8, 4)
        names = {name.removesuffix(".weight") for name, _ in plain.named_parameters()}
        assert names == {"q", "k", "v", "gate", "norm", "out"}


def test_a_fixed_decay_is_retention():
    """What head h heard n tokens ago counts (1 - 2^(-5-h))^n, before the norm."""
    mixer = linear_attention.Config(num_heads=2, decay="fixed").build(16).double()
    x_BTD = torch.randn(1, 50, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q, k, v = (layer(x_BTD)[0].unflatten(-1, (2, 8)).transpose(0, 1) for layer in (mixer.q, mixer.k, mixer.v))
    ago_TT = torch.arange(50)[:, None] - torch.arange(50)
    kept_HTT = torch.tensor([31 / 32, 63 / 64], dtype=torch.float64)[:, None, None] ** ago_TT.clamp(min=0)
    o_THV = ((q @ k.mT * kept_HTT).tril() @ v).transpose(0, 1)
    normed = F.rms_norm(o_THV, (8,), None, 1e-5).flatten(1)
    torch.testing.assert_close(mixer(x_BTD, Context())[0], mixer.out(normed * F.silu(mixer.gate(x_BTD)[0])))


def test_without_decay_the_norm_takes_the_place_of_the_denominator():
    """The paper divides o by q . (sum of all keys so far), a positive number a head: the norm undoes any such."""
    mixer = linear_attention.Config(num_heads=2, decay="none", norm_eps=1e-30).build(16).double()
    x_BTD = torch.randn(1, 50, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q, k, v = (layer(x_BTD)[0].unflatten(-1, (2, 8)).transpose(0, 1) for layer in (mixer.q, mixer.k, mixer.v))
    weights_HTT = ((F.elu(q) + 1) @ (F.elu(k) + 1).mT).tril()
    o_THV = (weights_HTT / weights_HTT.sum(-1, keepdim=True) @ v).transpose(0, 1)
    normed = F.rms_norm(o_THV, (8,), None, 1e-30).flatten(1)
    torch.testing.assert_close(mixer(x_BTD, Context())[0], mixer.out(normed * F.silu(mixer.gate(x_BTD)[0])))


@torch.no_grad()
def test_gla_forgets_by_the_channel():
    """A channel whose decay is near 0 remembers one token, whatever the others do; with no decay none forgets."""
    mixer = gla.Config(num_heads=1, expand_k=0.125, log_decay_divisor=1.0).build(16).double()  # two channels
    mixer.decay_up.weight.zero_()
    mixer.decay_up.bias.copy_(torch.tensor([-100.0, 100.0]))
    state = mixer.new_state(1, 40, dtype=torch.float64)
    x_BTD = torch.randn(1, 40, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mixer(x_BTD, Context(state=state))
    k_TK, v_TV = mixer.k(x_BTD)[0], mixer.v(x_BTD)[0]
    torch.testing.assert_close(state.memory_BHKV[0, 0, 0], k_TK[-1, 0] * v_TV[-1])
    torch.testing.assert_close(state.memory_BHKV[0, 0, 1], k_TK[:, 1] @ v_TV)


def test_a_model_leaves_mamba2s_beginning_as_it_is():
    """The model draws the weights of linear layers anew; times, rates and the skip keep theirs, undecayed."""
    config = ModelConfig(
        vocab_size=10, dim=64, depth=1, mixers=(linear_attention.Config(num_heads=32),), mlp=none.Config()
    )
    torch.manual_seed(0)
    mixer = config.build().mixers()[0]
    assert isinstance(mixer, linear_attention.LinearAttention)
    assert mixer.dt_bias is not None
    assert mixer.A_log is not None
    times, rates = F.softplus(mixer.dt_bias), mixer.A_log.exp()
    assert 1e-3 * 0.999 <= times.min() < 1e-2 < times.max() <= 1e-1 * 1.001
    assert 1 * 0.999 <= rates.min() < 4 < 12 < rates.max() <= 16 * 1.001
    undecayed = {"A_log", "D", "dt_bias", "conv_bias", "norm"}
    assert undecayed == {name for name, p in mixer.named_parameters() if p.dim() == 1}
