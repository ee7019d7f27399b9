"""A training step on fake tensors: what it would keep and make, with no memory taken and nothing computed.

The step is the real one: the recipe's model, its loss, its backward pass (passes.py) and its optimizer (update.py) run
on tensors that have shapes and no values, on a CPU. For a GPU the CPU stands in (stand_in.py): operations choose the
forms that they choose there, autocast widens what CUDA's would widen, and off-loaded tensors count as away.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from wren.errors import ConfigError
from wren.memory.job import Job, Log, Standing, Traced
from wren.memory.passes import fused, passes
from wren.memory.stand_in import as_on
from wren.memory.update import only_standing, update
from wren.model import ModelConfig
from wren.optim.optimizer import OptimizerConfig
from wren.optim.quantised import prepare


class Tracer:
    """Traces jobs, and remembers what several have in common: passes do not depend on how moments are kept."""

    def __init__(self) -> None:
        prepare(torch.device("cpu"))  # tables that are made once: not as fake ones
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._passes: dict[Any, Log] = {}
        self._updates: dict[Any, tuple[Standing, Log]] = {}
        self._fused: dict[Any, Traced] = {}
        self._standing: dict[Any, Standing] = {}
        self._undocumented: set[Any] = set()

    def __call__(self, job: Job) -> Traced:
        """Raises ConfigError for a model whose shapes depend on values."""
        with self._mode, as_on(job):
            if job.optimizer.in_backward:
                return self._remembered(self._fused, job, lambda: self._documented(job, fused))
            key = _update_only(job)
            standing, after = self._remembered(self._updates, key, lambda: update(key))
            key = _passes_only(job)
            before = self._remembered(self._passes, key, lambda: self._documented(key, passes))
        return Traced(standing, before.then(after))

    def standing(self, job: Job) -> Standing:
        """What is there all the time, quickly: a lower bound."""
        key = job.model, job.optimizer, job.device_type, job.sparse
        with self._mode, as_on(job):
            return self._remembered(self._standing, key, lambda: only_standing(job))

    def num_params(self, config: ModelConfig) -> tuple[int, int]:
        """Parameters of a model, and those without lookup tables and head."""
        with torch.device("meta"):
            model = config.build()
        return model.num_params(), model.num_params(embeddings=False)

    def _remembered(self, memory: dict[Any, Any], key: Any, make: Callable[[], Any]) -> Any:
        if key not in memory:
            memory[key] = make()
        return memory[key]

    def _documented(self, job: Job, trace: Callable[[Job], Any]) -> Any:
        """What trace gives; without packed documents where a form asks for their values, as some of a CPU's do."""
        key = job.model, job.device_type, job.autocast
        if key in self._undocumented:
            job = replace(job, documents=False)
        try:
            return trace(job)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            if job.documents:
                self._undocumented.add(key)
                return self._documented(job, trace)
            raise ConfigError(
                "This model cannot be planned: shapes inside it depend on the tokens; choose --micro-batch-size by "
                "trying."
            ) from error


def _update_only(job: Job) -> Job:
    """How many rows are at once, and what the passes keep, is nothing to the update, but for rows that were read."""
    rows = job.rows + job.earlier_rows if job.sparse else 1
    return replace(job, rows=rows, earlier_rows=0, checkpointing="none", loss_chunk=None)


def _passes_only(job: Job) -> Job:
    """To the passes nothing matters of the optimizer but what gradients are like."""
    optimizer = OptimizerConfig(weight_dtype=job.optimizer.weight_dtype, ngram_lr=1.0 if job.sparse else None)
    return replace(job, optimizer=optimizer, earlier_rows=job.earlier_rows if job.sparse else min(1, job.earlier_rows))
