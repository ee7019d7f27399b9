"""Bits by position, by what the context repeats and along the text: against sums and searches written out slowly."""

import itertools

import numpy as np
import pytest
import torch

from wren.batch import IGNORE, Batch
from wren.data.loader import TokenStream
from wren.errors import DataError
from wren.evals.bits_per_byte import bits_per_byte
from wren.evals.detail import NUM_BLOCKS, bucket_bounds, completed, detail
from wren.loss import token_losses
from wren.model import LM
from wren.precision import choose_precision
from wren.recipes import build

CPU = choose_precision(torch.device("cpu"), "fp32")
DOCUMENT, VOCAB = 9, 10
BYTES_V = np.array([1, 2, 3, 1, 1, 4, 1, 2, 1, 0])


def stream(num_tokens: int, context_len: int, seed: int = 0) -> TokenStream:
    """Random tokens of a small vocabulary, about every twelfth of them a document's start."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(DOCUMENT, size=num_tokens)
    tokens[rng.random(num_tokens) < 1 / 12] = DOCUMENT
    tokens[0] = DOCUMENT
    return TokenStream([tokens], DOCUMENT, context_len)


def model(context_len: int = 24) -> LM:
    torch.manual_seed(0)
    return build("tiny", vocab_size=VOCAB, settings=[f"context_len={context_len}"]).model.build()


def slowly_completed(batch: Batch) -> np.ndarray:
    """For every target: look through its row for the same pair and triple, one place after another."""
    found = np.zeros(batch.targets_BT.shape, dtype=int)
    for b, t in itertools.product(*map(range, batch.targets_BT.shape)):
        if batch.documents_BT is None:
            start = 0
        else:
            start = min(i for i in range(t + 1) if batch.documents_BT[b, i] == batch.documents_BT[b, t])
        text = [*batch.tokens_BT[b, start : t + 1].tolist(), int(batch.targets_BT[b, t])]
        if text[-1] == IGNORE:
            continue
        for length in (2, 3):
            end, before = text[-length:], text[:-1]
            if len(end) == length and any(before[i : i + length] == end for i in range(len(before) - length + 1)):
                found[b, t] = length
    return found


@pytest.mark.parametrize("context_len", [1, 2, 3, 40])
def test_completed_finds_what_a_slow_search_finds(context_len: int):
    source = stream(331, context_len)  # its last window is padded
    kinds = set()
    for batch in source.batches_in_order(4):
        expected = slowly_completed(batch)
        assert np.array_equal(completed(batch), expected)
        without = batch._replace(documents_BT=None)
        assert np.array_equal(completed(without), slowly_completed(without))
        kinds |= set(expected.flatten().tolist())
    assert kinds >= {1: {0}, 40: {0, 2, 3}}.get(context_len, {0, 2})


def test_a_pair_of_another_document_or_row_is_new():
    tokens_BT = torch.tensor([[1, 2, DOCUMENT, 1, 2, 1], [1, 2, 3, 4, 5, 6]])
    targets_BT = torch.tensor([[2, DOCUMENT, 1, 2, 1, 2], [2, 3, 4, 5, 6, 1]])
    documents_BT = (tokens_BT == DOCUMENT).cumsum(1)
    found = completed(Batch(tokens_BT, targets_BT, documents_BT=documents_BT))
    assert found.tolist() == [[0, 0, 0, 0, 0, 2], [0] * 6]


def test_parts_add_up_and_agree_with_bits_per_byte():
    source, lm = stream(1500, 24), model()
    found = detail(lm, source, BYTES_V, CPU, batch_size=5)
    whole = bits_per_byte(lm, source.batches_in_order(5), BYTES_V, CPU)
    assert found.whole.bits_per_byte == pytest.approx(whole["bits_per_byte"], rel=1e-6)
    assert found.whole.loss == pytest.approx(whole["loss"], rel=1e-6)
    for parts in (found.places_in_row, found.blocks):
        assert sum(part.nats for part in parts) == pytest.approx(found.whole.nats)
        assert sum(part.tokens for part in parts) == found.whole.tokens == whole["tokens"]
        assert sum(part.bytes for part in parts) == found.whole.bytes == whole["bytes"]
    new, pairs, triples = found.repeats
    assert [part.name for part in found.repeats] == ["new", "repeat-2", "repeat-3"]
    assert new.tokens + pairs.tokens == found.whole.tokens
    assert 0 < triples.tokens < pairs.tokens
    assert len(found.blocks) == NUM_BLOCKS


def test_every_part_holds_its_own_tokens():
    source, lm = stream(700, 24), model()
    found = detail(lm, source, BYTES_V, CPU, batch_size=3)
    expected = dict.fromkeys(("0-15", "16-23", "new", "repeat-2", "repeat-3"), 0.0)
    with torch.no_grad():
        batch = source.batch(range(source.num_windows))
        losses = token_losses(lm.eval(), batch)
    kinds = slowly_completed(batch)
    for b, t in itertools.product(*map(range, losses.shape)):
        target = int(batch.targets_BT[b, t])
        if target == IGNORE or BYTES_V[target] == 0:
            continue
        names = [
            "0-15" if t < 16 else "16-23",
            *{0: ["new"], 2: ["repeat-2"], 3: ["repeat-2", "repeat-3"]}[kinds[b, t]],
        ]
        for name in names:
            expected[name] += float(losses[b, t])
    assert {p.name: p.nats for p in (*found.places_in_row, *found.repeats)} == pytest.approx(expected, rel=1e-4)


def test_blocks_are_consecutive_windows():
    found = detail(model(), stream(24 * 7 + 1, 24), BYTES_V, CPU, batch_size=2)
    assert len(found.blocks) == 7
    assert all(part.tokens <= 24 for part in found.blocks)


def test_the_buckets_double():
    assert bucket_bounds(8) == [0]
    assert bucket_bounds(16) == [0]
    assert bucket_bounds(17) == [0, 16]
    assert bucket_bounds(256) == [0, 16, 32, 64, 128]


def test_a_split_without_text_is_one_sentence():
    with pytest.raises(DataError, match="no text in the validation split"):
        detail(model(), TokenStream([np.array([DOCUMENT, DOCUMENT])], DOCUMENT, 24), BYTES_V, CPU)
