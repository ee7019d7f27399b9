"""Whether to trust an adapter that is still learning: by what it would have saved on what was scored already.

    lead <- memory lead + (nats of the chunk without the adapter - nats with it)

The next chunk is scored with the adapter where lead > margin, without it otherwise; where lead < -give_up the adapter
has done harm, is taken back to its beginning, and rests for a while, each time twice as long. Nothing of the chunk that
is decided about is known then, so that the choice is a prediction.
"""

import math
from dataclasses import dataclass

from wren.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """margin, give_up: nats. memory: what is kept of the lead from chunk to chunk. rest: chunks of the first rest."""

    margin: float = 1.0
    give_up: float = 10.0
    memory: float = 0.95
    rest: int = 8

    def __post_init__(self) -> None:
        for name in ("margin", "give_up"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"gate.{name} is {getattr(self, name)}; it must be 0 or above.")
        if not 0 <= self.memory <= 1:
            raise ConfigError(f"gate.memory is {self.memory}; it must lie in [0, 1].")
        if self.rest < 1:
            raise ConfigError(f"gate.rest is {self.rest}; it must be at least 1.")


class Gate:
    """Of one stream. trusts: the next chunk is scored with the adapter. rests: chunks that it does not learn yet."""

    def __init__(self, config: GateConfig):
        self.config, self.lead, self.rests = config, 0.0, 0
        self._next_rest = config.rest

    @property
    def trusts(self) -> bool:
        return self.rests == 0 and self.lead > self.config.margin

    def rest(self) -> None:
        """A chunk of a rest has passed."""
        self.rests -= 1

    def learn_from(self, plain: float, adapted: float) -> bool:
        """Takes in a chunk's nats; False where the adapter is to be taken back, and rests. What is not finite lost."""
        gain = plain - adapted
        self.lead = self.config.memory * self.lead + gain if math.isfinite(gain) else -math.inf
        if self.lead >= -self.config.give_up:
            return True
        self.give_up()
        return False

    def give_up(self) -> None:
        """The adapter begins anew, after a rest that is twice as long as the last one."""
        self.lead, self.rests = 0.0, self._next_rest
        self._next_rest *= 2
