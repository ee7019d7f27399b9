"""What the tests of ops share: draws, documents, and what is measured of a chunked form.

A rule has a memory: it is called with tensors by name, the queries first, and gives outputs and the last memory.
"""

from collections.abc import Callable
from typing import Any

import costs
import pytest
import torch
from torch import Tensor

LENGTHS = [1, 2, 63, 64, 65, 130]
Inputs = dict[str, Any]  # tensors, or None, by argument name
Rule = Callable[..., tuple[Tensor, Tensor | None]]


def drawn(length: int) -> torch.Generator:
    """What the inputs of that length are drawn with."""
    return torch.Generator().manual_seed(length)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def leaves(given: Inputs, dtype: torch.dtype) -> Inputs:
    return {name: None if x is None else x.detach().to(dtype).requires_grad_() for name, x in given.items()}


def documents(length: int) -> Tensor:
    return (torch.rand(2, length, generator=torch.Generator().manual_seed(1)) < 0.1).long().cumsum(1)


def length_of(inputs: Inputs) -> int:
    return next(iter(inputs.values())).shape[1]


def values_and_gradients(rule: Rule, inputs: Inputs, **settings: Any) -> list[Tensor]:
    """Outputs, the last memory, and the gradients of every input that is there."""
    o, memory = rule(**inputs, **settings)
    assert memory is not None
    weights = torch.linspace(-1, 1, o.numel(), dtype=o.dtype).cos().view_as(o)
    given = [x for x in inputs.values() if x is not None]
    return [o, memory, *torch.autograd.grad((o * weights).sum() + memory.square().sum(), given)]


def output_and_gradients(attention: Callable[..., Tensor], inputs: list[Tensor], **settings: Any) -> list[Tensor]:
    """Of an op without a memory, called with tensors by place."""
    o = attention(*inputs, **settings)
    weights = torch.linspace(-1, 1, o.numel(), dtype=o.dtype).cos().view_as(o)
    return [o, *torch.autograd.grad((o * weights).sum(), inputs)]


def check_same(rule: Rule, truth: Rule, inputs: Inputs, *, packed: bool = False, **settings: Any) -> None:
    """Values and gradients of both; the settings are the rule's alone."""
    documents_BT = documents(length_of(inputs)) if packed else None
    expected = values_and_gradients(truth, inputs, documents_BT=documents_BT)
    found = values_and_gradients(rule, inputs, documents_BT=documents_BT, **settings)
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, exact, atol=1e-8, rtol=1e-8)


def check_fp32_is_near(rule: Rule, inputs: Inputs) -> None:
    """Values and gradients in fp32 against those in fp64."""
    exact = values_and_gradients(rule, inputs)
    narrow = leaves(inputs, torch.float32)
    for ours, truth in zip(values_and_gradients(rule, narrow), exact, strict=True):
        assert ((ours.double() - truth).norm() / truth.norm()).item() < 1e-4


def check_idle_tokens(rules: tuple[Rule, ...], inputs: Inputs, *idle: str) -> None:
    """Tokens from 40 on for which the inputs named `idle` are 0 leave the memory as it is."""
    inputs = {name: x.detach() for name, x in inputs.items()}
    for name in idle:
        inputs[name][:, 40:] = 0
    first = {name: x if name == "memory_BHKV" else x[:, :40] for name, x in inputs.items()}
    for rule in rules:
        torch.testing.assert_close(rule(**inputs)[1], rule(**first)[1])


def operations(rule: Rule, inputs: Inputs, **settings: Any) -> int:
    """Of forward and backward."""
    with costs.Watch() as count:
        o, memory = rule(**inputs, **settings)
        assert memory is not None
        (o.sum() + memory.sum()).backward()
    return count.operations


def check_operations(chunked: Rule, naive: Rule, inputs: Callable[[int], Inputs], inside: tuple[int, int]) -> None:
    """As many more operations for each chunk more, and far fewer than one a token. inside: lengths of one chunk."""
    at = {length: operations(chunked, inputs(length), chunk_size=64) for length in (256, 512, 1024, *inside)}
    per_chunk = (at[512] - at[256]) / 4
    assert (at[1024] - at[512]) / 8 == pytest.approx(per_chunk, rel=0.05)
    assert operations(chunked, inputs(1024), chunk_size=256) < 1024
    assert at[inside[0]] == at[inside[1]], "the work inside a chunk depends on its tokens"
    assert operations(naive, inputs(64)) > 64 * 10, "the count does not see a loop over tokens"


def check_kept_memory(rule: Rule, inputs: Callable[[int], Inputs]) -> None:
    """Twice the tokens, twice the memory kept for the backward pass."""

    def kept(length: int) -> int:
        given = inputs(length)
        return costs.kept_bytes(lambda: rule(**given)[0])

    assert kept(1024) < 2.1 * kept(512)


def check_autocast(rule: Rule, inputs: Callable[[int], Inputs]) -> None:
    """Autocast around the forward pass changes no number, of values or gradients; a backward pass under it runs."""
    for length in (1, 70):
        given = inputs(length)
        there = [x for x in given.values() if x is not None]
        results = []
        for enabled in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                o, memory = rule(**given)
            assert memory is not None
            gradients = torch.autograd.grad(o.cos().sum() + memory.sum(), there, retain_graph=True)
            results.append([o, memory, *gradients])
        for found, expected in zip(results[1], results[0], strict=True):
            assert found.dtype == torch.float32
            assert torch.equal(found, expected)
        with torch.autocast("cpu", torch.bfloat16):
            results[1][0].sum().backward()


def check_kernel(kernel: Rule, naive: Rule, fits: Callable[..., bool], given: Inputs, *wide: str, packed: bool) -> None:
    """Values and gradients of fla's kernel against the truth in fp32; skips without it.

    wide: the inputs that the kernel too gets in fp32; the others it gets in bf16.
    """
    if not torch.cuda.is_available():
        pytest.skip("fla's kernel needs a CUDA GPU, and this machine has none")
    pytest.importorskip("fla", reason="flash-linear-attention is not installed")
    given = {name: None if x is None else x.detach().cuda() for name, x in given.items() if name != "memory_BHKV"}
    inputs = leaves(given, torch.float32)
    half = inputs | leaves({name: x for name, x in given.items() if name not in wide}, torch.bfloat16)
    documents_BT = documents(length_of(inputs)).cuda() if packed else None
    if not fits(next(x for name, x in half.items() if name.startswith("v_")), None, documents_BT):
        pytest.skip("this GPU is older than capability 8.0, which fla's kernel needs")
    results = []
    for rule, tensors in ((kernel, half), (naive, inputs)):
        o, _ = rule(**tensors, documents_BT=documents_BT)
        there = [tensors[name] for name in inputs if tensors[name] is not None]
        results.append([o, *torch.autograd.grad(o.float().square().sum(), there)])
    for ours, truth in zip(*results, strict=True):
        assert ((ours.float() - truth).norm() / truth.norm().clamp(min=1e-6)).item() < 0.02
