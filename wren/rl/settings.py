"""What determines a reinforcement on a task: the config in its folder, and how it follows from what was asked."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from wren import config as configs
from wren.errors import ConfigError, unknown_key
from wren.generate import Loaded
from wren.model import ModelConfig
from wren.optim.optimizer import OptimizerConfig
from wren.optim.schedule import ScheduleConfig
from wren.policy import PolicyConfig
from wren.precision import DTypeName
from wren.rl.advantage import Normalise
from wren.rl.rollout import RolloutConfig
from wren.rl.sources import Origin
from wren.tasks.prompts import FORMS, Form
from wren.tasks.task import Task
from wren.think.asker import form_of
from wren.train import TrainConfig

T = TypeVar("T")
_LR = 3e-4
_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class TaskPlayConfig:
    """Everything that determines a reinforcement; written as config.json.

    recipe: the base's. base, base_step, base_fingerprint: the run it began with, the step of its checkpoint, and what
    identifies its weights. task: what `wren.tasks.read` knows it by. form: how problems are put. origin: who
    writes the problems. eval_problems:
    held-out ones that are asked at every evaluation; eval_samples: of each, for pass@k. time_budget: seconds of steps
    that were asked for and measured into train.steps.
    """

    recipe: str
    model: ModelConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    train: TrainConfig
    task: str
    form: Form
    origin: Origin = "task"
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    seed: int = 0
    base: str = ""
    base_step: int = 0
    base_fingerprint: str = ""
    time_budget: float | None = None
    eval_problems: int = 200
    eval_samples: int = 8

    def __post_init__(self) -> None:
        for name in ("eval_problems", "eval_samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.form not in FORMS:
            raise ConfigError(unknown_key("The form", self.form, FORMS))


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a user asked for; None = a default that fits. settings: KEY=VALUE of policy, rollout, optimizer, ..."""

    run: Path
    task: str
    out: Path
    form: Form | None = None
    origin: Origin = "task"
    steps: int | None = None
    seconds: float | None = None
    lr: float | None = None
    prompts: int | None = None
    samples: int | None = None
    max_tokens: int | None = None
    entropy: float | None = None
    kl: float | None = None
    normalise: Normalise | None = None
    problems: int | None = None
    micro_batch_size: int | None = None
    dtype: DTypeName | None = None
    seed: int = 0
    settings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 62:
            raise ConfigError(f"The seed is {self.seed}; it must be from 0 to 2^62 - 1.")
        if self.steps is not None and self.seconds is not None:
            raise ConfigError("--steps and --time exclude each other; give one of them.")
        if self.out.resolve() == self.run.resolve():
            raise ConfigError(f"--out {self.out} is the run that learning begins with; choose another folder.")


def plan(asked: Asked, raw: Any, loaded: Loaded, task: Task) -> TaskPlayConfig:
    """The config of a run but for what identifies its base; raw: the base's config.json. Raises ConfigError."""
    form = asked.form or form_of(raw)
    if form == "chat" and "end" not in loaded.tokenizer.special:
        raise ConfigError("This run's vocabulary has no tokens for turns of a conversation; use --form bare or plain.")
    longest = max(len(problem.said) for problem in task.problems(asked.seed, 50, "train"))
    rollout = _changed(
        RolloutConfig(max_tokens=_room(longest)),
        prompts=asked.prompts,
        samples=asked.samples,
        max_tokens=asked.max_tokens,
        normalise=asked.normalise,
    )
    config = TaskPlayConfig(
        recipe=str(raw.get("recipe", "")),
        model=loaded.model.config,
        optimizer=OptimizerConfig(lr=_given(asked.lr, _LR), betas=(0.9, 0.95), weight_decay=0.0),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=10, decay=0.3, final=0.1),
        train=TrainConfig(
            steps=_given(asked.steps, _STEPS),
            batch_size=rollout.prompts * rollout.samples,
            context_len=_context_len(raw),
            micro_batch_size=asked.micro_batch_size,
            dtype=asked.dtype or "auto",
            eval_every=25,
            save_every=25,
        ),
        task=task.name,
        form=form,
        origin=asked.origin,
        rollout=rollout,
        policy=_changed(PolicyConfig(), entropy=asked.entropy, kl=asked.kl),
        seed=asked.seed,
        base=str(asked.run),
        time_budget=asked.seconds,
    )
    if asked.problems is not None:
        config = dataclasses.replace(config, eval_problems=asked.problems)
    return configs.replace(config, _settings(asked.settings))


def _room(characters: int) -> int:
    """Tokens for the longest solution, should each character be one, and some more."""
    return min(512, max(8, characters + 8))


def _context_len(raw: Any) -> int:
    train = raw.get("train") if isinstance(raw, dict) else None
    return int(train["context_len"]) if isinstance(train, dict) and train.get("context_len") else 256


def _given(value: T | None, otherwise: T) -> T:
    return otherwise if value is None else value


def _changed(config: T, **changes: Any) -> T:
    return dataclasses.replace(config, **{k: v for k, v in changes.items() if v is not None})  # type: ignore[type-var]


Kinds = Literal["policy", "rollout", "optimizer", "schedule", "train"]


def _settings(settings: tuple[str, ...]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key.split(".")[0] not in get_args(Kinds):
            raise ConfigError(unknown_key("Setting", key, [f"{kind}.*" for kind in get_args(Kinds)]))
        changes[key] = value
    return changes
