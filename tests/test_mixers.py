"""Every mixer in wren/mixers keeps the contract, and mixers that are wrong on purpose fail it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import mixer_contract
import pytest
import torch
import wrong_mixers

from wren.config import from_json, to_json
from wren.errors import ConfigError
from wren.mixer import Context, Mixer, MixerConfig, State
from wren.mixers import attention, gated_delta_net

FOUND = dict(mixer_contract.found_configs())


@dataclass
class ForeignState(State):
    """A state of no mixer."""


@pytest.mark.parametrize("check", mixer_contract.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", FOUND)
def test_contract(name: str, check: Callable[[Mixer], None]):
    check(mixer_contract.build(FOUND[name]))


@pytest.mark.parametrize("name", FOUND)
def test_refuses_states_that_do_not_fit(name: str):
    mixer_contract.check_refusals(mixer_contract.build(FOUND[name]), ForeignState(torch.zeros(2, dtype=torch.long)))


@pytest.mark.parametrize("name", FOUND)
def test_settings_survive_json(name: str):
    @dataclass(frozen=True)
    class Holder:
        mixer: MixerConfig

    Holder.__annotations__["mixer"] = MixerConfig
    assert from_json(Holder, to_json(Holder(FOUND[name]))).mixer == FOUND[name]


@pytest.mark.parametrize("name", FOUND)
def test_ends_in_a_layer_named_out(name: str):
    mixer = mixer_contract.build(FOUND[name])
    assert mixer.get_submodule("out").weight.shape[0] == mixer_contract.DIM


@pytest.mark.parametrize(("wrong", "check"), wrong_mixers.WRONG, ids=lambda x: x.__name__)
def test_wrong_mixer_fails_its_check(wrong: type[attention.Attention], check: Callable[[Mixer], None]):
    with pytest.raises(AssertionError):
        check(mixer_contract.build(wrong_mixers.Config(kind=wrong)))


def test_a_leak_through_token_ids_has_no_gradient():
    mixer_contract.check_causal_by_gradient(mixer_contract.build(wrong_mixers.Config(kind=wrong_mixers.SeesNextToken)))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (attention.Config(num_heads=3), "num_heads that divides"),
        (attention.Config(num_heads=4, num_kv_heads=3), "no multiple of num_kv_heads 3"),
        (attention.Config(num_heads=0), "num_heads is 0"),
        (attention.Config(num_heads=2, window=0), "window is 0"),
        (attention.Config(num_heads=2, head_dim=5), "even head_dim"),
        (attention.Config(num_heads=2, dropout=1.0), "dropout is 1.0"),
        (gated_delta_net.Config(num_heads=3), "num_heads that divides"),
        (gated_delta_net.Config(num_heads=2, num_value_heads=3), "no multiple of num_heads 2"),
        (gated_delta_net.Config(num_heads=2, conv_size=1), "conv_size is 1"),
        (gated_delta_net.Config(num_heads=2, chunk_size=0), "chunk_size is 0"),
    ],
)
def test_impossible_settings_are_one_sentence(config: MixerConfig, words: str):
    with pytest.raises(ConfigError, match=words):
        config.build(16)


@pytest.mark.parametrize("config", [attention.Config(num_heads=2), gated_delta_net.Config(num_heads=2)])
def test_refuses_a_state_of_other_settings(config: MixerConfig):
    mixer = config.build(16)
    state = replace(config, head_dim=4).build(16).new_state(1, 8)  # type: ignore[type-var]
    with pytest.raises(ConfigError, match="other settings"):
        mixer(torch.zeros(1, 1, 16), Context(state=state))


def test_attention_dropout_acts_in_training_only():
    mixer = attention.Config(num_heads=2, dropout=0.5).build(16)
    x_BTD = torch.randn(1, 20, 16, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(mixer.train()(x_BTD, Context()), mixer(x_BTD, Context()))
    assert torch.equal(mixer.eval()(x_BTD, Context()), mixer(x_BTD, Context()))


@pytest.mark.parametrize("name", FOUND)
def test_added_values_reach_the_output(name: str):
    mixer = mixer_contract.build(FOUND[name])
    inputs = mixer_contract.Inputs(mixer, 2, 9)
    if mixer.values_dim == 0:
        return  # it says that it takes none
    values_BTD = torch.ones(2, 9, mixer.values_dim, dtype=torch.float64)
    changed = mixer(inputs.x_BTD, Context(values_BTD=values_BTD))
    assert (changed - inputs.run()).abs().max() > 1e-3


@torch.no_grad()
def test_a_decoded_token_copies_no_cache():
    mixer = attention.Config(num_heads=2).build(16)
    state = mixer.new_state(2, 100)
    addresses = []
    for length in (50, 1, 3):
        mixer(torch.zeros(2, length, 16), Context(state=state))
        addresses.append((state.keys_BSJK.data_ptr(), state.values_BSJK.data_ptr()))
    assert len(set(addresses)) == 1


@torch.no_grad()
def test_rows_too_long_for_a_state_are_not_written():
    mixer = attention.Config(num_heads=2).build(16)
    other = mixer.new_state(1, 9)
    mixer(torch.zeros(1, 9, 16), Context(state=other))
    with pytest.raises(ConfigError, match="larger max_len"):
        mixer.new_state(2, 8).write(torch.tensor([0]), other)


@torch.no_grad()
def test_a_replaced_row_frees_its_room():
    """A state that ran to its end takes new rows: the bound on the longest row falls again."""
    mixer = attention.Config(num_heads=2).build(16)
    state = mixer.new_state(1, 8)
    mixer(torch.zeros(1, 8, 16), Context(state=state))
    other = mixer.new_state(1, 3)
    mixer(torch.zeros(1, 3, 16), Context(state=other))
    state.write(torch.tensor([0]), other)
    mixer(torch.zeros(1, 5, 16), Context(state=state))
    assert state.lengths_B.tolist() == [8]
