"""Mixture of experts: dropless, so causal; balanced without a loss; counted by what a token uses.

B batch, T time, D model width, N tokens, E experts, K chosen ones.
"""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from model_cases import VOCAB, tokens
from torch import Tensor

from wren import checkpoint, mlp
from wren.batch import Batch
from wren.errors import ConfigError
from wren.loss import cross_entropy
from wren.mixers import attention
from wren.mlps import moe
from wren.model import LM, ModelConfig
from wren.optim.optimizer import Optimizer, OptimizerConfig

DIM = 16
KINDS = {
    "sigmoid": moe.Config(num_experts=5, active=2, hidden=8),
    "softmax": moe.Config(num_experts=5, active=3, hidden=8, scores="softmax", shared=4),
    "one": moe.Config(num_experts=5, active=1, hidden=8, scores="softmax"),
    "all": moe.Config(num_experts=3, active=3, hidden=8),
}
every_kind = pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)


def build(config: moe.Config) -> moe.MixtureOfExperts:
    torch.manual_seed(0)
    layer = cast(moe.MixtureOfExperts, config.build(DIM).double().eval())
    layer.balance_E.normal_()
    return layer


def inputs(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def by_hand(layer: moe.MixtureOfExperts, x_D: Tensor) -> Tensor:
    """One token, by the formula."""
    config = layer.config
    scores_E = layer.router.weight @ x_D
    scores_E = scores_E.sigmoid() if config.scores == "sigmoid" else scores_E.softmax(-1)
    chosen = sorted(range(config.num_experts), key=lambda e: -float((scores_E[e] + layer.balance_E[e]).detach()))[
        : config.active
    ]
    total = sum(scores_E[e] for e in chosen) if config.active > 1 else 1.0
    y_D = torch.stack([scores_E[e] / total * layer.experts[e](x_D) for e in chosen]).sum(0)
    return y_D if layer.shared is None else y_D + layer.shared(x_D)


@every_kind
def test_every_token_gets_what_the_formula_says(config: moe.Config):
    layer, x_BTD = build(config), inputs(2, 17).requires_grad_()
    y_BTD = layer(x_BTD)
    expected = torch.stack([torch.stack([by_hand(layer, x_D) for x_D in row]) for row in x_BTD])
    close(y_BTD, expected)
    weights = torch.randn_like(y_BTD)
    leaves = [x_BTD, *layer.parameters()]
    found = torch.autograd.grad((y_BTD * weights).sum(), leaves)
    for grad, wanted in zip(
        found, torch.autograd.grad((expected * weights).sum(), leaves, allow_unused=True), strict=True
    ):
        close(grad, torch.zeros_like(grad) if wanted is None else wanted)


@every_kind
@torch.no_grad()
def test_a_token_depends_on_itself_alone_however_full_its_expert_is(config: moe.Config):
    layer, x_BTD = build(config), inputs(1, 40)
    alone = torch.cat([layer(x_BTD[:, t : t + 1]) for t in range(40)], dim=1)
    close(layer(x_BTD), alone)
    crowd = torch.cat((x_BTD, x_BTD[:, :1].expand(1, 500, DIM)), dim=1)  # all of them choose the same experts
    close(layer(crowd)[:, :40], alone)
    layer.train()
    close(layer(crowd)[:, :40], alone)


def test_experts_without_tokens_have_a_gradient_of_zero():
    layer = build(moe.Config(num_experts=6, active=1, hidden=4))
    layer(inputs(1, 1)).sum().backward()
    grads = [cast(Tensor, cast(Any, expert).up.weight.grad) for expert in layer.experts]
    assert sum(bool(grad.any()) for grad in grads) == 1
    assert layer(inputs(1, 0)).shape == (1, 0, DIM)


def test_gradcheck():
    layer = build(KINDS["softmax"])
    assert torch.autograd.gradcheck(layer, inputs(1, 5).requires_grad_(), fast_mode=True)


@torch.no_grad()
def test_the_bias_decides_who_serves_and_not_how_much():
    layer = build(moe.Config(num_experts=4, active=1, hidden=8, scores="sigmoid"))
    x_ND = inputs(30)
    layer.balance_E.copy_(torch.tensor([0.0, 0.0, 100.0, 0.0]))
    gates_NK, chosen_NK = layer.route(x_ND)
    assert chosen_NK.unique().tolist() == [2]
    close(gates_NK[:, 0], (x_ND @ layer.router.weight[2]).sigmoid())


def test_scores_that_round_to_zero_leave_outputs_and_gradients_finite():
    layer, x_BTD = build(KINDS["sigmoid"]).float(), torch.ones(1, 2, DIM, requires_grad=True)
    with torch.no_grad():
        layer.router.weight.fill_(-20.0)
    y_BTD = layer(x_BTD)
    grads = torch.autograd.grad(y_BTD.sum(), [x_BTD, *layer.parameters()])
    assert all(x.isfinite().all() for x in (y_BTD, *grads))


def small_model(**settings: Any) -> tuple[LM, Optimizer, moe.MixtureOfExperts]:
    torch.manual_seed(0)
    mlp_config = moe.Config(num_experts=4, active=2, hidden=8, **settings)
    config = ModelConfig(
        vocab_size=VOCAB, dim=DIM, depth=1, mixers=(attention.Config(num_heads=2),), mlp=mlp_config, init_std=0.3
    )
    model = config.build().train()
    layer = cast(moe.MixtureOfExperts, cast(Any, model.blocks[0]).mlp)
    return model, OptimizerConfig(lr=1e-3).build(model), layer


def step(model: LM, optimizer: Optimizer, micro: int, seed: int) -> None:
    tokens_BT = tokens(4, 21, seed)
    batch = Batch(tokens_BT[:, :-1], tokens_BT[:, 1:])
    optimizer.zero_grad()
    for start in range(0, 4, micro):
        (cross_entropy(model, batch.rows(start, start + micro)) / 80).backward()
    for part in optimizer.parts:
        part.step()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_the_bias_moves_once_a_step_against_the_load(kind: Any):
    for micro in (4, 1):
        model, _, layer = small_model(balance_rate=0.01)
        optimizer = OptimizerConfig(kind=kind).build(model)
        step(model, optimizer, micro, seed=1)
        assert float(layer.counts_E.sum()) == 4 * 20 * 2
        expected = 0.01 * (40 - layer.counts_E).sign()
        torch.testing.assert_close(layer.balance_E, expected)
        assert expected.any()


def test_micro_batches_and_steps_that_were_not_finished_leave_the_same_bias():
    models = [small_model(balance_rate=0.01) for _ in range(3)]
    for seed in range(5):
        for (model, optimizer, _), micro in zip(models, (4, 2, 1), strict=True):
            if micro == 1:  # a step that ran out of memory half way and begins anew
                cross_entropy(model, Batch(tokens(4, 20, 99), tokens(4, 20, 98))).backward()
            step(model, optimizer, micro, seed)
    biases = [layer.balance_E for _, _, layer in models]
    assert biases[0].any()
    assert torch.equal(biases[0], biases[1])
    assert torch.equal(biases[0], biases[2])


def test_evaluation_counts_nothing():
    model, _, layer = small_model()
    cross_entropy(model.eval(), Batch(tokens(2, 9), tokens(2, 9)))
    assert not layer.counts_E.any()


def test_the_bias_is_saved_and_goes_on_from_a_checkpoint():
    model, optimizer, layer = small_model(balance_rate=0.01)
    for seed in range(3):
        step(model, optimizer, 4, seed)
    saved = {name: x.clone() for name, x in checkpoint.weights(model).items()}
    assert saved["blocks.0.mlp.balance_E"].any()
    assert not any("counts_E" in name for name in saved)
    other, resumed, twin = small_model(balance_rate=0.01)
    checkpoint.load_weights(other, saved, "there")
    resumed.load_tensors({name: x.clone() for name, x in optimizer.tensors().items()})
    for seed in range(3, 6):
        step(model, optimizer, 4, seed)
        step(other, resumed, 4, seed)
    assert torch.equal(layer.balance_E, twin.balance_E)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_balancing_evens_the_load():
    """A router that prefers one expert, not trained: with a bias that moves, the fullest serves near its quarter."""
    shares = []
    for rate in (0.0, 0.01):
        model, optimizer, layer = small_model(balance_rate=rate)
        layer.router.weight.requires_grad_(False)
        layer.router.weight[0] = layer.router.weight[1:].mean(0) * 4
        for seed in range(60):
            step(model, optimizer, 4, seed)
        counts_E = torch.zeros(4)
        for seed in range(60, 70):
            step(model, optimizer, 4, seed)
            counts_E += layer.counts_E
        shares.append(float(counts_E.max() / counts_E.sum()))
    assert shares[0] > shares[1] + 0.05
    assert shares[1] < 0.28
    assert not small_model(balance_rate=0.0)[2].balance_E.any()


def test_flops_and_parameters_count_the_active_experts():
    layer = build(KINDS["softmax"])
    expert, shared, router = 3 * DIM * 8, 3 * DIM * 4, 5 * DIM
    assert sum(p.numel() for p in layer.parameters()) == 5 * expert + shared + router
    assert mlp.active_params(layer) == 3 * expert + shared + router
    assert mlp.flops_per_token(layer) == 2 * mlp.active_params(layer)


@pytest.mark.parametrize(("active", "hidden"), [(1, 48), (2, 24), (8, 8)])
def test_the_active_experts_are_as_wide_as_one_swiglu(active: int, hidden: int):
    layer = moe.Config(active=active).build(DIM)
    assert cast(Any, layer).experts[0].up.weight.shape == (hidden, DIM)


def test_routing_keeps_float32_under_autocast():
    layer, x_ND = build(KINDS["sigmoid"]).float(), inputs(200).float()
    exact = layer.route(x_ND)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gates_NK, chosen_NK = layer.route(x_ND)
        assert layer(x_ND[None].bfloat16()).dtype == torch.bfloat16
    assert gates_NK.dtype == torch.float32
    assert torch.equal(chosen_NK, exact[1])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"num_experts": 0}, "moe.num_experts is 0; it must be at least 1"),
        ({"active": 0}, "moe.active is 0; it must be at least 1"),
        ({"active": 9}, "moe.active is 9; there are only 8 experts"),
        ({"hidden": 0}, "moe.hidden is 0"),
        ({"shared": -1}, "moe.shared is -1"),
        ({"balance_rate": -0.1}, "moe.balance_rate is -0.1"),
    ],
)
def test_impossible_settings_are_named(settings: Any, sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        replace(moe.Config(), **settings)
