"""Activation checkpointing changes no number and keeps less; all logits never exist."""

from typing import Any, cast

import pytest
import torch
from memory_parts import gradients
from model_cases import CONFIGS, tokens
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from wren.batch import IGNORE, Batch
from wren.loss import cross_entropy, token_losses
from wren.memory.activations import Checkpointing, checkpoint_activations
from wren.memory.count import Allocations
from wren.mixers import attention
from wren.mlps import moe, relu2
from wren.model import LM, ModelConfig
from wren.ops.linear_cross_entropy import chunked_token_losses, naive_token_losses

KINDS: tuple[Checkpointing, ...] = ("selective", "full")


def packed(length: int = 20) -> Batch:
    tokens_BT = tokens(2, length + 1)
    documents_BT = (torch.arange(length) // 7).expand(2, -1)
    return Batch(tokens_BT[:, :-1].contiguous(), tokens_BT[:, 1:].contiguous(), documents_BT=documents_BT)


def made(name: str, **changes: Any) -> LM:
    torch.manual_seed(0)
    config = ModelConfig(**{**vars(CONFIGS[name]), **changes})
    return config.build().train()


def run(model: LM, kind: Checkpointing, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    checkpoint_activations(model, kind)
    torch.manual_seed(3)  # of the dropout
    loss = cross_entropy(model, batch)
    return loss.detach(), gradients(model, loss)


@pytest.mark.parametrize("name", [name for name in CONFIGS if not name.endswith(("canon", "canon_c", "x0"))])
def test_recomputing_changes_no_bit(name: str) -> None:
    model, batch = made(name, dropout=0.2), packed()
    expected, wanted = run(model, "none", batch)
    for kind in KINDS:
        loss, found = run(model, kind, batch)
        assert torch.equal(loss, expected)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_experts_count_their_tokens_once() -> None:
    model = made("attention+moe")
    layer = cast(moe.MixtureOfExperts, model.blocks[0].mlp)  # type: ignore[union-attr]
    counted = []
    for kind in ("none", *KINDS):
        layer.begin_step()
        run(model, kind, packed())
        counted.append(layer.counts_E.clone())
    assert counted[0].sum() == 2 * 20 * 2
    assert all(torch.equal(x, counted[0]) for x in counted)


def test_each_kind_keeps_less_than_the_one_before() -> None:
    config = ModelConfig(
        vocab_size=64, dim=32, depth=4, mixers=(attention.Config(num_heads=2),), mlp=relu2.Config(), dropout=0.1
    )
    model, tokens_BT = config.build(), torch.arange(2 * 65).view(2, 65) % 64
    batch = Batch(tokens_BT[:, :-1], tokens_BT[:, 1:])
    kept = []
    for kind in ("none", *KINDS):
        checkpoint_activations(model, kind)
        with Allocations() as counted:
            loss = cross_entropy(model, batch)
        kept.append(counted.alive)
        loss.backward()
    assert kept[0] > 1.3 * kept[1] > 1.3 * 1.5 * kept[2]


def test_a_state_is_advanced_once_and_evaluation_is_left_alone() -> None:
    model = made("llama")
    checkpoint_activations(model, "full")
    tokens_BT = tokens(1, 6)
    state = model.new_state(1, 8)
    with torch.enable_grad():
        cached = model(tokens_BT, state=state)
    assert state.lengths_B.tolist() == [6]
    torch.testing.assert_close(cached, model(tokens_BT))
    cached.sum().backward()
    assert state.lengths_B.tolist() == [6]


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_recomputing_goes_with_the_compiler(kind: Checkpointing) -> None:
    model, batch = made("llama"), packed()
    expected, wanted = run(model, "none", batch)
    checkpoint_activations(model, kind)
    loss = torch.compile(cross_entropy, backend="aot_eager")(model, batch)
    found = gradients(model, loss)
    torch.testing.assert_close(loss.detach(), expected)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name])
    torch.compiler.reset()


def example(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(50, 7, generator=generator, dtype=dtype, requires_grad=True)
    weight_VD = torch.randn(30, 7, generator=generator, dtype=dtype, requires_grad=True)
    targets_N = torch.randint(30, (50,), generator=generator)
    targets_N[::4] = IGNORE
    return hidden_ND, weight_VD, targets_N


@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize("chunk", [1, 7, 50, 99])
def test_chunked_token_losses_equal_the_plain_ones(cap: float | None, chunk: int) -> None:
    hidden_ND, weight_VD, targets_N = example(torch.float64)
    upstream_N = torch.linspace(-1, 2, 50, dtype=torch.float64)
    results = []
    for function, options in ((naive_token_losses, {}), (chunked_token_losses, {"chunk": chunk})):
        losses_N = function(hidden_ND, weight_VD, targets_N, cap, **options)
        results.append([losses_N, *torch.autograd.grad(losses_N @ upstream_N, (hidden_ND, weight_VD))])
    for found, wanted in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-11, rtol=1e-11)


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            self.numel = max(self.numel, x.numel() if isinstance(x, Tensor) else 0)
        return out


@pytest.mark.parametrize("loss", [cross_entropy, token_losses])
@pytest.mark.parametrize("cap", [None, 15.0])
def test_all_logits_never_exist(loss: Any, cap: float | None) -> None:
    vocab = 5000
    config = ModelConfig(
        vocab_size=vocab, dim=16, depth=1, mixers=(attention.Config(num_heads=2),), mlp=relu2.Config(),
        logit_softcap=cap,
    )  # fmt: skip
    model, tokens_BT = config.build(), torch.arange(2 * 513).view(2, 513) % vocab
    with Largest() as largest:
        loss(model, Batch(tokens_BT[:, :-1], tokens_BT[:, 1:])).sum().backward()
    assert largest.numel == 256 * vocab < 2 * 512 * vocab
