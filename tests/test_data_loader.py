"""The loader: every token once per epoch, in a seeded order, and a state that is only a counter."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wren.batch import IGNORE, Batch
from wren.data.loader import TokenLoader, TokenStream, permute
from wren.errors import CheckpointError, ConfigError, DataError

DOCUMENT = 0  # the token that starts every document


def numbered(sizes: list[int]) -> list[np.ndarray]:
    """Shards whose tokens are all different: 1, 2, 3, ... over the whole stream."""
    starts = np.cumsum([1, *sizes])
    return [np.arange(a, b, dtype=np.uint16) for a, b in itertools.pairwise(starts)]


def same(a: Batch, b: Batch) -> bool:
    pairs = zip(a, b, strict=True)
    return all(x is y is None or (x is not None and y is not None and torch.equal(x, y)) for x, y in pairs)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    context_len=st.integers(1, 17),
    batch_size=st.integers(1, 5),
    seed=st.integers(0, 3),
)
def test_every_token_is_input_and_target_once_per_epoch(sizes: list[int], context_len: int, batch_size: int, seed: int):
    total = sum(sizes)
    stream = TokenStream(numbered(sizes), DOCUMENT, context_len)
    if total - 1 < batch_size * context_len:
        with pytest.raises(DataError, match="less than one batch"):
            TokenLoader(stream, batch_size=batch_size, seed=seed)
        return
    loader = TokenLoader(stream, batch_size=batch_size, seed=seed)
    # as many batches as it takes for whole epochs and whole batches to meet
    epochs = batch_size
    inputs: Counter[int] = Counter()
    targets: Counter[int] = Counter()
    for _ in range(stream.num_windows * epochs // batch_size):
        batch = loader.next_batch()
        learned = batch.targets_BT != IGNORE
        assert torch.equal(batch.targets_BT[learned], batch.tokens_BT[learned] + 1)
        inputs.update(batch.tokens_BT[learned].tolist())
        targets.update(batch.targets_BT[learned].tolist())
    assert inputs == dict.fromkeys(range(1, total), epochs)
    assert targets == dict.fromkeys(range(2, total + 1), epochs)
    assert loader.epoch == epochs


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 3000), seed=st.integers(0, 2**63), epoch=st.integers(0, 9))
def test_permute_is_a_permutation(size: int, seed: int, epoch: int):
    order = permute(np.arange(size), size, (seed, epoch))
    assert sorted(order.tolist()) == list(range(size))
    part = np.arange(size)[size // 3 : size // 2]  # any part of it is the same as in the whole
    assert permute(part, size, (seed, epoch)).tolist() == order[part].tolist()


@pytest.mark.parametrize("size", [*range(1, 70), 4095, 4096, 4097, 65_537])
def test_permute_at_awkward_sizes(size: int):
    assert np.array_equal(np.sort(permute(np.arange(size), size, (1, 2))), np.arange(size))


def test_permute_mixes():
    order = permute(np.arange(10_000), 10_000, (0, 0))
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05
    assert (np.diff(order) == 1).mean() < 0.01
    assert permute(np.array([2**40 - 1]), 2**40, (0, 0))[0] < 2**40  # sizes far past memory


def test_order_depends_on_seed_and_epoch_alone():
    def epochs(seed: int) -> list[list[int]]:
        loader = TokenLoader(TokenStream(numbered([401]), DOCUMENT, 4), batch_size=1, seed=seed)
        return [[int(loader.next_batch().tokens_BT[0, 0]) for _ in range(100)] for _ in range(2)]

    first, again, other = epochs(1), epochs(1), epochs(2)
    assert first == again
    assert first[0] != first[1]
    assert first[0] != other[0]
    assert first[0] != sorted(first[0])


def test_batch_size_does_not_change_the_order():
    def rows(batch_size: int) -> list[int]:
        loader = TokenLoader(TokenStream(numbered([201]), DOCUMENT, 4), batch_size=batch_size, seed=5)
        return [int(x) for _ in range(120 // batch_size) for x in loader.next_batch().tokens_BT[:, 0]]

    assert rows(1) == rows(3) == rows(8)


def test_windows_cross_shards_and_shards_may_be_shorter_than_a_window():
    stream = TokenStream(numbered([2, 0, 3, 1, 5]), DOCUMENT, 4)
    batch = stream.batch([0, 1, 2])
    assert batch.tokens_BT.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, DOCUMENT, DOCUMENT]]
    assert batch.targets_BT.tolist() == [[2, 3, 4, 5], [6, 7, 8, 9], [10, 11, IGNORE, IGNORE]]
    assert stream.read(0, 99).tolist() == list(range(1, 12))
    assert stream.read(4, 6).tolist() == [5, 6]


def test_documents_and_positions():
    shard = np.array([DOCUMENT, 5, 6, DOCUMENT, 7, 8, 9, DOCUMENT, DOCUMENT, 3], dtype=np.uint32)
    batch = TokenStream([shard], DOCUMENT, 6).batch([0, 1])
    assert batch.documents_BT is not None
    assert batch.positions_BT is not None
    assert batch.tokens_BT.tolist() == [[0, 5, 6, 0, 7, 8], [9, 0, 0, 0, 0, 0]]
    # the second row goes on in mid-document: number 0 is what began in an earlier row
    assert batch.documents_BT.tolist() == [[1, 1, 1, 2, 2, 2], [0, 1, 2, 3, 4, 5]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 0, 1, 2], [0, 0, 0, 0, 0, 0]]
    assert batch.targets_BT.tolist() == [[5, 6, 0, 7, 8, 9], [0, 0, 3, IGNORE, IGNORE, IGNORE]]


def test_uint32_tokens_are_read_whole():
    stream = TokenStream([np.array([1, 100_000, 199_999], dtype=np.uint32)], DOCUMENT, 2)
    assert stream.batch([0]).targets_BT.tolist() == [[100_000, 199_999]]


@settings(max_examples=25, deadline=None)
@given(before=st.integers(0, 12), after=st.integers(1, 12), batch_size=st.integers(1, 4))
def test_a_restored_state_gives_the_same_batches(before: int, after: int, batch_size: int):
    stream = TokenStream(numbered([7, 40, 3]), DOCUMENT, 5)
    loader = TokenLoader(stream, batch_size=batch_size, seed=3)
    for _ in range(before):
        loader.next_batch()
    restored = TokenLoader(stream, batch_size=batch_size, seed=3)
    restored.load_state(loader.state())
    assert all(same(loader.next_batch(), restored.next_batch()) for _ in range(after))


@pytest.mark.parametrize(("context_len", "seed"), [(6, 3), (5, 4)])
def test_a_state_of_other_data_is_refused(context_len: int, seed: int):
    state = TokenLoader(TokenStream(numbered([50]), DOCUMENT, 5), batch_size=2, seed=3).state()
    other = TokenLoader(TokenStream(numbered([50]), DOCUMENT, context_len), batch_size=2, seed=seed)
    with pytest.raises(CheckpointError, match="other data or with another seed"):
        other.load_state(state)


def test_what_cannot_be_loaded_is_a_sentence():
    stream = TokenStream(numbered([20]), DOCUMENT, 5)
    with pytest.raises(DataError, match=r"has 20 tokens, less than one batch of 4 x 5 = 20; add text, or lower"):
        TokenLoader(stream, batch_size=4, seed=0)
    with pytest.raises(DataError, match="has 0 tokens"):
        TokenLoader(TokenStream([], DOCUMENT, 5), batch_size=1, seed=0)
    with pytest.raises(ConfigError, match="seed is -1; it must be from 0"):
        TokenLoader(stream, batch_size=1, seed=-1)


@pytest.mark.parametrize(("max_tokens", "rows"), [(None, 5), (1, 1), (8, 2), (9, 3), (1000, 5)])
def test_evaluation_reads_in_order(max_tokens: int | None, rows: int):
    stream = TokenStream(numbered([18]), DOCUMENT, 4)
    batches = list(stream.batches_in_order(2, max_tokens))
    assert [int(x) for batch in batches for x in batch.tokens_BT[:, 0]] == [1, 5, 9, 13, 17][:rows]
    assert sum(batch.num_targets() for batch in batches) == min(17, 4 * rows)
    assert list(TokenStream(numbered([1]), DOCUMENT, 4).batches_in_order(2)) == []
