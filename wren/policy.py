"""Policy gradients on the shared Batch: REINFORCE, the clipped ratio of PPO, and that of whole answers.

    l = sum_t -min(r_t w_t, clip(r_t, 1 - low, 1 + high) w_t)  -  entropy H_t  +  kl k_t

w is the batch's weight of a target (its advantage, and what normalises it), r = p / q the ratio of the policy now to
the one that drew the target (1707.06347), or for a whole answer exp(mean_t log r_t) at each target (2507.18071);
high above low leaves more room to unlikely tokens (2503.14476). H is the entropy of the policy, k = exp(d) - d - 1 with
d = log(reference / p) an estimate of the divergence from the reference that is never negative (Schulman 2020). On the
first step after a rollout r is 1, and the gradient is REINFORCE's.

The policy is the distribution that was drawn from: of the tokens that can be drawn, at the temperature of the draw and,
under top-k or top-p, among the tokens that were kept then.

B batch, T time, N learned targets, C targets of a chunk, K kept tokens, D model width, V vocabulary.
"""

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from wren.batch import IGNORE, Batch
from wren.errors import ConfigError
from wren.model import LM

_LOGITS = 1 << 22  # of a chunk


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """ratio: of each token, or of the whole answer. clip_low, clip_high: how far it may move, None = anywhere.

    entropy, kl: weights of the bonus and of the distance to the reference, in nats a target.
    """

    ratio: Literal["token", "answer"] = "token"
    clip_low: float | None = 0.2
    clip_high: float | None = 0.28
    entropy: float = 0.0
    kl: float = 0.0

    def __post_init__(self) -> None:
        for name in ("clip_low", "clip_high", "entropy", "kl"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"policy.{name} is {value}; it must be 0 or above.")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What turned the model's logits into the distribution that was drawn from. drawable: ids below it, None = all."""

    temperature: float = 1.0
    drawable: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"A policy is learned at a temperature above 0, not {self.temperature}.")


class Terms(NamedTuple):
    """Of the learned targets in the order of the batch: log-probability and entropy in nats; index_N: their places in
    the flattened batch."""

    logprobs_N: Tensor
    entropy_N: Tensor
    index_N: Tensor


@dataclass
class Seen:
    """What the loss saw since it was last asked. difference: the largest |log p - log q|; clipped: targets where the
    ratio was cut."""

    targets: int = 0
    entropy: float = 0.0
    kl: float = 0.0
    clipped: int = 0
    difference: float = 0.0

    def row(self) -> dict[str, float]:
        """For the metrics: means over the targets, and the largest difference."""
        count = max(self.targets, 1)
        found = {"entropy": self.entropy / count, "logprob_difference": self.difference}
        return found | {"clipped": self.clipped / count, "kl": self.kl / count}


@dataclass
class PolicyLoss:
    """The loss of a rollout's batch; `seen` tells what it has seen since `seen` was set anew."""

    config: PolicyConfig
    drawing: Drawing = field(default_factory=Drawing)
    seen: Seen = field(default_factory=Seen)

    def __call__(self, model: LM, batch: Batch) -> Tensor:
        """The sum over the learned targets, each times its weight: a scalar. Raises ValueError for a batch that lacks
        the behaviour's log-probabilities, or, where kl is set, the reference's."""
        if batch.logprobs_BT is None or (self.config.kl and batch.reference_logprobs_BT is None):
            raise ValueError("the batch carries no log-probabilities of the policy that drew it, or of the reference")
        terms = policy_terms(model, batch, self.drawing)
        logprobs_N, index_N = terms.logprobs_N, terms.index_N
        drawn_N = batch.logprobs_BT.flatten()[index_N].to(logprobs_N)
        weights_N = torch.ones_like(logprobs_N)
        if batch.weights_BT is not None:
            weights_N = batch.weights_BT.flatten()[index_N].to(logprobs_N)
        change_N = logprobs_N - drawn_N
        if self.config.ratio == "answer":
            change_N = _mean_over_answers(change_N, _answers(batch)[index_N])
        ratio_N = change_N.exp()
        low, high = self.config.clip_low, self.config.clip_high
        cut_N = ratio_N.clamp(0.0 if low is None else 1 - low, math.inf if high is None else 1 + high)
        gain_N = torch.minimum(ratio_N * weights_N, cut_N * weights_N)
        loss = -gain_N.sum()
        if self.config.entropy:
            loss = loss - self.config.entropy * terms.entropy_N.sum()
        kl_N = torch.zeros_like(logprobs_N)
        if batch.reference_logprobs_BT is not None:
            gap_N = batch.reference_logprobs_BT.flatten()[index_N].to(logprobs_N) - logprobs_N
            kl_N = gap_N.exp() - gap_N - 1
            if self.config.kl:
                loss = loss + self.config.kl * kl_N.sum()
        self._see(terms, drawn_N, kl_N, gain_N < ratio_N * weights_N)
        return loss

    @torch.no_grad()
    def _see(self, terms: Terms, drawn_N: Tensor, kl_N: Tensor, clipped_N: Tensor) -> None:
        if not len(drawn_N):
            return
        difference = (terms.logprobs_N - drawn_N).abs().max()
        sums = torch.stack((terms.entropy_N.sum(), kl_N.sum(), clipped_N.sum().to(kl_N), difference)).tolist()
        seen = self.seen
        seen.targets += len(drawn_N)
        seen.entropy += sums[0]
        seen.kl += sums[1]
        seen.clipped += int(sums[2])
        seen.difference = max(seen.difference, sums[3])


def policy_terms(model: LM, batch: Batch, drawing: Drawing) -> Terms:
    """Log-probabilities and entropies of the policy at the learned targets, float32 at least.

    The logits of a chunk of targets exist at a time, in the backward pass too, which computes them anew.
    """
    hidden_BTD = model.hidden(batch.tokens_BT, positions_BT=batch.positions_BT, documents_BT=batch.documents_BT)
    index_N = (batch.targets_BT.flatten() != IGNORE).nonzero()[:, 0]
    wide_NE, weight_VE = model.head_product(hidden_BTD)  # E: D, and what adapters add
    weight_VE = weight_VE[: drawing.drawable]
    hidden_NE, targets_N = wide_NE[index_N], batch.targets_BT.flatten()[index_N]
    kept_NK = None if batch.kept_BTK is None else batch.kept_BTK.flatten(0, 1)[index_N]
    chunk = max(64, _LOGITS // len(weight_VE))
    found = []
    for start in range(0, len(index_N), chunk):
        part = slice(start, start + chunk)
        kept_CK = None if kept_NK is None else kept_NK[part]
        settings = model.config.logit_softcap, drawing.temperature
        found.append(
            checkpoint(_terms, hidden_NE[part], weight_VE, targets_N[part], kept_CK, *settings, use_reentrant=False)
        )
    if not found:
        empty_N = hidden_NE.new_zeros(0) + hidden_BTD.sum() * 0
        return Terms(empty_N, empty_N, index_N)
    return Terms(torch.cat([x for x, _ in found]), torch.cat([x for _, x in found]), index_N)


def _terms(
    hidden_CE: Tensor, weight_VE: Tensor, targets_C: Tensor, kept_CK: Tensor | None, cap: float | None, heat: float
) -> tuple[Tensor, Tensor]:
    logits_CV = hidden_CE @ weight_VE.to(hidden_CE.dtype).T
    logits_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
    if cap is not None:
        logits_CV = cap * torch.tanh(logits_CV / cap)
    if kept_CK is not None:
        logits_CV = logits_CV.masked_fill(~kept_mask(kept_CK, logits_CV.shape[1]), -math.inf)
    logprobs_CV = (logits_CV / heat).log_softmax(-1)
    # 0 log 0 is 0, in the gradient too
    entropy_C = -(logprobs_CV.exp() * logprobs_CV.masked_fill(logprobs_CV == -math.inf, 0.0)).sum(-1)
    return logprobs_CV.gather(-1, targets_C[:, None])[:, 0], entropy_C


def kept_mask(kept_CK: Tensor, vocab_size: int) -> Tensor:
    """(C, V) bool: which tokens could be drawn; a row of IGNORE alone keeps all."""
    there_CK = kept_CK != IGNORE
    mask_CV = torch.zeros(len(kept_CK), vocab_size + 1, dtype=torch.bool, device=kept_CK.device)
    mask_CV.scatter_(1, torch.where(there_CK, kept_CK, vocab_size), True)
    return mask_CV[:, :vocab_size] | ~there_CK.any(-1, keepdim=True)


def _answers(batch: Batch) -> Tensor:
    """A number for every place of the flattened batch: which answer it belongs to; one a document."""
    B, T = batch.tokens_BT.shape
    row_BT = torch.arange(B, device=batch.tokens_BT.device)[:, None].expand(B, T)
    if batch.documents_BT is not None:
        row_BT = row_BT * T + batch.documents_BT
    return row_BT.flatten()


def _mean_over_answers(change_N: Tensor, answer_N: Tensor) -> Tensor:
    """At each target the mean over its answer's targets."""
    _, place_N = answer_N.unique(return_inverse=True)
    count = int(place_N.max()) + 1 if len(place_N) else 0
    sums = change_N.new_zeros(count).index_add(0, place_N, change_N)
    sizes = change_N.new_zeros(count).index_add(0, place_N, torch.ones_like(change_N))
    return (sums / sizes)[place_N]
