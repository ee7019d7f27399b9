"""What determines a tuning run: the config in its folder, and how it follows from what was asked."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from wren import config as configs
from wren.adapters.adapter import AdapterConfig
from wren.errors import ConfigError, unknown_key
from wren.model import ModelConfig
from wren.optim.optimizer import OptimizerConfig
from wren.optim.schedule import ScheduleConfig
from wren.run import Run
from wren.tokenizer import Tokenizer, special
from wren.train import TrainConfig
from wren.tune.examples import OnLong

T = TypeVar("T")
Objective = Literal["answers", "dpo", "spin"]
_BATCH_TOKENS = 16384  # of a step, where the model was not pretrained with fewer
# learning rates that train: all weights, an adapter; a preference moves them less
_LR = {("answers", False): 3e-4, ("answers", True): 1e-3, ("dpo", False): 2e-5, ("dpo", True): 2e-4}
_LR |= {("spin", full): _LR["dpo", full] for full in (False, True)}


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Everything that determines a tuning run; written as config.json.

    recipe: the base's. base, base_step, base_fingerprint: the run that tuning began with, the step of its checkpoint,
    and what identifies its weights. base_sha256: of base/model.safetensors. data, val, data_hash: the files, and what
    identifies what is learned and held out. adapter: None = all weights are tuned. bits: of the frozen weights under
    it, None = as they are. beta: of dpo and spin.
    """

    recipe: str
    model: ModelConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    train: TrainConfig
    seed: int = 0
    base: str = ""
    base_step: int = 0
    base_fingerprint: str = ""
    base_sha256: str = ""
    data: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    data_hash: str = ""
    objective: Objective = "answers"
    beta: float = 0.1
    epochs: float | None = None
    adapter: AdapterConfig | None = None
    bits: int | None = None
    on_long: OnLong = "truncate"
    skip_bad: bool = False
    packed: bool = True

    def __post_init__(self) -> None:
        if self.bits not in (None, 4):
            raise ConfigError(f"bits is {self.bits}; the frozen weights can be held in 4 bits, or as they are.")
        if self.bits is not None and self.adapter is None:
            raise ConfigError("--bits holds frozen weights, and without an adapter all are tuned; add --lora 16.")
        if self.epochs is not None and not self.epochs > 0:
            raise ConfigError(f"--epochs is {self.epochs}; it must be above 0.")
        if not self.beta > 0:
            raise ConfigError(f"--beta is {self.beta}; it must be above 0.")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a user asked for; None = a default that fits. lora: the adapter's rank. settings: KEY=VALUE."""

    run: Path
    data: tuple[str, ...]
    out: Path
    val: tuple[str, ...] = ()
    objective: Objective = "answers"
    beta: float = 0.1
    lora: int | None = None
    bits: int | None = None
    merge: bool = False
    epochs: float | None = None
    steps: int | None = None
    lr: float | None = None
    context: int | None = None
    batch_size: int | None = None
    micro_batch_size: int | None = None
    dtype: Literal["auto", "fp32", "bf16", "fp16"] | None = None
    seed: int = 0
    on_long: OnLong = "truncate"
    skip_bad: bool = False
    packed: bool = True
    compile: bool = False
    settings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("There is no data to learn from; name files with --data.")
        if not 0 <= self.seed < 1 << 63:
            raise ConfigError(f"The seed is {self.seed}; it must be from 0 to 2^63 - 1.")
        if self.epochs is not None and self.steps is not None:
            raise ConfigError("--epochs and --steps exclude each other; give one of them.")
        if self.merge and self.lora is None:
            raise ConfigError("--merge folds an adapter into the weights, and there is none; add --lora 16.")
        if self.out.resolve() == self.run.resolve():
            raise ConfigError(f"--out {self.out} is the run that is tuned; choose another folder.")


def plan(asked: Asked, tokenizer: Tokenizer) -> TuneConfig:
    """The config of a run but for its data, its base and its number of steps. Raises ConfigError."""
    raw = Run(asked.run).config()
    if not isinstance(raw, dict) or "model" not in raw:
        raise ConfigError(f"{asked.run / 'config.json'} describes no model; name the folder of a run with --run.")
    model = configs.from_json(ModelConfig, raw["model"], "model")
    train = raw.get("train")
    before: dict[str, Any] = train if isinstance(train, dict) else {}
    context_len = _context_len(asked, model, before)
    usual = max(1, min(int(before.get("batch_size", 1 << 30)), _BATCH_TOKENS // context_len))
    adapter = None
    if asked.lora is not None:
        adapter = AdapterConfig(rank=asked.lora, tokens=tuple(tokenizer.special[name] for name in special.CHAT))
    config = TuneConfig(
        recipe=str(raw.get("recipe", "")),
        model=dataclasses.replace(model, documents=True),  # what is packed together must not read each other
        optimizer=OptimizerConfig(
            lr=_given(asked.lr, _LR[asked.objective, adapter is not None]),
            betas=(0.9, 0.95),
            weight_decay=0.0 if adapter else 0.01,
        ),
        schedule=ScheduleConfig(kind="cosine", warmup_steps=50, final=0.1),
        train=TrainConfig(
            steps=_given(asked.steps, 1),
            batch_size=_given(asked.batch_size, usual),
            context_len=context_len,
            micro_batch_size=asked.micro_batch_size,
            dtype=asked.dtype or before.get("dtype", "auto"),
            compile=asked.compile,
            eval_every=100,
            save_every=100,
        ),
        seed=asked.seed,
        base=str(asked.run),
        data=asked.data,
        val=asked.val,
        objective=asked.objective,
        beta=asked.beta,
        epochs=None if asked.steps is not None else _given(asked.epochs, 3.0 if asked.objective == "answers" else 1.0),
        adapter=adapter,
        bits=asked.bits,
        on_long=asked.on_long,
        skip_bad=asked.skip_bad,
        packed=asked.packed,
    )
    return configs.replace(config, _changes(asked.settings))


def _given(value: T | None, otherwise: T) -> T:
    return otherwise if value is None else value


def _context_len(asked: Asked, model: ModelConfig, before: dict[str, Any]) -> int:
    length = _given(asked.context, before.get("context_len") or 1024)
    if length < 2:
        raise ConfigError(f"--context is {length}; it must be at least 2 tokens.")
    if model.learned_positions is not None and length > model.learned_positions:
        raise ConfigError(
            f"--context {length} is longer than the {model.learned_positions} positions that this model knows; "
            "choose a shorter one."
        )
    return length


def _changes(settings: Sequence[str]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key.split(".")[0] not in ("optimizer", "schedule", "train", "adapter"):
            kinds = ["optimizer.*", "schedule.*", "train.*", "adapter.*"]
            raise ConfigError(unknown_key("Setting", key, kinds))
        changes[key] = value
    return changes
