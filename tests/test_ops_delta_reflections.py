"""What reflections can do: two steps of the delta rule with b = 2 permute three things, one step cannot (2502.10297).

T tokens, N tokens x steps, K key width.
"""

import itertools

import pytest
import torch
from torch import Tensor

from wren.ops.gated_delta_rule import chunked_gated_delta_rule, naive_gated_delta_rule
from wren.ops.norm import l2_normalised

# S3: the six orders of three things. A swap of i and j is a reflection along (e_i - e_j) / sqrt(2).
SWAPS = {(0, 1): (1.0, -1.0, 0.0), (1, 2): (0.0, 1.0, -1.0), (0, 2): (1.0, 0.0, -1.0)}
CYCLE = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)


def _moved(keys_NK: Tensor, beta_N: Tensor, num_steps: int, rule=naive_gated_delta_rule) -> tuple[Tensor, Tensor]:
    """What a memory of three things has become after each token, (T, 3, 3), and at the end: nothing is written."""
    num_tokens = len(keys_NK) // num_steps
    memory = torch.eye(3, dtype=torch.float64)[None, None]
    values = torch.zeros(3, len(keys_NK), 1, 3, dtype=torch.float64)
    queries = 3**0.5 * torch.eye(3, dtype=torch.float64)[:, None, None].expand(3, num_tokens, 1, 3)  # row i reads i
    keys, beta = keys_NK[None, :, None].expand(3, -1, -1, -1), beta_N[None, :, None].expand(3, -1, -1)
    o, last = rule(queries, keys, values, None, beta, memory_BHKV=memory.expand(3, -1, -1, -1))
    return o[:, :, 0].transpose(0, 1), last[0, 0]


def _swaps(*names: tuple[int, int]) -> Tensor:
    return torch.tensor([SWAPS[name] for name in names], dtype=torch.float64) / 2**0.5


@pytest.mark.parametrize("rule", [naive_gated_delta_rule, chunked_gated_delta_rule])
def test_two_steps_of_b_2_turn_three_things_round(rule):
    keys, twos = _swaps((1, 2), (0, 1)), torch.full((2,), 2.0, dtype=torch.float64)
    read_T33, last = _moved(keys, twos, 2, rule)
    torch.testing.assert_close(last, CYCLE, atol=1e-14, rtol=0)
    torch.testing.assert_close(read_T33[0], CYCLE, atol=1e-14, rtol=0)
    assert torch.linalg.det(last).item() == pytest.approx(1)
    _, one_swap = _moved(keys[:1], twos[:1], 1, rule)
    assert torch.linalg.det(one_swap).item() == pytest.approx(-1)


def test_two_steps_follow_a_long_word_of_s3():
    """Any of the six orders at each token, 300 tokens long, every prefix exact."""
    generator = torch.Generator().manual_seed(0)
    pairs = list(itertools.product(SWAPS, repeat=2))  # two equal swaps stay, two others turn, and one alone has b = 0
    keys, beta, expected, now = [], [], [], torch.eye(3, dtype=torch.float64)
    for choice in torch.randint(2 * len(pairs), (300,), generator=generator).tolist():
        names, alone = pairs[choice // 2], choice % 2 == 1
        keys.append(_swaps(*names))
        beta.append([0.0 if alone else 2.0, 2.0])
        for i, j in names[alone:]:
            order = torch.arange(3)
            order[i], order[j] = j, i
            now = now[order]
        expected.append(now)
    read_T33, _ = _moved(
        torch.cat(keys), torch.tensor(beta, dtype=torch.float64).flatten(), 2, chunked_gated_delta_rule
    )
    assert {tuple(x.flatten().tolist()) for x in expected} >= {tuple(CYCLE.flatten().tolist())}
    torch.testing.assert_close(read_T33, torch.stack(expected), atol=1e-9, rtol=0)


def test_one_step_cannot_turn_three_things_round():
    """It leaves a symmetric matrix of determinant 1 - b, and a 3-cycle is far from every symmetric one."""
    generator = torch.Generator().manual_seed(0)
    far = (CYCLE - CYCLE.T).norm().item() / 2
    for _ in range(100):
        key = l2_normalised(torch.randn(1, 3, generator=generator, dtype=torch.float64), eps=0.0)
        beta = 2 * torch.rand(1, generator=generator, dtype=torch.float64)
        _, last = _moved(key, beta, 1)
        assert torch.linalg.det(last).item() == pytest.approx(1 - beta.item())
        assert (last - CYCLE).norm().item() >= far > 1.2


def test_two_steps_of_b_below_1_cannot_either():
    """Their determinant is (1 - b_1) (1 - b_2), below 1 unless nothing moves."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        keys = l2_normalised(torch.randn(2, 3, generator=generator, dtype=torch.float64), eps=0.0)
        beta = torch.rand(2, generator=generator, dtype=torch.float64)
        _, last = _moved(keys, beta, 2)
        assert torch.linalg.det(last).item() == pytest.approx((1 - beta).prod().item())
        assert (last - CYCLE).norm().item() > 0.5
