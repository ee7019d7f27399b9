"""TTT-Linear: the dual form against the definition, whose gradients are autograd's, in values and gradients."""

import pytest
import torch
from torch import Tensor

from wren.ops.ttt_linear import Model, chunked_ttt_linear, naive_ttt_linear

B, H, K = 3, 2, 5
CASES = {
    "whole": {},
    "continued": {"lengths": [0, 3, 8]},
    "padded": {"lengths": [5, 0, 7], "valid": [19, 0, 6]},
    "documents": {"documents": [[5, 1, 13], [19], [2, 2, 15]]},
}


def inputs(length: int, seed: int = 0) -> tuple[list[Tensor], Model]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    rate_BTH = torch.rand(B, length, H, generator=generator, dtype=torch.float64).requires_grad_()
    model = Model(normal(H, K + 1, K), normal(H, K), normal(H, K))
    return [*(normal(B, length, H, K) for _ in range(3)), rate_BTH], model


def options(case: dict, memory: bool) -> dict:
    found: dict = {"memory_B2HJK": None}
    if "lengths" in case:
        found["lengths_B"] = torch.tensor(case["lengths"])
        generator = torch.Generator().manual_seed(9)
        if memory:
            found["memory_B2HJK"] = torch.randn(B, 2, H, K + 1, K, generator=generator, dtype=torch.float64)
    if "valid" in case:
        found["valid_B"] = torch.tensor(case["valid"])
    if "documents" in case:
        rows = [torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in case["documents"]]
        found["documents_BT"] = torch.stack(rows)
    return found


@pytest.mark.parametrize("size", [1, 4, 8, 40])
@pytest.mark.parametrize("name", CASES)
def test_the_dual_form_is_the_definition(name: str, size: int):
    given, model = inputs(19)
    settings = options(CASES[name], memory=True)
    there_BT = torch.arange(19) < settings.get("valid_B", torch.tensor([19] * B))[:, None]
    found: list[list[Tensor]] = []
    for form in (naive_ttt_linear, chunked_ttt_linear):
        o_BTHK, memory = form(*given, model, batch_size=size, **settings)
        o_BTHK = torch.where(there_BT[..., None, None], o_BTHK, 0.0)
        loss = (o_BTHK.sin().sum(0) * torch.arange(19)[:, None, None]).sum() + memory.cos().sum()
        found.append([o_BTHK, memory, *torch.autograd.grad(loss, [*given, *model])])
    for naive, chunked in zip(*found, strict=True):
        torch.testing.assert_close(chunked, naive, atol=1e-8, rtol=1e-8)


def test_a_mini_batch_sees_the_model_before_it():
    """With one mini-batch for all and no norm's curvature the steps would add up as linear attention: here, what one
    token writes does not depend on what another one of its mini-batch wrote."""
    given, model = inputs(8)
    q, k, v, rate = (x.detach() for x in given)
    pieces = ([x[:, t : t + 1] for x in (q, k, v, rate)] for t in range(8))
    alone = [naive_ttt_linear(*piece, model, batch_size=8)[1] for piece in pieces]
    _, together = chunked_ttt_linear(q, k, v, rate, model, batch_size=8)
    torch.testing.assert_close(together[:, 1], sum(each[:, 1] for each in alone))


def test_a_step_lowers_the_loss_it_is_taken_on():
    """The key's own value comes nearer when it is asked for again, the nearer the more often it was seen."""
    generator = torch.Generator().manual_seed(0)
    key, value = torch.randn(2, H, K, generator=generator, dtype=torch.float64)
    key, one = torch.nn.functional.normalize(key, dim=-1), torch.ones(H, K, dtype=torch.float64)
    model = Model(torch.randn(H, K + 1, K, generator=generator, dtype=torch.float64), one, 0 * one)
    k = key.expand(1, 30, H, K)
    reachable = key + torch.nn.functional.layer_norm(value, (K,))
    o_BTHK, _ = chunked_ttt_linear(
        k, k, reachable.expand(1, 30, H, K), torch.full((1, 30, H), 0.2), model, batch_size=1
    )
    errors = (o_BTHK - reachable).square().sum((-1, -2))[0]
    assert (errors[1:] < errors[:-1]).all()
    assert errors[-1] < 0.05 * errors[0]
