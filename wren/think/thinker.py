"""Many problems of a task through one engine, each answered by an algorithm within a budget of its own."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from wren.errors import ConfigError
from wren.generate import Engine, row_seed
from wren.tasks import prompts
from wren.tasks.task import RIGHT, Problem
from wren.think.algorithm import Algorithm
from wren.think.asker import Asker
from wren.think.branch import Branch
from wren.think.case import Case, Scorer, mean_logprob, total_logprob
from wren.think.thought import Thought


@dataclass(frozen=True, eq=False)
class Solved:
    """What an algorithm made of a problem. text: of the chosen reply. score: the task's, from 0 to 1.

    spent: generated tokens, those of pruned branches and stop tokens too. samples: completions. replies: whole ones
    that were generated, in order.
    """

    problem: Problem
    reply: Branch
    text: str
    score: float
    spent: int
    samples: int
    replies: list[Branch]

    @property
    def right(self) -> bool:
        return self.score >= RIGHT


@dataclass(frozen=True)
class Thinker:
    """max_tokens: of one reply. verify: whether algorithms that need the task's verifier may use it. scorer, potential:
    as in Case, for algorithms that go by a score. at_once: problems that are thought about together.
    """

    engine: Engine
    asker: Asker
    max_tokens: int
    verify: bool = True
    scorer: Scorer = mean_logprob
    potential: Scorer = total_logprob
    at_once: int = 256

    def solve(
        self,
        algorithm: Algorithm,
        problems: Sequence[Problem],
        budget: int,
        *,
        seed: int = 0,
        watch: Callable[[int], object] = lambda count: None,
    ) -> list[Solved]:
        """What the algorithm makes of every problem within `budget` generated tokens each.

        A problem's result does not depend on those beside it. watch: is told how many are done. Raises ConfigError for
        a budget of no tokens, an algorithm without the verifier that it needs, and a prompt that does not fit.
        """
        if budget < 1:
            raise ConfigError(f"The budget is {budget} tokens; give at least 1.")
        self.check(algorithm)
        cases = [self.case(problem, budget, seed) for problem in problems]
        waiting = deque(Thought(algorithm, case, self.engine, self.asker.stop_ids) for case in cases)
        thoughts = list(waiting)
        running: list[Thought] = []
        try:
            with torch.inference_mode(), self.engine.precision.context():  # one context: weights are cast at most once
                while waiting or running:
                    while waiting and len(running) < self.at_once:
                        running.append(waiting.popleft())
                        running[-1].begin()
                    self.engine.step()
                    for thought in running:
                        thought.advance()
                    running = [thought for thought in running if not thought.done]
                    watch(len(thoughts) - len(running) - len(waiting))
        finally:
            for thought in running:
                thought.close()
        return [self._solved(problem, thought) for problem, thought in zip(problems, thoughts, strict=True)]

    def check(self, algorithm: Algorithm) -> None:
        """Raises ConfigError for one without the verifier that it needs."""
        if algorithm.needs_verifier and not self.verify:
            name = type(algorithm).__module__.rpartition(".")[2]
            raise ConfigError(f"{name} chooses by a verifier and there is none here; choose vote or best_by_score.")

    def case(self, problem: Problem, budget: int, seed: int = 0) -> Case:
        """A problem as an algorithm sees it; its seed follows from the problem, not from its place among others."""
        asker, form = self.asker, self.asker.form
        prompt = asker.prompt(problem)
        max_tokens = min(self.max_tokens, budget)
        asker.check_length(self.engine.model, prompt, max_tokens)
        return Case(
            prompt=tuple(prompt),
            budget=budget,
            max_tokens=max_tokens,
            seed=row_seed(seed, problem.mark),
            text=asker.text_of,
            answer=lambda text: prompts.answer_in(text, form),
            encode=asker.tokenizer.encode,
            verifier=(lambda text: prompts.score(asker.task, problem, text, form)) if self.verify else None,
            scorer=self.scorer,
            potential=self.potential,
        )

    def _solved(self, problem: Problem, thought: Thought) -> Solved:
        assert thought.chosen is not None
        case, text = thought.case, thought.case.text(thought.chosen.tokens)
        score = self.score(problem, thought.chosen)
        return Solved(problem, thought.chosen, text, score, case.spent, thought.samples, case.replies)

    def score(self, problem: Problem, reply: Branch) -> float:
        """The task's, from 0 to 1."""
        return prompts.score(self.asker.task, problem, self.asker.text_of(reply.tokens), self.asker.form)
