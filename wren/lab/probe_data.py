"""A probe's examples as batches for the training loop, and what a model scores on them.

B batch (examples), T time, N scored places, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from wren.batch import IGNORE, Batch
from wren.data.loader import permute
from wren.errors import CheckpointError
from wren.model import LM
from wren.ops.linear_cross_entropy import chunked_linear_cross_entropy
from wren.precision import Precision
from wren.probe import ProbeConfig, Setting

Kind = Literal["token", "macro", "exact"]
# streams of random numbers; they never meet because they come first in the key: numpy takes (1, 0) and (1, 0, 0) as one
_TRAIN, _TUNE, _TEST = 0, 1, 2


class ProbeBatches:
    """Training examples of a setting: drawn anew for every batch, or a fixed set in shuffled epochs.

    The seed decides the examples and their order, so two mixers with one seed read the same batches.
    """

    def __init__(self, setting: Setting, seed: int):
        self.setting, self.seed, self.index = setting, seed, 0
        self.fixed: Batch | None = None
        if setting.train_examples is not None:
            rng = np.random.default_rng((_TRAIN, seed))
            self.fixed = setting.train.batch(setting.train_examples, rng, train=True)

    def next_batch(self) -> Batch:
        size, index = self.setting.batch_size, self.index
        self.index += 1
        if self.fixed is None:
            rng = np.random.default_rng((_TRAIN, self.seed, index))
            return self.setting.train.batch(size, rng, train=True)
        count = len(self.fixed.tokens_BT)
        places = np.arange(index * size, (index + 1) * size)
        rows = np.concatenate(
            [
                permute(places[places // count == e] % count, count, (self.seed, int(e)))
                for e in np.unique(places // count)
            ]
        )
        chosen = torch.from_numpy(rows)
        return self.fixed.map(lambda x: x[chosen])

    def state(self) -> dict[str, Any]:
        return {"index": self.index, "seed": self.seed}

    def load_state(self, state: dict[str, Any]) -> None:
        if state["seed"] != self.seed:
            raise CheckpointError("The checkpoint was trained with another seed; use another folder.")
        self.index = state["index"]


def tuning_examples(setting: Setting) -> Batch:
    """What chooses the learning rate and ends a training: as the first test, but other examples."""
    config = next(iter(setting.tests.values()))
    return config.batch(setting.test_examples, np.random.default_rng((_TUNE, 0)), train=False)


def held_out_examples(setting: Setting) -> dict[str, Batch]:
    """The tests by name; the same for every mixer and seed."""
    configs: Sequence[tuple[str, ProbeConfig]] = list(setting.tests.items())
    return {
        name: config.batch(setting.test_examples, np.random.default_rng((_TEST, i)), train=False)
        for i, (name, config) in enumerate(configs)
    }


def scored_loss(model: LM, batch: Batch) -> Tensor:
    """The summed cross-entropy in nats over the scored places; the head is applied to those places alone."""
    hidden_BTD = model.hidden(batch.tokens_BT, positions_BT=batch.positions_BT, documents_BT=batch.documents_BT)
    scored_BT = batch.targets_BT != IGNORE
    cap = model.config.logit_softcap
    targets_N = batch.targets_BT[scored_BT]
    return chunked_linear_cross_entropy(hidden_BTD[scored_BT], model.head.weight, targets_N, None, cap)


@torch.no_grad()
def score(model: LM, examples: Batch, kind: Kind, precision: Precision, *, max_tokens: int = 16384) -> float:
    """Accuracy in [0, 1] of the likeliest tokens: over places, over classes, or over whole examples."""
    was_training = model.training
    model.eval()
    rows = max(1, max_tokens // examples.tokens_BT.shape[1])
    right = []
    for start in range(0, len(examples.tokens_BT), rows):
        batch = examples.rows(start, start + rows).to(precision.device)
        with precision.context():
            hidden_BTD = model.hidden(batch.tokens_BT, positions_BT=batch.positions_BT, documents_BT=batch.documents_BT)
            scored_BT = batch.targets_BT != IGNORE
            guesses_N = model.logits(hidden_BTD[scored_BT]).argmax(-1)
        right_BT = torch.zeros_like(scored_BT)
        right_BT[scored_BT] = guesses_N == batch.targets_BT[scored_BT]
        right.append(right_BT.cpu())
    model.train(was_training)
    return accuracy(torch.cat(right), examples.targets_BT, kind)


def accuracy(right_BT: Tensor, targets_BT: Tensor, kind: Kind) -> float:
    """From what was right at each place to one number in [0, 1]."""
    scored_BT = targets_BT != IGNORE
    if kind == "exact":
        return (right_BT | ~scored_BT).all(1).double().mean().item()
    right_N, targets_N = right_BT[scored_BT].double(), targets_BT[scored_BT]
    if kind == "token":
        return right_N.mean().item()
    classes, index_N = targets_N.unique(return_inverse=True)
    hits = torch.zeros(len(classes), dtype=torch.float64).index_add_(0, index_N, right_N)
    return (hits / torch.bincount(index_N)).mean().item()
