"""What an algorithm knows of the problem that it answers: no gold answer, and a verifier only where it may use one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from wren.tasks import answers
from wren.think.branch import Ask, Branch

Scorer = Callable[[Branch], float]


def mean_logprob(branch: Branch) -> float:
    """The model's own judgement: the mean log-probability of the tokens it drew, in nats."""
    return branch.mean_logprob


def total_logprob(branch: Branch) -> float:
    return sum(branch.logprobs)


@dataclass(eq=False)
class Case:
    """One problem with its budget. budget, spent: generated tokens, stop tokens too. max_tokens: of one reply.

    text: what the tokens of a reply say. answer: the answer in a reply's text. encode: tokens of a text that is put
    into a reply. verifier: the score of a reply's text from 0 to 1, where 1 is right; None = there is none. scorer:
    how good a branch looks. potential: log of what a branch weighs among others of like length. replies: whole ones
    that were generated, in order.
    """

    prompt: tuple[int, ...]
    budget: int
    max_tokens: int
    seed: int
    text: Callable[[Sequence[int]], str]
    answer: Callable[[str], str]
    encode: Callable[[str], list[int]]
    verifier: Callable[[str], float] | None = None
    scorer: Scorer = mean_logprob
    potential: Scorer = total_logprob
    spent: int = 0
    root: Branch = field(default_factory=Branch)
    replies: list[Branch] = field(default_factory=list)

    @property
    def left(self) -> int:
        return self.budget - self.spent

    def whole(self, n: int = 1, temperature: float = 0.0) -> Ask:
        """n whole replies, as long as the budget allows."""
        return Ask(self.root, n, min(self.max_tokens, self.left // n), temperature)

    def affordable(self) -> int:
        """How many whole replies can be asked for at once: as many as surely fit, however long they become.

        At the end of the budget one that may have to be cut, where those so far were short enough to hope that it fits.
        """
        count = self.left // self.max_tokens
        if count or self.left < 1:
            return count
        lengths = [len(reply.logprobs) for reply in self.replies if reply.ended]
        return int(not self.replies or (bool(lengths) and self.left >= sum(lengths) / len(lengths)))

    def verified(self, branch: Branch) -> float:
        """The verifier's score, from 0 to 1."""
        assert self.verifier is not None
        return self.verifier(self.text(branch.tokens))

    def answer_of(self, branch: Branch) -> str:
        return self.answer(self.text(branch.tokens))

    def key(self, branch: Branch) -> str | Fraction:
        """What is equal for answers that say the same."""
        said = self.answer_of(branch)
        number = answers.number(said)
        return answers.plain(said) if number is None else number
