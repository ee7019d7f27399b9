"""What the tests of the engine share: its models, and what a completion should hold, computed anew and slowly."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from wren.generate import Completion, Engine, Sampling, row_seed, truncate
from wren.model import LM
from wren.precision import Precision

CPU = torch.device("cpu")
FP32 = Precision(device=CPU, autocast=None, why="test")
BF16 = Precision(device=CPU, autocast=torch.bfloat16, why="test")
PROMPTS = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], [9], [8, 8, 8], [1, 2, 3], [7, 3] * 9]


def alone(model: LM, prompt: Sequence[int], sampling: Sampling, row: int = 0, **options) -> Completion:
    """Sample `row` of a batch, in an engine of its own."""
    own = dataclasses.replace(sampling, seed=row_seed(sampling.seed, row))
    return Engine(model, FP32).generate([prompt], sampling=own, **options)[0]


@torch.no_grad()
def own_logits(model: LM, prompt: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """(T, V): what the model says at the place of each drawn token, without a state."""
    whole = torch.tensor([[*prompt, *tokens]])
    return model(whole)[0, len(prompt) - 1 : -1]


def logprobs_of(logits_TV: Tensor, tokens: Sequence[int]) -> Tensor:
    return logits_TV.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]


def sampled_logprobs_of(logits_TV: Tensor, tokens: Sequence[int], sampling: Sampling) -> Tensor:
    """In the distribution after temperature, top-k and top-p."""
    probs_TV = truncate((logits_TV / sampling.temperature).softmax(-1), sampling.top_k, sampling.top_p)
    probs_TV = probs_TV / probs_TV.sum(-1, keepdim=True)
    return probs_TV.gather(1, torch.tensor(tokens)[:, None])[:, 0].log()


def close(found: Sequence[float], expected: Tensor) -> None:
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected.double(), atol=1e-9, rtol=1e-9)
