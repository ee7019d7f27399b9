"""What mamba and latent_attention promise beyond the contract."""

from dataclasses import replace

import mixer_contract
import pytest
import torch
import torch.nn.functional as F
from flop_counts import counted

from wren.errors import ConfigError
from wren.mixer import Context, MixerConfig
from wren.mixers import attention, latent_attention, mamba
from wren.mlps import none
from wren.model import ModelConfig


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (mamba.Config(expand=0), "mamba.expand is 0"),
        (mamba.Config(num_states=0), "num_states is 0"),
        (mamba.Config(dt_rank=0), "dt_rank is 0"),
        (mamba.Config(conv_size=1), "conv_size is 1"),
        (mamba.Config(chunk_size=0), "chunk_size is 0"),
        (latent_attention.Config(num_heads=0), "num_heads is 0"),
        (latent_attention.Config(num_heads=3), "num_heads that divides"),
        (latent_attention.Config(num_heads=2, rope_dim=3), "rope_dim is 3; rotary positions need an even"),
        (latent_attention.Config(num_heads=2, rope_dim=0), "rope_dim is 0"),
        (latent_attention.Config(num_heads=2, kv_rank=0), "kv_rank is 0"),
        (latent_attention.Config(num_heads=2, q_rank=-1), "q_rank is -1"),
        (latent_attention.Config(num_heads=2, dropout=1.0), "dropout is 1.0"),
    ],
)
def test_impossible_settings_are_one_sentence(config: MixerConfig, words: str):
    with pytest.raises(ConfigError, match=words):
        config.build(16)


@pytest.mark.parametrize(
    ("config", "other"),
    [
        (mamba.Config(), mamba.Config(num_states=8)),
        (mamba.Config(), mamba.Config(conv_size=3)),
        (latent_attention.Config(num_heads=2), latent_attention.Config(num_heads=2, kv_rank=4)),
    ],
)
def test_refuses_a_state_of_other_settings(config: MixerConfig, other: MixerConfig):
    mixer, state = config.build(16), other.build(16).new_state(1, 8)
    with pytest.raises(ConfigError, match="other settings"):
        mixer(torch.zeros(1, 1, 16), Context(state=state))


def test_a_model_leaves_mambas_beginning_as_it_is():
    """The model draws the weights of linear layers anew; times, rates and the way up to the times keep theirs."""
    torch.manual_seed(0)
    model = ModelConfig(vocab_size=10, dim=32, depth=1, mixers=(mamba.Config(num_states=4),), mlp=none.Config()).build()
    mixer = model.mixers()[0]
    times = F.softplus(mixer.dt_bias)
    assert times.min() >= 1e-3 * 0.999
    assert times.max() <= 1e-1 * 1.001
    assert times.std() > 0.01
    assert mixer.dt_up.std() > 0.3  # uniform in +-1/sqrt(2)
    torch.testing.assert_close(mixer.A_log.exp().view(4, 64), torch.arange(1.0, 5)[:, None].expand(4, 64))
    undecayed = {"A_log", "D", "dt_bias", "conv_bias"}
    assert undecayed <= {name for name, p in mixer.named_parameters() if p.dim() == 1}


def test_mambas_chunks_change_nothing():
    config = mamba.Config(num_states=4)
    mixer = mixer_contract.build(config)
    inputs = mixer_contract.Inputs(mixer, 2, 100)
    expected = inputs.run()
    for chunk_size in (1, 10, 1000):
        inputs.mixer = replace(config, chunk_size=chunk_size).build(16).double()
        inputs.mixer.load_state_dict(mixer.state_dict())
        torch.testing.assert_close(inputs.run(), expected, atol=1e-10, rtol=1e-10)


class Absorbing(latent_attention.LatentAttention):
    """Never expands a cache."""

    def _absorbing_pays(self, num_queries: int, num_keys: int) -> bool:
        return True


class Expanding(latent_attention.LatentAttention):
    """Always expands the cache."""

    def _absorbing_pays(self, num_queries: int, num_keys: int) -> bool:
        return False


@pytest.mark.parametrize("config", latent_attention.EXAMPLES)
@pytest.mark.parametrize("num_queries", [1, 3, 40])
def test_both_forms_of_latent_attention_are_equal(config: latent_attention.Config, num_queries: int):
    """In values and gradients, for rows of different length with padding."""
    results = []
    for kind in (Absorbing, Expanding):
        mixer = mixer_contract.build(config)
        chosen = kind(16, config).double()
        chosen.load_state_dict(mixer.state_dict())
        inputs = mixer_contract.Inputs(chosen, 2, 30 + num_queries)
        x_BTD, state = inputs.x_BTD.requires_grad_(), inputs.new_state()
        chosen(x_BTD[:, :30], Context(valid_B=torch.tensor([30, 17]), state=state))
        y_BTD = chosen(x_BTD[:, 30:], Context(state=state))
        results.append([y_BTD, *torch.autograd.grad(y_BTD.square().sum(), (x_BTD, *chosen.parameters()))])
    for absorbed, expanded in zip(*results, strict=True):
        torch.testing.assert_close(absorbed, expanded, atol=1e-10, rtol=1e-10)
    assert results[0][0].abs().max() > 1e-3


@torch.no_grad()
def test_a_decoded_token_expands_nothing():
    """One token over 500 cached ones costs less than expanding those would, and many tokens are not absorbed."""
    mixer = mixer_contract.build(latent_attention.Config(num_heads=2, kv_rank=32))
    inputs = mixer_contract.Inputs(mixer, 1, 1000)
    expanding = 500 * 2 * sum(layer.weight.numel() for layer in (mixer.k, mixer.v))
    costs = []
    for kind in (type(mixer), Expanding):
        inputs.mixer = kind(16, mixer.config).double()
        state = inputs.new_state()
        inputs.run(0, 500, state)
        one = counted(lambda state=state: inputs.run(500, 501, state))
        costs.append((one, counted(lambda state=state: inputs.run(501, 1000, state))))
    assert costs[0][0] < expanding / 4
    assert costs[1][0] > expanding
    assert costs[0][1] == costs[1][1]


def test_the_latent_cache_is_small_and_shared_by_the_heads():
    heads = [latent_attention.Config(num_heads=n, head_dim=32, kv_rank=128, rope_dim=16).build(256) for n in (2, 8)]
    assert heads[0].state_bytes(1000) == heads[1].state_bytes(1000) == 1000 * 2 * (128 + 16)
    assert 3 * heads[1].state_bytes(1000) < attention.Config(num_heads=8).build(256).state_bytes(1000)


@torch.no_grad()
def test_a_decoded_token_copies_no_latents():
    mixer = latent_attention.Config(num_heads=2).build(16)
    state = mixer.new_state(2, 100)
    addresses = set()
    for length in (50, 1, 3):
        mixer(torch.zeros(2, length, 16), Context(state=state))
        addresses.add(state.latents_BSC.data_ptr())
    assert len(addresses) == 1


def test_latent_dropout_acts_in_training_only():
    mixer = latent_attention.Config(num_heads=2, dropout=0.5).build(16)
    x_BTD = torch.randn(1, 20, 16, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(mixer.train()(x_BTD, Context()), mixer(x_BTD, Context()))
    assert torch.equal(mixer.eval()(x_BTD, Context()), mixer(x_BTD, Context()))


def test_latent_attention_takes_no_values():
    mixer = mixer_contract.build(latent_attention.Config(num_heads=2))
    inputs = mixer_contract.Inputs(mixer, 2, 9)
    values_BTD = torch.ones(2, 9, 16, dtype=torch.float64)
    assert mixer.values_dim == 0
    assert torch.equal(mixer(inputs.x_BTD, Context(values_BTD=values_BTD)), inputs.run())
