"""Decoding in other number formats: 8 and 4 bits within their bounds, packed bf16, and a model that stays as it was."""

import pytest
import torch
from engine_parts import BF16, FP32
from model_cases import build
from torch import nn

from wren import recipes
from wren.errors import ConfigError
from wren.generate import Engine, Sampling
from wren.generate.layers import GROUP, Linear4, Linear8, PackedLinear, Part, PlainLinear, parts_of
from wren.generate.weights import prepared
from wren.model import LM

PACKS = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
needs_packing = pytest.mark.skipif(not PACKS, reason="oneDNN does not pack bfloat16 on this CPU")


def layer(inputs: int = 96, outputs: int = 48, *, bias: bool = False) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)


def llama() -> LM:
    torch.manual_seed(0)
    settings = ["depth=2", "dim=64", "num_heads=2"]
    return recipes.build("llama", vocab_size=80, settings=settings).model.build().eval()


def test_eight_bits_are_within_half_a_step():
    found, plain = Linear8(layer()), layer()
    step = found.scales_O.float()[:, None]
    # a scale is rounded to bf16, by 1/256 at most, and the largest weights may be cut by as much
    bound = step / 2 + 127 * step / 256
    assert bool(((found.weight - plain.weight).abs() <= bound).all())
    error = (found.weight - plain.weight).norm() / plain.weight.norm()
    assert error < 0.01


def test_four_bits_lose_no_more_than_rounding_to_a_grid_would():
    found, plain = Linear4(layer()), layer()
    groups = plain.weight.unflatten(1, (-1, GROUP))
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    grid = (high - low) / 15
    rounded = ((groups - low) / grid).round() * grid + low
    error, expected = (found.weight - plain.weight).norm(), (rounded - groups).norm()
    assert error < 1.05 * expected  # scales are rounded to bf16, ranges chosen among several
    assert error / plain.weight.norm() < 0.1


@pytest.mark.parametrize("kind", [Linear8, Linear4])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 3, 40])
def test_products_are_those_of_the_whole_weight(kind: type, bias: bool, rows: int):
    """By the kernel for few rows and by the plain form, in float32 and under autocast."""
    found = kind(layer(bias=bias))
    x = torch.randn(rows, 2, 96)
    expected = nn.functional.linear(x, found.weight, found.bias)
    torch.testing.assert_close(found(x), expected, atol=3e-2, rtol=2e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = found(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize("kind", [Linear8, Linear4])
def test_the_plain_form_serves_where_there_is_no_kernel(kind: type, monkeypatch: pytest.MonkeyPatch):
    by_kernel = kind(layer())
    monkeypatch.setattr("wren.generate.layers._operator", lambda name: False)
    plain = kind(layer())
    assert torch.equal(plain.weight, by_kernel.weight)
    x = torch.randn(2, 96)
    torch.testing.assert_close(plain(x), x @ plain.weight.T)
    torch.testing.assert_close(by_kernel(x), plain(x), atol=3e-2, rtol=2e-2)


@pytest.mark.parametrize(("inputs", "outputs"), [(24, 16), (16, 48), (32, 29), (64, 17), (8, 40)])
def test_layers_of_odd_sizes(inputs: int, outputs: int):
    """Sizes that the kernels do not serve must not reach them: they read past the end."""
    for found in [Linear8(layer(inputs, outputs)), *([Linear4(layer(inputs, outputs))] if inputs % GROUP == 0 else [])]:
        x = torch.randn(2, inputs)
        torch.testing.assert_close(found(x), x @ found.weight.T, atol=3e-2, rtol=2e-2)


def test_packed_and_plain_bf16_hold_the_rounded_weight():
    plain = layer(bias=True)
    rounded = plain.weight.to(torch.bfloat16)
    kinds = [PlainLinear(plain, torch.bfloat16)]
    if PACKS:
        kinds.append(PackedLinear(plain))
    for found in kinds:
        assert torch.equal(found.weight, rounded)
        for rows in (0, 1, 20):
            x = torch.randn(rows, 3, 96)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y, expected = found(x), plain(x)
            assert y.dtype == torch.bfloat16
            torch.testing.assert_close(y, expected, atol=2e-2, rtol=2e-2)


@needs_packing
def test_layers_that_read_one_tensor_multiply_together():
    layers = [layer(96, outputs) for outputs in (48, 16, 32)]
    parts = parts_of(layers)
    x, other = torch.randn(2, 5, 96), torch.randn(2, 5, 96)
    for inputs in ((x, x, x), (x, other, x), (other, other, x), (x, x, other)):  # wherever another tensor comes between
        for part, plain, given in zip(parts, layers, inputs, strict=True):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                torch.testing.assert_close(part(given), plain(given), atol=2e-2, rtol=2e-2)
            assert torch.equal(part.weight, plain.weight.to(torch.bfloat16))
    assert parts[0].together._made is None


@needs_packing
def test_queries_keys_and_values_are_found_by_trying():
    made = prepared(llama(), BF16)
    attention, mlp = made.blocks[0].mixer, made.blocks[0].mlp
    assert attention.q.together is attention.k.together is attention.v.together
    assert mlp.gate.together is mlp.up.together is not attention.q.together
    assert type(attention.out) is type(made.head) is PackedLinear


@pytest.mark.parametrize("precision", [FP32, BF16])
@pytest.mark.parametrize("bits", [None, 8, 4])
def test_a_prepared_model_answers_nearly_the_same(precision, bits):
    model = llama()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    tokens = torch.randint(80, (2, 30), generator=torch.Generator().manual_seed(0))
    made = prepared(model, precision, bits)
    with torch.no_grad(), precision.context():
        found = made(tokens).float().log_softmax(-1)
        expected = model(tokens).float().log_softmax(-1)
    assert float((found - expected).abs().mean()) < {None: 0.005, 8: 0.01, 4: 0.1}[bits]
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert (made is model) == (precision is FP32 and bits is None)
    assert made.embedding.weight is model.embedding.weight
    names = ("blocks.0.mixer.q", "blocks.1.mlp.up", "head")
    held = {type(made.get_submodule(name)) for name in names}
    assert held <= (
        {Linear8} if bits == 8 else {Linear4} if bits == 4 else {Part, PackedLinear, PlainLinear, nn.Linear}
    )


@pytest.mark.parametrize("name", ["latent_attention-0", "gated_delta_net-0", "kda-0", "attention+all", "attention+moe"])
@pytest.mark.parametrize(("precision", "bits"), [(BF16, None), (FP32, 8), (BF16, 4)])
def test_mixers_that_read_weights_and_experts_without_tokens_decode(name: str, precision, bits):
    model = build(name, torch.float32)
    (found,) = Engine(model, precision, bits=bits).generate([[1, 2, 3]], sampling=Sampling(max_tokens=6))
    whole = torch.tensor([[1, 2, 3, *found.tokens]])
    made = prepared(model, precision, bits)
    with torch.no_grad(), precision.context():
        expected = made(whole)[0, 2:-1].float().log_softmax(-1).gather(1, whole[0, 3:, None])[:, 0]
    gap = (torch.tensor(found.logprobs) - expected).abs().mean()
    assert float(gap) < 0.25  # the same weights; bf16 rounds states and products in other places


def test_routers_keep_their_format():
    made = prepared(build("attention+moe", torch.float32), FP32, 8)
    assert type(made.blocks[0].mlp.router) is nn.Linear
    assert type(made.blocks[0].mlp.shared.out) is nn.Linear or isinstance(made.blocks[0].mlp.shared.out, Linear8)


def test_adapters_and_bits_in_the_wrong_order_are_a_sentence():
    from wren.adapters.rows import Adapters

    model = llama()
    Adapters(model)
    with pytest.raises(ConfigError, match="put them on after"):
        prepared(model, FP32, 8)
    assert prepared(model, BF16) is model
