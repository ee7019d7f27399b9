"""Heads ahead, parameters, settings, states and generation with switches; tests/test_model.py holds the contract.

B batch, T time, V vocabulary.
"""

import itertools
import json
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from model_cases import CONFIGS, SWITCHES, VOCAB, build, shaken, switched, tokens
from switch_parts import DOCUMENTS, PLAIN, block, close, made
from torch import Tensor, nn

from wren.ahead import AheadConfig, ahead_targets
from wren.batch import IGNORE, Batch
from wren.block import NearConfig
from wren.config import from_json, to_json
from wren.config import replace as changed
from wren.errors import ConfigError
from wren.generate import Sampling, generate
from wren.loss import cross_entropy, token_losses
from wren.model import ModelConfig
from wren.optim.optimizer import OptimizerConfig
from wren.precision import Precision
from wren.tables import TablesConfig

FP32 = Precision(device=torch.device("cpu"), autocast=None, why="test")


def example() -> Batch:
    tokens_BT = tokens(2, 13)
    targets_BT = tokens_BT[:, 1:].clone()
    targets_BT[1, 4:7] = IGNORE
    weights_BT = torch.linspace(-1, 2, 24, dtype=torch.float64).view(2, 12)
    return Batch(tokens_BT[:, :-1], targets_BT, weights_BT, DOCUMENTS.expand(2, -1))


def test_targets_ahead_never_cross_a_document_nor_what_is_not_learned():
    batch = example()
    for steps in (1, 2, 3, 12, 50):
        targets_BT, weights_BT = ahead_targets(batch, steps)
        assert weights_BT is not None
        for row, t in itertools.product(range(2), range(12)):
            there = t + steps
            inside = there < 12 and DOCUMENTS[0, min(there, 11)] == DOCUMENTS[0, t]
            assert targets_BT[row, t] == (batch.targets_BT[row, there] if inside else IGNORE)
            if inside:
                assert cast(Tensor, batch.weights_BT)[row, there] == weights_BT[row, t]
    assert ahead_targets(batch._replace(documents_BT=None, weights_BT=None), 2)[1] is None


def test_heads_ahead_join_the_training_loss_alone():
    model, batch = made(ahead=AheadConfig(tokens=2, weight=0.5)), example()
    plain = cross_entropy(model, batch)
    close(plain, (token_losses(model, batch) * cast(Tensor, batch.weights_BT)).sum())
    hiddens = model.train().hiddens(batch.tokens_BT, documents_BT=batch.documents_BT)
    extra = torch.zeros((), dtype=torch.float64)
    for steps in (1, 2):
        logp_BTV = model.logits(hiddens[steps]).log_softmax(-1)
        targets_BT, weights_BT = ahead_targets(batch, steps)
        for row, t in (targets_BT != IGNORE).nonzero().tolist():
            extra = extra - cast(Tensor, weights_BT)[row, t] * logp_BTV[row, t, targets_BT[row, t]]
    assert abs(float(extra.detach())) > 0.1
    close(cross_entropy(model, batch), plain + 0.5 * extra / 2)
    close(token_losses(model, batch), token_losses(model.eval(), batch))
    trained = model.flops_per_token(9, training=True) - model.flops_per_token(9)
    assert trained == 2 * (block(model, 0).flops_per_token(9) + 2 * model.head.weight.numel())


def test_parameters_are_told_apart():
    model = build("attention+all")
    width, v = 16, VOCAB
    tables = 3 * v * width + (50 + 70) * width + model.positions.weight.numel()  # type: ignore[union-attr]
    assert model.table_params() == tables  # the token table is the head's
    assert model.num_params(embeddings=False) == model.num_params() - tables - v * width
    idle = (3 + 2) * 2 * (3 * 16 * 8)  # of 4 experts 2 serve a token, in 3 blocks and 2 heads ahead
    assert model.active_params() == model.num_params() - idle
    untied = replace(PLAIN, tie_embeddings=False).build()
    assert untied.table_params() == v * width
    assert untied.active_params() == untied.num_params()


def test_muon_takes_matrices_alone():
    model = build("gated_delta_net+all")
    optimizer = OptimizerConfig(kind="muon").build(model)
    muon = {optimizer.names[id(p)] for group in optimizer.parts[1].param_groups for p in group["params"]}
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert muon == linear - {"head.weight"}
    assert all(p.dim() == 2 for group in optimizer.parts[1].param_groups for p in group["params"])
    for name in (
        "values.projections.16.weight",
        "ahead.1.block.mlp.experts.3.out.weight",
        "blocks.0.mlp_norm.up.weight",
    ):
        assert name in muon
    for group in optimizer.parts[0].param_groups:
        for p in group["params"]:
            name = optimizer.names[id(p)]
            decays = (
                name.endswith((".conv", ".canon")) or "tables" in name or name.startswith(("embedding", "positions"))
            )
            assert (group["weight_decay"] > 0) == decays, name


@pytest.mark.parametrize("name", [name for name in CONFIGS if "+" in name])
def test_settings_survive_json_and_old_runs_have_none(name: str):
    config = CONFIGS[name]
    assert from_json(ModelConfig, json.loads(json.dumps(to_json(config)))) == config
    old = {
        key: value for key, value in to_json(PLAIN).items() if key not in ("near", "skips", "tables", "ahead", "loops")
    }
    assert from_json(ModelConfig, old) == PLAIN


def test_switches_can_be_named_on_the_command_line():
    config = changed(
        PLAIN,
        {"near.canon": "A,C", "near.token_shift": "true", "tables.values": "0,2", "tables.bigrams": "1e4", "loops": "2",
         "skips.x0": "true", "ahead.tokens": "1", "norm_gate": "8"},
    )  # fmt: skip
    assert config.near == NearConfig(token_shift=True, canon=("A", "C"))
    assert config.tables == TablesConfig(values=(0, 2), bigrams=10_000)
    assert (config.loops, config.skips.x0, config.ahead.tokens, config.norm_gate) == (2, True, 1, 8)
    assert changed(config, {"tables.values": "alternate"}).tables.values == "alternate"
    assert changed(config, {"tables.values": "none"}).tables.values is None


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: NearConfig(canon_width=1), "near.canon_width is 1; it must be at least 2"),
        (lambda: NearConfig(canon=("A", "A")), "near.canon names a place twice"),
        (lambda: TablesConfig(bigrams=-1), "tables.bigrams is -1; it must lie in 0 to"),
        (lambda: TablesConfig(trigrams=2**31), "tables.trigrams is 2147483648; it must lie in 0 to"),
        (lambda: TablesConfig(every_block=True), "tables.every_block needs an n-gram table"),
        (lambda: AheadConfig(tokens=-1), "ahead.tokens is -1; it must be 0 or more"),
        (lambda: AheadConfig(weight=0.0), "ahead.weight is 0.0; it must be above 0"),
        (lambda: replace(PLAIN, loops=0), "model.loops is 0; it must be at least 1"),
        (lambda: replace(PLAIN, norm_gate=0), "model.norm_gate is 0; it must be at least 1"),
        (lambda: changed(PLAIN, {"near.canon": "B"}), "canon"),
        (lambda: changed(PLAIN, {"tables.values": "some"}), "'some' is unknown"),
    ],
)
def test_impossible_switches_are_one_sentence(make: Any, sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        make()


@pytest.mark.parametrize(
    "switches", [{"loops": 2}, {"near": NearConfig(token_shift=True)}, {"tables": TablesConfig(bigrams=9)}]
)
def test_a_state_of_a_model_with_other_switches_is_refused(switches: dict[str, Any]):
    plain, other = made(), made(**switches)
    for model, foreign in ((plain, other), (other, plain)):
        state = foreign.new_state(1, 9, dtype=torch.float64)
        with pytest.raises(ConfigError, match="belongs to another model"):
            model(tokens(1, 2), state=state)
        with pytest.raises(ConfigError, match="belongs to another model"):
            model.new_state(1, 9).write(torch.tensor([0]), state)
        assert state.lengths_B.tolist() == [0]
    shifted, canon = (made(near=near) for near in (NearConfig(token_shift=True), NearConfig(canon=("A",))))
    with pytest.raises(ConfigError, match="short convolutions are of shape"):
        shifted(tokens(1, 2), state=canon.new_state(1, 9, dtype=torch.float64))


@pytest.mark.parametrize("mixer", ["attention", "gated_delta_net"])
@pytest.mark.parametrize("switch", SWITCHES)
def test_generation_is_that_of_whole_rows(mixer: str, switch: str):
    torch.manual_seed(0)
    model = shaken(switched(switch, mixer).build().double().eval())
    prompts = [[3, 1, 4, 1, 5], [9], [2, 6]]
    steps = list(generate(model, prompts, Sampling(temperature=0.0, max_tokens=8), FP32))
    for row, prompt in enumerate(prompts):
        told = list(prompt)
        with torch.no_grad():
            for step in steps:
                assert int(step[row]) == int(model(torch.tensor([told]))[0, -1].argmax())
                told.append(int(step[row]))


@pytest.mark.parametrize("name", ["attention+all", "gated_delta_net+all"])
def test_gradients_flow_through_a_carried_state_and_nothing_is_overwritten(name: str):
    model, tokens_BT = build(name), tokens(2, 12)
    state = model.new_state(2, 12, dtype=torch.float64)
    weights = torch.randn(2, 12, VOCAB, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    parameters = [p for n, p in model.named_parameters() if not n.startswith("ahead.")]
    expected = torch.autograd.grad((model(tokens_BT) * weights).sum(), parameters)
    pieces = []
    for start, stop in ((0, 5), (5, 6), (6, 12)):
        held = [(x, x._version, x.detach().clone()) for part in state.states() for x in part.tensors().values()]
        pieces.append(model(tokens_BT[:, start:stop], state=state))
        assert all(x._version == version and torch.equal(x, values) for x, version, values in held)
    for found, wanted in zip(
        torch.autograd.grad((torch.cat(pieces, dim=1) * weights).sum(), parameters), expected, strict=True
    ):
        torch.testing.assert_close(found, wanted, atol=1e-8, rtol=1e-8)


@torch.no_grad()
@pytest.mark.parametrize("switch", SWITCHES)
def test_autocast_stays_near_float32(switch: str):
    model = build(f"attention+{switch}", torch.float32)
    exact = model(tokens(2, 40))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(tokens(2, 40))
    assert float((rough - exact).norm() / exact.norm()) < 0.06
