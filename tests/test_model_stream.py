"""What each switch puts into the stream and the values: near mixing, norms, tables, skips, n-grams, loops.

B batch, T time, D model width, E width of a mixer's values.
"""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from model_cases import tokens
from switch_parts import DOCUMENTS, PLAIN, block, close, made, seen
from torch import Tensor

from wren.block import NearConfig
from wren.errors import ConfigError
from wren.mixers import attention
from wren.skips import SkipsConfig
from wren.tables import START, Table, TablesConfig, gathered, ngram_index, tokens_before


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


def test_a_u_net_of_one_layer_is_a_sentence():
    with pytest.raises(ConfigError, match=r"skips\.unet needs at least two layers"):
        replace(PLAIN, depth=1, skips=SkipsConfig(unet=True)).build()


def test_the_layers_share_the_boundaries_of_documents():
    model = made(loops=2)
    calls = seen(model, tokens(1, 12), documents_BT=DOCUMENTS)
    shared = [context.boundaries for name in calls if name.endswith(".mixer") for _, context in calls[name]]
    assert len(shared) == 6
    assert all(each is shared[0] for each in shared)
    assert shared[0] is not None
    assert shared[0].cu_seqlens.tolist() == [0, 4, 6, 12]
    assert seen(model, tokens(1, 12))["blocks.0.mixer"][0][1].boundaries is None
