"""AdamW for everything, or Muon for the matrices inside the blocks and AdamW for the rest.

AdamW: Loshchilov & Hutter, 1711.05101. Muon: momentum orthogonalised by Newton-Schulz (Jordan et al. 2024), scaled to
AdamW's update size so that one learning rate serves both (2502.16982); both are torch's own.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from wren.errors import CheckpointError, ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """lr: AdamW's. matrix_lr: Muon's, None = lr. weight_decay: on tensors of two or more dimensions."""

    kind: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    matrix_lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    momentum: float = 0.95

    def __post_init__(self) -> None:
        if self.lr <= 0 or (self.matrix_lr is not None and self.matrix_lr <= 0):
            raise ConfigError(f"optimizer.lr must be above 0, not {self.lr if self.lr <= 0 else self.matrix_lr}.")

    def build(self, model: nn.Module) -> "Optimizer":
        return Optimizer(model, self)


class Optimizer:
    """One or two of torch's optimizers behind one face, with states named by parameter."""

    def __init__(self, model: nn.Module, config: OptimizerConfig):
        self.names = {id(p): name for name, p in model.named_parameters()}
        params = {name: p for name, p in model.named_parameters() if p.requires_grad}
        is_matrix = {
            name: config.kind == "muon" and name.startswith("blocks.") and p.dim() == 2 for name, p in params.items()
        }
        rest = [p for name, p in params.items() if not is_matrix[name]]
        groups = [
            {"params": [p for p in rest if p.dim() >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        fused = all(p.device.type in ("cpu", "cuda") for p in rest)
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)
        ]
        matrices = [p for name, p in params.items() if is_matrix[name]]
        if matrices:
            self.parts.append(
                torch.optim.Muon(
                    matrices,
                    lr=config.matrix_lr or config.lr,
                    weight_decay=config.weight_decay,
                    momentum=config.momentum,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        for part in self.parts:
            for group in part.param_groups:
                group["base_lr"] = group["lr"]

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

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors, e.g. "blocks.0.mlp.up.weight/exp_avg"."""
        return {
            f"{self.names[id(p)]}/{key}": value
            for part in self.parts
            for p, state in part.state.items()
            for key, value in state.items()
            if isinstance(value, Tensor)
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Puts back what tensors() gave; raises CheckpointError when they are another model's."""
        known = {self.names[id(p)]: (part, p) for part in self.parts for g in part.param_groups for p in g["params"]}
        for key, value in tensors.items():
            name, _, field = key.rpartition("/")
            if name not in known:
                raise CheckpointError(
                    f"The optimizer state holds '{name}', which this model lacks; it is another model's."
                )
            part, p = known[name]
            device = "cpu" if field == "step" and not part.defaults.get("fused") else p.device
            part.state[p][field] = value.to(device)
