"""What each switch around the mixers computes, and what its settings refuse; tests/test_model.py holds the contract.

B batch, T time, D model width, E width of a mixer's values, V vocabulary.
"""

import itertools
import json
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from model_cases import CONFIGS, SWITCHES, VOCAB, build, shaken, switched, tokens
from torch import Tensor, nn

from wren.ahead import AheadConfig, ahead_targets
from wren.batch import IGNORE, Batch
from wren.block import Block, NearConfig
from wren.config import from_json, to_json
from wren.config import replace as changed
from wren.errors import ConfigError
from wren.generate import Sampling, generate
from wren.loss import cross_entropy, token_losses
from wren.mixer import Context
from wren.mixers import attention
from wren.mlps import relu2
from wren.model import LM, ModelConfig
from wren.optim.optimizer import OptimizerConfig
from wren.precision import Precision
from wren.skips import SkipsConfig
from wren.tables import START, Table, TablesConfig, gathered, ngram_index, tokens_before

PLAIN = ModelConfig(
    vocab_size=VOCAB, dim=16, depth=3, mixers=(attention.Config(num_heads=2),), mlp=relu2.Config(hidden=24)
)
FP32 = Precision(device=torch.device("cpu"), autocast=None, why="test")
DOCUMENTS = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 2]])


def made(**switches: Any) -> LM:
    torch.manual_seed(0)
    return shaken(replace(PLAIN, **switches).build().double().eval())


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


def seen(model: LM, tokens_BT: Tensor, **inputs: Tensor) -> dict[str, list[tuple[Tensor, Context]]]:
    """What every block and mixer was called with: the stream or its normed form, and the context."""
    calls: dict[str, list[Any]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, args, name=name: calls.setdefault(name, []).append(args))
        for name, module in model.named_modules()
        if name.startswith("blocks.") and (name.count(".") == 1 or name.endswith((".mixer", ".mlp")))
    ]
    with torch.no_grad():
        model(tokens_BT, **inputs)
    for hook in hooks:
        hook.remove()
    return calls


def block(model: LM, index: int) -> Block:
    return cast(Block, model.blocks[index])


@torch.no_grad()
def test_token_shift_mixes_each_channel_with_its_last_value():
    model = made(near=NearConfig(token_shift=True))
    calls = seen(model, tokens(1, 12), documents_BT=DOCUMENTS)
    x_BTD = block(model, 1).mixer_norm(calls["blocks.1"][0][0])
    mu_D = cast(Tensor, cast(Any, block(model, 1).mixer_near).shift)
    for t in range(12):
        before = x_BTD[:, t - 1] if t > 0 and DOCUMENTS[0, t] == DOCUMENTS[0, t - 1] else torch.zeros(1, 16)
        close(calls["blocks.1.mixer"][0][0][:, t], mu_D * x_BTD[:, t] + (1 - mu_D) * before)


@torch.no_grad()
@pytest.mark.parametrize("place", ["A", "C"])
def test_canon_adds_the_last_four_of_its_document(place: str):
    model = made(near=NearConfig(canon=(place,)))  # type: ignore[arg-type]
    calls, one = seen(model, tokens(1, 12), documents_BT=DOCUMENTS), block(model, 1)
    x_BTD = one.mixer_norm(calls["blocks.1"][0][0])
    if place == "C":
        h_BTD, context = calls["blocks.1.mixer"][0]
        x_BTD = one.mlp_norm(calls["blocks.1"][0][0] + one.mixer(h_BTD, context))
    near = one.mixer_near if place == "A" else one.mlp_near
    weight_DW = cast(Tensor, cast(Any, near).canon)
    assert weight_DW.shape == (16, 4)
    found_BTD = calls["blocks.1.mixer" if place == "A" else "blocks.1.mlp"][0][0]
    for t in range(12):
        expected = x_BTD[:, t].clone()
        for back in range(4):
            if t >= back and DOCUMENTS[0, t] == DOCUMENTS[0, t - back]:
                expected += weight_DW[:, 3 - back] * x_BTD[:, t - back]
        close(found_BTD[:, t], expected)


@torch.no_grad()
def test_a_gated_norm_rescales_channels():
    model = made(norm_gate=4)
    norm = cast(Any, block(model, 0).mixer_norm)
    x_BTD = torch.randn(1, 5, 16, dtype=torch.float64)
    y_BTD = x_BTD / (x_BTD.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.norm.weight
    gate_BTD = torch.sigmoid(F.silu(y_BTD @ norm.down.weight.T) @ norm.up.weight.T)
    close(norm(x_BTD), 2 * gate_BTD * y_BTD)
    assert norm.down.weight.shape == (4, 16)
    assert all(cast(Any, n).down is not None for n in (block(model, 2).mlp_norm, model.norm))


def test_norms_without_gain_have_no_parameters():
    names = [name for name, _ in made(norm_gain=False).named_parameters()]
    assert not [name for name in names if "norm" in name]
    assert [name for name, _ in made().named_parameters() if "norm" in name]


@torch.no_grad()
def test_value_tables_and_skips_join_the_values_they_are_meant_for():
    model = made(depth=4, tables=TablesConfig(values="alternate"), skips=SkipsConfig(values=True))
    tokens_BT = tokens(2, 9)
    calls, values = seen(model, tokens_BT), cast(Any, model.values)
    x0_BTD = model.embedding(tokens_BT)
    shared = F.rms_norm(x0_BTD, (16,)) @ values.projections["16"].weight.T
    for layer in range(4):
        found = calls[f"blocks.{layer}.mixer"][0][1].values_BTD
        expected = torch.zeros(2, 9, 16, dtype=torch.float64)
        if layer in (1, 3):
            expected += values.table_L[layer] * values.tables[str(layer)].weight[tokens_BT]
        if layer > 0:
            expected += values.skip_L[layer] * shared
        assert (found is None) == (layer == 0)
        close(torch.zeros_like(expected) if found is None else found, expected)


class NoValues(attention.Attention):
    """A mixer that takes no values."""

    def __init__(self, dim: int, config: attention.Config):
        super().__init__(dim, config)
        self.values_dim = 0


class NoValuesConfig(attention.Config):
    def build(self, dim: int) -> NoValues:
        return NoValues(dim, self)


MIXED = (NoValuesConfig(num_heads=2), attention.Config(num_heads=2))


def test_patterns_pass_over_mixers_without_values():
    for choice, layers in (("all", ["1", "3"]), ("alternate", ["1", "3"]), ((3,), ["3"])):
        model = made(depth=4, mixers=MIXED, tables=TablesConfig(values=choice))  # type: ignore[arg-type]
        assert list(cast(Any, model.values).tables) == layers
    model = made(depth=4, mixers=MIXED, skips=SkipsConfig(values=True))
    assert cast(Any, model.values).skipping == [3]


@pytest.mark.parametrize(
    ("switches", "sentence"),
    [
        ({"tables": TablesConfig(values=(0,))}, "layer 0, whose mixer takes no values; name others, or use 'all'"),
        ({"tables": TablesConfig(values=(4,))}, "layer 4; the model has layers 0 to 3"),
        ({"tables": TablesConfig(values=(-1,))}, "layer -1; the model has"),
        ({"tables": TablesConfig(values=(1, 1))}, r"\[1, 1\]; name at least one layer, and none twice"),
        ({"tables": TablesConfig(values=())}, "name at least one layer"),
        ({"depth": 1, "tables": TablesConfig(values="all")}, "values is 'all', but none of these layers"),
        ({"depth": 2, "skips": SkipsConfig(values=True)}, "needs two layers whose mixers take values"),
    ],
)
def test_values_for_the_wrong_layers_are_a_sentence(switches: dict[str, Any], sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        replace(PLAIN, **({"depth": 4, "mixers": MIXED} | switches)).build()


@torch.no_grad()
def test_x0_joins_what_every_block_reads():
    model = made(skips=SkipsConfig(x0=True))
    tokens_BT, skips = tokens(1, 7), cast(Any, model.skips)
    calls, x0_BTD = seen(model, tokens_BT), model.embedding(tokens_BT)
    x_BTD = x0_BTD
    for layer in range(3):
        read_BTD, context = calls[f"blocks.{layer}"][0][:2]
        close(read_BTD, skips.stream_L[layer] * x_BTD + skips.x0_L[layer] * x0_BTD)
        x_BTD = block(model, layer)(read_BTD, context)


@torch.no_grad()
def test_unet_skips_join_mirror_images():
    model = made(depth=5, skips=SkipsConfig(unet=True))
    calls, skips = seen(model, tokens(1, 7)), cast(Any, model.skips)
    reads = [calls[f"blocks.{layer}"][0] for layer in range(5)]
    for layer, mirror in ((1, None), (2, None), (3, 1), (4, 0)):
        expected = block(model, layer - 1)(*reads[layer - 1][:2])
        if mirror is not None:
            expected = expected + skips.unet_L[layer - 3] * reads[mirror][0]
        close(reads[layer][0], expected)


def test_switches_that_begin_silent_change_nothing_at_first():
    """x0, U-net and n-gram tables: the same seed gives the same logits."""
    torch.manual_seed(0)
    plain = PLAIN.build().double()
    config = replace(PLAIN, skips=SkipsConfig(x0=True, unet=True), tables=TablesConfig(bigrams=30, every_block=True))
    torch.manual_seed(0)
    close(config.build().double()(tokens(1, 9)), plain(tokens(1, 9)))


@torch.no_grad()
@pytest.mark.parametrize("every_block", [False, True])
def test_ngram_rows_join_the_stream(every_block: bool):
    model = made(tables=TablesConfig(bigrams=50, trigrams=60, every_block=every_block))
    tokens_BT, ngrams = tokens(1, 12), cast(Any, model.ngrams)
    calls = seen(model, tokens_BT, documents_BT=DOCUMENTS)
    rows = torch.zeros(1, 12, 16, dtype=torch.float64)
    for t in range(12):
        before = [
            tokens_BT[:, t - i] if t >= i and DOCUMENTS[0, t] == DOCUMENTS[0, t - i] else torch.tensor([START])
            for i in (1, 2)
        ]
        for name, count in (("bigrams", 1), ("trigrams", 2)):
            table = ngrams.tables[name].weight
            rows[:, t] += table[ngram_index(tokens_BT[:, t], before[:count], len(table))]
    for layer in range(3):
        expected = (
            model.embedding(tokens_BT) if layer == 0 else block(model, layer - 1)(*calls[f"blocks.{layer - 1}"][0][:2])
        )
        if every_block:
            expected = expected + ngrams.scale_L[layer] * rows
        elif layer == 0:
            expected = expected + rows
        close(calls[f"blocks.{layer}"][0][0], expected)


def test_different_ngrams_seldom_share_a_row():
    rows, vocab = 1 << 16, 50_000
    generator = torch.Generator().manual_seed(0)
    a, b, c = (torch.randint(vocab, (20_000,), generator=generator) for _ in range(3))
    common = torch.arange(200)
    pairs = torch.cartesian_prod(common, common).T
    for index in (ngram_index(a, [b], rows), ngram_index(a, [b, c], rows), ngram_index(pairs[0], [pairs[1]], rows)):
        assert 0 <= int(index.min()) <= int(index.max()) < rows
        expected = rows * (1 - (1 - 1 / rows) ** len(index))  # different rows of a random choice
        assert index.unique().numel() > 0.97 * expected
    assert (ngram_index(a, [b], rows) != ngram_index(b, [a], rows)).float().mean() > 0.99
    assert (ngram_index(a, [b, c], rows) != ngram_index(a, [c, b], rows)).float().mean() > 0.99
    largest = torch.tensor([2**31])  # no overflow
    assert 0 <= int(ngram_index(largest, [largest, largest], 7)) < 7


def test_tokens_before_stop_at_documents_and_go_on_from_a_state():
    tokens_BT = torch.tensor([[5, 6, 7, 8]])
    one, two = tokens_before(tokens_BT, 2, torch.tensor([[0, 0, 0, 1]]), None)
    assert one.tolist() == [[START, 5, 6, START]]
    assert two.tolist() == [[START, START, 5, START]]
    one, two = tokens_before(tokens_BT[:, :1], 2, None, torch.tensor([[3, 4]]))
    assert (one.tolist(), two.tolist()) == ([[4]], [[3]])
    one, two = tokens_before(tokens_BT[:, :1], 2, torch.tensor([[0]]), None)
    assert (one.tolist(), two.tolist()) == ([[START]], [[START]])


def test_a_table_in_main_memory_stays_there_and_learns_the_same():
    model = replace(PLAIN, tables=TablesConfig(values="all", bigrams=40, on_cpu=True)).build()
    tables = [module for module in model.modules() if isinstance(module, Table)]
    assert len(tables) == 4
    model.to("meta").to(torch.bfloat16)
    assert all(table.weight.device.type == "cpu" and table.weight.dtype == torch.bfloat16 for table in tables)
    assert model.embedding.weight.device.type == "meta"
    weight, index_BT = torch.randn(9, 4, dtype=torch.float64), torch.tensor([[3, 3, 8], [0, 1, 3]])
    leaves = [weight.clone().requires_grad_() for _ in range(2)]
    for leaf, rows_BTD in zip(leaves, (gathered(leaves[0], index_BT), F.embedding(index_BT, leaves[1])), strict=True):
        close(rows_BTD.detach(), weight[index_BT])
        (rows_BTD * torch.arange(24).view(2, 3, 4)).sum().backward()
        assert leaf.grad is not None
    close(cast(Tensor, leaves[0].grad), cast(Tensor, leaves[1].grad))
    assert torch.autograd.gradcheck(lambda w: gathered(w, index_BT), leaves[:1])


@torch.no_grad()
def test_a_looped_block_is_the_same_block_again():
    looped = made(depth=2, loops=2)
    stacked = made(depth=4)
    for i in range(4):
        stacked.blocks[i].load_state_dict(looped.blocks[i % 2].state_dict())
    for name in ("embedding", "norm"):
        stacked.get_submodule(name).load_state_dict(looped.get_submodule(name).state_dict())
    close(looped(tokens(2, 9)), stacked(tokens(2, 9)))
    assert looped.num_params(embeddings=False) == sum(
        p.numel() for p in [*looped.blocks.parameters(), *looped.norm.parameters()]
    )
    assert looped.state_bytes(9) == stacked.state_bytes(9)
    assert looped.flops_per_token(9) == stacked.flops_per_token(9)
    assert len(looped.new_state(1, 9).layers) == 4
    assert looped.mixers() == [block(looped, 0).mixer, block(looped, 1).mixer]


def test_outputs_of_looped_blocks_begin_smaller():
    for loops in (1, 4):
        weight = cast(Any, block(replace(PLAIN, dim=64, loops=loops).build(), 0).mixer).out.weight
        assert float(weight.detach().std()) == pytest.approx(0.02 / (2 * 3 * loops) ** 0.5, rel=0.1)


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
