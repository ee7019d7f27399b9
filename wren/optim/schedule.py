"""Learning-rate schedules: the factor on the base learning rate at every step."""

import math
from dataclasses import dataclass
from typing import Literal

from wren.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Warm-up, then `wsd`: stable and a linear decay over the last part (2405.18392); `cosine`; or `constant`.

    warmup_steps: steps of linear warm-up, at most a tenth of the run. decay: share of the run that decays (wsd).
    final: the factor that the decay ends at.
    """

    kind: Literal["wsd", "cosine", "constant"] = "wsd"
    warmup_steps: int = 100
    decay: float = 0.4
    final: float = 0.0

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ConfigError(f"schedule.warmup_steps is {self.warmup_steps}; it must be 0 or above.")
        for name in ("decay", "final"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"schedule.{name} is {getattr(self, name)}; it must lie in [0, 1].")

    def factor(self, step: int, steps: int) -> float:
        """The factor for step 0 .. steps-1."""
        warmup = min(self.warmup_steps, steps // 10)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if self.kind == "constant":
            return 1.0
        if self.kind == "cosine":
            progress = (step - warmup) / max(1, steps - warmup)
            return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))
        decay_steps = max(1.0, self.decay * steps)
        return self.final + (1 - self.final) * min(1.0, (steps - step) / decay_steps)
