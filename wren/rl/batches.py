"""Rounds of rollouts as the batches of the one training loop: the model that learns is the one that is asked.

Which problems a round asks and with what seeds follows from the round's number alone, and the weights are those of the
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
from wren.rl.advantage import advantages, has_signal, token_weights
from wren.rl.rollout import Asker, Group, RolloutConfig, ask, batch_of, length_of, with_kept, with_reference

_ROUND = 1 << 20  # problems that a round can ask at most, so that no two rounds ask the same number


class RolloutBatches:
    """What the loop asks for batches. last: numbers of the newest round, for the metrics.

    reference: the frozen start that the policy is kept near to, None = it is not.
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
    ):
        self.model, self.asker, self.config, self.precision = model, asker, config, precision
        self.seed, self.reference = seed, reference
        vocab_size = asker.tokenizer.vocab_size
        self.engine = Engine(model, precision, vocab_size=vocab_size, max_rows=config.prompts * config.samples)
        self.drawing = Drawing(temperature=config.temperature, drawable=self.engine.drawable)
        self.round, self.index = 0, 0
        self.pending: list[Batch] = []
        self.last: dict[str, float] = {}

    def next_batch(self) -> Batch:
        if not self.pending:
            self.pending = self._roll()
        return self.pending.pop(0)

    def state(self) -> dict[str, Any]:
        pending = [{k: v.tolist() for k, v in batch._asdict().items() if v is not None} for batch in self.pending]
        return {"round": self.round, "index": self.index, "pending": pending, "last": dict(self.last)}

    def load_state(self, state: dict[str, Any]) -> None:
        self.round, self.index, self.last = state["round"], state["index"], dict(state["last"])
        self.pending = [Batch(**{k: torch.tensor(v) for k, v in batch.items()}) for batch in state["pending"]]

    def _roll(self) -> list[Batch]:
        """One round: asks, drops the groups without signal, and lays what is left out in batches."""
        start = time.perf_counter()
        training = self.model.training
        self.model.eval()
        self.engine.refresh()
        every, kept = self._groups()
        self.last = _numbers(every, len(kept), time.perf_counter() - start)
        self.round += 1
        dropped = not kept
        kept = kept or every[:1]  # a step needs a row; its weights are all zero then
        parts = min(self.config.updates, len(kept))
        bounds = [round(i * len(kept) / parts) for i in range(parts + 1)]
        chosen = [kept[first:stop] for first, stop in itertools.pairwise(bounds)]
        batches = [self._batch(part, zero=dropped) for part in chosen]
        self.model.train(training)
        return batches

    def _groups(self) -> tuple[list[Group], list[Group]]:
        """All groups of the round, and those that have a signal."""
        every: list[Group] = []
        useful: list[Group] = []
        for attempt in range(1 + self.config.redraw):
            missing = self.config.prompts - len(useful)
            if attempt and missing <= 0:
                break
            problems = [self.asker.task.problem(self.seed, self.index + i, "train") for i in range(missing)]
            first = (self.round * _ROUND + len(every)) * self.config.samples
            sampling = self.config.sampling(row_seed(self.seed, first))
            found = ask(self.asker, self.engine, problems, self.config.samples, sampling)
            self.index += missing
            every += found
            useful += [group for group, signal in zip(found, _signal(found), strict=True) if signal]
        return every, useful

    def _batch(self, groups: Sequence[Group], *, zero: bool) -> Batch:
        config = self.config
        rewards_GS = torch.tensor([group.rewards for group in groups])
        advantage_GS = advantages(rewards_GS, config.baseline, scaled=config.normalise == "grpo")
        lengths_R = torch.tensor([length_of(each) for group in groups for each in group.samples])
        weights_R = token_weights(advantage_GS.flatten(), lengths_R, config.normalise, config.max_tokens)
        batch = batch_of(groups, weights_R * (0.0 if zero else 1.0), self.asker.tokenizer.pad_id)
        if config.is_cut:
            batch = with_kept(self.model, batch, config, self.engine.drawable, self.precision)
        if self.reference is not None:
            batch = with_reference(self.reference, batch, self.drawing, self.precision)
        return batch


def _signal(groups: Sequence[Group]) -> list[bool]:
    return has_signal(torch.tensor([group.rewards for group in groups])).tolist()


def _numbers(every: Sequence[Group], num_kept: int, seconds: float) -> dict[str, float]:
    rewards_GS = torch.tensor([group.rewards for group in every])
    samples = [each for group in every for each in group.samples]
    return {
        "reward": float(rewards_GS.mean()),
        "any_right": float((rewards_GS.amax(1) >= 1).float().mean()),
        "signal": num_kept / len(every),
        "length": sum(length_of(each) for each in samples) / len(samples),
        "cut_short": sum(each.finish == "length" for each in samples) / len(samples),
        "samples": float(len(samples)),
        "rollout_seconds": seconds,
    }


def frozen_copy(model: LM) -> LM:
    """A copy that does not learn."""
    copied = copy.deepcopy(model)
    copied.requires_grad_(False)
    return copied.eval()
