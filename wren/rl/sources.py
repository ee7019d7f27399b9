"""Where the problems of a round come from: a task's generator, or the model itself, which is paid for good ones.

A model that invents begins a document, and what it writes up to the first line end is the problem. A strict gate lets
through what the task can read, what belongs to the training split, and what was not asked in the same round already;
the solver's attempts are scored by the task's verifier. The proposer is paid 4 p (1 - p) for a problem that a share p
of the attempts solves (most for one half), and nothing for what the gate stops. Without the gate, as a warning of what
happens then, anything may be asked and the majority of the attempts is taken for the truth.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from wren.errors import ConfigError
from wren.generate import Engine, Sampling, row_seed
from wren.rl.rollout import Group, ask
from wren.tasks.task import RIGHT, Problem
from wren.think.asker import Asker
from wren.tokenizer import Tokenizer

Origin = Literal["task", "invented", "ungated"]
_PROPOSALS = 0x5EED  # apart from the seeds of attempts


class Source(ABC):
    """Problems for a round, and their samples' rewards."""

    @abstractmethod
    def asked(self, engine: Engine, count: int, samples: int, sampling: Sampling) -> list[Group]:
        """The samples of at most `count` problems."""

    def proposals(self) -> Group | None:
        """What the model wrote to ask them and what it was paid, since this was asked last; None where a generator
        wrote them."""
        return None

    def numbers(self) -> dict[str, float]:
        """For the metrics."""
        return {}

    @abstractmethod
    def state(self) -> dict[str, Any]: ...

    @abstractmethod
    def load_state(self, state: dict[str, Any]) -> None: ...


class FromTask(Source):
    """The generator's, each once."""

    def __init__(self, asker: Asker, seed: int):
        self.asker, self.seed, self.index = asker, seed, 0

    def asked(self, engine: Engine, count: int, samples: int, sampling: Sampling) -> list[Group]:
        problems = [self.asker.task.problem(self.seed, self.index + i, "train") for i in range(count)]
        self.index += count
        return ask(self.asker, engine, problems, samples, sampling)

    def state(self) -> dict[str, Any]:
        return {"index": self.index}

    def load_state(self, state: dict[str, Any]) -> None:
        self.index = state["index"]


class Invented(Source):
    """The model's own. gated: the task must read them and its verifier scores attempts. pays: whether the model learns
    to ask too."""

    def __init__(self, asker: Asker, *, gated: bool = True, pays: bool = True, max_tokens: int = 48):
        if asker.form == "chat":
            raise ConfigError("Problems are invented as documents are begun; choose --form bare or plain.")
        if not asker.task.invents:
            raise ConfigError(
                f"The task {asker.task.name} cannot read problems that others invent; choose one that can: chain_sum, "
                "countdown, reverse_word or sort_numbers."
            )
        self.asker, self.gated, self.pays, self.max_tokens = asker, gated, pays, max_tokens
        self.stops = _line_ends(asker.tokenizer) | asker.stop_ids
        self.count = self.passed = self.rounds = 0
        self.length = 0.0
        self._last: Group | None = None

    def asked(self, engine: Engine, count: int, samples: int, sampling: Sampling) -> list[Group]:
        own = dataclasses.replace(
            sampling, max_tokens=self.max_tokens, seed=row_seed(sampling.seed ^ _PROPOSALS, self.rounds)
        )
        begun = [self.asker.tokenizer.document_id]
        written = engine.generate([begun], count, own, stop_ids=self.stops)
        self.rounds += 1
        problems: dict[str, Problem] = {}
        of_proposal: list[str | None] = []
        for each in written:
            problem = self._read(self._text(each.tokens, each.ended_by and each.ended_by.token))
            fresh = problem is not None and problem.prompt not in problems
            if problem is not None and fresh:
                problems[problem.prompt] = problem
            of_proposal.append(problem.prompt if problem is not None and fresh else None)
        groups = ask(self.asker, engine, list(problems.values()), samples, sampling) if problems else []
        if not self.gated:
            groups = [self._believed(group) for group in groups]
        worth = {group.problem.prompt: _worth(group.rewards) for group in groups}
        paid = [0.0 if prompt is None else worth[prompt] for prompt in of_proposal]
        self._last = Group(Problem(prompt="", answer=""), begun, written, paid)
        self.count, self.passed = len(written), len(problems)
        self.length = sum(map(len, problems)) / max(len(problems), 1)
        return groups

    def _text(self, tokens: Sequence[int], ended_by: int | None) -> str:
        last = [] if ended_by is None or ended_by in self.asker.stop_ids else [ended_by]
        text = self.asker.tokenizer.decode([*tokens, *last])
        head, line_end, rest = text.partition("\n")
        return head if line_end and not rest.strip("\n") else ""

    def _read(self, text: str) -> Problem | None:
        """The problem, None where the gate stops it."""
        if self.asker.form == "plain":
            text = text.removeprefix("Question: ")
        if not text.strip():
            return None
        found = self.asker.task.stated(text)
        if self.gated:
            return found if found is not None and found.split == "train" else None
        return found or Problem(prompt=text, answer="")

    def _believed(self, group: Group) -> Group:
        """Scored by the majority's answer instead of the verifier."""
        said = [self.asker.text(each).strip() for each in group.samples]
        most, _ = Counter(said).most_common(1)[0]
        return dataclasses.replace(group, rewards=[float(text == most) for text in said])

    def proposals(self) -> Group | None:
        last, self._last = self._last, None
        if last is not None and not self.pays:
            return dataclasses.replace(last, rewards=[0.0] * len(last.rewards))
        return last

    def numbers(self) -> dict[str, float]:
        return {"well_formed": self.passed / max(self.count, 1), "asked_length": self.length}

    def state(self) -> dict[str, Any]:
        return {"rounds": self.rounds}

    def load_state(self, state: dict[str, Any]) -> None:
        self.rounds = state["rounds"]


def new_source(origin: Origin, asker: Asker, seed: int, max_tokens: int) -> Source:
    """max_tokens: of a problem that is invented. Raises ConfigError where the task or the form allows no inventions."""
    if origin == "task":
        return FromTask(asker, seed)
    return Invented(asker, gated=origin == "invented", max_tokens=max_tokens)


def _worth(rewards: Sequence[float]) -> float:
    """1 for a problem solved half of the time, 0 for one that is always or never solved."""
    share = sum(reward >= RIGHT for reward in rewards) / len(rewards)
    return 4 * share * (1 - share)


def _line_ends(tokenizer: Tokenizer) -> frozenset[int]:
    """Tokens that hold a line end."""
    special = set(tokenizer.special.values())
    return frozenset(i for i in range(tokenizer.vocab_size) if i not in special and "\n" in tokenizer.decode([i]))
