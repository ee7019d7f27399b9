"""Learning from a prompt's own examples: leave-one-out episodes, a few steps of an adapter, and a vote  (2411.07279).

The adapter begins as no change for every problem, and is dropped after it.

B batch, T time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import torch

from wren.adapt.examples import Episode, Puzzle, View, episodes, read_puzzle, views, voted
from wren.adapt.learner import Learner, check_rate
from wren.adapters.adapter import AdapterConfig
from wren.batch import IGNORE, Batch
from wren.errors import ConfigError
from wren.generate import Engine, Request, Sampling, row_seed, stream_rows
from wren.loss import token_losses
from wren.precision import Precision
from wren.tasks import prompts
from wren.tasks.prompts import Form
from wren.tasks.task import Problem
from wren.tokenizer import Tokenizer

LR = 3e-3


@dataclass(frozen=True, kw_only=True)
class FewShotConfig:
    """lr, rank, steps: of the adapter. episodes: that it learns from, all in every step. votes: views that are asked.

    backwards: views in which every list is written from its end, too.
    """

    lr: float = LR
    rank: int = 16
    steps: int = 8
    episodes: int = 12
    votes: int = 6
    backwards: bool = True
    max_tokens: int = 48

    def __post_init__(self) -> None:
        check_rate(self.lr)
        AdapterConfig(rank=self.rank)
        for name in ("steps", "episodes", "votes", "max_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"few_shot.{name} is {getattr(self, name)}; it must be at least 1.")


@dataclass(frozen=True)
class Asker:
    """How prompts are put to the model."""

    engine: Engine
    tokenizer: Tokenizer
    precision: Precision
    form: Form = "plain"

    def prompt(self, prompt: str) -> list[int]:
        return prompts.tokens(Problem(prompt=prompt, answer=""), self.tokenizer, self.form)

    def answers(
        self,
        asked: Sequence[str],
        max_tokens: int,
        *,
        adapter: int = 0,
        n: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """n answers to each prompt, one prompt after another."""
        stop_ids = frozenset((self.tokenizer.document_id,))
        handles = []
        for number, prompt in enumerate(asked):
            own = row_seed(seed, number * n)
            sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=own)
            request = Request(prompt=self.prompt(prompt), n=n, sampling=sampling, stop_ids=stop_ids, adapter=adapter)
            handles.append(self.engine.submit(request))
        replies = [""] * (n * len(asked))
        for row, piece in stream_rows(self.engine, self.tokenizer, handles, prompts.STOPS[self.form]):
            replies[row] += piece
        return [prompts.answer_in(reply, self.form) for reply in replies]


class Answered(NamedTuple):
    """answer: what the views agreed on. alone: what the prompt as it stands got. losses: nats a token, of each step."""

    answer: str
    alone: str
    losses: list[float]
    rollbacks: int


def solve(learner: Learner, prompt: str, config: FewShotConfig, asker: Asker, *, seed: int = 0) -> Answered:
    """Learns from the prompt's examples and answers; the learner is as it began before and after.

    Raises DataError for a prompt without examples, and for examples that contradict each other.
    """
    puzzle, rng = read_puzzle(prompt), Random(seed)
    learner.reset()
    before = learner.rollbacks
    learned = episodes(puzzle, config.episodes, rng, backwards=config.backwards)
    losses = learn(learner, make_batch(learned, asker), config.steps, asker)
    chosen = views(config.votes, len(puzzle.examples), rng, backwards=config.backwards)
    answers = ask(puzzle, chosen, config.max_tokens, asker, adapter=learner.number)
    learner.reset()
    return Answered(voted(answers), answers[0], losses, learner.rollbacks - before)


def ask(puzzle: Puzzle, chosen: Sequence[View], max_tokens: int, asker: Asker, *, adapter: int = 0) -> list[str]:
    """What each view is answered, turned back."""
    replies = asker.answers([view.puzzle(puzzle).prompt() for view in chosen], max_tokens, adapter=adapter)
    return [view.written(" ".join(reply.split())) for view, reply in zip(chosen, replies, strict=True)]


def make_batch(learned: Sequence[Episode], asker: Asker) -> Batch:
    """A row for each episode, whose answer and end are learned."""
    tokenizer, rows = asker.tokenizer, []
    for episode in learned:
        whole = prompts.document(Problem(prompt=episode.prompt, answer=episode.answer), asker.form)
        tokens = [tokenizer.document_id, *tokenizer.encode(whole), tokenizer.document_id]
        rows.append((tokens, len(asker.prompt(episode.prompt))))
    width = max(len(tokens) for tokens, _ in rows) - 1
    tokens_BT = torch.full((len(rows), width), tokenizer.document_id)
    targets_BT = torch.full_like(tokens_BT, IGNORE)
    for row, (tokens, start) in enumerate(rows):
        tokens_BT[row, : len(tokens) - 1] = torch.tensor(tokens[:-1])
        targets_BT[row, start - 1 : len(tokens) - 1] = torch.tensor(tokens[start:])
    return Batch(tokens_BT, targets_BT)


def learn(learner: Learner, batch: Batch, steps: int, asker: Asker) -> list[float]:
    """The loss before each step; ends early where a step had to be undone."""
    precision, model, losses = asker.precision, asker.engine.model, []
    batch, count = batch.to(precision.device), batch.num_targets()
    assert model.adapters is not None
    for _ in range(steps):
        with precision.context(), model.adapters.rows(learner.number):
            loss = token_losses(model, batch).sum() / count
            loss.backward()
        losses.append(loss.item())
        if not learner.step():
            break
    return losses
