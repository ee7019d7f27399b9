"""What the tests of memory-saving settings share: a model whose matrices are large enough to be narrowed, and runs."""

from pathlib import Path
from typing import Any

import torch
import train_child as child
from torch import Tensor

from wren.batch import Batch
from wren.model import LM
from wren.optim.optimizer import OptimizerConfig
from wren.optim.schedule import ScheduleConfig
from wren.precision import Precision
from wren.run import Run
from wren.train import Progress, TrainConfig, train

BF16 = Precision(device=torch.device("cpu"), autocast=torch.bfloat16, why="tests")
KINDS = ("adamw", "muon")


def model(dropout: float = 0.1, seed: int = 0) -> LM:
    """Width 64: the matrices hold 4,096 numbers and more, the tables fewer."""
    return child.small_model(dropout, dim=64, seed=seed)


def batch() -> Batch:
    return child.FakeBatches().next_batch()


def settings(**changes: Any) -> TrainConfig:
    return child.settings(**{"micro_batch_size": None, **changes})


def go(
    path: Path, optimizer: OptimizerConfig, config: TrainConfig | None = None, *, trained: LM | None = None,
    precision: Precision = child.FP32, loss: Any = child.cross_entropy, **callbacks: Any,
) -> Progress:  # fmt: skip
    """One life of a run on one thread, every part made anew."""
    trained = trained or model()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    path.mkdir(parents=True, exist_ok=True)
    arguments = (Run(path), config or settings(), ScheduleConfig(warmup_steps=2), precision)
    try:
        built = optimizer.build(trained)
        callbacks = {"say": lambda text: None, **callbacks}
        return train(trained, built, child.FakeBatches(), loss, *arguments, **callbacks)
    finally:
        torch.set_num_threads(threads)


def losses(path: Path) -> list[float]:
    return [row["loss"] for row in child.curve(path) if row["kind"] == "train"]


def gradients(trained: LM, loss: Tensor) -> dict[str, Tensor]:
    trained.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in trained.named_parameters() if p.grad is not None}
