"""One training of one mixer on one probe, in its own run directory, through the one training loop."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from wren import checkpoint, mixers
from wren import config as configs
from wren.batch import Batch
from wren.errors import CheckpointError, ConfigError, DivergedError
from wren.lab.probe_data import ProbeBatches, held_out_examples, score, scored_loss, tuning_examples
from wren.mixer import MixerConfig
from wren.model import LM, MlpConfig, ModelConfig
from wren.optim.optimizer import OptimizerConfig
from wren.optim.schedule import ScheduleConfig
from wren.precision import Precision
from wren.probe import Setting
from wren.resume import Progress
from wren.run import Run
from wren.train import TrainConfig, train

Watch = Callable[[str], None]


def model_for(arm: str, setting: Setting) -> ModelConfig:
    """The model that a setting asks for, of the mixers that `arm` names: one, or a pattern over depth "a+b".

    Raises ConfigError for an unknown mixer and for a width that its heads do not divide.
    """
    pattern = [mixers.read(name, num_heads=setting.num_heads) for name in arm.split("+")]
    rows = None
    if setting.learned_positions and any(_has_positions(mixer) for mixer in pattern):
        rows = max(config.length for config in (setting.train, *setting.tests.values()))
        pattern = [_without_positions(mixer) for mixer in pattern]
    for mixer in pattern:
        mixer.build(setting.dim)
    mlp: dict[str, Any] = {"type": f"mlps.{setting.mlp}"}
    if setting.mlp_hidden is not None:
        mlp["hidden"] = setting.mlp_hidden
    return ModelConfig(
        vocab_size=max(config.vocab_size for config in (setting.train, *setting.tests.values())),
        dim=setting.dim,
        depth=setting.depth,
        mixers=tuple(pattern),
        mlp=configs.read_text(MlpConfig, json.dumps(mlp), "mlp"),
        learned_positions=rows,
        tie_embeddings=setting.tie_embeddings,
        embedding_dropout=setting.embedding_dropout,
    )


def _has_positions(mixer: Any) -> bool:
    return "positions" in [field.name for field in dataclasses.fields(mixer)]


def _without_positions(mixer: MixerConfig) -> MixerConfig:
    """Rotary positions off: the setting has a table of learned ones."""
    return configs.replace(mixer, {"positions": "none"}) if _has_positions(mixer) else mixer


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What determines a training: written as the run's config.json."""

    probe: str
    arm: str
    setting: Setting
    model: ModelConfig
    lr: float
    weight_decay: float
    seed: int
    dtype: str

    def to_json(self) -> dict[str, Any]:
        return configs.to_json(self)


class Training:
    """A trial on its way: `advance` trains on to a step, `results` tests it. Resumes from its folder."""

    def __init__(self, trial: Trial, run: Run, precision: Precision):
        self.trial, self.run, self.precision = trial, run, precision
        if not run.exists():
            run.create(trial.to_json())
        elif run.config() != json.loads(json.dumps(trial.to_json())):
            raise ConfigError(f"{run.path} was begun with other settings; choose another --out, or add --fresh.")

    @property
    def step(self) -> int:
        return max((row["step"] for row in self.run.metrics()), default=0)

    @property
    def score(self) -> float:
        """The best score on the tuning examples so far."""
        return _best(self.run.metrics())

    @property
    def seconds(self) -> float:
        """Of training steps, those before an interruption too."""
        return max((row["seconds"] for row in self.run.metrics() if row.get("kind") == "train"), default=0.0)

    @property
    def solved(self) -> bool:
        stop_at = self.trial.setting.stop_at
        return stop_at is not None and self.score >= stop_at

    @property
    def diverged(self) -> bool:
        return any(row.get("diverged") for row in self.run.metrics())

    def rank(self, step: int) -> tuple[bool, float, float]:
        """Larger is better, by what was known at a step (a resumed search ranks as the first one did).

        By the tuning score; where scores are as good as equal, by the mean loss of the last steps; diverged ones last.
        """
        rows = [row for row in self.run.metrics() if row["step"] <= step]
        losses = [row["loss"] for row in rows if row.get("kind") == "train" and row["loss"] is not None][-20:]
        loss = sum(losses) / len(losses) if losses else float("inf")
        return not any(row.get("diverged") for row in rows), round(_best(rows), 2), -loss

    def advance(self, to_step: int, say: Watch) -> None:
        """Trains until `to_step`, or until the score is reached; a training that diverges ends where it is."""
        if self.solved or self.diverged or self._settled(to_step):
            return
        trial, setting = self.trial, self.trial.setting
        model, tune = self._model(), tuning_examples(setting)
        batches = ProbeBatches(setting, trial.seed)
        optimizer = OptimizerConfig(
            kind="adamw", lr=trial.lr, betas=setting.betas, weight_decay=trial.weight_decay
        ).build(model)
        best = self.score

        def evaluate(step: int) -> dict[str, Any]:
            nonlocal best
            found = score(model, tune, setting.score, self.precision)
            best = max(best, found)
            say(f"step {step}/{setting.steps}  score {found:.3f}")
            return {"tune_score": found}

        def is_over(progress: Progress) -> bool:
            return progress.step >= to_step or (setting.stop_at is not None and best >= setting.stop_at)

        schedule = ScheduleConfig(
            kind="cosine", warmup_steps=round(setting.warmup * setting.steps), final=setting.final
        )
        config = TrainConfig(
            steps=setting.steps,
            batch_size=setting.batch_size,
            context_len=setting.train.length,
            eval_every=setting.eval_every,
            save_every=0,
            keep=1,
        )
        with self.run.lock():
            try:
                train(
                    model, optimizer, batches, scored_loss, self.run, config, schedule, self.precision,
                    evaluate=evaluate, until=is_over, say=self.run.log,
                )  # fmt: skip
            except DivergedError as error:
                self.run.log(str(error))
                self.run.log_metrics({"step": self.step, "kind": "eval", "tune_score": 0.0, "diverged": True})

    def _settled(self, to_step: int) -> bool:
        """Whether the weights of that step are saved and scored: a kill may fall between step, save and score."""
        saved = max(checkpoint.steps(self.run.checkpoints_path), default=0)
        setting = self.trial.setting
        is_scored = any(row["step"] == saved and row.get("kind") == "eval" for row in self.run.metrics())
        is_due = saved == setting.steps or (setting.eval_every > 0 and saved % setting.eval_every == 0)
        return saved >= to_step and (is_scored or not is_due)

    def _model(self) -> LM:
        torch.manual_seed(self.trial.seed)
        return self.trial.model.build().to(self.precision.device)

    def results(self) -> dict[str, float]:
        """The score of every test by name, of the newest checkpoint; raises CheckpointError where it is gone."""
        model = self._model()
        path, _ = checkpoint.newest_good(self.run.checkpoints_path)
        if path is not None:
            checkpoint.load_weights(model, checkpoint.load(path).model, path)
        elif not self.diverged:  # else it diverged before the first one
            raise CheckpointError(
                f"{self.run.path} was trained and its weights are gone; remove that folder, so that it is trained anew."
            )
        tests: dict[str, Batch] = held_out_examples(self.trial.setting)
        return {name: score(model, batch, self.trial.setting.score, self.precision) for name, batch in tests.items()}


def _best(rows: Sequence[dict[str, Any]]) -> float:
    return max((row["tune_score"] for row in rows if row.get("tune_score") is not None), default=0.0)


def rungs(trials: int, *, halving: bool) -> Sequence[tuple[int, float]]:
    """(how many trials go on, to what share of their steps): halves the field while it doubles the steps."""
    if not halving or trials == 1:
        return [(trials, 1.0)]
    plan, count, share = [], trials, 0.5 ** (trials - 1).bit_length()
    while share < 1:
        plan.append((count, share))
        count, share = (count + 1) // 2, share * 2
    return [*plan, (1, 1.0)]
