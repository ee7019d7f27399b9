"""A training step on fake tensors: what it would keep and make, with no memory taken and nothing computed.

The step is the real one: the recipe's model, its loss, its backward pass and its optimizer run on tensors that have
shapes and no values, on a CPU. For a GPU the CPU stands in: operations choose the forms that they choose there
(ops/place.py), autocast widens what CUDA's would widen, and off-loaded tensors count as away.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.overrides import TorchFunctionMode

from wren.batch import Batch
from wren.errors import ConfigError
from wren.loss import cross_entropy
from wren.memory.activations import Checkpointing, checkpoint_activations
from wren.memory.count import Allocations
from wren.model import LM, ModelConfig
from wren.ops.place import standing_in
from wren.optim.muon import AT_ONCE, Muon
from wren.optim.optimizer import Optimizer, OptimizerConfig
from wren.optim.quantised import prepare
from wren.optim.sizes import is_moment, state_layout
from wren.optim.store import Piece
from wren.optim.weights import narrow_weights
from wren.tables import Table

# What CUDA's autocast computes in float32 of narrow inputs and a CPU's does not; the second ones take a dtype instead.
_WIDENED = frozenset(
    ("exp", "expm1", "log", "log1p", "pow", "rsqrt", "softplus", "layer_norm", "rms_norm", "logsumexp")
)
_SUMMED = frozenset(("softmax", "log_softmax", "cumsum", "sum", "prod"))
_NARROW = (torch.bfloat16, torch.float16)
FORWARD, LOSS, BACKWARD, UPDATE = "the forward pass", "the loss", "the backward pass", "the optimizer's step"
_KINDS = {FORWARD: "activations", LOSS: "logits", BACKWARD: "working", UPDATE: "working"}  # unless it is a gradient


@dataclass(frozen=True, kw_only=True)
class Job:
    """A step to be traced. device_type: where it would run; cuda is stood in for.

    rows: of a micro-batch. accumulates: whether gradients of an earlier micro-batch are there already. narrow_muon:
    Newton-Schulz steps are in bf16 there. documents: rows hold packed documents, as the loader's do.
    """

    model: ModelConfig
    optimizer: OptimizerConfig
    rows: int
    context_len: int
    autocast: torch.dtype | None
    device_type: str = "cpu"
    narrow_muon: bool = False
    checkpointing: Checkpointing = "none"
    loss_chunk: int | None = None
    accumulates: bool = False
    documents: bool = True


@dataclass(frozen=True)
class Log:
    """Storages that came and went. events: numbers, ~number for an end; kinds: what each storage holds."""

    sizes: list[int]
    events: list[int]
    kinds: list[str]
    phases: list[str]

    def peak(self) -> tuple[int, str, dict[str, int]]:
        """The most bytes alive at once on the device, in which phase that was, and their parts."""
        alive = most = 0
        at = -1
        for i, event in enumerate(self.events):
            number = event if event >= 0 else ~event
            if self.kinds[number] != "away":
                alive += self.sizes[number] if event >= 0 else -self.sizes[number]
            if alive > most:
                most, at = alive, i
        there = set()
        for event in self.events[: at + 1]:
            there.add(event) if event >= 0 else there.discard(~event)
        parts: dict[str, int] = {}
        for number in there:
            parts[self.kinds[number]] = parts.get(self.kinds[number], 0) + self.sizes[number]
        parts.pop("away", None)
        return most, self.phases[self.events[at]] if at >= 0 else "", parts

    def then(self, other: "Log") -> "Log":
        """Both, one after the other; what was alive at the end of the first stays so."""
        shift = len(self.sizes)
        moved = [event + shift if event >= 0 else event - shift for event in other.events]
        return Log(self.sizes + other.sizes, self.events + moved, self.kinds + other.kinds, self.phases + other.phases)


@dataclass(frozen=True)
class Standing:
    """Bytes that are there all the time, a tensor each: weights, tables (a tied head's too), moments; in main memory
    beside a GPU: away."""

    weights: list[int]
    tables: list[int]
    moments: list[int]
    away: int

    def total(self) -> int:
        return sum(self.weights) + sum(self.tables) + sum(self.moments)

    def each(self) -> list[int]:
        return [*self.weights, *self.tables, *self.moments]


@dataclass(frozen=True)
class Traced:
    standing: Standing
    log: Log


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
                return self._remembered(self._fused, job, lambda: self._documented(job, _fused))
            # how many rows are at once, and what the passes keep, is nothing to the update
            common = {"rows": 1, "checkpointing": "none", "loss_chunk": None, "accumulates": False}
            key = _replaced(job, **common)
            standing, update = self._remembered(self._updates, key, lambda: _update(key))
            key = _replaced(job, optimizer=_passes_only(job.optimizer))
            passes = self._remembered(self._passes, key, lambda: self._documented(key, _passes))
        return Traced(standing, passes.then(update))

    def standing(self, job: Job) -> Standing:
        """What is there all the time, quickly: a lower bound."""
        key = job.model, job.optimizer, job.device_type
        with self._mode, as_on(job):
            return self._remembered(self._standing, key, lambda: _only_standing(job))

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
            job = _replaced(job, documents=False)
        try:
            return trace(job)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            if job.documents:
                self._undocumented.add(key)
                return self._documented(job, trace)
            raise ConfigError(
                "This model cannot be planned: shapes inside it depend on the tokens, as those of experts do; choose "
                "--micro-batch-size by trying."
            ) from error


def _replaced(job: Job, **changes: Any) -> Job:
    return Job(**{**vars(job), **changes})


def _passes_only(optimizer: OptimizerConfig) -> OptimizerConfig:
    return OptimizerConfig(weight_dtype=optimizer.weight_dtype)


@contextlib.contextmanager
def as_on(job: Job) -> Iterator[None]:
    """As if on the device of the job."""
    away = job.device_type if job.device_type != "cpu" else None
    with standing_in(away), _CudaAutocast() if away == "cuda" else contextlib.nullcontext():
        yield


class _CudaAutocast(TorchFunctionMode):
    """Widens, inside a CPU's autocast, what CUDA's widens."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name in _WIDENED | _SUMMED and args and isinstance(args[0], Tensor) and args[0].dtype in _NARROW:
            if torch.is_autocast_enabled("cpu") and name in _WIDENED:
                args, kwargs = tuple(_widened(x) for x in args), {key: _widened(x) for key, x in kwargs.items()}
            elif torch.is_autocast_enabled("cpu") and kwargs.get("dtype") is None:
                kwargs = {**kwargs, "dtype": torch.float32}
        return func(*args, **kwargs)


def _widened(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) and x.dtype in _NARROW else x


def _optimizer(job: Job, model: LM) -> Optimizer:
    optimizer = job.optimizer.build(model)
    for part in optimizer.parts:
        if isinstance(part, Muon):
            part.dtype = torch.bfloat16 if job.narrow_muon else torch.float32
    if optimizer.store is not None:
        optimizer.store.pieces = _short(optimizer.store.pieces)
    optimizer.begin()
    return optimizer


def _sample(optimizer: Optimizer, stays: set[int]) -> Callable[[Tensor], bool]:
    """Whether a parameter is among the first ones of its shape: as many as are ever stepped together, twice.

    The others need what these need, and a plan need not wait for them. stays: tables that are stepped in main memory.
    """
    matrices = {
        id(p) for part in optimizer.parts if isinstance(part, Muon) for g in part.param_groups for p in g["params"]
    }
    counts: dict[Any, int] = {}

    def is_one(p: Tensor) -> bool:
        kind = p.shape, p.dtype, id(p) in matrices
        counts[kind] = counts.get(kind, 0) + 1
        together = -(-AT_ONCE // p.numel()) if id(p) in matrices else 1
        return counts[kind] <= 2 * together and id(p) not in stays

    return is_one


def _sampled(step_one: Callable[..., None], stepped: Callable[[Tensor], bool]) -> Callable[..., None]:
    def step(param: Tensor, group: dict[str, Any]) -> None:
        if stepped(param):
            step_one(param, group)
        else:
            param.grad = None

    return step


def _short(pieces: Callable[..., list[Piece]]) -> Callable[..., list[Piece]]:
    """Three pieces of each parameter, the last one too: those between need what they need."""

    def few(*arguments: Any, **options: Any) -> list[Piece]:
        all_of_them = pieces(*arguments, **options)
        return [*all_of_them[:2], *all_of_them[2:][-1:]]

    return few


def _away(job: Job, model: LM) -> set[int]:
    """Weights (their ids) of tables that lie in main memory beside a GPU."""
    if job.device_type == "cpu":
        return set()
    return {id(module.weight) for module in model.modules() if isinstance(module, Table) and module.on_cpu}


def _only_standing(job: Job) -> Standing:
    with torch.device("meta"):
        model = job.model.build()
    return _standing(job, model, job.optimizer.build(model))


def _standing(job: Job, model: LM, optimizer: Optimizer) -> Standing:
    stays = _away(job, model)
    tables = {id(m.weight): m.weight for m in model.modules() if isinstance(m, (torch.nn.Embedding, Table))}
    rest = {id(x): x for x in (*model.parameters(), *model.buffers()) if id(x) not in tables}
    away = sum(_size(x.shape, x.dtype) for key, x in tables.items() if key in stays)
    moments: list[int] = []
    store = optimizer.store
    for part, p in [(x, p) for x in optimizer.parts for group in x.param_groups for p in group["params"]]:
        for field, (shape, dtype) in state_layout(part, p, store).items():
            moved = store is not None and store.is_away(p) and is_moment(field)
            if moved or id(p) in stays:
                away += _size(shape, dtype)
            else:
                moments.append(_size(shape, dtype))
    return Standing(
        [_size(x.shape, x.dtype) for x in rest.values()],
        [_size(x.shape, x.dtype) for key, x in tables.items() if key not in stays],
        moments,
        away,
    )


def _size(shape: Iterable[int], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def _batch(job: Job) -> Batch:
    tokens_BT, targets_BT = (torch.zeros(job.rows, job.context_len, dtype=torch.long) for _ in range(2))
    if not job.documents:
        return Batch(tokens_BT, targets_BT)
    others = (torch.zeros(job.rows, job.context_len, dtype=torch.long) for _ in range(2))
    return Batch(tokens_BT, targets_BT, documents_BT=next(others), positions_BT=next(others))


class _Watched:
    """A model whose storages are counted, and whose gradients are known as such."""

    def __init__(self, job: Job):
        self.model, self.log = job.model.build(), Allocations()
        if job.optimizer.weight_dtype == "bf16":
            narrow_weights(self.model)
        checkpoint_activations(self.model, job.checkpointing)
        self.model.loss_chunk = job.loss_chunk
        self.params = [p for p in self.model.parameters() if p.requires_grad]
        self._kinds: dict[int, str] = {}
        self._stays = _away(job, self.model)
        self.log.ignore((*self.model.parameters(), *self.model.buffers()))
        for p in self.params:  # before an optimizer's own hooks, which drop the gradient
            p.register_post_accumulate_grad_hook(self.arrived)

    def arrived(self, param: Tensor) -> None:
        if param.grad is not None and (number := self.log.number(param.grad)) is not None:
            self._kinds[number] = "away" if id(param) in self._stays else "gradients"

    def logged(self) -> Log:
        log = self.log
        kinds = [self._kinds.get(number, _KINDS[phase]) for number, phase in enumerate(log.phases)]
        return Log(log.sizes, log.events, kinds, log.phases)


def _passes(job: Job) -> Log:
    watched = _Watched(job)
    with watched.log:
        if job.accumulates:
            watched.log.phase = BACKWARD
            for p in watched.params:
                p.grad = torch.empty_like(p)
                watched.arrived(p)
        _forward_and_backward(job, watched, contextlib.nullcontext())
    return watched.logged()


def _fused(job: Job) -> Traced:
    watched = _Watched(job)
    optimizer = _optimizer(job, watched.model)
    assert optimizer.in_backward is not None
    stepped = _sample(optimizer, _away(job, watched.model))
    for part in optimizer.parts:
        part.step_one = _sampled(part.step_one, stepped)  # type: ignore[union-attr]
    watched.log.ignore(_states(optimizer))
    with watched.log:
        _forward_and_backward(job, watched, optimizer.in_backward.armed(1.0))
    return Traced(_standing(job, watched.model, optimizer), watched.logged())


def _forward_and_backward(job: Job, watched: _Watched, around: AbstractContextManager[None]) -> None:
    model, log = watched.model, watched.log
    log.phase = FORWARD
    batch, product = _batch(job), model.head_product

    def headed(hidden_BTD: Tensor) -> tuple[Tensor, Tensor]:
        log.phase = LOSS
        return product(hidden_BTD)

    model.head_product = headed  # type: ignore[method-assign]
    autocast = contextlib.nullcontext() if job.autocast is None else torch.autocast("cpu", dtype=job.autocast)
    with autocast:
        loss = cross_entropy(model, batch) / 1
    log.phase = BACKWARD
    with around:
        # as loss.backward(), which would shut out the mode that widens where checkpoints are computed again
        engine, seed = torch.autograd.Variable._execution_engine, torch.ones_like(loss)
        engine.run_backward((loss,), (seed,), False, False, (), allow_unreachable=True, accumulate_grad=True)


def _update(job: Job) -> tuple[Standing, Log]:
    """The optimizer's step by itself; its gradients are not counted."""
    model = job.model.build()
    optimizer, log = _optimizer(job, model), Allocations()
    standing = _standing(job, model, optimizer)
    stepped = _sample(optimizer, _away(job, model))
    for p in optimizer.params():
        p.grad = torch.empty_like(p)
    log.ignore((*model.parameters(), *model.buffers(), *_states(optimizer)))
    log.ignore(p.grad for p in optimizer.params() if p.grad is not None)
    log.phase = UPDATE
    with log:
        torch.nn.utils.clip_grad_norm_(optimizer.params(), 1.0)
        for p in optimizer.params():
            if not stepped(p):
                p.grad = None
        for part in optimizer.parts:
            part.step()
    return standing, Log(log.sizes, log.events, [_KINDS[phase] for phase in log.phases], log.phases)


def _states(optimizer: Optimizer) -> Iterator[Tensor]:
    return (x for part in optimizer.parts for state in part.state.values() for x in state.values())
