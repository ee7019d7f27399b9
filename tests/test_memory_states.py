"""Moments in bf16 and 8 bits, weights in bf16: values, what is stored, and what stochastic rounding keeps."""

import math
from typing import Any

import pytest
import torch
from memory_parts import BF16, KINDS, batch, gradients, model
from model_cases import CONFIGS, tokens

from wren.batch import Batch
from wren.errors import CheckpointError, ConfigError
from wren.loss import cross_entropy
from wren.model import LM
from wren.optim.optimizer import Optimizer, OptimizerConfig
from wren.optim.quantised import BLOCK, code, dequantised, quantised
from wren.optim.rounding import Draws, stochastically_rounded
from wren.optim.store import PIECE, Store
from wren.optim.weights import narrow_weights

CPU = torch.device("cpu")
SAVING: tuple[dict[str, Any], ...] = (
    {"state_dtype": "bf16"},
    {"state_dtype": "8bit"},
    {"weight_dtype": "bf16"},
    {"offload": True},
    {"state_dtype": "8bit", "weight_dtype": "bf16", "offload": True},
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_codes_hold_256_ascending_numbers_over_seven_decades() -> None:
    for signed in (True, False):
        values = code(signed=signed)
        assert len(values) == len(values.unique()) == 256
        assert values.tolist() == sorted(values.tolist())
        assert values[-1] == 1.0
        assert float(values[values > 0].min()) < 1e-6
    assert float(code(signed=True).min()) < -0.99
    assert float(code(signed=False).min()) == 0.0


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1000])
@pytest.mark.parametrize("signed", [True, False])
def test_a_number_comes_back_as_the_nearest_entry_of_its_block(count: int, signed: bool) -> None:
    x_N = torch.randn(count, generator=generator()) * torch.logspace(-8, 3, count)
    x_N = x_N if signed else x_N.square()
    codes_N, scale_M = quantised(x_N, signed=signed)
    assert (codes_N.dtype, codes_N.shape, len(scale_M)) == (torch.uint8, x_N.shape, -(-count // BLOCK))
    back_N, values = dequantised(codes_N, scale_M, signed=signed), code(signed=signed)
    for start in range(0, count, BLOCK):
        block, scale = x_N[start : start + BLOCK], x_N[start : start + BLOCK].abs().max()
        nearest = (block[:, None] / scale - (values if signed else values[1:])).abs().amin(1)
        torch.testing.assert_close((back_N[start : start + BLOCK] - block).abs() / scale, nearest, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("signed", [True, False])
def test_the_entry_is_the_one_that_a_search_finds(signed: bool) -> None:
    values = code(signed=signed)
    bounds = (values[1:] + values[:-1]) / 2
    low = -1.0 if signed else 0.0
    around = torch.cat([torch.nextafter(bounds, bounds + side) for side in (-1, 1)])
    x_N = torch.cat((torch.linspace(low, 1, 100_001), bounds, around, torch.logspace(-12, 0, 1000)))
    wanted = torch.bucketize(x_N, bounds, out_int32=True)
    codes_N, scale_M = quantised(torch.cat((torch.ones(1), x_N)), signed=signed)
    assert bool((scale_M[:1] == 1).all())
    for start in range(0, len(x_N), BLOCK - 1):  # each block led by a 1, so that numbers are their own shares
        block = x_N[start : start + BLOCK - 1]
        codes_N, _ = quantised(torch.cat((torch.ones(1), block)), signed=signed)
        expected = wanted[start : start + BLOCK - 1]
        assert codes_N[1:].tolist() == (expected if signed else expected.clamp(min=1)).tolist()


def test_a_second_moment_is_never_rounded_to_nothing() -> None:
    x_N = torch.tensor([1.0, 1e-12, 0.0])
    assert float(dequantised(*quantised(x_N, signed=False), signed=False).min()) > 0
    assert not dequantised(*quantised(torch.zeros(300), signed=False), signed=False).any()
    assert dequantised(*quantised(x_N, signed=True), signed=True).tolist()[1:] == [0.0, 0.0]


def test_stochastic_rounding_has_the_mean_of_the_number_and_never_leaves_its_neighbours() -> None:
    draws, count = generator(), 200_000
    for number in (1.001, -3.14159, 1e-20, 65000.7, 5.1e-40):
        x = torch.full((count,), number)
        rounded = stochastically_rounded(x, draws)
        assert rounded.dtype == torch.bfloat16
        low, high = sorted(rounded.double().unique().tolist())
        assert low < float(x[0]) < high
        assert high - low <= abs(number) / 127 + 2.0**-133
        error = rounded.double().mean() - x[0].double()
        assert abs(float(error)) < 5 * (high - low) / 2 / math.sqrt(count)


def test_rounding_leaves_what_bf16_holds_and_what_is_not_finite() -> None:
    exact = torch.randn(1000, generator=generator()).bfloat16()
    assert torch.equal(stochastically_rounded(exact.float(), generator()), exact)
    odd = stochastically_rounded(torch.tensor([math.inf, -math.inf, math.nan, 0.0]), generator())
    assert odd[:2].tolist() == [math.inf, -math.inf]
    assert bool(odd[2].isnan())
    assert odd[3] == 0


def test_draws_follow_from_seed_count_and_place() -> None:
    def drawn(seed: int, count: int, *place: int) -> list[int]:
        draws = Draws(seed)
        draws.count = count
        return torch.randint(2**31, (4,), generator=draws.at(CPU, *place)).tolist()

    places = [(0, 0, 1, 0), (1, 0, 1, 0), (0, 1, 1, 0), (0, 0, 2, 0), (0, 0, 1, 256), (0, 0, 0, 1)]
    assert len({tuple(drawn(*place)) for place in places}) == len(places)
    assert drawn(3, 5, 7) == drawn(3, 5, 7)


def test_a_change_below_the_step_of_bf16_is_kept_on_average() -> None:
    """400 changes of 1/1000 each; rounding to the nearest would lose every one."""
    weight, draws = torch.ones(2000, dtype=torch.bfloat16), generator()
    for _ in range(400):
        weight = stochastically_rounded(weight.float() + 1e-3, draws)
    assert float(weight.float().mean()) == pytest.approx(1.4, abs=0.01)


def trained(config: OptimizerConfig, steps: int = 5, **options: Any) -> tuple[LM, Optimizer]:
    """A model after some steps with gradients that are drawn, and its optimizer."""
    made = model(**options)
    optimizer, draws = config.build(made), generator()
    for _ in range(steps):
        for p in made.parameters():
            p.grad = 0.1 * torch.randn(p.shape, generator=draws).to(p.dtype)
        for part in optimizer.parts:
            part.step()
    return made, optimizer


@pytest.mark.parametrize("kind", KINDS)
def test_off_loading_on_a_cpu_and_steps_piece_by_piece_change_no_bit(kind: Any, monkeypatch: Any) -> None:
    plain, _ = trained(OptimizerConfig(kind=kind, normalise=True))
    away, _ = trained(OptimizerConfig(kind=kind, normalise=True, offload=True))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), away.parameters(), strict=True))
    whole, _ = trained(OptimizerConfig(kind=kind, state_dtype="8bit"))
    assert PIECE % BLOCK == 0
    monkeypatch.setattr("wren.optim.store.PIECE", 4 * BLOCK)
    pieces, _ = trained(OptimizerConfig(kind=kind, state_dtype="8bit"))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), pieces.parameters(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("setting", "tolerance"), [("bf16", 0.01), ("8bit", 0.06)])
def test_narrow_moments_stay_near_wide_ones(kind: Any, setting: Any, tolerance: float) -> None:
    start = [p.detach().clone() for p in model().parameters()]
    plain, _ = trained(OptimizerConfig(kind=kind, normalise=True))
    narrow, _ = trained(OptimizerConfig(kind=kind, normalise=True, state_dtype=setting))
    moved = 0
    for before, a, b in zip(start, plain.parameters(), narrow.parameters(), strict=True):
        assert (a - b).norm() <= tolerance * (a - before).norm()
        moved += int(not torch.equal(a, b))
    assert moved >= 8  # the matrices; smaller tensors keep float32


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("saving", SAVING, ids=lambda saving: "+".join(saving))
def test_states_come_back_to_the_last_bit_and_have_the_bytes_they_were_said_to_have(kind: Any, saving: Any) -> None:
    config = OptimizerConfig(kind=kind, normalise=True, **saving)
    made, optimizer = trained(config)
    stored = {name: x.clone() for name, x in optimizer.tensors().items()}
    said, away = optimizer.state_bytes()
    assert away == 0
    assert said == sum(x.nbytes for name, x in stored.items() if not name.startswith("draws/"))
    twin, resumed = trained(config, steps=2, seed=0)
    twin.load_state_dict(made.state_dict())
    resumed.load_tensors(stored)
    assert resumed.tensors().keys() == stored.keys()
    assert all(torch.equal(x, stored[name]) for name, x in resumed.tensors().items())
    for each, its in ((made, optimizer), (twin, resumed)):
        for p in each.parameters():
            p.grad = torch.ones_like(p)
        for part in its.parts:
            part.step()
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), twin.parameters(), strict=True))


def test_what_is_stored_is_as_narrow_as_asked_for() -> None:
    sizes = {}
    for setting in ("fp32", "bf16", "8bit"):
        _, optimizer = trained(OptimizerConfig(kind="muon", state_dtype=setting), steps=1)  # type: ignore[arg-type]
        fields = {name: x for name, x in optimizer.tensors().items() if name.startswith("blocks.0.mlp.up.weight/")}
        sizes[setting] = sum(x.nbytes for x in fields.values()) / (64 * 256)
    assert sizes == {"fp32": 4.0, "bf16": 2.0, "8bit": 1 + 4 / BLOCK}


def test_a_state_of_another_precision_is_a_sentence() -> None:
    stored = {}
    for setting in ("fp32", "8bit"):
        _, optimizer = trained(OptimizerConfig(state_dtype=setting), steps=1)  # type: ignore[arg-type]
        stored[setting] = optimizer.tensors()
    _, optimizer = trained(OptimizerConfig(), steps=0)
    with pytest.raises(CheckpointError, match=r"exp_avg_scale.*another optimizer\.kind or state_dtype"):
        optimizer.load_tensors({name: x for name, x in stored["8bit"].items() if not name.startswith("draws/")})
    bytes_alone = {name: x for name, x in stored["8bit"].items() if not name.endswith("_scale")}
    with pytest.raises(CheckpointError, match=r"is torch\.uint8 there and torch\.float32 here; set optimizer\.state"):
        optimizer.load_tensors(bytes_alone)


def test_gradients_in_the_backward_pass_are_bounded_by_shape() -> None:
    made = model()
    everything = sum(p.numel() * 4 for p in made.parameters())
    assert OptimizerConfig().build(made).gradient_bytes() == everything
    largest = max(p.numel() * 4 for p in made.parameters())
    assert OptimizerConfig(in_backward=True).build(made).gradient_bytes() == largest


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.count("+") < 1 or name.startswith("attention+")])
def test_weights_in_bf16_give_the_losses_of_the_same_weights_in_fp32(name: str) -> None:
    torch.manual_seed(0)
    wide = CONFIGS[name].build().train()
    with torch.no_grad():
        for p in wide.parameters():
            p.copy_(p.bfloat16())
    torch.manual_seed(0)
    narrow = CONFIGS[name].build().train()
    narrow.load_state_dict(wide.state_dict())
    narrow_weights(narrow)
    tokens_BT = tokens(2, 21)
    rows = Batch(tokens_BT[:, :-1], tokens_BT[:, 1:])
    results = []
    for each in (wide, narrow):
        torch.manual_seed(1)
        with BF16.context():
            loss = cross_entropy(each, rows)
        results.append((loss.detach(), gradients(each, loss)))
    (expected, wanted), (loss, found) = results
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)
    assert found.keys() == wanted.keys()
    for key, gradient in found.items():
        assert (gradient.float() - wanted[key]).norm() <= 0.03 * wanted[key].norm() + 1e-6, key


def test_narrow_weights_are_matrices_and_tables_alone_and_stay_tied() -> None:
    made = model()
    narrow_weights(made)
    for name, p in made.named_parameters():
        assert p.dtype == (torch.bfloat16 if p.dim() == 2 else torch.float32), name
    assert made.head.weight is made.embedding.weight
    assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in model().parameters())
    hooks = len(made.embedding._forward_hooks)
    narrow_weights(made)
    assert len(made.embedding._forward_hooks) == hooks == 1


def test_the_gradient_of_a_common_token_is_added_up_wide() -> None:
    made = model(dropout=0.0)
    narrow_weights(made)
    rows = made.embedding(torch.zeros(1, 10_000, dtype=torch.long))
    rows.sum().backward()
    assert made.embedding.weight.grad is not None
    torch.testing.assert_close(made.embedding.weight.grad[0].float(), torch.full((64,), 10_000.0), rtol=0.01, atol=0)


def test_small_tensors_keep_wide_moments() -> None:
    store = Store("8bit", offload=False, draws=Draws(0))
    assert store.layout(torch.zeros(4095), "exp_avg") == {"exp_avg": ([4095], torch.float32)}
    assert store.layout(torch.zeros(64, 64), "exp_avg").keys() == {"exp_avg", "exp_avg_scale"}
    assert store.layout(torch.zeros(64, 64, dtype=torch.bfloat16), "exp_avg")["exp_avg"][1] == torch.uint8


def test_a_mistyped_precision_is_a_sentence() -> None:
    from wren import recipes

    with pytest.raises(ConfigError, match=r"'4bit' is unknown.* 8bit, bf16, fp32"):
        recipes.build("tiny", vocab_size=24, settings=["optimizer.state_dtype=4bit"])
    config = recipes.build("tiny", vocab_size=24, settings=["optimizer.state_dtype=8bit", "optimizer.offload=true"])
    assert (config.optimizer.state_dtype, config.optimizer.offload) == ("8bit", True)
    assert batch().num_targets() > 0
