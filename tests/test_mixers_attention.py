"""The softmax family of mixers: impossible settings, gates, states that do not fit, and what makes each one itself."""

from dataclasses import replace

import pytest
import torch
from mixer_contract import Inputs, build

from wren.cache import slot_places
from wren.errors import ConfigError
from wren.mixer import Context, MixerConfig
from wren.mixers import attention, block_sparse_attention, forgetting_attention

FAMILY = (attention, forgetting_attention, block_sparse_attention)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (forgetting_attention.Config(num_heads=3), "num_heads that divides"),
        (forgetting_attention.Config(num_heads=0), "forgetting_attention.num_heads is 0"),
        (forgetting_attention.Config(num_heads=4, num_kv_heads=3), "no multiple of num_kv_heads 3"),
        (forgetting_attention.Config(num_heads=2, head_dim=5, positions="rope"), "even head_dim"),
        (forgetting_attention.Config(num_heads=2, block_size=0), "block_size is 0"),
        (block_sparse_attention.Config(num_heads=3), "num_heads that divides"),
        (block_sparse_attention.Config(num_heads=2, num_kv_heads=-1), "num_kv_heads is -1"),
        (block_sparse_attention.Config(num_heads=2, head_dim=0), "head_dim is 0"),
        (block_sparse_attention.Config(num_heads=2, head_dim=5), "even head_dim"),
        (block_sparse_attention.Config(num_heads=2, block_size=0), "block_size is 0"),
        (block_sparse_attention.Config(num_heads=2, top_k=0), "top_k is 0"),
        (attention.Config(num_heads=2, values="keys"), "attention.values is 'keys', which positions would turn"),
    ],
)
def test_impossible_settings_are_one_sentence(config: MixerConfig, words: str):
    with pytest.raises(ConfigError, match=words):
        config.build(16)


@pytest.mark.parametrize("module", FAMILY, ids=lambda module: module.__name__)
def test_heads_alone_are_enough_to_build(module):
    assert module.Config(num_heads=2).build(16).values_dim == 16


@pytest.mark.parametrize("module", FAMILY, ids=lambda module: module.__name__)
@pytest.mark.parametrize(("gate", "width"), [("head", 2), ("channel", 16)])
def test_a_gate_of_zeros_halves_the_output(module, gate: str, width: int):
    plain, mixer = build(module.Config(num_heads=2)), build(module.Config(num_heads=2, gate=gate))
    assert mixer.get_submodule("gate").weight.shape == (width, 16)
    mixer.load_state_dict(dict(plain.state_dict()) | {"gate.weight": torch.zeros(width, 16)})
    expected = Inputs(plain, 2, 20).run()
    torch.testing.assert_close(Inputs(mixer, 2, 20).run(), expected / 2)


def test_a_gate_acts_on_its_own_head_or_channel():
    configs = (attention.Config(num_heads=2, gate=gate, bias=True) for gate in ("head", "channel"))
    for config, width in zip(configs, (2, 16), strict=True):
        mixer = config.build(16).eval()
        torch.nn.init.eye_(mixer.out.weight)
        assert mixer.gate is not None
        with torch.no_grad():
            mixer.gate.weight.zero_()
            mixer.out.bias.zero_()
            mixer.gate.bias.fill_(-1e4)
            mixer.gate.bias[-1] = 1e4
            y_BTD = mixer(torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(0)), Context())
        open_channels = (y_BTD != 0).all(1)[0].nonzero().flatten().tolist()
        assert open_channels == list(range(16 - 16 // width, 16)), config.gate


@pytest.mark.parametrize("module", FAMILY, ids=lambda module: module.__name__)
def test_refuses_a_state_of_other_settings(module):
    config = module.Config(num_heads=2)
    state = replace(config, head_dim=4).build(16).new_state(1, 8)
    mixer = config.build(16)
    with pytest.raises(ConfigError, match="other settings"):
        mixer(torch.zeros(1, 1, 16), Context(state=state))
    with pytest.raises(ConfigError, match="other settings"):
        mixer.new_state(1, 8).write(torch.tensor([0]), state)


def test_refuses_block_sums_over_blocks_of_another_size():
    config = block_sparse_attention.Config(num_heads=2, block_size=4)
    mixer, state = config.build(16), replace(config, block_size=8).build(16).new_state(1, 8)
    with pytest.raises(ConfigError, match="blocks of 8 tokens"):
        mixer(torch.zeros(1, 1, 16), Context(state=state))
    with pytest.raises(ConfigError, match="blocks of 8 tokens"):
        mixer.new_state(1, 8).write(torch.tensor([0]), state)


@pytest.mark.parametrize("module", FAMILY, ids=lambda module: module.__name__)
@torch.no_grad()
def test_a_decoded_token_copies_no_cache(module):
    mixer = module.Config(num_heads=2).build(16)
    state = mixer.new_state(2, 100)
    addresses = set()
    for length in (50, 1, 3):
        mixer(torch.zeros(2, length, 16), Context(state=state))
        addresses.add(tuple(x.data_ptr() for name, x in state.tensors().items() if name != "lengths_B"))
    assert len(addresses) == 1


@torch.no_grad()
def test_forgets_as_its_gate_says():
    """A gate that is shut makes every token its own value; one that is open makes it plain attention."""
    mixer = forgetting_attention.Config(num_heads=2).build(16).double().eval()
    plain = attention.Config(num_heads=2, positions="none").build(16).double().eval()
    plain.load_state_dict({k: x for k, x in mixer.state_dict().items() if not k.startswith("forget")})
    x_BTD = torch.randn(1, 40, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixer.forget.weight.zero_()
    mixer.forget.bias.fill_(50.0)
    torch.testing.assert_close(mixer(x_BTD, Context()), plain(x_BTD, Context()))
    mixer.forget.bias.fill_(-50.0)
    torch.testing.assert_close(mixer(x_BTD, Context()), mixer.out(mixer.v(x_BTD)))


@torch.no_grad()
def test_long_decoding_after_strong_forgetting_keeps_its_digits():
    """After 3000 tokens at about -50 each, tokens that forget little read as if only the last of those had been."""
    mixer = forgetting_attention.Config(num_heads=2).build(16).eval()
    x_BTD = torch.randn(1, 3050, 16, generator=torch.Generator().manual_seed(0))
    outputs = []
    for start in (0, 2999):
        state = mixer.new_state(1, 3050 - start)
        mixer.forget.bias.fill_(-50.0)
        mixer(x_BTD[:, start:3000], Context(state=state))
        mixer.forget.bias.fill_(2.0)
        steps = [mixer(x_BTD[:, t : t + 1], Context(state=state)) for t in range(3000, 3050)]
        outputs.append(torch.cat(steps, dim=1))
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-6, rtol=1e-5)


def test_slots_hold_the_newest_tokens_that_fall_on_them():
    assert slot_places(torch.tensor([0, 2, 3, 7]), 3).tolist() == [[-3, -2, -1], [0, 1, -1], [0, 1, 2], [6, 4, 5]]


def test_keys_as_values_halve_the_state_and_are_what_is_summed():
    own, shared = (attention.Config(num_heads=2, positions="none", values=v).build(16) for v in ("own", "keys"))  # type: ignore[arg-type]
    assert own.state_bytes(100) == 2 * shared.state_bytes(100)
    sizes = [sum(x.numel() for x in m.new_state(1, 50).slots().values()) for m in (own, shared)]
    assert sizes[0] == 2 * sizes[1]
    own.load_state_dict(shared.state_dict() | {"v.weight": shared.state_dict()["k.weight"]})
    x_BTD = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(shared(x_BTD, Context()), own(x_BTD, Context()))
