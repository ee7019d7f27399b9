"""Batch: counting, moving and cutting; and positions inside packed documents."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from wren.batch import IGNORE, Batch, positions_in_documents


def example() -> Batch:
    targets_BT = torch.tensor([[1, IGNORE, 3], [IGNORE, IGNORE, 2]])
    return Batch(torch.arange(6).view(2, 3), targets_BT, weights_BT=torch.ones(2, 3), groups_B=torch.tensor([7, 8]))


def test_only_learned_targets_count():
    assert example().num_targets() == 3


def test_rows_cut_every_tensor_and_add_up():
    batch = example()
    parts = [batch.rows(0, 1), batch.rows(1, 5)]
    assert [part.num_targets() for part in parts] == [2, 1]
    assert parts[1].tokens_BT.tolist() == [[3, 4, 5]]
    assert parts[1].groups_B is not None
    assert parts[1].groups_B.tolist() == [8]
    assert parts[0].documents_BT is None


def test_map_changes_what_is_there_and_only_that():
    batch = example().map(lambda x: x + 1)
    assert batch.tokens_BT.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert batch.weights_BT is not None
    assert batch.weights_BT.tolist() == [[2.0] * 3] * 2
    assert batch.logprobs_BT is None


def test_moving_keeps_everything():
    moved = example().to("cpu")
    for name, x in example()._asdict().items():
        assert x is None if moved._asdict()[name] is None else torch.equal(x, moved._asdict()[name])
    assert example().to("meta").tokens_BT.device.type == "meta"


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=12), min_size=1, max_size=4), st.integers(0, 3))
def test_positions_count_from_zero_in_every_document(rows: list[list[int]], first: int):
    length = min(sum(row) for row in rows)
    documents, expected = [], []
    for row in rows:
        documents.append([first + i for i, size in enumerate(row) for _ in range(size)][:length])
        expected.append([place for size in row for place in range(size)][:length])
    assert positions_in_documents(torch.tensor(documents)).tolist() == expected
