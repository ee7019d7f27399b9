"""A training run of milliseconds for the tests of the loop; started as a program, it is the process that gets killed.

python tests/train_child.py RUN STEPS SAVE_EVERY
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wren import checkpoint
from wren.batch import IGNORE, Batch
from wren.errors import CheckpointError
from wren.loss import cross_entropy
from wren.mixers import attention
from wren.mlps import relu2
from wren.model import LM, ModelConfig
from wren.optim.optimizer import OptimizerConfig
from wren.optim.schedule import ScheduleConfig
from wren.precision import Precision
from wren.run import Run
from wren.train import Interrupted, Progress, TrainConfig, train

VOCAB, ROWS, LENGTH = 24, 5, 12
FP32 = Precision(device=torch.device("cpu"), autocast=None, why="tests")
TIMING = ("seconds", "tokens_per_second", "mfu", "compiled_graphs")


class FakeBatches:
    """Batches that can be learned from (a token follows its successor), with targets of unequal number in every row."""

    def __init__(self, seed: int = 0):
        self.seed, self.count = seed, 0

    def next_batch(self) -> Batch:
        rng = np.random.default_rng((self.seed, self.count))
        self.count += 1
        starts_B1 = rng.integers(VOCAB, size=(ROWS, 1))
        text_BT = (starts_B1 + np.arange(LENGTH + 1)) % VOCAB
        targets_BT = text_BT[:, 1:].copy()
        for row in range(ROWS):
            targets_BT[row, : rng.integers(LENGTH - 2)] = IGNORE
        return Batch(torch.from_numpy(text_BT[:, :-1].copy()), torch.from_numpy(targets_BT))

    def state(self) -> dict[str, Any]:
        return {"seed": self.seed, "count": self.count}

    def load_state(self, state: dict[str, Any]) -> None:
        if state["seed"] != self.seed:
            raise CheckpointError("The checkpoint was trained on other data; use the same --data.")
        self.count = state["count"]


def small_model(dropout: float = 0.1, dim: int = 16, seed: int = 0) -> LM:
    torch.manual_seed(seed)
    mixers = (attention.Config(num_heads=2, qk_norm=True),)
    return ModelConfig(vocab_size=VOCAB, dim=dim, depth=2, mixers=mixers, mlp=relu2.Config(), dropout=dropout).build()


def settings(**changes: Any) -> TrainConfig:
    """Twelve steps in micro-batches of 2, 2 and 1 rows, evaluated every fourth and saved every third."""
    usual: dict[str, Any] = {"steps": 12, "batch_size": ROWS, "context_len": LENGTH, "micro_batch_size": 2}
    return TrainConfig(**{**usual, "eval_every": 4, "save_every": 3, **changes})


def go(
    path: Path,
    config: TrainConfig | None = None,
    *,
    kind: str = "muon",
    loss: Callable[[LM, Batch], Tensor] = cross_entropy,
    precision: Precision = FP32,
    batches: Any = None,
    model: LM | None = None,
    lr: float = 1e-2,
    **callbacks: Any,
) -> Progress:
    """One life of the run in `path`, on one thread; every part is made anew, as a new process would."""
    model = model or small_model()
    optimizer = OptimizerConfig(kind=kind, lr=lr).build(model)  # type: ignore[arg-type]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    callbacks = {"say": lambda text: None, **callbacks}
    arguments = (Run(path), config or settings(), ScheduleConfig(warmup_steps=2), precision)
    path.mkdir(parents=True, exist_ok=True)
    try:
        return train(model, optimizer, batches or FakeBatches(), loss, *arguments, **callbacks)
    finally:
        torch.set_num_threads(threads)


def drawing_evaluation(step: int) -> dict[str, Any]:
    """An evaluation that draws from torch's generator, as a sampler may."""
    return {"val_bits_per_byte": 2.0 - step / 1000, "drawn": len(torch.rand(7))}


def curve(path: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the clock and the compiler."""
    return [{key: value for key, value in row.items() if key not in TIMING} for row in Run(path).metrics()]


def newest(path: Path) -> checkpoint.Checkpoint:
    found, _ = checkpoint.newest_good(Run(path).checkpoints_path)
    assert found is not None
    return checkpoint.load(found)


def assert_same_run(left: Path, right: Path) -> None:
    """Same loss curve, same final weights, optimizer state, generators and place in the data, to the last bit."""
    assert curve(left) == curve(right)
    a, b = newest(left), newest(right)
    assert a.step == b.step
    for one, two in ((a.model, b.model), (a.optimizer, b.optimizer)):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert a.state["batches"] == b.state["batches"]


def main(path: str, steps: str, save_every: str) -> int:
    def watch(progress: Progress, row: dict[str, Any]) -> None:
        print(row["kind"], row["step"], flush=True)

    config = settings(steps=int(steps), save_every=int(save_every), eval_every=7)
    try:
        go(Path(path), config, evaluate=drawing_evaluation, watch=watch)
    except Interrupted as stop:
        return 128 + stop.signal_number
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
