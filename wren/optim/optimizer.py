"""AdamW for everything, or Muon for the matrices of linear layers, AdamW for the rest, and n-gram tables by rows.

AdamW: Loshchilov & Hutter, 1711.05101. Muon: momentum orthogonalised by Newton-Schulz (Jordan et al. 2024), scaled to
AdamW's update size so that one learning rate serves both (2502.16982). AdamW is torch's own, or that of adamw.py where
a setting saves memory; Muon is in muon.py: its steps run in bf16 where the device multiplies that natively, in float32
elsewhere. N-gram tables may be stepped row by row (rows.py).
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wren.errors import CheckpointError, ConfigError
from wren.layout import is_sharded
from wren.mlp import SparseMlp
from wren.optim import sizes
from wren.optim.adamw import AdamW
from wren.optim.backward import InBackward
from wren.optim.muon import Muon
from wren.optim.rounding import Draws
from wren.optim.rows import Rows
from wren.optim.sizes import Part, is_moment, state_layout
from wren.optim.store import StateDType, Store
from wren.optim.weights import narrow_weights
from wren.precision import has_native_bf16
from wren.tables import Ngrams, Table

_DRAWS = "draws/seed_and_count"  # the place in a checkpoint of what rounding draws follow from
_PARTS = "clipping/parts"  # and of the parts of the bound that clip a step in the backward pass


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """lr: AdamW's. matrix_lr: Muon's, None = lr. ngram_lr: of n-gram tables, which are stepped row by row then; None =
    by AdamW. weight_decay: on tensors of two or more dimensions. momentum and
    normalise (the rows of an update, as NorMuon): Muon's.

    What saves memory: state_dtype, of the moments of tensors of 4,096 numbers and more; 8bit = blocks of 256 with a
    dynamic code (2110.02861). weight_dtype: bf16 = the weights of linear layers and tables are kept in bf16 alone and
    changed with stochastic rounding. offload: the moments lie in main memory, pinned, while the weights are on a GPU.
    in_backward: each tensor is stepped in the backward pass as soon as its gradient is there, which is dropped then; it
    is clipped to its part of the bound, and the whole batch is one micro-batch.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    matrix_lr: float | None = None
    ngram_lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    momentum: float = 0.95
    normalise: bool = False
    state_dtype: StateDType = "fp32"
    weight_dtype: Literal["fp32", "bf16"] = "fp32"
    offload: bool = False
    in_backward: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether weights and moments are float32 tensors of this process, stepped once all gradients are there."""
        return (self.state_dtype, self.weight_dtype, self.offload, self.in_backward) == ("fp32", "fp32", False, False)

    def __post_init__(self) -> None:
        for name in ("lr", "matrix_lr", "ngram_lr", "eps"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"optimizer.{name} is {value}; it must be above 0.")
        for name, value in (("betas.0", self.betas[0]), ("betas.1", self.betas[1]), ("momentum", self.momentum)):
            if not 0 <= value < 1:
                raise ConfigError(f"optimizer.{name} is {value}; it must lie in [0, 1).")
        if not self.weight_decay >= 0:
            raise ConfigError(f"optimizer.weight_decay is {self.weight_decay}; it must be 0 or above.")

    def build(self, model: nn.Module) -> "Optimizer":
        """For weight_dtype bf16 the model's weights are narrowed in place."""
        return Optimizer(model, self)


class Optimizer:
    """One or two of torch's optimizers behind one face, with states named by parameter.

    in_backward: what steps them in the backward pass, or None. Raises ConfigError for a model without trainable
    parameters, and for sharded ones with a setting that saves memory.
    """

    def __init__(self, model: nn.Module, config: OptimizerConfig):
        self.config = config
        if not config.is_plain and any(is_sharded(p) for p in model.parameters()):
            raise ConfigError(
                "--shard spreads weights and moments over processes already; leave out optimizer.state_dtype, "
                "weight_dtype, offload and in_backward, or leave out --shard."
            )
        if config.weight_dtype == "bf16":
            narrow_weights(model)
        self.names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
        params = [p for p in model.parameters() if p.requires_grad]
        if not params:
            raise ConfigError("The model has no trainable parameter; unfreeze some, or attach an adapter first.")
        matrices = block_matrices(model) if config.kind == "muon" else []
        self._tables = ngram_tables(model) if config.ngram_lr is not None else []
        tables = [table.weight for table in self._tables]
        taken = {id(p) for p in (*matrices, *tables)}
        rest = [p for p in params if id(p) not in taken]
        self.store = None
        if not config.is_plain:
            self.store = Store(config.state_dtype, offload=config.offload, draws=Draws(torch.initial_seed()))
            self.store.index = {key: number for number, key in enumerate(self.names)}
        self.parts: list[Part] = []
        self.parts.extend(_adamw(alike, config, self.store) for alike in _by_layout(rest))
        if config.ngram_lr is not None and tables:
            self.parts.append(Rows(tables, lr=config.ngram_lr, store=self.store))
        self.parts.extend(_muon(alike, config, self.store) for alike in _by_layout(matrices))
        for part in self.parts:
            for group in part.param_groups:
                group["base_lr"] = group["lr"]
        self._sparse = [module for module in model.modules() if isinstance(module, SparseMlp)]
        self.parts[-1].register_step_post_hook(self._end_step)
        self.in_backward = InBackward(self.parts, self._end_step) if config.in_backward else None

    def _end_step(self, *_: object) -> None:
        if self.store is not None:
            self.store.draws.count += 1
        for module in self._sparse:
            module.end_step()

    def sparse_gradients(self, wanted: bool) -> None:
        """Whether the gradients of n-gram tables in main memory hold no more than the rows that a batch reads.

        Quicker where one process trains without compiling; what sums or compiles gradients asks for dense ones.
        """
        for table in self._tables:
            table.sparse_gradient = wanted and self.config.is_plain and not is_sharded(table.weight)

    def params(self) -> list[nn.Parameter]:
        return [p for part in self.parts for group in part.param_groups for p in group["params"]]

    def set_factor(self, factor: float) -> None:
        """Sets every learning rate to its base times the schedule's factor."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = group["base_lr"] * factor

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)
        for module in self._sparse:
            module.begin_step()

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors, e.g. "blocks.0.mlp.up.weight/exp_avg"; none before the first step.

        A parameter that has had no gradient yet is there with the zeros that it will begin with: what is not there has
        been lost.
        """
        if not any(part.state for part in self.parts):
            return {}
        tensors = {
            f"{name}/{field}": value
            for name, (part, p) in self._trained().items()
            for field, value in (part.state.get(p) or self._begun(part, p)).items()
        }
        if self.store is not None:
            self.store.wait()
            tensors[_DRAWS] = torch.tensor([self.store.draws.seed, self.store.draws.count])
        if self.in_backward is not None:
            tensors[_PARTS] = torch.tensor(self.in_backward.parts, dtype=torch.float64)
        return tensors

    def begin(self) -> None:
        """Makes the states that first gradients would make, where there are none yet."""
        for part, p in self._trained().values():
            part.state[p] = part.state.get(p) or self._begun(part, p)

    def state_bytes(self) -> tuple[int, int]:
        """Bytes of the state once there is one: on the devices of the weights, and in main memory by off-loading.

        From shapes, as gradient_bytes: also for a model on torch's meta device.
        """
        return sizes.state_bytes(self._trained().values(), self.store)

    def gradient_bytes(self) -> int:
        """Bytes of the gradients that are alive at once, at most."""
        return sizes.gradient_bytes(self._trained().values(), in_backward=self.config.in_backward)

    def _room(self, part: Part, p: Tensor, field: str) -> Tensor:
        """Zeros for a field, where the optimizer would make them."""
        if field == "step":
            return torch.zeros((), device=p.device if part.defaults["fused"] else "cpu")
        if self.store is None:
            return torch.zeros_like(p.detach() if is_moment(field) else p.detach()[:, :1])
        shape, dtype = state_layout(part, p, self.store)[field]
        if not is_moment(field):
            return torch.zeros(shape, dtype=dtype, device=p.device)
        return self.store.room(p, shape, dtype)

    def _begun(self, part: Part, p: Tensor) -> dict[str, Tensor]:
        """The state of a parameter before its first gradient."""
        return {field: self._room(part, p, field) for field in state_layout(part, p, self.store)}

    def _trained(self) -> dict[str, tuple[Part, Tensor]]:
        """Every parameter by its name, and what trains it."""
        return {self.names[id(p)]: (part, p) for part in self.parts for g in part.param_groups for p in g["params"]}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Puts back what tensors() gave, all or nothing.

        Raises CheckpointError when they are another model's or optimizer's, or not all of them.
        """
        known = self._trained()
        tensors = dict(tensors)
        draws, clipping = tensors.pop(_DRAWS, None), tensors.pop(_PARTS, None)
        states: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            name, _, field = key.rpartition("/")
            if name not in known:
                raise CheckpointError(
                    f"The optimizer state holds '{name}', which this model does not train; it is another model's."
                )
            states.setdefault(name, {})[field] = value
        for name, fields in states.items():
            part, p = known[name]
            wanted = state_layout(part, p, self.store)
            if fields.keys() != wanted.keys():
                raise CheckpointError(
                    f"The optimizer state of '{name}' is {', '.join(sorted(fields))}, not {', '.join(sorted(wanted))}; "
                    "it was trained with another optimizer.kind or state_dtype."
                )
            for field, value in fields.items():
                _check_shape(name, field, value, wanted[field])
        if states and (lost := [name for name in known if name not in states]):
            raise CheckpointError(
                f"The optimizer state lacks '{lost[0]}'{f' and {len(lost) - 1} more' if lost[1:] else ''}, which this "
                "model trains; it is another model's, or a part of it was lost."
            )
        if self.store is not None:
            self.store.wait()
            self.store.draws.count = 0
            if draws is not None:
                self.store.draws.seed, self.store.draws.count = draws.tolist()
        if self.in_backward is not None and clipping is not None:
            self.in_backward.parts = clipping.tolist()
        for part in self.parts:
            part.state.clear()  # before the copies: memory holds one state at a time
        for name, fields in states.items():
            part, p = known[name]
            # copied to where the optimizer would have made it: never the memory of a mapped file
            part.state[p] = {field: self._room(part, p, field).copy_(value) for field, value in fields.items()}


def _check_shape(name: str, field: str, value: Tensor, wanted: tuple[list[int], torch.dtype]) -> None:
    shape, dtype = wanted
    if list(value.shape) != shape:
        raise CheckpointError(
            f"The optimizer state of '{name}' is {list(value.shape)} there and {shape} here; it is another model's."
        )
    if value.dtype != dtype and torch.uint8 in (value.dtype, dtype):
        raise CheckpointError(
            f"The optimizer state of '{name}' is {value.dtype} there and {dtype} here; set optimizer.state_dtype as it "
            "was then."
        )


def _by_layout(params: list[Any]) -> list[list[Any]]:
    """Parameters that are whole here, and those sharded over processes: torch's operations do not mix them."""
    layouts = ([p for p in params if not is_sharded(p)], [p for p in params if is_sharded(p)])
    return [alike for alike in layouts if alike]


def block_matrices(model: nn.Module) -> list[Tensor]:
    """What Muon trains: the weights of all linear layers but the head, each expert's of its own.

    Embeddings, the head and other tables are rows by themselves, convolutions act per channel and biases, norms and
    factors are vectors: orthogonalising them means nothing, so AdamW trains them, and linear layers of one output or
    one input too, such as the gate of a single head.
    """
    unique: dict[int, Tensor] = {}
    for name, module in model.named_modules():
        if name == "head" or not isinstance(module, nn.Linear) or min(module.weight.shape) < 2:
            continue
        if module.weight.requires_grad:
            unique[id(module.weight)] = module.weight
    return list(unique.values())


def ngram_tables(model: nn.Module) -> list[Table]:
    """The lookup tables whose rows are read rarely."""
    tables = [table for module in model.modules() if isinstance(module, Ngrams) for table in module.tables.values()]
    return [table for table in tables if isinstance(table, Table) and table.weight.requires_grad]


def _adamw(params: list[nn.Parameter], config: OptimizerConfig, store: Store | None) -> torch.optim.AdamW | AdamW:
    groups = [
        {"params": [p for p in params if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fused = all(p.device.type in ("cpu", "cuda") for p in params)
    if store is not None:
        return AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused, store=store)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


def _muon(matrices: list[Tensor], config: OptimizerConfig, store: Store | None) -> Muon:
    return Muon(
        matrices,
        lr=config.matrix_lr or config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        normalise=config.normalise,
        dtype=torch.bfloat16 if has_native_bf16(matrices[0].device) else torch.float32,
        store=store,
    )
