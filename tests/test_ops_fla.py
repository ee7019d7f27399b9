"""What all calls of flash-linear-attention share, with functions in the place of its kernels."""

from typing import Any

import pytest
import torch
from torch import Tensor

from wren.ops import fla


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ([[0, 0, 0, 0]], [0, 4]),
        ([[0, 0, 1, 1], [1, 1, 1, 1]], [0, 2, 4, 8]),  # a row begins a document, whatever number came before
        ([[3, 1, 1, 2], [2, 2, 0, 5]], [0, 1, 3, 4, 6, 7, 8]),
    ],
)
def test_boundaries_are_where_documents_begin_and_the_end(documents: list[list[int]], expected: list[int]):
    found = fla.Boundaries(torch.tensor(documents)).cu_seqlens
    assert found.dtype == torch.int64
    assert found.tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_nothing_on_a_cpu_goes_to_a_kernel(dtype: torch.dtype):
    x = torch.zeros(1, 4, 2, 8, dtype=dtype)
    assert not fla.can_take(x)
    assert not fla.can_recur(x, None, None)


def test_whole_rows_are_given_as_they_are():
    x, memory = torch.randn(2, 3, 1, 4), torch.randn(2, 1, 4, 4)

    def kernel(q: Tensor, **settings: Any) -> tuple[Tensor, Tensor]:
        assert q is x
        assert settings.pop("initial_state") is memory
        assert settings == {"output_final_state": True, "scale": 1.0}
        return q, memory

    assert fla.recur(kernel, {"q": x}, memory, None, None, scale=1.0) == (x, memory)


def test_packed_documents_are_one_long_row_and_leave_no_memory():
    x = torch.randn(2, 3, 1, 4)
    documents_BT = torch.tensor([[0, 0, 1], [0, 0, 0]])

    def kernel(q: Tensor, *, scale: float, cu_seqlens: Tensor) -> tuple[Tensor, None]:
        assert torch.equal(q, x.reshape(1, 6, 1, 4))
        assert cu_seqlens.tolist() == [0, 2, 3, 6]
        return q * scale, None

    o_BTHV, last = fla.recur(kernel, {"q": x}, None, documents_BT, None, scale=2.0)
    assert torch.equal(o_BTHV, 2 * x)
    assert last is None


def test_boundaries_are_found_once_and_serve_their_own_documents_alone():
    x, documents_BT = torch.randn(2, 3, 1, 4), torch.tensor([[0, 0, 1], [0, 0, 0]])
    shared = fla.Boundaries(documents_BT)
    first, second = (fla.as_one_row({"q": x}, documents_BT, shared)["cu_seqlens"] for _ in range(2))
    assert first is second
    assert first is shared.cu_seqlens
    other = fla.as_one_row({"q": x}, torch.tensor([[0, 1, 1], [0, 0, 0]]), shared)["cu_seqlens"]
    assert other.tolist() == [0, 1, 3, 6]
