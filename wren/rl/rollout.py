"""Rollouts: many samples of many problems in one batch of the engine, scored, as rows that a step learns from.

B rows, T time, V vocabulary, K kept tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wren.batch import IGNORE, Batch
from wren.errors import ConfigError
from wren.generate import Engine, Sampling
from wren.generate.draw import truncate
from wren.generate.settings import Completion
from wren.model import LM
from wren.policy import Drawing, policy_terms
from wren.precision import Precision
from wren.replies import policy_batch
from wren.rl.advantage import Baseline, Normalise
from wren.tasks.task import Problem
from wren.think.asker import Asker


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """prompts: of a round. samples: of each prompt. updates: optimizer steps that learn from a round.

    top_k, top_p: None = nothing is cut off, as is best for learning. redraw: how often problems whose samples all fared
    alike are replaced by new ones in a round; what is left of them is dropped.
    """

    prompts: int = 32
    samples: int = 8
    updates: int = 1
    max_tokens: int = 64
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    baseline: Baseline = "mean"
    normalise: Normalise = "dr_grpo"
    redraw: int = 1

    def __post_init__(self) -> None:
        least = {"prompts": 1, "samples": 2, "updates": 1, "max_tokens": 1, "redraw": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ConfigError(f"rollout.{name} is {getattr(self, name)}; it must be at least {bound}.")
        if self.prompts < self.updates:
            raise ConfigError(f"rollout.updates is {self.updates}, more than there are prompts ({self.prompts}).")
        if self.temperature <= 0:
            raise ConfigError(f"rollout.temperature is {self.temperature}; a policy is learned above 0.")
        self.sampling(0)

    def sampling(self, seed: int) -> Sampling:
        """Raises ConfigError for top_k and top_p out of range."""
        return Sampling(
            max_tokens=self.max_tokens, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=seed
        )

    @property
    def is_cut(self) -> bool:
        """Whether some tokens cannot be drawn."""
        return self.top_k is not None or self.top_p is not None


@dataclass(frozen=True)
class Group:
    """The samples of one problem. drawn: each token with its log-probabilities, the one that stopped it too."""

    problem: Problem
    prompt: list[int]
    samples: list[Completion]
    rewards: list[float]


def ask(asker: Asker, engine: Engine, problems: Sequence[Problem], samples: int, sampling: Sampling) -> list[Group]:
    """`samples` replies to every problem, all in one batch, with their scores."""
    asked = [asker.prompt(problem) for problem in problems]
    for prompt in asked:
        asker.check_length(engine.model, prompt, sampling.max_tokens)
    found = engine.generate(asked, samples, sampling, stop_ids=asker.stop_ids)
    groups = []
    for i, (problem, prompt) in enumerate(zip(problems, asked, strict=True)):
        own = found[i * samples : (i + 1) * samples]
        groups.append(Group(problem, prompt, own, [asker.score(problem, each) for each in own]))
    return groups


def shown(asker: Asker, group: Group) -> str:
    """A problem with what the model says to it, for a reader."""
    said = [f"{asker.text(each)}   [{score:g}]" for each, score in zip(group.samples, group.rewards, strict=True)]
    return "\n".join([group.problem.prompt, *said, f"a right answer: {group.problem.answer}"])


def batch_of(groups: Sequence[Group], weights_B: Tensor, pad_id: int) -> Batch:
    """One row a sample, in the order of the groups. weights_B: of each sample's tokens."""
    return policy_batch([(group.prompt, sample) for group in groups for sample in group.samples], weights_B, pad_id)


@torch.no_grad()
def with_kept(model: LM, batch: Batch, config: RolloutConfig, drawable: int, precision: Precision) -> Batch:
    """The batch with the tokens that top-k and top-p had left in each learned place."""
    learned_BT = batch.targets_BT != IGNORE
    kept_BTV = torch.zeros(*learned_BT.shape, drawable, dtype=torch.bool)
    for start in range(0, len(learned_BT), 32):
        part = slice(start, start + 32)
        with precision.context():
            logits_BTV = model(batch.tokens_BT[part].to(precision.device))[..., :drawable].float()
        probs_NV = (logits_BTV[learned_BT[part].to(logits_BTV.device)] / config.temperature).softmax(-1)
        kept_BTV[part][learned_BT[part]] = truncate(probs_NV, config.top_k, config.top_p).gt(0).cpu()
    learned = batch.targets_BT.clamp(min=0)[..., None]
    kept_BTV.scatter_(-1, learned, kept_BTV.gather(-1, learned) | learned_BT[..., None])  # what was drawn was kept
    widest = int(kept_BTV.sum(-1).max())
    places_BTK = kept_BTV.int().topk(widest, dim=-1)
    kept_BTK = torch.where(places_BTK.values.bool(), places_BTK.indices, IGNORE)
    return batch._replace(kept_BTK=kept_BTK)


@torch.no_grad()
def with_reference(reference: LM, batch: Batch, drawing: Drawing, precision: Precision) -> Batch:
    """The batch with the log-probabilities of the reference, of the same distribution as the policy's."""
    found_BT = torch.zeros(batch.tokens_BT.shape)
    with precision.context():
        terms = policy_terms(reference.eval(), batch.to(precision.device), drawing)
    found_BT.view(-1)[terms.index_N.cpu()] = terms.logprobs_N.float().cpu()
    return batch._replace(reference_logprobs_BT=found_BT)
