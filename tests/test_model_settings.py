"""LM: what its settings make of it: parameters, first weights, positions, dropout, the softcap, and what is refused."""

import math
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from model_cases import PLAIN, VOCAB, build, close, tokens
from torch import nn

from wren.errors import ConfigError
from wren.mixers import attention, gated_delta_net
from wren.mlps import gelu, relu2, swiglu


@pytest.mark.parametrize("tied", [True, False])
def test_params_are_counted_by_hand(tied: bool):
    config = replace(PLAIN, tie_embeddings=tied, learned_positions=11, norm="layer", bias=True)
    attention_params, mlp_params, norms = 4 * 16 * 16, 2 * 16 * 64, 2 * 2 * 16
    blocks = 2 * (attention_params + mlp_params + norms) + 2 * 16
    tables = VOCAB * 16 * (1 if tied else 2) + 11 * 16
    assert config.build().num_params(embeddings=False) == blocks
    assert config.build().num_params() == blocks + tables


def test_initial_weights_have_the_sizes_that_were_asked_for():
    torch.manual_seed(0)
    mixers = (attention.Config(num_heads=4, bias=True), gated_delta_net.Config(num_heads=4))
    config = replace(PLAIN, vocab_size=500, dim=128, depth=4, mixers=mixers, mlp=gelu.Config(bias=True), init_std=0.03)
    config = replace(config, learned_positions=200, tie_embeddings=False)
    for name, module in config.build().named_modules():
        if not isinstance(module, (nn.Linear, nn.Embedding)) or module.weight.numel() < 2000:
            continue
        std = 0.03 / math.sqrt(2 * 4) if name.endswith(".out") else 0.03
        assert float(module.weight.detach().std()) == pytest.approx(std, rel=0.05), name
        assert float(module.weight.detach().mean()) == pytest.approx(0, abs=0.1 * std), name
        assert not isinstance(module, nn.Linear) or module.bias is None or not module.bias.any()


def test_the_pattern_of_mixers_repeats_over_depth():
    mixers = (attention.Config(num_heads=1), attention.Config(num_heads=2), gated_delta_net.Config(num_heads=2))
    model = replace(PLAIN, depth=5, mixers=mixers).build()
    assert [m.config for m in model.mixers()] == [*mixers, *mixers[:2]]  # type: ignore[attr-defined]


def test_learned_positions_end_with_a_sentence():
    model = replace(PLAIN, learned_positions=8).build()
    with pytest.raises(ConfigError, match="A row of 9 tokens is longer than the 8 learned positions"):
        model(tokens(1, 9))
    with pytest.raises(ConfigError, match="9 tokens do not fit this model's 8 learned positions; ask for fewer"):
        model.new_state(1, 9)
    documents_BT = torch.tensor([[0] * 8 + [1] * 4])
    assert model(tokens(1, 12), documents_BT=documents_BT).shape == (1, 12, VOCAB)  # each document fits
    with pytest.raises(ConfigError, match="A row of 9 tokens"):
        model(tokens(1, 12), documents_BT=torch.tensor([[0] * 9 + [1] * 3]))


@pytest.mark.parametrize("cached", [False, True])
def test_positions_past_the_table_are_a_sentence_in_a_short_row_too(cached: bool):
    model = replace(PLAIN, learned_positions=8).build()
    state = model.new_state(1, 8) if cached else None
    with pytest.raises(ConfigError, match="A row of 9 tokens is longer than the 8 learned positions"):
        model(tokens(1, 2), positions_BT=torch.tensor([[7, 8]]), state=state)
    assert state is None or state.lengths_B.tolist() == [0]
    assert model(tokens(1, 2), positions_BT=torch.tensor([[6, 7]]), state=state).shape == (1, 2, VOCAB)


def test_a_cached_row_stops_at_the_last_learned_position():
    """Also for a mixer whose own state never fills; padding past the table does not count."""
    model = replace(PLAIN, learned_positions=8, mixers=(gated_delta_net.Config(num_heads=2),)).build().eval()
    state = model.new_state(2, 8)
    model(tokens(2, 6), state=state)
    model(tokens(2, 6), state=state, valid_B=torch.tensor([2, 1]))
    assert state.lengths_B.tolist() == [8, 7]
    with pytest.raises(ConfigError, match="A row of 9 tokens is longer than the 8 learned positions"):
        model(tokens(2, 1), state=state)
    fresh = model.new_state(1, 8)
    state.write(torch.tensor([0]), fresh)
    assert model(tokens(2, 1), state=state).shape == (2, 1, VOCAB)
    assert state.lengths_B.tolist() == [1, 8]


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    model = replace(PLAIN, dropout=0.5).build()
    tokens_BT = tokens(1, 9)
    assert not torch.equal(model(tokens_BT), model(tokens_BT))
    model.eval()
    assert torch.equal(model(tokens_BT), model(tokens_BT))
    plain = PLAIN.build().eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain(tokens_BT), model(tokens_BT))


def test_embedding_dropout_stands_for_itself():
    assert replace(PLAIN, dropout=0.5).build().dropout.p == 0.5
    model = replace(PLAIN, dropout=0.5, embedding_dropout=0.1).build()
    assert (model.dropout.p, model.blocks[0].dropout.p) == (0.1, 0.5)


def test_softcap_bounds_the_logits_and_keeps_small_ones():
    model = build("llama")
    with torch.no_grad():
        model.head.weight *= 50
        plain = model(tokens(1, 9))
        model.config = replace(model.config, logit_softcap=3.0)
        capped = model(tokens(1, 9))
    assert plain.abs().max() > 10
    close(capped, 3 * torch.tanh(plain / 3))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vocab_size": 0}, "model.vocab_size is 0; it must be at least 1"),
        ({"dim": -1}, "model.dim is -1"),
        ({"depth": 0}, "model.depth is 0"),
        ({"mixers": ()}, "model.mixers is empty; name at least one mixer"),
        ({"dropout": 1.0}, r"model.dropout is 1.0; it must lie in \[0, 1\)"),
        ({"embedding_dropout": -0.1}, r"model.embedding_dropout is -0.1; it must lie in \[0, 1\)"),
        ({"learned_positions": 0}, "model.learned_positions is 0; it must be at least 1"),
        ({"logit_softcap": 0.0}, "model.logit_softcap is 0.0; it must be above 0"),
        ({"init_std": -1.0}, "model.init_std is -1.0; it must be above 0"),
        ({"norm_eps": -1.0}, "model.norm_eps is -1.0; it must be above 0"),
    ],
)
def test_impossible_settings_are_named(changes: dict, sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        replace(PLAIN, **changes)


@pytest.mark.parametrize("kind", [gelu, relu2, swiglu])
def test_impossible_mlps_are_named(kind: ModuleType):
    with pytest.raises(ConfigError, match=r"hidden is 0; it must be at least 1"):
        kind.Config(hidden=0)
