"""One process of a job in the tests of many processes; started by torchrun or with torchrun's environment.

python tests/distributed_child.py FOLDER SHARD JOBS: JOBS is a JSON list of settings for `job`, trained one after the
other in one process group; with WORLD_SIZE=1 by a single process.
"""

import functools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wren.batch import IGNORE, Batch
from wren.distributed import gradients
from wren.distributed.job import joined
from wren.distributed.ranks import Ranks
from wren.errors import WrenError
from wren.exits import leave_after
from wren.interrupt import Interrupted
from wren.loss import cross_entropy
from wren.mixers import attention, gated_delta_net
from wren.mlps import moe, relu2
from wren.model import ModelConfig
from wren.optim.optimizer import OptimizerConfig
from wren.optim.schedule import ScheduleConfig
from wren.precision import Precision
from wren.run import Run
from wren.skips import SkipsConfig
from wren.tables import TablesConfig
from wren.train import TrainConfig, train

VOCAB, ROWS, LENGTH = 24, 8, 12


class Rows:
    """One rank's rows of batches that can be learned from, with targets of unequal number in every row."""

    def __init__(self, ranks: Ranks):
        self.ranks, self.count = ranks, 0

    def next_batch(self) -> Batch:
        rng = np.random.default_rng(self.count)
        self.count += 1
        starts_B1 = rng.integers(VOCAB, size=(ROWS, 1))
        text_BT = (starts_B1 + np.arange(LENGTH + 1) * rng.integers(1, 3, size=(ROWS, 1))) % VOCAB
        targets_BT = text_BT[:, 1:].copy()
        for row in range(ROWS):
            targets_BT[row, : rng.integers(LENGTH - 2)] = IGNORE
        batch = Batch(torch.from_numpy(text_BT[:, :-1].copy()), torch.from_numpy(targets_BT))
        count = ROWS // self.ranks.size
        return batch.rows(self.ranks.rank * count, (self.ranks.rank + 1) * count)

    def state(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


def config(kind: str) -> ModelConfig:
    """plain: a small hybrid. rich: experts, tables, skips, a loop and heads that look ahead."""
    mixers = (attention.Config(num_heads=2, qk_norm=True), gated_delta_net.Config(num_heads=2))
    plain: dict[str, Any] = {"vocab_size": VOCAB, "dim": 16, "depth": 2, "mixers": mixers, "mlp": relu2.Config()}
    if kind == "plain":
        return ModelConfig(**plain)
    tables = TablesConfig(values="all", bigrams=50)
    experts = moe.Config(num_experts=3, active=2, hidden=10)
    return ModelConfig(**{**plain, "mlp": experts}, tables=tables, skips=SkipsConfig(x0=True), loops=2)


def job(
    folder: Path,
    ranks: Ranks,
    *,
    name: str,
    kind: str = "plain",
    dtype: str = "float32",
    autocast: str | None = None,
    steps: int = 50,
    stop: int | None = None,
    save_every: int = 0,
    micro_batch_size: int | None = None,
    dropout: float = 0.0,
    recompute: str = "none",
    fault: str = "",
    optimizer: str = "adamw",
    lr: float = 1e-2,
    **changes: Any,
) -> None:
    """Trains into folder/name, on all ranks; stop: SIGTERM to one rank when it has seen that step."""
    torch.manual_seed(0)
    model = config(kind)
    model = type(model)(**{**vars(model), "dropout": dropout}).build().to(getattr(torch, dtype))
    precision = Precision(device=torch.device("cpu"), autocast=autocast and getattr(torch, autocast), why="tests")
    ranks.place(model, precision)
    trained = OptimizerConfig(kind=optimizer, lr=lr, **changes).build(model)  # type: ignore[arg-type]
    ranks.attach(trained)
    ranks.seed(0)
    run = Run(folder / name, writes=ranks.rank == 0)
    run.path.mkdir(parents=True, exist_ok=True)
    settings = TrainConfig(
        steps=steps, batch_size=ROWS, context_len=LENGTH, eval_every=0, save_every=save_every,
        micro_batch_size=micro_batch_size, activation_checkpointing=recompute,  # type: ignore[arg-type]
    )  # fmt: skip

    def watch(progress: Any, row: dict[str, Any]) -> None:
        if progress.step == stop and ranks.rank == ranks.size - 1:
            signal.raise_signal(signal.SIGTERM)

    loss = Fault(fault, ranks) if fault else cross_entropy
    schedule = ScheduleConfig(warmup_steps=2)
    train(model, trained, Rows(ranks), loss, run, settings, schedule, precision, watch=watch, ranks=ranks)


class Fault:
    """cross_entropy that goes wrong on the last rank: `nan`, `memory` (no room for more than one row), `death`."""

    def __init__(self, kind: str, ranks: Ranks):
        self.kind, self.last, self.calls = kind, ranks.rank == ranks.size - 1, 0

    def __call__(self, model: Any, batch: Batch) -> torch.Tensor:
        self.calls += 1
        loss = cross_entropy(model, batch)
        if not self.last:
            return loss
        if self.kind == "memory" and len(batch.tokens_BT) > 1:
            loss.backward()  # its gradients have begun to travel
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if self.kind == "nan" and self.calls == 3:
            return loss * float("nan")
        if self.kind == "error" and self.calls == 3:
            raise ValueError("a bug on one rank")
        if self.kind == "death" and self.calls == 8 and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        return loss


def main(folder: str, shard: str, jobs: str) -> int:
    torch.set_num_threads(1)
    gradients.BUCKET_BYTES = 2000  # several buckets, as a real model has
    try:
        with joined("cpu", sharded=bool(int(shard)), wait=60) as ranks:
            for settings in json.loads(jobs):
                job(Path(folder), ranks, **settings)
    except Interrupted as stop:
        print(f"child: {stop}", file=sys.stderr)
        return 128 + stop.signal_number
    except WrenError as error:
        print(f"child: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    leave_after(functools.partial(main, *sys.argv[1:]))
