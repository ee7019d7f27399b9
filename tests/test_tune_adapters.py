"""Adapters: per row equal to merged weights, nothing changed without them, four bits, files that belong to a model."""

import copy
from dataclasses import replace
from pathlib import Path

import model_cases
import pytest
import torch
from torch import Tensor, nn
from tune_parts import examples

from wren import checkpoint
from wren.adapters import files
from wren.adapters.adapter import Adapter, AdapterConfig, adaptable, fingerprint
from wren.adapters.bits import GROUP, Linear4, dequantise, levels, quantise, rounded_to_four_bits, to_four_bits
from wren.adapters.rows import Adapters
from wren.batch import IGNORE, Batch
from wren.errors import CheckpointError, ConfigError
from wren.loss import cross_entropy, token_losses
from wren.model import LM
from wren.optim.optimizer import OptimizerConfig
from wren.step import compiled
from wren.tune.loader import make_batch

TOKENS = (3, 5, 7)


def adapter(model: LM, seed: int = 0, rank: int = 2, tokens: tuple[int, ...] = TOKENS) -> Adapter:
    """One that changes everything it can."""
    generator = torch.Generator().manual_seed(seed)
    made = Adapter(model, AdapterConfig(rank=rank, tokens=tokens), generator).to(model.head.weight.dtype)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    return made


def merged(model: LM, *adapters: Adapter) -> list[LM]:
    """The model, and a copy of it with each adapter in its weights."""
    models = [model]
    for each in adapters:
        models.append(copy.deepcopy(model))
        each.merge_into(models[-1])
    return models


# one of every mixer and recipe, every switch under attention, and all of them under a recurrent mixer
CASES = [n for n in model_cases.CONFIGS if "gated_delta_net+" not in n and not n.endswith(("-1", "-2", "-3", "-4"))]


@pytest.mark.parametrize("name", [*CASES, "gated_delta_net+all"])
@torch.no_grad()
def test_each_row_is_as_with_its_adapter_merged(name: str) -> None:
    model = model_cases.build(name)
    pair = adapter(model, 0), adapter(model, 1, rank=3, tokens=(5, 9))
    plain = copy.deepcopy(model)
    tokens_BT, index = model_cases.tokens(4, 9), [0, 2, 1, 2]
    models = merged(model, *pair)
    expected = torch.cat([models[i](tokens_BT[row : row + 1]) for row, i in enumerate(index)])
    adapters = Adapters(model)
    assert [adapters.add(each) for each in pair] == [1, 2]
    without = model(tokens_BT)
    assert torch.equal(without, plain(tokens_BT))
    with adapters.rows(torch.tensor(index)):
        whole = model(tokens_BT)
        state = model.new_state(4, 9, dtype=torch.float64)
        cached = [model(tokens_BT[:, :5], state=state)]
        cached += [model(tokens_BT[:, t : t + 1], state=state) for t in range(5, 9)]
        losses_BT = token_losses(model, batch_of(tokens_BT))
    model_cases.close(whole, expected)
    model_cases.close(torch.cat(cached, dim=1), expected)
    assert torch.equal(whole[0], without[0])
    logprobs_BTV = expected.log_softmax(-1)[:, :-1]
    model_cases.close(losses_BT[:, :-1], -logprobs_BTV.gather(-1, tokens_BT[:, 1:, None])[..., 0])
    with adapters.rows(1):
        model_cases.close(model(tokens_BT), models[1](tokens_BT))
        with adapters.rows(0):
            assert torch.equal(model(tokens_BT), without)
        model_cases.close(model(tokens_BT), models[1](tokens_BT))
    adapters.close()
    assert model.adapters is None
    assert torch.equal(model(tokens_BT), without)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def batch_of(tokens_BT: Tensor) -> Batch:
    targets_BT = torch.full_like(tokens_BT, IGNORE)
    targets_BT[:, :-1] = tokens_BT[:, 1:]
    return Batch(tokens_BT, targets_BT)


@pytest.mark.parametrize("name", ["attention+moe", "gated_delta_net+all", "latent_attention-0"])
def test_gradients_are_those_of_the_rows_own_adapter(name: str) -> None:
    model = model_cases.build(name).requires_grad_(False)
    adapters = Adapters(model)
    pair = adapter(model, 0), adapter(model, 1)
    for each in pair:
        adapters.add(each)
    tokens_BT = model_cases.tokens(3, 8)
    with adapters.rows([2, 0, 1]):
        cross_entropy(model, batch_of(tokens_BT)).backward()
    found = [{n: p.grad for n, p in each.named_parameters()} for each in pair]
    for number, row in ((1, 2), (2, 0)):
        each = pair[number - 1]
        each.zero_grad()
        with adapters.rows(number):
            cross_entropy(model, batch_of(tokens_BT[row : row + 1])).backward()
        for parameter, p in each.named_parameters():
            assert p.grad is not None
            model_cases.close(found[number - 1][parameter], p.grad)
        assert any(p.grad.abs().sum() > 0 for n, p in each.named_parameters() if p.grad is not None and "mlp" in n)
    assert all(p.grad is None for p in model.parameters())


def test_every_linear_layer_of_the_blocks_has_a_pair() -> None:
    model = model_cases.build("gated_delta_net+all")
    made = adapter(model)
    routers = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.endswith("router")]
    linear = {n for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    assert routers
    assert made.pairs.keys() == {n for n in linear - set(routers) if n != "head" and not n.startswith("ahead")}
    assert "blocks.0.mlp.experts.1.gate" in made.pairs
    assert {n for n, _ in made.named_parameters() if n.endswith("rows")} == {"embedding.rows"}
    untied = replace(model_cases.PLAIN, tie_embeddings=False).build()
    assert {n for n, _ in adapter(untied).named_parameters() if n.endswith("rows")} == {"embedding.rows", "head.rows"}


@torch.no_grad()
def test_untied_rows_are_added_where_they_belong() -> None:
    torch.manual_seed(0)
    model = model_cases.shaken(replace(model_cases.PLAIN, tie_embeddings=False).build().double().eval())
    made = adapter(model)
    _, other = merged(model, made)
    adapters = Adapters(model)
    adapters.add(made)
    tokens_BT = model_cases.tokens(2, 9)
    with adapters.rows([1, 1]):
        model_cases.close(model(tokens_BT), other(tokens_BT))
    assert not torch.equal(other.head.weight - model.head.weight, other.embedding.weight - model.embedding.weight)


def test_a_new_adapter_is_no_change_and_is_drawn_from_its_generator() -> None:
    model = model_cases.PLAIN.build()
    first, same, other = (Adapter(model, AdapterConfig(), torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    tokens_BT = model_cases.tokens(2, 9)
    adapters = Adapters(model)
    before = model(tokens_BT)
    adapters.add(first)
    with adapters.rows(1):
        assert torch.equal(model(tokens_BT), before)


def test_snapshots_roll_back_bit_for_bit() -> None:
    model = model_cases.PLAIN.build().requires_grad_(False)
    made = adapter(model).float()
    adapters = Adapters(model)
    number = adapters.add(made)
    optimizer = OptimizerConfig(lr=0.1).build(made)
    kept, tokens_BT = made.snapshot(), model_cases.tokens(2, 9)
    with adapters.rows(number):
        before = model(tokens_BT)
        cross_entropy(model, batch_of(tokens_BT)).backward()
        optimizer.parts[0].step()
        assert not torch.equal(model(tokens_BT), before)  # one number for all rows follows the tensors
        made.restore(kept)
        assert torch.equal(model(tokens_BT), before)
    assert all(torch.equal(p, kept[name]) for name, p in made.named_parameters())
    with pytest.raises(CheckpointError, match="another model"):
        made.restore({})


def test_wrong_numbers_rows_and_models_are_named() -> None:
    model = model_cases.PLAIN.build()
    adapters = Adapters(model)
    with pytest.raises(ConfigError, match="has adapters already"):
        Adapters(model)
    adapters.add(adapter(model).float())
    for index in (2, -1, [0, 2]):
        with pytest.raises(ConfigError, match="There is no adapter"), adapters.rows(index):
            pytest.fail("entered")
    with pytest.raises(ConfigError, match="named 3 rows, and the batch has 2"), adapters.rows([0, 1, 1]):
        model(model_cases.tokens(2, 9))
    wide = replace(model_cases.PLAIN, dim=32).build()
    with pytest.raises(ConfigError, match=r"another model: it does not fit 'blocks.0"):
        adapters.add(Adapter(wide, AdapterConfig(), torch.Generator()))
    with pytest.raises(ConfigError, match="names 99"):
        Adapter(model, AdapterConfig(tokens=(99,)), torch.Generator())
    for wrong in ({"rank": 0}, {"alpha": 0.0}, {"tokens": (1, 1)}):
        with pytest.raises(ConfigError, match="adapter"):
            AdapterConfig(**wrong)  # type: ignore[arg-type]


def test_an_adapter_on_disk_is_small_and_belongs_to_its_model(tmp_path: Path) -> None:
    model, other = (model_cases.build("small", torch.float32) for _ in range(2))
    with torch.no_grad():
        other.blocks[0].mlp.out.weight[0, 0] += 1  # type: ignore[union-attr, index, operator]
    made = adapter(model)
    files.save(made, tmp_path / "a", fingerprint(model))
    size = sum(path.stat().st_size for path in (tmp_path / "a").iterdir())
    assert size < 4 * sum(p.numel() for p in made.parameters()) + 8000
    loaded = files.load(tmp_path / "a", model)
    assert loaded.config == made.config
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), made.parameters(), strict=True))
    with pytest.raises(CheckpointError, match="made for another model"):
        files.load(tmp_path / "a", other)
    (tmp_path / "a" / "adapter.safetensors").write_bytes(b"none")
    with pytest.raises(CheckpointError, match="does not match its checksum"):
        files.load(tmp_path / "a", model)
    (tmp_path / "a" / "adapter.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        files.load(tmp_path / "a", model)
    (tmp_path / "a" / "adapter.json").write_text("{}")
    with pytest.raises(CheckpointError, match="does not describe an adapter"):
        files.load(tmp_path / "a", model)


def test_sixteen_levels_and_what_they_keep() -> None:
    known = levels()
    assert known.shape == (16,)
    assert (known.diff() > 0).all()
    assert (known[0], known[7], known[15]) == (-1, 0, 1)
    # of the appendix of 2305.14314
    torch.testing.assert_close(known[1:3], torch.tensor([-0.6961928, -0.5250731]), atol=1e-5, rtol=0)
    torch.testing.assert_close(known[8:10], torch.tensor([0.0795803, 0.1609302]), atol=1e-5, rtol=0)
    weight = torch.randn(7, 50, generator=torch.Generator().manual_seed(0))
    packed, scales = quantise(weight)
    assert packed.shape == (-(-350 // GROUP), GROUP // 2)
    found = dequantise(packed, scales, (7, 50), torch.float32)
    assert (found - weight).abs().max() < 0.16 * scales.max()
    again = dequantise(*quantise(found), (7, 50), torch.float32)
    assert torch.equal(again, found)
    exact = known[torch.randint(16, (64, 64), generator=torch.Generator().manual_seed(1))]
    assert torch.equal(dequantise(*quantise(exact), (64, 64), torch.float32), exact)
    assert torch.equal(dequantise(*quantise(torch.zeros(3, 4)), (3, 4), torch.float32), torch.zeros(3, 4))


@pytest.mark.parametrize("name", ["attention-0", "gated_delta_net+all", "latent_attention-0", "gpt2-biases"])
def test_a_model_in_four_bits_is_the_rounded_model(name: str) -> None:
    rounded, four = (model_cases.build(name, torch.float32).requires_grad_(False) for _ in range(2))
    rounded_to_four_bits(rounded)
    to_four_bits(four)
    layers = adaptable(four)
    assert all(isinstance(layer, Linear4) for layer in layers.values())
    for layer, whole in zip(layers.values(), adaptable(rounded).values(), strict=True):
        held = sum(b.numel() * b.element_size() for b in (layer.packed, layer.scales))  # type: ignore[union-attr]
        assert held <= whole.weight.numel() * 4.5 / 8 + 36
        assert torch.equal(layer.weight, whole.weight)
    tokens_BT, grads = model_cases.tokens(2, 9), []
    for model in (rounded, four):
        adapters, made = Adapters(model), adapter(model).float()
        with adapters.rows(adapters.add(made)):
            cross_entropy(model, batch_of(tokens_BT)).backward()
        grads.append([p.grad for p in made.parameters()])
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
    to_four_bits(four)
    assert all(a is b for a, b in zip(adaptable(four).values(), layers.values(), strict=True))


def test_four_bits_under_autocast() -> None:
    model = model_cases.build("attention-0", torch.float32).requires_grad_(False)
    to_four_bits(model)
    adapters, made = Adapters(model), adapter(model).float()
    with adapters.rows(adapters.add(made)), torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cross_entropy(model, batch_of(model_cases.tokens(2, 9)))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


def test_a_base_is_kept_and_checked(tmp_path: Path) -> None:
    model = model_cases.PLAIN.build()
    source = checkpoint.save(tmp_path / "run", 1, checkpoint.weights(model), {}, {}) / "model.safetensors"
    for place, given in (("linked", source), ("written", None)):
        digest = files.keep_base(model, given, tmp_path / place)
        other = model_cases.PLAIN.build()
        files.load_base(other, tmp_path / place, {"base_sha256": digest})
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
        with pytest.raises(CheckpointError, match="missing or damaged"):
            files.load_base(other, tmp_path / place, {"base_sha256": "no"})
    assert (tmp_path / "linked" / files.BASE).samefile(source)


@pytest.mark.slow
@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it traces
def test_torch_compile_sees_the_adapter() -> None:
    model = model_cases.build("attention-0", torch.float32).requires_grad_(False)
    adapters, made = Adapters(model), adapter(model).float()
    number = adapters.add(made)
    batch = make_batch(examples([9, 9], model_cases.VOCAB), [[0], [1]], 8, 0)
    with adapters.rows(number):
        plain = cross_entropy(model, batch)
        plain.backward()
        expected = [p.grad for p in made.parameters()]
        made.zero_grad()
        fast = compiled(cross_entropy)(model, batch)
        fast.backward()
    torch.testing.assert_close(fast, plain)
    for p, grad in zip(made.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, grad, atol=1e-5, rtol=1e-4)
