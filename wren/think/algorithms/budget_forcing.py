"""One likeliest reply of a wished length: where the model ends early it is made to go on, and at last to answer  (s1,
2501.19393).

    reply  "\\nWait,"  more  ...  "\\nAnswer:"  answer

For a model that thinks in words before it answers; one that says an answer alone has nothing to gain. What is put into
the reply is read, not generated.
"""

from dataclasses import dataclass

from wren.errors import ConfigError
from wren.think.algorithm import Algorithm, Steps
from wren.think.branch import Ask
from wren.think.case import Case


@dataclass(frozen=True, kw_only=True)
class Rules(Algorithm):
    """waits: how often the model is made to go on."""

    waits: int = 1

    def __post_init__(self) -> None:
        if self.waits < 0:
            raise ConfigError(f"budget_forcing.waits is {self.waits}; it must be at least 0.")

    def solve(self, case: Case) -> Steps:
        wait, last = case.encode("\nWait,"), case.encode("\nAnswer:")
        [[reply]] = yield [case.whole()._replace(keep=True, keep_ended=True)]
        case.replies.append(reply)
        for _ in range(self.waits):
            if case.left < 2 * case.max_tokens:  # room for what it thinks and for the answer
                break
            [[reply]] = yield [Ask(reply.with_text(wait), 1, case.max_tokens, 0.0, keep=True, keep_ended=True)]
        if (reply is not case.replies[0] or not reply.ended) and case.left > 0:
            [[reply]] = yield [Ask(reply.with_text(last), 1, min(case.max_tokens, case.left), 0.0)]
        return reply
