"""Mixture of experts: y = sum_{e in top-k(s + b)} g_e E_e(x) + shared(x),  s = softmax or sigmoid of W x  (1701.06538).

Each expert is a SwiGLU (2002.05202), narrow so that many fit (2401.06066). The gate g is the score s, divided by the
sum over the chosen where k > 1. Dropless (2211.15841): tokens are sorted by expert and every one is served, so that an
output depends on its own token alone. Loss-free balancing (2408.15664): b takes part in the choice only, and after
every step moves by `balance_rate` up for experts that served fewer tokens than the mean and down for the others.

B batch, T time, D model width, N = B T tokens, E experts, K chosen ones.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wren.errors import ConfigError
from wren.mlp import SparseMlp
from wren.ops.place import is_planned


@dataclass(frozen=True, kw_only=True)
class Config:
    """num_experts, active: how many there are, and how many serve a token. hidden: inner width of one, None = so that
    the active ones together are as wide as one SwiGLU. shared: inner width of the expert that serves all, 0 = none.

    balance_rate: what the bias of the choice moves by in one step, 0 = no balancing.
    """

    num_experts: int = 8
    active: int = 2
    hidden: int | None = None
    shared: int = 0
    scores: Literal["softmax", "sigmoid"] = "sigmoid"
    balance_rate: float = 1e-3

    def __post_init__(self) -> None:
        for name, least in (("num_experts", 1), ("active", 1), ("hidden", 1), ("shared", 0), ("balance_rate", 0)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ConfigError(f"moe.{name} is {value}; it must be at least {least}.")
        if self.active > self.num_experts:
            raise ConfigError(f"moe.active is {self.active}; there are only {self.num_experts} experts.")

    def build(self, dim: int) -> nn.Module:
        return MixtureOfExperts(dim, self)


class Expert(nn.Module):
    """SwiGLU; matrices of its own, so that an optimizer that orthogonalises sees one expert at a time."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.out = nn.Linear(hidden, dim, bias=False)

    def forward(self, x_ND: Tensor, places_N: Tensor | None = None) -> Tensor:
        """places_N: which of the batch's tokens these are, None = all; for what differs by row (adapters/rows.py)."""
        return self.out(F.silu(self.gate(x_ND)) * self.up(x_ND))


class MixtureOfExperts(SparseMlp):
    """One wait for the device a call: how many tokens each expert gets must be known."""

    balance_E: Tensor
    counts_E: Tensor

    def __init__(self, dim: int, config: Config):
        super().__init__()
        self.config = config
        hidden = config.hidden or -(-8 * dim // (3 * config.active * 8)) * 8
        self.router = nn.Linear(dim, config.num_experts, bias=False)
        self.experts = nn.ModuleList(Expert(dim, hidden) for _ in range(config.num_experts))
        self.shared = Expert(dim, config.shared) if config.shared else None
        self.register_buffer("balance_E", torch.zeros(config.num_experts))
        self.register_buffer("counts_E", torch.zeros(config.num_experts), persistent=False)  # of the step under way

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_ND = x_BTD.flatten(0, 1)
        gates_NK, chosen_NK = self.route(x_ND)
        counts_E = _visits(chosen_NK, self.config.num_experts)
        if self.training:
            self.counts_E += counts_E
        order = chosen_NK.flatten().argsort(stable=True)  # of the N K visits, by expert
        places, counts = order // self.config.active, _as_numbers(counts_E, len(order))
        visits = zip(self.experts, x_ND[places].split(counts), places.split(counts), strict=True)
        # an expert without tokens runs too: its gradient is zero, not missing
        outputs = torch.cat([expert(visit, where) for expert, visit, where in visits])
        y_NKD = outputs[order.argsort()].unflatten(0, chosen_NK.shape)
        y_ND = (gates_NK[:, :, None].to(y_NKD.dtype) * y_NKD).sum(1)
        if self.shared is not None:
            y_ND = y_ND + self.shared(x_ND)
        return y_ND.view_as(x_BTD)

    def route(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Gates and numbers of each token's experts, both (N, K); in float32 at least, since near scores decide."""
        with torch.autocast(x_ND.device.type, enabled=False):
            wide_ND = x_ND.to(torch.promote_types(x_ND.dtype, torch.float32))
            scores_NE = F.linear(wide_ND, self.router.weight.to(wide_ND.dtype))
            scores_NE = scores_NE.sigmoid() if self.config.scores == "sigmoid" else scores_NE.softmax(dim=-1)
            chosen_NK = (scores_NE.detach() + self.balance_E).topk(self.config.active, dim=-1).indices
            gates_NK = scores_NE.gather(1, chosen_NK)
            if self.config.active > 1:  # a single gate divided by itself would teach the router nothing
                total_N1 = gates_NK.sum(dim=1, keepdim=True)
                gates_NK = gates_NK / total_N1.clamp(min=1e-20)  # sigmoids of far below 0 are 0
        return gates_NK, chosen_NK

    def begin_step(self) -> None:
        self.counts_E.zero_()

    def counts(self) -> list[Tensor]:
        return [self.counts_E]

    def end_step(self) -> None:
        self.balance_E += self.config.balance_rate * (self.counts_E.mean() - self.counts_E).sign()

    def flops_per_token(self) -> float:
        return 2 * self.active_params()  # all of them matrices

    def active_params(self) -> int:
        sizes = [sum(p.numel() for p in expert.parameters()) for expert in self.experts]
        return sum(p.numel() for p in self.parameters()) - sum(sizes[self.config.active :])


def _visits(chosen_NK: Tensor, num_experts: int) -> Tensor:
    """How many tokens each expert serves."""
    if is_planned():
        return chosen_NK.new_empty(num_experts)
    return torch.bincount(chosen_NK.flatten(), minlength=num_experts)


def _as_numbers(counts_E: Tensor, num_visits: int) -> list[int]:
    """They as numbers; in a plan, where nothing is known of tokens, as nearly equal as balancing makes them."""
    if is_planned():
        least, more = divmod(num_visits, len(counts_E))
        return [least + (number < more) for number in range(len(counts_E))]
    return counts_E.tolist()
