"""Attempts at problems of a task by a model with an adapter, their scores, and steps of the adapter along their worth.

B attempts, T time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wren.adapt.learner import Learner
from wren.batch import IGNORE, Batch
from wren.generate import Completion, Engine, Sampling
from wren.loss import cross_entropy, token_losses
from wren.model import LM
from wren.policy import Drawing, PolicyConfig, PolicyLoss
from wren.precision import Precision
from wren.replies import length_of, policy_batch
from wren.tasks import prompts
from wren.tasks.prompts import Form
from wren.tasks.task import RIGHT, Problem, Task
from wren.tokenizer import Tokenizer

_ROWS = 256  # that are learned from at once
_SURE = 0.9999  # of a reply's probability, which nothing pushes away beyond


class Attempt(NamedTuple):
    """answer: as the reply gives it, without differences of white space. ended: not cut off at the longest length."""

    prompt: list[int]
    reply: Completion
    answer: str
    score: float

    @property
    def tokens(self) -> int:
        """That were generated."""
        return length_of(self.reply)

    @property
    def ended(self) -> bool:
        return self.reply.ended_by is not None

    @property
    def right(self) -> bool:
        return self.score >= RIGHT


@dataclass(frozen=True)
class Trier:
    """Puts problems of a task to a model. max_tokens: of an attempt."""

    task: Task
    engine: Engine
    tokenizer: Tokenizer
    precision: Precision
    form: Form
    max_tokens: int

    def attempts(
        self, problems: Sequence[Problem], n: int, *, adapter: int = 0, temperature: float = 1.0, seed: int = 0
    ) -> list[list[Attempt]]:
        """n at each problem."""
        asked = [self.prompt(problem) for problem in problems]
        sampling = Sampling(max_tokens=self.max_tokens, temperature=temperature, seed=seed)
        stop_ids = frozenset(self.tokenizer.special.values())
        replies = self.engine.generate(asked, n, sampling, stop_ids=stop_ids, adapter=adapter)
        return [
            [self._scored(problem, asked[i], reply) for reply in replies[i * n : (i + 1) * n]]
            for i, problem in enumerate(problems)
        ]

    def prompt(self, problem: Problem) -> list[int]:
        return prompts.tokens(problem, self.tokenizer, self.form)

    def _scored(self, problem: Problem, prompt: list[int], reply: Completion) -> Attempt:
        answer = prompts.answer_in(self.tokenizer.decode(reply.tokens), self.form)
        return Attempt(prompt, reply, " ".join(answer.split()), self.task.score(problem, answer))

    def reinforce(self, learner: Learner, attempts: Sequence[Attempt], worth_B: Tensor, temperature: float) -> bool:
        """One step of policy gradient, every token weighed by its attempt's worth; False where it was undone."""
        rows = [(each.prompt, each.reply) for each in attempts]
        batch = policy_batch(rows, worth_B, self.tokenizer.pad_id)
        loss = PolicyLoss(PolicyConfig(), Drawing(temperature=temperature, drawable=self.engine.drawable))
        return self._step(learner, batch, loss)

    def imitate(self, learner: Learner, solved: Sequence[tuple[Problem, Attempt]]) -> bool:
        """One step towards answers to the problems that they solve; False where it was undone."""
        rows = [(self.prompt(problem), each.reply) for problem, each in solved]
        batch = policy_batch(rows, torch.ones(len(rows)), self.tokenizer.pad_id)._replace(logprobs_BT=None)
        return self._step(learner, batch, cross_entropy)

    def avoid(self, learner: Learner, attempts: Sequence[Attempt]) -> bool:
        """One step away from these replies, by -log(1 - p) of each whole one; False where it was undone."""
        rows = [(each.prompt, each.reply) for each in attempts]
        batch = policy_batch(rows, torch.ones(len(rows)), self.tokenizer.pad_id)
        return self._step(learner, batch, _unlikelihood)

    def _step(self, learner: Learner, batch: Batch, loss: Callable[[LM, Batch], Tensor]) -> bool:
        model, count = self.engine.model, max(1, int((batch.targets_BT != IGNORE).sum()))
        assert model.adapters is not None
        for start in range(0, len(batch.tokens_BT), _ROWS):
            part = batch.rows(start, start + _ROWS).to(self.precision.device)
            with self.precision.context(), model.adapters.rows(learner.number):
                (loss(model, part) / count).backward()
        return learner.step()


def _unlikelihood(model: LM, batch: Batch) -> Tensor:
    nats_B = token_losses(model, batch).sum(1)
    return -torch.log1p(-(-nats_B).exp().clamp(max=_SURE)).sum()
