"""What the engine draws: both log-probabilities under every setting, bias and masks, the noise, stop tokens, tops."""

import itertools
import math

import pytest
import torch
from engine_parts import FP32, PROMPTS, alone, close, logprobs_of, own_logits, sampled_logprobs_of
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cases import VOCAB, build

from wren.generate import Engine, Request, Sampling, truncate
from wren.generate.draw import Rules, draw
from wren.generate.noise import gumbel, place_keys, seed_keys, spread
from wren.generate.settings import Drawn, Row
from wren.model import LM

SETTINGS = [
    {"temperature": 0.7},
    {"temperature": 1.3, "top_k": 5},
    {"temperature": 0.9, "top_p": 0.6},
    {"temperature": 1.1, "top_k": 7, "top_p": 0.8},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 0.0},
]


@pytest.fixture(scope="module")
def model() -> LM:
    return build("attention-1")


def drawn(logits_BV: torch.Tensor, seeds: list[int], **options) -> list[Drawn]:
    """One token a row, each row its own seed."""
    request = Request(prompt=[0], sampling=Sampling(**options))
    rows = [Row(request, seed, []) for seed in seeds]
    found = draw(logits_BV, rows, Rules(rows, logits_BV.device, logits_BV.shape[1]))
    return [each for each in found if isinstance(each, Drawn)]


@pytest.mark.parametrize("options", SETTINGS)
def test_both_logprobs_are_those_of_a_recomputation(model: LM, options: dict):
    sampling = Sampling(max_tokens=12, seed=5, **options)
    for prompt, completion in zip(PROMPTS, Engine(model, FP32).generate(PROMPTS, sampling=sampling), strict=True):
        logits = own_logits(model, prompt, completion.tokens)
        close(completion.logprobs, logprobs_of(logits, completion.tokens))
        if sampling.temperature:
            close(completion.sampled_logprobs, sampled_logprobs_of(logits, completion.tokens, sampling))
        else:
            assert completion.tokens == logits.argmax(-1).tolist()
            assert completion.sampled_logprobs == [0.0] * 12


def test_rows_of_different_settings_share_a_batch(model: LM):
    engine = Engine(model, FP32)
    samplings = [Sampling(max_tokens=10, seed=i, **options) for i, options in enumerate(SETTINGS)]
    handles = [engine.submit(Request(prompt=[1, 2], sampling=sampling)) for sampling in samplings]
    while engine.busy:
        engine.step()
    for sampling, handle in zip(samplings, handles, strict=True):
        expected, found = alone(model, [1, 2], sampling), handle.completions[0]
        assert found.tokens == expected.tokens
        close(found.sampled_logprobs, torch.tensor(expected.sampled_logprobs, dtype=torch.float64))


@given(
    st.lists(st.floats(-8, 8), min_size=2, max_size=40),
    st.none() | st.integers(1, 45),
    st.none() | st.floats(0.01, 1.0),
    st.floats(0.1, 3.0),
)
@settings(max_examples=60, deadline=None)
def test_only_what_truncate_keeps_is_drawn(values: list[float], top_k: int | None, top_p: float | None, heat: float):
    logits = torch.tensor(values, dtype=torch.float64).expand(64, -1)
    probs = truncate((logits[0] / heat).softmax(-1)[None], top_k, top_p)[0]
    for each in drawn(logits, list(range(64)), temperature=heat, top_k=top_k, top_p=top_p):
        if probs[each.token] == 0:  # ties, and sums that reach top_p by rounding
            edge = probs[probs > 0].min()
            assert math.isclose(float((logits[0] / heat).softmax(-1)[each.token]), float(edge), rel_tol=1e-9)
        else:
            expected = float((probs[each.token] / probs.sum()).log())
            assert math.isclose(each.sampled_logprob, expected, rel_tol=1e-6, abs_tol=1e-6) or top_p is not None


def test_top_p_that_wants_more_than_a_few_candidates():
    """A flat distribution over 2,000 tokens: half of it is 1,000, more than are sorted at first."""
    logits = torch.linspace(0, 1e-3, 2000, dtype=torch.float64).expand(300, -1)
    kept = truncate(logits[:1].softmax(-1), None, 0.5)[0] > 0
    found = drawn(logits, list(range(300)), temperature=1.0, top_p=0.5)
    assert all(bool(kept[each.token]) for each in found)
    assert len({each.token for each in found}) > 200
    assert all(abs(each.sampled_logprob - math.log(1 / 1000)) < 1e-2 for each in found)


def test_draws_follow_the_probabilities():
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05])
    for options in ({}, {"top_k": 3}, {"top_p": 0.9}):
        expected = truncate(probs[None].clone(), options.get("top_k"), options.get("top_p"))[0]
        found = drawn(probs.log().expand(4000, 4), list(range(4000)), temperature=1.0, **options)
        shares = torch.bincount(torch.tensor([each.token for each in found]), minlength=4) / 4000
        torch.testing.assert_close(shares, expected / expected.sum(), atol=0.03, rtol=0)


def test_noise_is_gumbels_and_of_seed_place_and_token_alone():
    tokens = spread(torch.arange(500))
    keys = torch.from_numpy(place_keys(seed_keys(list(range(400))), list(range(400))))
    noise = gumbel(keys, tokens)
    assert abs(float(noise.mean()) - 0.5772) < 0.02
    assert abs(float(noise.var()) - math.pi**2 / 6) < 0.05
    for a, b in ((noise[:, 1:], noise[:, :-1]), (noise[1:], noise[:-1])):
        assert abs(float(torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1])) < 0.01
    assert torch.equal(gumbel(keys[7:8], tokens[100:101])[0, 0], noise[7, 100])
    by_row = gumbel(keys, spread(torch.arange(500).expand(400, -1)))
    assert torch.equal(by_row, noise)
    # neither seeds that differ by little nor the next place repeat what was drawn
    neighbours = place_keys(seed_keys([3, 3, 4, 3 + 0x9E3779B97F4A7C15]), [0, 1, 0, 0])
    assert len({tuple(row) for row in neighbours.tolist()}) == 4


def test_a_small_change_of_logits_changes_no_draw():
    """Unless two perturbed scores lie within it: what makes float32 draw the same in batches of any size."""
    logits = torch.randn(500, 300, generator=torch.Generator().manual_seed(0))
    nudged = logits + 1e-6 * torch.randn(500, 300, generator=torch.Generator().manual_seed(1))
    one, two = (drawn(x, list(range(500)), temperature=1.0) for x in (logits, nudged))
    assert sum(a.token != b.token for a, b in zip(one, two, strict=True)) <= 1


def test_bias_and_allowed_tokens(model: LM):
    allowed = torch.zeros(VOCAB, dtype=torch.bool)
    allowed[[3, 5, 8]] = True
    sampling = Sampling(max_tokens=20, temperature=1.0, seed=1)
    (found,) = Engine(model, FP32).generate([[1, 2]], sampling=sampling, allowed=allowed, bias={5: 2.5})
    assert set(found.tokens) <= {3, 5, 8}
    logits = own_logits(model, [1, 2], found.tokens)
    close(found.logprobs, logprobs_of(logits, found.tokens))  # the model's own know of no bias
    changed = logits.clone()
    changed[:, 5] += 2.5
    close(found.sampled_logprobs, logprobs_of(changed.masked_fill(~allowed, -math.inf), found.tokens))
    (only,) = Engine(model, FP32).generate([[1, 2]], sampling=Sampling(max_tokens=5, temperature=0.0), bias={7: 1e4})
    assert only.tokens == [7] * 5


def test_masks_are_asked_at_every_draw(model: LM):
    """Moves that are legal only after others: an odd token is followed by its successor's double, modulo 29."""
    asked = []

    def legal(tokens: list[int]) -> torch.Tensor | None:
        asked.append(list(tokens))
        if not tokens:
            return None
        mask = torch.zeros(VOCAB, dtype=torch.bool)
        mask[[(tokens[-1] * 2 + 1) % VOCAB, (tokens[-1] + 1) % VOCAB]] = True
        return mask

    engine = Engine(model, FP32)
    sampling = Sampling(max_tokens=9, temperature=1.0)
    plain = engine.submit(Request(prompt=[1], sampling=sampling))
    masked = engine.submit(Request(prompt=[1], sampling=sampling, mask=legal))
    while engine.busy:
        engine.step()
    tokens = masked.completions[0].tokens
    assert asked == [tokens[:i] for i in range(9)]
    assert all(b in ((a * 2 + 1) % VOCAB, (a + 1) % VOCAB) for a, b in itertools.pairwise(tokens))
    assert plain.completions[0].tokens == alone(model, [1], sampling).tokens


def test_stop_tokens_end_a_row_and_are_told_apart(model: LM):
    sampling = Sampling(max_tokens=20, temperature=1.0, seed=2)
    (free,) = Engine(model, FP32).generate([[7]], sampling=sampling)
    stop = free.tokens[6]
    first = free.tokens.index(stop)
    (found,) = Engine(model, FP32).generate([[7]], sampling=sampling, stop_ids=frozenset([stop]))
    assert (found.tokens, found.finish) == (free.tokens[:first], "stop")
    assert found.ended_by == free.drawn[first]
    later = Sampling(max_tokens=20, temperature=1.0, seed=2, min_tokens=first + 1)
    (more,) = Engine(model, FP32).generate([[7]], sampling=later, stop_ids=frozenset([stop]))
    assert len(more.tokens) > first
    assert stop not in more.tokens


def test_a_padded_vocabulary_is_neither_drawn_nor_counted(model: LM):
    sampling = Sampling(max_tokens=30, temperature=1.5)
    (found,) = Engine(model, FP32, vocab_size=9).generate([[1, 2]], sampling=sampling, top_logprobs=9)
    assert max(found.tokens) < 9
    close(found.logprobs, logprobs_of(own_logits(model, [1, 2], found.tokens)[:, :9], found.tokens))
    assert abs(sum(math.exp(value) for _, value in found.drawn[0].top) - 1) < 1e-9


def test_likeliest_tokens_of_draws_and_prompt(model: LM):
    prompt = [4, 9, 2, 2]
    sampling = Sampling(max_tokens=6, temperature=1.0)
    (found,) = Engine(model, FP32).generate([prompt], sampling=sampling, top_logprobs=3, echo=True)
    expected = own_logits(model, prompt[:1], [*prompt[1:], *found.tokens]).log_softmax(-1).topk(3)
    assert found.prompt_top is not None
    tops = [*found.prompt_top[1:], *(each.top for each in found.drawn)]
    assert [[token for token, _ in top] for top in tops] == expected.indices.tolist()
    close([value for top in tops for _, value in top], expected.values.flatten())
    assert found.prompt_top[0] == ()


def test_min_tokens_beyond_the_last_is_refused():
    from wren.errors import ConfigError

    with pytest.raises(ConfigError, match="min_tokens is 9"):
        Sampling(max_tokens=8, min_tokens=9)
