"""Attention's fused forms and rotary positions against the naive form, in values and gradients."""

import pytest
import torch
import torch.utils._python_dispatch

from wren.ops.attention import cached_attention, causal_attention, naive_attention
from wren.ops.rope import rotate, rotation


def _inputs(length: int, *, heads: int = 4, kv_heads: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    shapes = [(2, length, heads, 6), (2, length, kv_heads, 6), (2, length, kv_heads, 6)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


def _documents(length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(2, length, generator=generator) < 0.1).long().cumsum(1)


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 130])
@pytest.mark.parametrize("window", [None, 1, 5, 64, 1000])
@pytest.mark.parametrize("packed", [False, True])
def test_fused_is_naive(length: int, window: int | None, packed: bool):
    inputs = _inputs(length)
    documents_BT = _documents(length) if packed else None
    found = causal_attention(*inputs, documents_BT=documents_BT, window=window)
    expected = naive_attention(*inputs, documents_BT=documents_BT, window=window)
    torch.testing.assert_close(found, expected)
    weights = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view_as(found)
    for ours, theirs in zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("window", [None, 7])
def test_cached_attention_takes_keys_in_any_order(window: int | None):
    q, k, v = (x.detach() for x in _inputs(20))
    expected = naive_attention(q, k, v, window=window)[:, 15:]
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    empty = torch.full((2, 3), -1)
    places_BS = torch.cat((order.expand(2, -1), empty), dim=1)
    garbage = torch.full((2, 3, 2, 6), 1e6, dtype=torch.float64)
    k_BSJK, v_BSJK = (torch.cat((x[:, order], garbage), dim=1) for x in (k, v))
    query_BT = torch.arange(15, 20).expand(2, -1)
    torch.testing.assert_close(
        cached_attention(q[:, 15:], k_BSJK, v_BSJK, query_BT, places_BS, window=window), expected
    )


def test_a_window_never_makes_a_full_score_matrix():
    """The largest tensor of a windowed call grows as the row, not as its square."""

    def largest(length: int) -> int:
        inputs = [x.detach() for x in _inputs(length, heads=2)]
        sizes = []

        class Watch(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                result = function(*args, **(kwargs or {}))
                made = result if isinstance(result, tuple | list) else (result,)
                sizes.extend(x.untyped_storage().nbytes() for x in made if isinstance(x, torch.Tensor))
                return result

        with Watch():
            causal_attention(*inputs, window=16)
        return max(sizes)

    assert largest(1024) <= 2.1 * largest(512)


def test_rotation_turns_pairs_by_their_angle():
    x_BTHK = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64).view(1, 1, 1, 4)
    turned = rotate(x_BTHK, rotation(torch.tensor([[3]]), 4, 100.0, torch.float64)).flatten()
    torch.testing.assert_close(turned, torch.tensor([3.0, 0, 3.0, 0], dtype=torch.float64).cos() * x_BTHK.flatten() +
                               torch.tensor([0, 0, 3.0, 0], dtype=torch.float64).sin())  # fmt: skip


def test_rotated_scores_depend_on_distance_alone():
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 2, 8, generator=generator, dtype=torch.float64) for _ in range(2))

    def score(query_place: int, key_place: int) -> torch.Tensor:
        by_q, by_k = (rotation(torch.tensor([[p]]), 8, 1e4, torch.float64) for p in (query_place, key_place))
        return (rotate(q, by_q) * rotate(k, by_k)).sum(-1)

    torch.testing.assert_close(score(9, 4), score(1005, 1000))
    assert not torch.allclose(score(9, 4), score(9, 5))


def test_rotation_in_bf16_takes_its_angles_in_fp32():
    place = torch.tensor([[4097]])  # bf16 would round the place itself to 4096
    rough, exact = rotation(place, 8, 1e4, torch.bfloat16), rotation(place, 8, 1e4, torch.float64)
    torch.testing.assert_close(rough.cos_BTK.double(), exact.cos_BTK, atol=4e-3, rtol=0)
