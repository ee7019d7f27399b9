"""Optimizers and schedules: who trains what, Muon against its formula, states that come back, factors."""

import copy
import itertools
import math
from typing import Any

import pytest
import torch
import train_child as child
from torch import Tensor, nn

from wren.errors import CheckpointError, ConfigError
from wren.optim import muon
from wren.optim import optimizer as optim
from wren.optim.muon import Muon, orthogonalised
from wren.optim.optimizer import OptimizerConfig
from wren.optim.schedule import ScheduleConfig


class Part(nn.Module):
    """What may lie in a block: matrices, their biases, a convolution, a norm, a gate's vector, a table."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 24), nn.Linear(24, 8, bias=False)
        self.conv = nn.Conv1d(8, 8, 4, groups=8)
        self.norm = nn.LayerNorm(8)
        self.decay = nn.Parameter(torch.zeros(2))
        self.ngrams = nn.Embedding(5, 8)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(Part() for _ in range(2))
        self.head = nn.Linear(8, 11, bias=False)
        torch.manual_seed(0)
        for p in self.parameters():
            nn.init.normal_(p)


def groups(model: nn.Module, kind: Any) -> dict[str, tuple[str, float]]:
    """The kind of optimizer and the weight decay of every parameter."""
    optimizer = OptimizerConfig(kind=kind, weight_decay=0.3).build(model)
    found = {
        optimizer.names[id(p)]: (type(part).__name__, group["weight_decay"])
        for part in optimizer.parts
        for group in part.param_groups
        for p in group["params"]
    }
    assert len(found) == len(optimizer.params()) == len(list(model.parameters()))
    return found


def test_muon_trains_the_matrices_of_the_blocks_and_adamw_the_rest() -> None:
    found = groups(Model(), "muon")
    for block in ("blocks.0.", "blocks.1."):
        for name in ("up.weight", "down.weight"):
            assert found.pop(block + name) == ("Muon", 0.3)
        for name in ("conv.weight", "ngrams.weight"):
            assert found.pop(block + name) == ("AdamW", 0.3)
        for name in ("up.bias", "conv.bias", "norm.weight", "norm.bias", "decay"):
            assert found.pop(block + name) == ("AdamW", 0.0)
    assert found == {"embedding.weight": ("AdamW", 0.3), "head.weight": ("AdamW", 0.3)}


def test_linear_layers_of_one_output_or_input_are_vectors() -> None:
    model = nn.ModuleDict({"gate": nn.Linear(8, 1), "narrow": nn.Linear(1, 8), "two": nn.Linear(8, 2)})
    found = {name: kind for name, (kind, _) in groups(model, "muon").items() if name.endswith("weight")}
    assert found == {"gate.weight": "AdamW", "narrow.weight": "AdamW", "two.weight": "Muon"}


def test_adamw_decays_matrices_and_tables_alone() -> None:
    for name, (kind, decay) in groups(Model(), "adamw").items():
        assert kind == "AdamW"
        vector = name.endswith((".bias", "norm.weight", "decay"))
        assert decay == (0.0 if vector else 0.3)


def test_a_real_model_is_divided_without_a_rest() -> None:
    found = groups(child.small_model(), "muon")
    assert {name.split(".")[2] for name, (kind, _) in found.items() if kind == "Muon"} == {"mixer", "mlp"}
    assert found["embedding.weight"] == ("AdamW", 0.3)


def test_frozen_parameters_are_left_out_and_none_at_all_is_a_sentence() -> None:
    model = Model()
    model.requires_grad_(False)
    with pytest.raises(ConfigError, match="no trainable parameter"):
        OptimizerConfig().build(model)
    model.blocks[0].up.weight.requires_grad_(True)  # type: ignore[union-attr]
    for kind in ("muon", "adamw"):
        built = OptimizerConfig(kind=kind).build(model)  # type: ignore[arg-type]
        assert [built.names[id(p)] for p in built.params()] == ["blocks.0.up.weight"]


def plain_muon(
    weights: list[Tensor], gradients: list[list[Tensor]], lr: float, decay: float, momentum: float
) -> list[Tensor]:
    """Muon written from its formula: the singular values of the momentum are pushed through the quintic one by one."""
    results = []
    for index, weight in enumerate(weights):
        weight, m = weight.double().clone(), torch.zeros_like(weight).double()
        for step in gradients:
            g = step[index].double()
            m = momentum * m + (1 - momentum) * g
            u, s, vh = torch.linalg.svd((1 - momentum) * g + momentum * m, full_matrices=False)
            s = s / s.norm()
            for _ in range(5):
                s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
            weight = weight - lr * decay * weight - lr * 0.2 * math.sqrt(max(weight.shape)) * (u * s) @ vh
        results.append(weight)
    return results


@pytest.mark.parametrize("native", [True, False])
def test_muon_follows_its_formula(native: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr(optim, "has_native_bf16", lambda device: native)
    model = Model()
    config = OptimizerConfig(kind="muon", lr=0.5, matrix_lr=0.02, weight_decay=0.1, momentum=0.9)
    optimizer = config.build(model)
    part = optimizer.parts[1]
    assert isinstance(part, Muon)
    assert part.dtype == (torch.bfloat16 if native else torch.float32)
    matrices = part.param_groups[0]["params"]
    before = [p.detach().clone() for p in matrices]
    generator = torch.Generator().manual_seed(1)
    gradients = [[torch.randn(p.shape, generator=generator) for p in matrices] for _ in range(4)]
    for step in gradients:
        for p, gradient in zip(matrices, step, strict=True):
            p.grad = gradient.clone()
        part.step()
    wanted = plain_muon(before, gradients, 0.02, 0.1, 0.9)
    for p, start, end in zip(matrices, before, wanted, strict=True):
        error = (p.detach().double() - end).norm() / (end - start.double()).norm()
        assert error < (0.03 if native else 1e-4)  # bf16 keeps 8 bits


def test_matrices_of_one_shape_go_together_as_each_alone(monkeypatch: Any) -> None:
    """Whether stacked, cut into several stacks or alone: the same update, wide, square and tall."""
    torch.manual_seed(0)
    shapes = [(6, 4), (4, 6), (6, 4), (5, 5), (6, 4)]
    starts, gradients = ([torch.randn(shape) for shape in shapes] for _ in range(2))
    results = []
    for at_once in (10**6, 48, 1):
        monkeypatch.setattr(muon, "AT_ONCE", at_once)
        params = [nn.Parameter(x.clone()) for x in starts]
        part = Muon(params, lr=0.1, weight_decay=0.1, momentum=0.9, normalise=True)
        for p, gradient in zip(params, gradients, strict=True):
            p.grad = gradient
        part.step()
        results.append([p.detach() for p in params])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


def test_normalised_rows_follow_their_formula() -> None:
    """Rows divided by the root of a running mean of their squares, and the whole brought back to its norm."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(6, 4))
    part = Muon([weight], lr=0.1, weight_decay=0.0, momentum=0.9, normalise=True, row_beta=0.8)
    wanted, buffer, mean = weight.detach().clone(), torch.zeros(6, 4), torch.zeros(6, 1)
    for _ in range(3):
        weight.grad = torch.randn(6, 4) * torch.arange(1, 7)[:, None]
        part.step()
        buffer = 0.9 * buffer + 0.1 * weight.grad
        update = orthogonalised(0.1 * weight.grad + 0.9 * buffer)
        mean = 0.8 * mean + 0.2 * update.square().mean(1, keepdim=True)
        even = update / mean.sqrt()
        wanted = wanted - 0.1 * 0.2 * 6**0.5 * even * update.norm() / even.norm()
    torch.testing.assert_close(weight.detach(), wanted)


def test_row_means_come_back() -> None:
    model = Model()
    config = OptimizerConfig(kind="muon", normalise=True)
    optimizer = config.build(model)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    for part in optimizer.parts:
        part.step()
    saved = {name: x.clone() for name, x in optimizer.tensors().items()}
    assert saved["blocks.0.up.weight/row_mean"].shape == (24, 1)
    fresh = config.build(model)
    fresh.load_tensors(saved)
    assert {k: v.tolist() for k, v in fresh.tensors().items()} == {k: v.tolist() for k, v in saved.items()}
    with pytest.raises(CheckpointError, match="it was trained with another optimizer"):
        OptimizerConfig(kind="muon").build(model).load_tensors(saved)


def test_float32_muon_equals_torch_up_to_its_bf16() -> None:
    ours, theirs = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.zeros(6, 4))
    theirs.data.copy_(ours.data)
    pair = (
        Muon([ours], lr=0.1, weight_decay=0.2, momentum=0.95),
        torch.optim.Muon([theirs], lr=0.1, weight_decay=0.2, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        ours.grad = torch.randn(6, 4)
        theirs.grad = ours.grad.clone()
        for part in pair:
            part.step()
    torch.testing.assert_close(ours.data, theirs.data, rtol=0.02, atol=0.01)
    torch.testing.assert_close(pair[0].state[ours], pair[1].state[theirs], rtol=0, atol=0)


def test_orthogonalising_pulls_singular_values_near_one() -> None:
    for shape in ((32, 8), (8, 32), (16, 16)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape, generator=torch.Generator().manual_seed(2))))
        assert values.max() < 1.3
        assert values[: len(values) * 3 // 4].min() > 0.6
    assert not orthogonalised(torch.zeros(3, 5)).any()


@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("native", [True, False])
def test_states_come_back_by_name(kind: Any, native: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr(optim, "has_native_bf16", lambda device: native)
    model = Model()
    optimizer = OptimizerConfig(kind=kind).build(model)

    def step(model: nn.Module, optimizer: optim.Optimizer, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        for part in optimizer.parts:
            part.step()

    step(model, optimizer, 1)
    twin = copy.deepcopy(model)
    resumed = OptimizerConfig(kind=kind).build(twin)
    stored = {name: x.clone() for name, x in optimizer.tensors().items()}
    resumed.load_tensors(stored)
    assert all(x.data_ptr() != stored[name].data_ptr() for name, x in resumed.tensors().items())
    for seed in (2, 3):
        step(model, optimizer, seed)
        step(twin, resumed, seed)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
    resumed.load_tensors({})
    assert resumed.tensors() == {}


@pytest.mark.parametrize("setting", [{"kind": "adamw"}, {"kind": "muon"}, {"kind": "muon", "normalise": True}])
def test_a_state_that_lost_a_parameter_is_a_sentence_and_nothing_is_put_back(setting: Any) -> None:
    model = Model()
    optimizer = OptimizerConfig(**setting).build(model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    for part in optimizer.parts:
        part.step()
    stored = {name: x.clone() for name, x in optimizer.tensors().items()}
    for lost, sentence in (
        (("head.weight/",), r"lacks 'head\.weight', which this model trains; .*a part of it was lost"),
        (("blocks.1.down.", "blocks.1.norm."), r"lacks 'blocks\.1\..*' and 2 more, which this model trains"),
    ):
        rest = {name: x for name, x in stored.items() if not name.startswith(lost)}
        fresh = OptimizerConfig(**setting).build(model)
        with pytest.raises(CheckpointError, match=sentence):
            fresh.load_tensors(rest)
        assert fresh.tensors() == {}


@pytest.mark.parametrize("setting", [{"kind": "adamw"}, {"kind": "muon"}, {"kind": "muon", "normalise": True}])
def test_a_parameter_without_a_gradient_yet_is_stored_as_it_will_begin(setting: Any) -> None:
    """Resumed before its first gradient comes, it is trained as if nothing had stopped."""
    late = {"blocks.1.up.weight", "blocks.1.up.bias"}
    runs = []
    for resumes in (False, True):
        model = Model()
        optimizer = OptimizerConfig(**setting).build(model)
        for seed in (1, 2, 3):
            generator = torch.Generator().manual_seed(seed)
            for name, p in model.named_parameters():
                gradient = torch.randn(p.shape, generator=generator)
                p.grad = None if seed == 1 and name in late else gradient
            for part in optimizer.parts:
                part.step()
            if resumes:
                stored = optimizer.tensors()
                assert late <= {name.rpartition("/")[0] for name in stored}
                optimizer = OptimizerConfig(**setting).build(model)
                optimizer.load_tensors(stored)
        runs.append(list(model.parameters()))
    for resumed, straight in zip(*runs, strict=True):
        assert torch.equal(resumed, straight)


def test_states_of_another_model_or_optimizer_are_a_sentence() -> None:
    model = Model()
    optimizer = OptimizerConfig(kind="muon").build(model)
    name, shape = "blocks.0.up.weight", (24, 8)
    with pytest.raises(CheckpointError, match=r"holds 'blocks\.7\.x', which this model does not train"):
        optimizer.load_tensors({"blocks.7.x/momentum_buffer": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"is \[2\] there and \[24, 8\] here"):
        optimizer.load_tensors({f"{name}/momentum_buffer": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"is exp_avg, not momentum_buffer; .*another optimizer\.kind"):
        optimizer.load_tensors({f"{name}/exp_avg": torch.zeros(shape)})


def test_the_factor_scales_every_rate_from_its_base() -> None:
    optimizer = OptimizerConfig(kind="muon", lr=0.1, matrix_lr=0.02).build(Model())
    for factor in (0.5, 0.25, 1.0):
        optimizer.set_factor(factor)
        rates = [group["lr"] for part in optimizer.parts for group in part.param_groups]
        assert rates == [0.1 * factor, 0.1 * factor, 0.02 * factor]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"lr": 0.0}, "optimizer.lr is 0.0; it must be above 0"),
        ({"matrix_lr": -1.0}, "optimizer.matrix_lr is -1.0"),
        ({"lr": math.nan}, "optimizer.lr is nan"),
        ({"betas": (0.9, 1.0)}, "optimizer.betas.1 is 1.0"),
        ({"momentum": 1.0}, "optimizer.momentum is 1.0"),
        ({"weight_decay": -0.1}, "optimizer.weight_decay is -0.1"),
    ],
)
def test_settings_out_of_range_are_named(setting: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        OptimizerConfig(**setting)


def test_wsd_warms_up_stays_and_falls_in_a_line() -> None:
    schedule = ScheduleConfig(kind="wsd", warmup_steps=4, decay=0.4, final=0.1)
    factors = [schedule.factor(step, 50) for step in range(50)]
    assert factors[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert factors[4:31] == [1.0] * 27
    assert factors[40] == pytest.approx(0.1 + 0.9 * 10 / 20)
    assert factors[49] == pytest.approx(0.1 + 0.9 * 1 / 20)
    falls = [a - b for a, b in itertools.pairwise(factors[30:])]
    assert falls == pytest.approx([0.9 / 20] * len(falls))


def test_cosine_falls_from_one_to_final() -> None:
    schedule = ScheduleConfig(kind="cosine", warmup_steps=10, final=0.1)
    factors = [schedule.factor(step, 110) for step in range(110)]
    assert factors[10] == 1.0
    assert factors[60] == pytest.approx(0.55)
    assert 0.1 < factors[109] < 0.101
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_warmup_takes_a_tenth_of_a_short_run_at_most() -> None:
    schedule = ScheduleConfig(kind="constant", warmup_steps=100)
    assert [schedule.factor(step, 20) for step in range(20)] == [1 / 3, 2 / 3, *[1.0] * 18]
    assert [schedule.factor(step, 3) for step in range(3)] == [1.0] * 3
    assert ScheduleConfig(decay=0.0).factor(0, 1) == 1.0
    assert [ScheduleConfig(decay=1.0, warmup_steps=0).factor(step, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("setting", [{"warmup_steps": -1}, {"decay": 1.5}, {"final": -0.1}])
def test_schedules_out_of_range_are_named(setting: Any) -> None:
    with pytest.raises(ConfigError, match=f"schedule.{next(iter(setting))} is {next(iter(setting.values()))}"):
        ScheduleConfig(**setting)
