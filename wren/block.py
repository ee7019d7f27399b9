"""A block of the LM: x <- x + mixer(near(norm(x)));  x <- x + mlp(near(norm(x))).

near, none by default, mixes each token with the few before it: token shift and Canon layers.

B batch, T time, D model width, U the last inputs kept, W taps of a convolution, R rank.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wren import mlp as mlps
from wren.errors import ConfigError
from wren.mixer import Context, Mixer, State, advance, check_tail
from wren.ops.short_convolution import next_tail, short_convolution


@dataclass(frozen=True, kw_only=True)
class NearConfig:
    """token_shift: before mixer and MLP, x_t <- mu x_t + (1 - mu) x_{t-1} with learned mu per channel (RWKV,
    2305.13048).

    canon: Canon layers, x <- x + conv(x) with a causal convolution of each channel, at place A (before the mixer) or C
    (before the MLP), both behind the norm (Allen-Zhu, 2512.17351). canon_width: their taps. The shift comes first.
    """

    token_shift: bool = False
    canon: tuple[Literal["A", "C"], ...] = ()
    canon_width: int = 4

    def __post_init__(self) -> None:
        if self.canon_width < 2:
            raise ConfigError(f"near.canon_width is {self.canon_width}; it must be at least 2.")
        if len(set(self.canon)) < len(self.canon):
            raise ConfigError(f"near.canon names a place twice: {', '.join(self.canon)}; name each once.")


class Near(nn.Module):
    """The token shift and the Canon layer before one mixer or MLP, whichever are on."""

    def __init__(self, dim: int, shift_D: Tensor | None, canon_width: int | None):
        super().__init__()
        self.shift = None if shift_D is None else nn.Parameter(shift_D)
        self.canon = None
        if canon_width is not None:
            bound = canon_width**-0.5
            self.canon = nn.Parameter(torch.empty(dim, canon_width).uniform_(-bound, bound))
        shift_len = 0 if shift_D is None else 1
        self.tail_shape = (shift_len + (canon_width or 1) - 1, dim)
        self.shift_len = shift_len

    def forward(self, x_BTD: Tensor, context: Context, tail_BUD: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The mixed tokens, and what the next call takes as its tail: None where this one has none."""
        tails: list[Tensor | None] = [None, None]
        if tail_BUD is not None:
            check_tail("short convolutions", tail_BUD, self.tail_shape)
            if self.shift is not None and self.canon is None and x_BTD.shape[1] == 1 and context.valid_B is None:
                # the next token of every row: one operation where the general way takes a dozen small ones
                mixed_B1D = torch.lerp(tail_BUD.to(x_BTD.dtype), x_BTD, self.shift.to(x_BTD.dtype))
                return mixed_B1D, x_BTD.to(tail_BUD.dtype)
            tails = [tail_BUD[:, : self.shift_len], tail_BUD[:, self.shift_len :]]
        kept: list[Tensor] = []
        if self.shift is not None:
            weight_DW = torch.stack((1 - self.shift, self.shift), dim=1)
            x_BTD = _convolved(x_BTD, weight_DW, context, tails[0], kept)
        if self.canon is not None:
            x_BTD = x_BTD + _convolved(x_BTD, self.canon, context, tails[1], kept)
        return x_BTD, torch.cat(kept, dim=1) if kept else None

    def flops_per_token(self) -> float:
        """Those of the convolutions over a whole row; two taps, and whatever is done token by token, are sums of
        products and no matrix product."""
        return 2 * self.canon.numel() if self.canon is not None and self.canon.shape[1] > 2 else 0.0


def _convolved(
    x_BTD: Tensor, weight_DW: Tensor, context: Context, tail_BUD: Tensor | None, kept: list[Tensor]
) -> Tensor:
    """The short convolution of x; appends to `kept` the inputs that the next call needs, where there is a tail."""
    if tail_BUD is not None:
        kept.append(next_tail(x_BTD, weight_DW.shape[1], tail_BUD, context.valid_B))
    return short_convolution(x_BTD, weight_DW, tail_BUC=tail_BUD, documents_BT=context.documents_BT)


@dataclass
class NearState(State):
    """The last inputs of what stands before the mixer and before the MLP of one block."""

    mixer_BUD: Tensor
    mlp_BUD: Tensor


class GatedNorm(nn.Module):
    """2 sigmoid(W_up silu(W_down y)) * y with y = norm(x): the gate rescales channels, so that the stream needs no
    outliers for it (GatedNorm, 2601.22966; the 2 lets it begin near the plain norm)."""

    def __init__(self, norm: nn.Module, dim: int, rank: int):
        super().__init__()
        self.norm = norm
        self.down = nn.Linear(dim, rank, bias=False)
        self.up = nn.Linear(rank, dim, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        y_BTD = self.norm(x_BTD)
        return y_BTD * (2 * self.up(F.silu(self.down(y_BTD))).sigmoid()).to(y_BTD.dtype)


def norm_flops(norm: nn.Module) -> float:
    """Floating-point operations of a norm's gate for one token."""
    return 2 * (norm.down.weight.numel() + norm.up.weight.numel()) if isinstance(norm, GatedNorm) else 0


def called(module: nn.Module, *inputs: Any) -> Tensor:
    """What a module gives; memory/activations.py puts another way of calling it in this one's place."""
    return module(*inputs)


class Block(nn.Module):
    """make_norm builds each of its norms; depth: the share of the model that lies below it."""

    call_mlp: Callable[..., Tensor] = staticmethod(called)

    def __init__(
        self, mixer: Mixer, mlp: nn.Module, near: NearConfig, dim: int, dropout: float, depth: float,
        make_norm: Callable[[], nn.Module],
    ):  # fmt: skip
        super().__init__()
        self.mixer_norm = make_norm()
        self.mixer = mixer
        self.mlp_norm = make_norm()
        self.mlp = mlp
        self.dropout = nn.Dropout(dropout)
        self.mixer_near, self.mlp_near = (_near(near, place, dim, depth) for place in ("A", "C"))

    def forward(self, x_BTD: Tensor, context: Context, tails: NearState | None = None) -> Tensor:
        """The stream after the block; the context's state and the tails are advanced."""
        h_BTD = narrowed(self.mixer_norm(x_BTD))
        if self.mixer_near is not None:
            h_BTD, tail = self.mixer_near(h_BTD, context, None if tails is None else tails.mixer_BUD)
            if tails is not None:
                tails.mixer_BUD = tail
        y_BTD = self.mixer(h_BTD, context)
        x_BTD = x_BTD + (self.dropout(y_BTD) if self.training else y_BTD)  # decoding feels every call
        h_BTD = narrowed(self.mlp_norm(x_BTD))
        if self.mlp_near is not None:
            h_BTD, tail = self.mlp_near(h_BTD, context, None if tails is None else tails.mlp_BUD)
            if tails is not None:
                tails.mlp_BUD = tail
        if tails is not None:
            tails.lengths_B = advance(tails.lengths_B, x_BTD.shape[1], context.valid_B)
        y_BTD = self.call_mlp(self.mlp, h_BTD)
        return x_BTD + (self.dropout(y_BTD) if self.training else y_BTD)

    def _nears(self) -> list[Near]:
        return [near for near in (self.mixer_near, self.mlp_near) if near is not None]

    def new_tails(self, batch_size: int, device: torch.device | str, dtype: torch.dtype) -> NearState | None:
        """Empty tails, None for a block whose layers see one token at a time."""
        if not self._nears():
            return None
        shapes = [near.tail_shape if near is not None else (0, 0) for near in (self.mixer_near, self.mlp_near)]
        tails = [torch.zeros(batch_size, *shape, dtype=dtype, device=device) for shape in shapes]
        return NearState(torch.zeros(batch_size, dtype=torch.long, device=device), *tails)

    def flops_per_token(self, context_len: int) -> float:
        around = (
            norm_flops(self.mixer_norm) + norm_flops(self.mlp_norm) + sum(n.flops_per_token() for n in self._nears())
        )
        return self.mixer.flops_per_token(context_len) + mlps.flops_per_token(self.mlp) + around

    def state_bytes(self, context_len: int) -> int:
        tails = sum(rows * width for rows, width in (near.tail_shape for near in self._nears()))
        return self.mixer.state_bytes(context_len) + 2 * tails


def _near(config: NearConfig, place: Literal["A", "C"], dim: int, depth: float) -> Near | None:
    """What stands at a place, None where nothing does; the shift begins with more of the past in the first channels
    and in low blocks (the initial values of RWKV-4)."""
    canon = config.canon_width if place in config.canon else None
    if canon is None and not config.token_shift:
        return None
    shift_D = torch.linspace(0, 1, dim + 1)[1:] ** (1 - depth) if config.token_shift else None
    return Near(dim, shift_D, canon)


def narrowed(x_BTD: Tensor) -> Tensor:
    """x in autocast's format: cast once, not again by every projection that reads it."""
    kind = x_BTD.device.type
    return x_BTD.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x_BTD


def make_norm(
    dim: int, kind: Literal["layer", "rms"], *, eps: float, gain: bool, bias: bool, gate: int | None
) -> nn.Module:
    """A norm over the model width; gate: the rank of its gate, None = none."""
    if kind == "layer":
        norm = nn.LayerNorm(dim, eps=eps, elementwise_affine=gain, bias=bias)
    else:
        norm = nn.RMSNorm(dim, eps=eps, elementwise_affine=gain)
    return norm if gate is None else GatedNorm(norm, dim, gate)
