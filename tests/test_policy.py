"""The policy loss: its gradient against the closed form, clipping, whole answers, entropy, kept tokens, chunks."""

import math

import pytest
import torch
from torch import Tensor

from wren import policy
from wren.batch import IGNORE, Batch
from wren.errors import ConfigError
from wren.mixers import attention
from wren.mlps import relu2
from wren.model import LM, ModelConfig
from wren.policy import Drawing, PolicyConfig, PolicyLoss, kept_mask, policy_terms

VOCAB = 11
FREE = PolicyConfig(clip_low=None, clip_high=None)


def new_model(seed: int = 0) -> LM:
    torch.manual_seed(seed)
    config = ModelConfig(vocab_size=VOCAB, depth=1, dim=16, mixers=(attention.Config(num_heads=2),), mlp=relu2.Config())
    model = config.build().double()
    torch.nn.init.normal_(model.head.weight, std=1.0)
    return model


def new_batch(model: LM, *, drawn_by: LM | None = None, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    tokens_BT = torch.randint(VOCAB, (3, 9), generator=generator)
    targets_BT = torch.randint(VOCAB, (3, 9), generator=generator)
    targets_BT[:, :3] = IGNORE
    targets_BT[2, 6:] = IGNORE
    weights_BT = torch.randn(3, 9, generator=generator, dtype=torch.float64)
    batch = Batch(tokens_BT, targets_BT, weights_BT)
    with torch.no_grad():
        logprobs_BT = true_logprobs(drawn_by or model, batch)
    return batch._replace(logprobs_BT=logprobs_BT)


def true_logprobs(model: LM, batch: Batch) -> Tensor:
    """Of the targets, 0 where nothing is learned."""
    logits_BTV = model(batch.tokens_BT)
    picked_BT = logits_BTV.log_softmax(-1).gather(-1, batch.targets_BT.clamp(min=0)[..., None])[..., 0]
    return torch.where(batch.targets_BT == IGNORE, 0.0, picked_BT)


def gradients(model: LM, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True))


def assert_same_gradients(model: LM, one: Tensor, other: Tensor) -> None:
    for x, y in zip(gradients(model, one), gradients(model, other), strict=True):
        assert (x is None) == (y is None)
        if x is not None and y is not None:
            torch.testing.assert_close(x, y)


def test_the_first_gradient_is_that_of_reinforce():
    model = new_model()
    batch = new_batch(model)
    assert batch.weights_BT is not None
    reinforce = -(batch.weights_BT * true_logprobs(model, batch)).sum()
    assert_same_gradients(model, PolicyLoss(PolicyConfig())(model, batch), reinforce)


def test_the_ratio_corrects_for_another_behaviour():
    """What another policy drew counts by how much likelier it is now."""
    model, other = new_model(), new_model(5)
    batch = new_batch(model, drawn_by=other)
    assert batch.weights_BT is not None
    assert batch.logprobs_BT is not None
    ratio_BT = (true_logprobs(model, batch) - batch.logprobs_BT).exp()
    expected = -(torch.where(batch.targets_BT == IGNORE, 0.0, batch.weights_BT * ratio_BT)).sum()
    found = PolicyLoss(FREE)(model, batch)
    torch.testing.assert_close(found, expected)
    assert_same_gradients(model, found, expected)


def test_clipping_stops_what_has_moved_far_enough_and_nothing_else():
    model = new_model()
    batch = new_batch(model)
    assert batch.logprobs_BT is not None
    # the policy has moved by a factor of 1.5: up where the weight is positive is cut, down where it is negative is not
    moved = batch._replace(logprobs_BT=batch.logprobs_BT - math.log(1.5))
    loss = PolicyLoss(PolicyConfig(clip_low=0.2, clip_high=0.28))
    total = loss(model, moved)
    assert moved.weights_BT is not None
    weights_N = moved.weights_BT[moved.targets_BT != IGNORE]
    expected = -torch.where(weights_N > 0, 1.28 * weights_N, 1.5 * weights_N).sum()
    torch.testing.assert_close(total, expected)
    assert loss.seen.clipped == int((weights_N > 0).sum())
    only_positive = moved._replace(weights_BT=moved.weights_BT.abs())
    for gradient in gradients(model, loss(model, only_positive)):
        assert gradient is None or not bool(gradient.any())


def test_the_ratio_of_an_answer_is_the_geometric_mean_of_its_tokens():
    model, other = new_model(), new_model(5)
    batch = new_batch(model, drawn_by=other)
    assert batch.weights_BT is not None
    assert batch.logprobs_BT is not None
    config = PolicyConfig(ratio="answer", clip_low=None, clip_high=None)
    change_BT = true_logprobs(model, batch) - batch.logprobs_BT
    learned_BT = batch.targets_BT != IGNORE
    ratio_B1 = ((change_BT * learned_BT).sum(1, keepdim=True) / learned_BT.sum(1, keepdim=True)).exp()
    expected = -(ratio_B1 * batch.weights_BT * learned_BT).sum()
    torch.testing.assert_close(PolicyLoss(config)(model, batch), expected)
    # two answers in one row are two answers
    documents_BT = torch.zeros_like(batch.tokens_BT)
    documents_BT[:, 5:] = 1
    apart = PolicyLoss(config)(model, batch._replace(documents_BT=documents_BT))
    assert not torch.isclose(apart, expected)


def test_entropy_and_divergence_are_those_of_the_distribution():
    model, other = new_model(), new_model(5)
    batch = new_batch(model)
    with torch.no_grad():
        batch = batch._replace(reference_logprobs_BT=true_logprobs(other, batch))
    logprobs_BTV = model(batch.tokens_BT).log_softmax(-1)
    entropy_N = -(logprobs_BTV.exp() * logprobs_BTV).sum(-1)[batch.targets_BT != IGNORE]
    plain = PolicyLoss(FREE)(model, batch)
    bonus = PolicyLoss(PolicyConfig(clip_low=None, clip_high=None, entropy=0.3))
    torch.testing.assert_close(bonus(model, batch).detach(), (plain - 0.3 * entropy_N.sum()).detach())
    assert bonus.seen.row()["entropy"] == pytest.approx(float(entropy_N.detach().mean()))
    assert batch.reference_logprobs_BT is not None
    gap_N = (batch.reference_logprobs_BT - true_logprobs(model, batch))[batch.targets_BT != IGNORE]
    near = PolicyLoss(PolicyConfig(clip_low=None, clip_high=None, kl=0.1))
    torch.testing.assert_close(near(model, batch), plain + 0.1 * (gap_N.exp() - gap_N - 1).sum())
    assert float(gap_N.detach().abs().max()) > 0.1


def test_divergence_from_oneself_is_nothing():
    model = new_model()
    batch = new_batch(model)
    loss = PolicyLoss(PolicyConfig(kl=1.0))
    loss(model, batch._replace(reference_logprobs_BT=batch.logprobs_BT))
    assert loss.seen.row()["kl"] == pytest.approx(0.0, abs=1e-12)
    assert loss.seen.difference < 1e-12


def test_temperature_and_kept_tokens_make_the_distribution_that_was_drawn_from():
    model = new_model()
    batch = new_batch(model)
    generator = torch.Generator().manual_seed(2)
    kept_BTK = torch.full((3, 9, 4), IGNORE)
    logits_BTV = model(batch.tokens_BT).detach()
    targets_BT = batch.targets_BT.clone()
    for b in range(3):
        for t in range(9):
            if b == 0:
                continue  # the first row could draw anything
            some = torch.randperm(VOCAB, generator=generator)[: 1 + (b + t) % 4]
            kept_BTK[b, t, : len(some)] = some
            if targets_BT[b, t] != IGNORE:
                targets_BT[b, t] = some[0]
    batch = batch._replace(targets_BT=targets_BT, kept_BTK=kept_BTK)
    terms = policy_terms(model, batch, Drawing(temperature=0.7, drawable=VOCAB))
    n = 0
    for b in range(3):
        for t in range(9):
            if targets_BT[b, t] == IGNORE:
                continue
            ids = kept_BTK[b, t][kept_BTK[b, t] != IGNORE]
            ids = ids if len(ids) else torch.arange(VOCAB)
            probs = (logits_BTV[b, t, ids] / 0.7).softmax(-1)
            own = probs[ids == targets_BT[b, t]].log()
            torch.testing.assert_close(terms.logprobs_N[n : n + 1], own)
            torch.testing.assert_close(terms.entropy_N[n], -(probs * probs.log()).sum())
            n += 1
    assert n == len(terms.logprobs_N)
    # a token that was not kept gets no gradient, and nothing is NaN
    for gradient in gradients(model, PolicyLoss(PolicyConfig(entropy=0.1))(model, batch)):
        assert gradient is None or bool(gradient.isfinite().all())


def test_ids_that_cannot_be_drawn_have_no_share():
    model = new_model()
    batch = new_batch(model)
    targets_BT = torch.where(batch.targets_BT == IGNORE, IGNORE, batch.targets_BT.clamp(max=5))
    terms = policy_terms(model, batch._replace(targets_BT=targets_BT), Drawing(drawable=6))
    logits_BTV = model(batch.tokens_BT)[..., :6]
    learned_BT = targets_BT != IGNORE
    expected = logits_BTV.log_softmax(-1)[learned_BT].gather(-1, targets_BT[learned_BT][:, None])[:, 0]
    torch.testing.assert_close(terms.logprobs_N, expected)


def test_chunks_change_nothing(monkeypatch):
    model = new_model()
    batch = new_batch(model)
    whole = PolicyLoss(PolicyConfig(entropy=0.1))(model, batch)
    expected = gradients(model, whole)
    many = batch.map(lambda x: x.repeat(8, *[1] * (x.dim() - 1)))
    monkeypatch.setattr(policy, "_LOGITS", 1)  # chunks of 64 targets
    in_chunks = PolicyLoss(PolicyConfig(entropy=0.1))(model, many)
    torch.testing.assert_close(in_chunks, 8 * whole)
    for x, y in zip(gradients(model, in_chunks), expected, strict=True):
        assert (x is None) == (y is None)
        if x is not None and y is not None:
            torch.testing.assert_close(x, 8 * y)


def test_a_batch_without_a_target_has_a_loss_of_zero_and_gradients():
    model = new_model()
    batch = new_batch(model)
    loss = PolicyLoss(PolicyConfig())(model, batch._replace(targets_BT=torch.full_like(batch.targets_BT, IGNORE)))
    assert float(loss.detach()) == 0
    assert all(x is None or not bool(x.any()) for x in gradients(model, loss))


def test_kept_mask():
    mask_CV = kept_mask(torch.tensor([[2, IGNORE], [IGNORE, IGNORE], [0, 1]]), 3)
    assert mask_CV.tolist() == [[False, False, True], [True, True, True], [True, True, False]]


@pytest.mark.parametrize("name", ["clip_low", "clip_high", "entropy", "kl"])
def test_wrong_settings_are_told(name):
    with pytest.raises(ConfigError, match=name):
        PolicyConfig(**{name: -0.1})  # type: ignore[arg-type]


def test_greedy_drawing_is_no_policy():
    with pytest.raises(ConfigError, match="temperature"):
        Drawing(temperature=0.0)


def test_a_batch_without_behaviour_is_refused():
    model = new_model()
    batch = new_batch(model)
    with pytest.raises(ValueError, match="log-probabilities"):
        PolicyLoss(PolicyConfig())(model, batch._replace(logprobs_BT=None))
