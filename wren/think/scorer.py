"""How likely a reply is to become right, learned from verified attempts at other problems: an outcome-supervised
verifier (Cobbe et al. 2110.14168) that sees nothing but how sure the model was of its own tokens.

    log P(right | branch)  =  log sigmoid(w . f)      f: mean, sum, least and spread of log p(token), doubtful tokens

with other weights for replies that have ended than for those on their way, which count as right where their end is. A
logistic regression, fitted by Newton's method.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from wren.errors import ConfigError
from wren.tasks.task import RIGHT, Split
from wren.think.algorithms import vote
from wren.think.branch import Branch
from wren.think.thinker import Thinker

_PROBLEMS, _SAMPLES = 128, 8
_CUTS = (0.25, 0.5, 0.75)  # where an attempt is looked at on its way
_DOUBT = float(np.log(0.5))
_RIDGE = 1.0  # added to the squared lengths of standardised features: of a few attempts little is believed
_STEPS, _EXACT = 50, 1e-9


class Attempt(NamedTuple):
    """A whole reply, and whether the verifier accepts it."""

    reply: Branch
    right: bool


@dataclass(frozen=True, eq=False)
class Learned:
    """A scorer: log P(right), in nats. weights (F,); of features less `mean`, over `scale`; rate: of right attempts."""

    weights: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    rate: float

    def __call__(self, branch: Branch) -> float:
        if not branch.logprobs:
            return float(np.log(self.rate))
        x_1F = ((_features(np.asarray(branch.logprobs)) - self.mean) / self.scale)[None]
        score = _both(x_1F, np.array([branch.ended]))[0] @ self.weights
        return -float(np.logaddexp(0.0, -score))


def attempted(thinker: Thinker, problems: int, samples: int, split: Split, seed: int = 0) -> list[Attempt]:
    """About `samples` replies to each of so many problems, drawn at temperature 1, each verified."""
    asked = thinker.asker.task.distinct(seed, problems, split)
    solved = thinker.solve(vote.Rules(temperature=1.0), asked, samples * thinker.max_tokens, seed=seed)
    return [
        Attempt(reply, thinker.score(each.problem, reply) >= RIGHT) for each in solved for reply in each.replies
    ]  # fmt: skip


def taught(thinker: Thinker, seed: int = 0) -> tuple[Learned, dict[str, Any]]:
    """A scorer for this thinker's task and model; {"attempts", "right", "separation", "by_logprob"}.

    separation: on problems of "val"; by_logprob: that of the mean log-probability.
    """
    found = attempted(thinker, _PROBLEMS, _SAMPLES, "train", seed)
    scorer, held_out = learned(found), attempted(thinker, _PROBLEMS // 2, _SAMPLES, "val", seed)
    right = [attempt.right for attempt in held_out]
    return scorer, {
        "attempts": len(found),
        "right": scorer.rate,
        "separation": separation([scorer(attempt.reply) for attempt in held_out], right),
        "by_logprob": separation([attempt.reply.mean_logprob for attempt in held_out], right),
    }


def learned(attempts: Sequence[Attempt]) -> Learned:
    """Raises ConfigError where all attempts are right, or none."""
    right = sum(attempt.right for attempt in attempts)
    if not 0 < right < len(attempts):
        which = "all" if right else "none"
        raise ConfigError(
            f"Of {len(attempts)} attempts {which} were right, so that there is nothing to learn a scorer from; "
            "use --scorer logprob."
        )
    rows, ends, labels = [], [], []
    for reply, is_right in attempts:
        logs = np.asarray(reply.logprobs)
        for part, ended in [*((logs[: max(1, int(cut * len(logs)))], False) for cut in _CUTS), (logs, reply.ended)]:
            rows.append(_features(part))
            ends.append(ended)
            labels.append(float(is_right))
    x_NF = np.stack(rows)
    mean, scale = x_NF.mean(0), x_NF.std(0) + 1e-6
    weights = _fitted(_both((x_NF - mean) / scale, np.array(ends)), np.array(labels))
    return Learned(weights, mean, scale, right / len(attempts))


def _features(logs: np.ndarray) -> np.ndarray:
    """(F,) of the log-probabilities of a branch's tokens."""
    return np.array([logs.mean(), logs.sum(), logs.min(), logs.std(), (logs < _DOUBT).sum(), np.log(len(logs))])


def _both(x_NF: np.ndarray, ends_N: np.ndarray) -> np.ndarray:
    """(N, 2 (F + 1)): a constant and the features, in places of their own for branches that have ended."""
    x = np.concatenate([np.ones((len(x_NF), 1)), x_NF], 1)
    return np.concatenate([x * ends_N[:, None], x * ~ends_N[:, None]], 1)


def _fitted(x_NF: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Weights (F,) of the likeliest logistic regression with a ridge."""

    def loss(weights_F: np.ndarray) -> float:
        z_N = x_NF @ weights_F
        return float((np.logaddexp(0.0, z_N) - labels_N * z_N).sum() + _RIDGE / 2 * weights_F @ weights_F)

    weights_F = np.zeros(x_NF.shape[1])
    for _ in range(_STEPS):
        chance_N = np.exp(-np.logaddexp(0.0, -x_NF @ weights_F))
        slope_F = x_NF.T @ (labels_N - chance_N) - _RIDGE * weights_F
        curve_FF = (x_NF * (chance_N * (1 - chance_N))[:, None]).T @ x_NF + _RIDGE * np.eye(len(weights_F))
        step_F = np.linalg.solve(curve_FF, slope_F)
        while np.abs(step_F).max() > _EXACT and loss(weights_F + step_F) > loss(weights_F):
            step_F /= 2  # too far: Newton's step is right only nearby
        weights_F += step_F
        if np.abs(step_F).max() <= _EXACT:
            break
    return weights_F


def separation(scores: Sequence[float], right: Sequence[bool]) -> float | None:
    """The chance that a right attempt scores above a wrong one, ties counted half: the area under the ROC curve.

    None where there are only right ones, or only wrong ones.
    """
    order = np.sort(np.array([score for score, is_right in zip(scores, right, strict=True) if not is_right]))
    good = np.array([score for score, is_right in zip(scores, right, strict=True) if is_right])
    if not len(order) or not len(good):
        return None
    below = (np.searchsorted(order, good, "left") + np.searchsorted(order, good, "right")) / 2
    return float(below.mean() / len(order))
