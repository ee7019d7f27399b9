"""How well a model solves problems that it never learned from: its likeliest answer, and pass@k of its samples."""

from collections.abc import Sequence
from typing import Any

from wren.generate import Engine, Sampling
from wren.intervals import accuracy, ratio_interval
from wren.model import LM
from wren.precision import Precision
from wren.rl.rollout import ask
from wren.tasks.passes import pass_at_k
from wren.tasks.task import RIGHT, Problem
from wren.think.asker import Asker

_SEED = 7_777  # of the samples: the same at every evaluation


def solved(
    model: LM, asker: Asker, problems: Sequence[Problem], precision: Precision, *, samples: int, max_tokens: int
) -> dict[str, Any]:
    """{"accuracy", "low", "high", "count"} of greedy answers; "passes": {k: (share, interval)} of `samples` samples at
    temperature 1, for k = 1 and `samples`; "reward": their mean score."""
    was_training = model.training
    engine = Engine(model, precision, vocab_size=asker.tokenizer.vocab_size)
    greedy = ask(asker, engine, problems, 1, Sampling(max_tokens=max_tokens, temperature=0.0))
    drawn = ask(asker, engine, problems, samples, Sampling(max_tokens=max_tokens, temperature=1.0, seed=_SEED))
    model.train(was_training)
    right = [sum(score >= RIGHT for score in group.rewards) for group in drawn]
    passes = {}
    for k in sorted({1, samples}):
        shares = [pass_at_k(samples, count, k) for count in right]
        passes[k] = sum(shares) / len(shares), ratio_interval(shares, [1.0] * len(shares))
    rewards = [score for group in drawn for score in group.rewards]
    found = accuracy([group.rewards[0] >= RIGHT for group in greedy])
    return {**found, "passes": passes, "reward": sum(rewards) / len(rewards)}


def row(found: dict[str, Any]) -> dict[str, float]:
    """For the metrics."""
    passes = {f"val_pass_{k}": share for k, (share, _) in found["passes"].items()}
    return {"val_accuracy": found["accuracy"], **passes, "val_reward": found["reward"]}
