"""Mixers that are wrong on purpose, each with the check that must find it out."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import mixer_contract
import torch
from torch import Tensor

from wren.mixer import Context, Mixer
from wren.mixers import attention
from wren.mixers.attention import Attention, AttentionState


@dataclass(frozen=True, kw_only=True)
class Config:
    """kind: the class to build."""

    kind: type[Attention]

    def build(self, dim: int) -> Attention:
        return self.kind(dim, attention.Config(num_heads=2))


class SeesNextInput(Attention):
    """Acausal by one."""

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        y_BTD = super().forward(x_BTD, context)
        return y_BTD + 0.1 * torch.roll(y_BTD, -1, dims=1)


class SeesNextToken(Attention):
    """Knows the next token id, by an index and so without a gradient."""

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        assert context.tokens_BT is not None
        following_BT = torch.roll(context.tokens_BT, -1, dims=1).to(x_BTD.dtype)
        return super().forward(x_BTD, context) + 0.1 * following_BT[:, :, None].sin()


class SeesOtherRows(Attention):
    """Mixes the rows of a batch."""

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        y_BTD = super().forward(x_BTD, context)
        return y_BTD + 0.1 * y_BTD.mean(0, keepdim=True)


class RotatesOneTooFar(Attention):
    """Decodes with positions that are one too high."""

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        if context.state is not None:
            lengths_B1 = context.state.lengths_B[:, None]
            positions_BT = lengths_B1 + torch.arange(x_BTD.shape[1]) + (lengths_B1 > 0)
            context = context._replace(positions_BT=positions_BT)
        return super().forward(x_BTD, context)


class ForgetsDocuments(Attention):
    """Packed documents see each other."""

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        return super().forward(x_BTD, context._replace(documents_BT=None))


class ForgetsPadding(Attention):
    """Padding advances the state."""

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        return super().forward(x_BTD, context._replace(valid_B=None))


class SharingState(AttentionState):
    def select(self, rows_B: Tensor) -> Self:
        if torch.equal(rows_B, torch.arange(len(self.lengths_B))):
            return dataclasses.replace(self)
        return super().select(rows_B)


class SharesSelectedRows(Attention):
    """Its state is not copied on select."""

    def new_state(self, *arguments, **settings) -> SharingState:
        state = super().new_state(*arguments, **settings)
        return SharingState(**{field.name: getattr(state, field.name) for field in dataclasses.fields(state)})


class DroppingState(AttentionState):
    def write(self, rows_B: Tensor, other) -> None:
        super().write(rows_B, other)
        self.lengths_B[rows_B] -= 1


class LosesWrittenTokens(Attention):
    """A row that joins has lost its last token."""

    def new_state(self, *arguments, **settings) -> DroppingState:
        state = super().new_state(*arguments, **settings)
        return DroppingState(**{field.name: getattr(state, field.name) for field in dataclasses.fields(state)})


class WritesInTraining(Attention):
    """Writes into the state's tensors although gradients are enabled."""

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        if context.state is None:
            return super().forward(x_BTD, context)
        given = context.state.lengths_B
        y_BTD = super().forward(x_BTD, context)
        context.state.lengths_B = given.copy_(context.state.lengths_B)
        return y_BTD


class CountsHalf(Attention):
    """Claims half the work and half the state."""

    def flops_per_token(self, context_len: int) -> float:
        return super().flops_per_token(context_len) / 2

    def state_bytes(self, context_len: int) -> int:
        return super().state_bytes(context_len) // 2


class WrongGradient(Attention):
    """Hides a part of its output from the gradient."""

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        y_BTD = super().forward(x_BTD, context)
        return y_BTD + y_BTD.detach()


WRONG: tuple[tuple[type[Attention], Callable[[Mixer], None]], ...] = (
    (SeesNextInput, mixer_contract.check_causal_by_gradient),
    (SeesNextInput, mixer_contract.check_causal_by_change),
    (SeesNextToken, mixer_contract.check_causal_by_change),
    (SeesOtherRows, mixer_contract.check_rows_apart),
    (RotatesOneTooFar, mixer_contract.check_pieces),
    (ForgetsDocuments, mixer_contract.check_documents),
    (ForgetsPadding, mixer_contract.check_padding),
    (SharesSelectedRows, mixer_contract.check_select),
    (LosesWrittenTokens, mixer_contract.check_write),
    (WritesInTraining, mixer_contract.check_training_through_state),
    (CountsHalf, mixer_contract.check_flops),
    (CountsHalf, mixer_contract.check_state_bytes),
    (WrongGradient, mixer_contract.check_gradients),
)
