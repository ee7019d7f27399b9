"""AdamW for everything, or Muon for the matrices of linear layers and AdamW for the rest.

AdamW: Loshchilov & Hutter, 1711.05101. Muon: momentum orthogonalised by Newton-Schulz (Jordan et al. 2024), scaled to
AdamW's update size so that one learning rate serves both (2502.16982). AdamW is torch's own, Muon is in
muon.py: its steps run in bf16 where the device multiplies that natively, in float32 elsewhere.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from wren.errors import CheckpointError, ConfigError
from wren.mlp import SparseMlp
from wren.optim.muon import Muon
from wren.precision import has_native_bf16


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """lr: AdamW's. matrix_lr: Muon's, None = lr. weight_decay: on tensors of two or more dimensions. momentum and
    normalise (the rows of an update, as NorMuon): Muon's."""

    kind: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    matrix_lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    momentum: float = 0.95
    normalise: bool = False

    def __post_init__(self) -> None:
        for name in ("lr", "matrix_lr", "eps"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"optimizer.{name} is {value}; it must be above 0.")
        for name, value in (("betas.0", self.betas[0]), ("betas.1", self.betas[1]), ("momentum", self.momentum)):
            if not 0 <= value < 1:
                raise ConfigError(f"optimizer.{name} is {value}; it must lie in [0, 1).")
        if not self.weight_decay >= 0:
            raise ConfigError(f"optimizer.weight_decay is {self.weight_decay}; it must be 0 or above.")

    def build(self, model: nn.Module) -> "Optimizer":
        return Optimizer(model, self)


class Optimizer:
    """One or two of torch's optimizers behind one face, with states named by parameter.

    Raises ConfigError for a model without trainable parameters.
    """

    def __init__(self, model: nn.Module, config: OptimizerConfig):
        self.names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
        params = [p for p in model.parameters() if p.requires_grad]
        if not params:
            raise ConfigError("The model has no trainable parameter; unfreeze some, or attach an adapter first.")
        matrices = block_matrices(model) if config.kind == "muon" else []
        taken = {id(p) for p in matrices}
        rest = [p for p in params if id(p) not in taken]
        self.parts: list[torch.optim.Optimizer] = []
        if rest:
            self.parts.append(_adamw(rest, config))
        if matrices:
            self.parts.append(_muon(matrices, config))
        for part in self.parts:
            for group in part.param_groups:
                group["base_lr"] = group["lr"]
        self._sparse = [module for module in model.modules() if isinstance(module, SparseMlp)]
        self.parts[-1].register_step_post_hook(self._end_step)

    def _end_step(self, *_: object) -> None:
        for module in self._sparse:
            module.end_step()

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
        return {
            f"{name}/{field}": value
            for name, (part, p) in self._trained().items()
            for field, value in (part.state.get(p) or _begun(part, p)).items()
        }

    def _trained(self) -> dict[str, tuple[torch.optim.Optimizer, Tensor]]:
        """Every parameter by its name, and what trains it."""
        return {self.names[id(p)]: (part, p) for part in self.parts for g in part.param_groups for p in g["params"]}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Puts back what tensors() gave, all or nothing.

        Raises CheckpointError when they are another model's or optimizer's, or not all of them.
        """
        known = self._trained()
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
            wanted = _fields(part)
            if fields.keys() != wanted:
                raise CheckpointError(
                    f"The optimizer state of '{name}' is {', '.join(sorted(fields))}, not {', '.join(sorted(wanted))}; "
                    "it was trained with another optimizer.kind."
                )
            for field, value in fields.items():
                _check_shape(name, field, value, p)
        if states and (lost := [name for name in known if name not in states]):
            raise CheckpointError(
                f"The optimizer state lacks '{lost[0]}'{f' and {len(lost) - 1} more' if lost[1:] else ''}, which this "
                "model trains; it is another model's, or a part of it was lost."
            )
        for part in self.parts:
            part.state.clear()  # before the copies: memory holds one state at a time
        for name, fields in states.items():
            part, p = known[name]
            part.state[p] = {field: _placed(value, field, part, p) for field, value in fields.items()}


def _fields(part: torch.optim.Optimizer) -> set[str]:
    """What the state of a parameter consists of."""
    if isinstance(part, Muon):
        return {"momentum_buffer", "row_mean"} if part.defaults["normalise"] else {"momentum_buffer"}
    return {"step", "exp_avg", "exp_avg_sq"}


def _begun(part: torch.optim.Optimizer, p: Tensor) -> dict[str, Tensor]:
    """The state of a parameter before its first gradient."""
    return {field: torch.zeros(()) if field == "step" else torch.zeros_like(_like(p, field)) for field in _fields(part)}


def _like(p: Tensor, field: str) -> Tensor:
    """What a moment has the shape of."""
    return p.detach()[:, :1] if field == "row_mean" else p.detach()


def _check_shape(name: str, field: str, value: Tensor, p: Tensor) -> None:
    shape = [] if field == "step" else list(_like(p, field).shape)
    if list(value.shape) != shape:
        raise CheckpointError(
            f"The optimizer state of '{name}' is {list(value.shape)} there and {shape} here; it is another model's."
        )


def _placed(value: Tensor, field: str, part: torch.optim.Optimizer, p: Tensor) -> Tensor:
    """A copy of a stored tensor where the optimizer would have made it: never the memory of a mapped file."""
    if field == "step":
        return value.to(p.device if part.defaults["fused"] else "cpu", copy=True)
    return torch.empty_like(_like(p, field)).copy_(value)


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


def _adamw(params: list[nn.Parameter], config: OptimizerConfig) -> torch.optim.AdamW:
    groups = [
        {"params": [p for p in params if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") for p in params)
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.lr, betas=config.betas, eps=config.eps, fused=fused
    )


def _muon(matrices: list[Tensor], config: OptimizerConfig) -> Muon:
    return Muon(
        matrices,
        lr=config.matrix_lr or config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        normalise=config.normalise,
        dtype=torch.bfloat16 if has_native_bf16(matrices[0].device) else torch.float32,
    )
