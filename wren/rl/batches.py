"""Rounds of rollouts as the batches of the one training loop: the model that learns is the one that is asked.

Which problems a round asks and with what seeds follows from the rounds before it, and the weights are those of the
checkpoint: a resumed run draws what the first one would have drawn.
"""

import copy
import itertools
import time
from collections.abc import Sequence
from typing import Any

import torch

from wren.batch import Batch
from wren.generate import Engine, row_seed
from wren.model import LM
from wren.policy import Drawing
from wren.precision import Precision
from wren.replies import length_of
from wren.rl.advantage import advantages, has_signal, token_weights
from wren.rl.rollout import Group, RolloutConfig, batch_of, with_kept, with_reference
from wren.rl.sources import FromTask, Source
from wren.tasks.task import RIGHT
from wren.think.asker import Asker

_ROUND = 1 << 20  # problems that a round can ask at most, so that no two rounds ask the same number


class RolloutBatches:
    """What the loop asks for batches. last: numbers of the newest round, for the metrics.

    reference: the frozen start that the policy is kept near to, None = it is not. source: of the problems, None = the
    task's generator.
    """

    def __init__(
        self,
        model: LM,
        asker: Asker,
        config: RolloutConfig,
        precision: Precision,
        *,
        seed: int,
        reference: LM | None = None,
        source: Source | None = None,
    ):
        self.model, self.asker, self.config, self.precision = model, asker, config, precision
        self.seed, self.reference = seed, reference
        vocab_size = asker.tokenizer.vocab_size
        self.engine = Engine(model, precision, vocab_size=vocab_size, max_rows=config.prompts * config.samples)
        self.drawing = Drawing(temperature=config.temperature, drawable=self.engine.drawable)
        self.source = source or FromTask(asker, seed)
        self.round = 0
        self.pending: list[Batch] = []
        self.last: dict[str, float] = {}

    def next_batch(self) -> Batch:
        if not self.pending:
            self.pending = self._roll()
        return self.pending.pop(0)

    def state(self) -> dict[str, Any]:
        pending = [{k: v.tolist() for k, v in batch._asdict().items() if v is not None} for batch in self.pending]
        return {"round": self.round, "source": self.source.state(), "pending": pending, "last": dict(self.last)}

    def load_state(self, state: dict[str, Any]) -> None:
        self.round, self.last = state["round"], dict(state["last"])
        self.source.load_state(state["source"])
        self.pending = [Batch(**{k: torch.tensor(v) for k, v in batch.items()}) for batch in state["pending"]]

    def _roll(self) -> list[Batch]:
        """One round: asks, drops the groups without signal, and lays what is left out in batches."""
        start = time.perf_counter()
        training = self.model.training
        self.model.eval()
        self.engine.refresh()
        every, kept = self._groups()
        proposals = self.source.proposals()
        self.round += 1
        if proposals is not None and _signal([proposals])[0]:
            kept.append(proposals)
        dropped = not kept
        if not kept:  # a step needs a row; its weights are all zero then
            kept = every[:1] or [each for each in (proposals,) if each is not None]
        parts = min(self.config.updates, len(kept))
        bounds = [round(i * len(kept) / parts) for i in range(parts + 1)]
        chosen = [kept[first:stop] for first, stop in itertools.pairwise(bounds)]
        batches = [self._batch(part, zero=dropped) for part in chosen]
        self.model.train(training)
        self.last = {**_numbers(every), **self.source.numbers(), "rollout_seconds": time.perf_counter() - start}
        return batches

    def _groups(self) -> tuple[list[Group], list[Group]]:
        """All groups of the round, and those that have a signal."""
        every: list[Group] = []
        useful: list[Group] = []
        for attempt in range(1 + self.config.redraw):
            missing = self.config.prompts - len(useful)
            if attempt and missing <= 0:
                break
            first = (self.round * _ROUND + len(every)) * self.config.samples
            sampling = self.config.sampling(row_seed(self.seed, first))
            found = self.source.asked(self.engine, missing, self.config.samples, sampling)
            every += found
            useful += [group for group, signal in zip(found, _signal(found), strict=True) if signal]
        return every, useful

    def _batch(self, groups: Sequence[Group], *, zero: bool) -> Batch:
        config = self.config
        scaled = config.normalise == "grpo"
        advantage = [advantages(torch.tensor([each.rewards]), config.baseline, scaled=scaled)[0] for each in groups]
        lengths_R = torch.tensor([length_of(each) for group in groups for each in group.samples])
        weights_R = token_weights(torch.cat(advantage), lengths_R, config.normalise, config.max_tokens)
        batch = batch_of(groups, weights_R * (0.0 if zero else 1.0), self.asker.tokenizer.pad_id)
        if config.is_cut:
            batch = with_kept(self.model, batch, config, self.engine.drawable, self.precision)
        if self.reference is not None:
            batch = with_reference(self.reference, batch, self.drawing, self.precision)
        return batch


def _signal(groups: Sequence[Group]) -> list[bool]:
    return [bool(has_signal(torch.tensor([group.rewards]))[0]) for group in groups]


def _numbers(every: Sequence[Group]) -> dict[str, float]:
    if not every:  # nothing that was invented could be asked
        return {"reward": 0.0, "any_right": 0.0, "signal": 0.0, "length": 0.0, "cut_short": 0.0, "samples": 0.0}
    samples = [each for group in every for each in group.samples]
    rewards = [reward for group in every for reward in group.rewards]
    return {
        "reward": sum(rewards) / len(rewards),
        "any_right": sum(max(group.rewards) >= RIGHT for group in every) / len(every),
        "signal": sum(_signal(every)) / len(every),
        "length": sum(length_of(each) for each in samples) / len(samples),
        "cut_short": sum(each.finish == "length" for each in samples) / len(samples),
        "samples": float(len(samples)),
    }


def frozen_copy(model: LM) -> LM:
    """A copy that does not learn."""
    copied = copy.deepcopy(model)
    copied.requires_grad_(False)
    return copied.eval()
