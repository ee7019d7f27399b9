"""DPO and SPIN: one loss, equal to the closed form, whatever way pairs are packed or split into micro-batches."""

import math
from dataclasses import replace

import model_cases
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tune_parts import FP32, chat, examples, talk

from wren.batch import IGNORE, Batch
from wren.errors import ConfigError
from wren.generate import Sampling
from wren.loss import token_losses
from wren.tokenizer.chat import read_messages
from wren.tune.answer import answers
from wren.tune.examples import encode
from wren.tune.formats import Conversation
from wren.tune.loader import make_batch
from wren.tune.preference import PreferenceLoss, margins, preference_accuracy, with_reference
from wren.tune.spin import own_answers


def given(vocab_size: int = model_cases.VOCAB):
    """Three pairs with made-up reference log-probabilities."""
    pairs = examples([5, 7, 4, 3, 9, 6], vocab_size, documents=2)
    reference = np.random.default_rng(1).normal(-2, 1, size=len(pairs.tokens_N)).astype(np.float32)
    return replace(pairs, reference_N=reference)


def test_the_loss_is_the_closed_form() -> None:
    model, pairs, beta = model_cases.build("attention-0"), given(), 0.3
    assert pairs.reference_N is not None
    batch = make_batch(pairs, [[0, 2], [1]], 24, 0)
    loss = PreferenceLoss(beta=beta)(model, batch) / batch.num_targets()
    changes = []
    for start, stop in zip(pairs.starts[:-1], pairs.starts[1:], strict=True):
        tokens_T = torch.from_numpy(pairs.tokens_N[start:stop].astype(np.int64))
        logprobs_T = model(tokens_T[None, :-1])[0].log_softmax(-1).gather(-1, tokens_T[1:, None])[:, 0]
        reference_T = torch.from_numpy(pairs.reference_N[start + 1 : stop]).double()
        changes.append((logprobs_T - reference_T)[torch.from_numpy(pairs.learned_N[start + 1 : stop])].sum())
    expected = [-F.logsigmoid(beta * (changes[i] - changes[i + 1])) for i in (0, 2, 4)]
    mean = torch.stack(expected).mean()
    torch.testing.assert_close(loss, mean, rtol=1e-6, atol=1e-6)
    parameters = list(model.parameters())
    for found, wanted in zip(*(torch.autograd.grad(x, parameters) for x in (loss, mean)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["attention-0", "gated_delta_net-0", "rwkv7-0"])
def test_packing_and_micro_batches_change_nothing(name: str) -> None:
    model, pairs = model_cases.build(name), given()
    packed = make_batch(pairs, [[0, 1], [2]], 40, 0)
    alone = make_batch(pairs, [[0], [1], [2]], 40, 0)
    loss = PreferenceLoss()
    whole = loss(model, packed) / packed.num_targets()
    model_cases.close(loss(model, alone) / alone.num_targets(), whole)
    parts = [loss(model, alone.rows(i, i + 1)) for i in range(3)]
    model_cases.close(torch.stack(parts).sum() / alone.num_targets(), whole)


def test_the_frozen_start_prefers_nothing() -> None:
    model = model_cases.build("gated_delta_net-0", torch.float32)
    pairs = with_reference(model, examples([5, 7, 4, 3, 9, 6], model_cases.VOCAB, documents=2), 30, 0, FP32)
    assert pairs.reference_N is not None
    batch = make_batch(pairs, [[0, 1], [2]], 40, 0)
    margin_BP, weight_BP = margins(-token_losses(model, batch), batch)
    assert (weight_BP > 0).sum() == 3
    assert margin_BP.abs().max() < 1e-5
    loss = PreferenceLoss()(model, batch) / batch.num_targets()
    assert abs(float(loss.detach()) - math.log(2)) < 1e-5
    found = preference_accuracy(model, [batch], FP32, 0.1)
    assert abs(found["preference_loss"] - math.log(2)) < 1e-5
    assert 0 <= found["preference_accuracy"] <= 1


def test_accuracy_counts_pairs_whose_better_answer_gained() -> None:
    model = model_cases.build("attention-0", torch.float32)
    pairs = with_reference(model, examples([5, 7, 4, 3, 9, 6], model_cases.VOCAB, documents=2), 30, 0, FP32)
    assert pairs.reference_N is not None
    shift = np.zeros(len(pairs.tokens_N), np.float32)
    for document, change in ((0, -1.0), (2, -1.0), (4, 1.0)):
        shift[pairs.starts[document] : pairs.starts[document + 1]] = change
    shifted = replace(pairs, reference_N=pairs.reference_N + shift)
    batches = [make_batch(shifted, [[0, 1], [2]], 40, 0)]
    assert preference_accuracy(model, batches, FP32, 0.1)["preference_accuracy"] == pytest.approx(2 / 3)


def test_beta_must_be_above_zero() -> None:
    with pytest.raises(ConfigError, match="beta is 0"):
        PreferenceLoss(beta=0)


def conversation(number: int) -> Conversation:
    return Conversation("here", tuple(read_messages(talk(number)["messages"])))


def test_spin_pairs_the_data_with_the_models_own_answers(tmp_path) -> None:
    model = replace(model_cases.PLAIN, vocab_size=300).build()
    learned, _ = encode([conversation(i) for i in range(4)], chat(), 120)
    kept = tmp_path / "answers.json"
    pairs = own_answers(model, chat(), learned, 120, 0, FP32, kept)
    assert pairs.documents == 2
    assert len(pairs) == 4
    for number in range(4):
        (a, b, c), whole = pairs.starts[2 * number : 2 * number + 3], learned.starts[number : number + 2]
        better, worse = pairs.tokens_N[a:b].tolist(), pairs.tokens_N[b:c].tolist()
        assert better == learned.tokens_N[slice(*whole)][:61].tolist()
        prompt = better.index(chat().assistant_id) + 1
        assert worse[:prompt] == better[:prompt]
        assert worse[prompt:] != better[prompt:]
        assert not pairs.learned_N[b : b + prompt].any()
        assert pairs.learned_N[b + prompt : c].all()
    again = own_answers(model_cases.PLAIN.build(), chat(), learned, 120, 0, FP32, kept)  # from the file
    assert again.tokens_N.tolist() == pairs.tokens_N.tolist()


def test_answers_end_with_the_stop_token_or_at_their_limit() -> None:
    model = replace(model_cases.PLAIN, vocab_size=300, learned_positions=40).build().eval()
    prompts = [[1, 2, 3], [4], list(range(40))]
    first, second, none = answers(model, chat(), prompts, Sampling(max_tokens=6), FP32)
    assert first
    assert second
    assert none == []  # no position is left
    found = answers(model, chat(), prompts[:2], Sampling(max_tokens=6, temperature=0), FP32)
    assert all(1 <= len(tokens) <= 7 for tokens in found)
    with torch.no_grad():
        model.head.weight[chat().end_id] += 100 * model.hidden(torch.tensor([[4]]))[0, -1]
    assert answers(model, chat(), [[4]], Sampling(max_tokens=6, temperature=0), FP32) == [[chat().end_id]]


def test_a_batch_of_pairs_weighs_them_alike() -> None:
    batch: Batch = make_batch(given(), [[0, 1], [2]], 40, 0)
    assert batch.weights_BT is not None
    assert float(batch.weights_BT[0, 0]) == pytest.approx(int((batch.targets_BT != IGNORE).sum()) / 3)
