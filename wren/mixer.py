"""The contract of a sequence mixer: a causal map x_BTD -> y_BTD, and what it remembers of the past.

A mixer's file `wren/mixers/<name>.py` holds its `Config`, its `State`, its `Mixer` and `EXAMPLES`, a tuple of small
settings for a width of 16 that between them turn every switch: the contract tests run all of them.

B batch, T time, D model width.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from wren.errors import ConfigError
from wren.ops.fla import Boundaries

S = TypeVar("S", bound="State")
T = TypeVar("T")


@dataclass
class State(ABC):
    """What one mixer remembers of the past of each row: a dataclass whose tensors are all batch first.

    A forward pass with gradients enabled replaces the tensors of a state and never writes into them; without
    gradients it may write in place. Changed weights make every state stale.
    """

    lengths_B: Tensor  # int64: tokens seen by each row

    def select(self, rows_B: Tensor) -> Self:
        """A new state of the given rows (int64): repeats fork a sample, a permutation reorders beams. Copies."""
        return self._map(lambda x: x.index_select(0, rows_B))

    def write(self, rows_B: Tensor, other: "State") -> None:
        """Puts the rows of `other` in place of `rows_B`: admits new rows into a running batch."""
        for name, theirs in as_kind(other, type(self)).tensors().items():
            setattr(self, name, put_rows(getattr(self, name), rows_B, theirs))

    def detach(self) -> Self:
        """The same state cut off from the graph that made it; it shares memory with this one."""
        return self._map(torch.Tensor.detach)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by its field's name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        return dataclasses.replace(self, **{name: change(x) for name, x in self.tensors().items()})


class Context(NamedTuple):
    """What a mixer may know besides x.

    tokens_BT: int64 ids.  positions_BT: int64, None = lengths + 0, 1, 2, ...
    documents_BT: int64, a document is a run of equal numbers and no number comes back later in its row; tokens of
        different documents never see each other; None = one document. Not together with a state: a state
        remembers one document a row.
    valid_B: int64, tokens past it are padding: they advance no state, and their output means nothing; None = all.
    values_BTD: what the block adds to the mixer's values, mixer.values_dim wide, or None.
    state: None in training. It is advanced by the call.
    boundaries: of documents_BT, shared by the layers of a forward pass for kernels that ask for them; None = each finds
        its own.
    shared: what one layer worked out of the rows' lengths and the next may use again, by a name; see `once`. It lives
        for one call of a model with a state, in which all layers have seen the same tokens; None = nothing is kept.
    """

    tokens_BT: Tensor | None = None
    positions_BT: Tensor | None = None
    documents_BT: Tensor | None = None
    valid_B: Tensor | None = None
    values_BTD: Tensor | None = None
    state: State | None = None
    boundaries: Boundaries | None = None
    shared: dict[Hashable, Any] | None = None


def once(shared: dict[Hashable, Any] | None, name: Hashable, make: Callable[[], T]) -> T:
    """What `make` gives, made once for all layers of a call that keeps it under this name."""
    if shared is None:
        return make()
    if name not in shared:
        shared[name] = make()
    return shared[name]


class Mixer(nn.Module, ABC):
    """A causal sequence mixer. Its file holds its frozen Config with `.build(dim)`, its State and itself.

    The linear layer that ends it is named `out`: the model scales such layers down by depth.
    values_dim: width of the context's values_BTD that the mixer adds to its values, 0 = it takes none.
    """

    values_dim: int

    @abstractmethod
    def forward(self, x_BTD: Tensor, context: Context) -> Tensor: ...

    @abstractmethod
    def new_state(
        self, batch_size: int, max_len: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> State:
        """A state for `batch_size` rows of up to `max_len` tokens; `dtype` is that of cached keys and values."""

    @abstractmethod
    def flops_per_token(self, context_len: int) -> float:
        """Floating-point operations of the forward pass for one token, averaged over a row of context_len tokens.

        A multiply-add counts 2. Matrix products and triangular solves only: what torch.utils.flop_counter counts for
        the whole row at once, or token by token (each mixer says which); of causal attention only the scores that its
        mask lets through.
        """

    @abstractmethod
    def state_bytes(self, context_len: int) -> int:
        """Bytes of state per sequence after context_len tokens, at 2 bytes a cached value and 4 a recurrent one.

        These are the bytes of floating-point tensors that new_state(1, context_len, dtype=torch.bfloat16) allocates.
        """


class MixerConfig(Protocol):
    """A mixer's settings: a frozen keyword-only dataclass named `Config` in `wren/mixers/<name>.py`."""

    def build(self, dim: int) -> Mixer: ...


def own_state(context: Context, kind: type[S], batch_size: int) -> S | None:
    """The context's state as the mixer's own kind, None if there is none; raises ConfigError where it cannot fit."""
    if context.state is None:
        return None
    state = as_kind(context.state, kind)
    if context.documents_BT is not None:
        raise ConfigError("A state remembers one document a row; give documents_BT only without a state.")
    if state.lengths_B.shape[0] != batch_size:
        rows = state.lengths_B.shape[0]
        raise ConfigError(f"The state holds {rows} rows and the input {batch_size}; select the rows that go on.")
    return state


def as_kind(state: State, kind: type[S]) -> S:
    """The state, known to be of this kind; raises ConfigError for another mixer's."""
    if not isinstance(state, kind):
        raise ConfigError(
            f"A state of {type(state).__module__} was given where one of {kind.__module__} belongs; "
            "make it with this mixer's own new_state."
        )
    return state


def check_tail(name: str, found: Tensor, shape: tuple[int, ...]) -> None:
    """Raises ConfigError unless `found`, a state's tensor, has this shape past its batch dimension."""
    if found.shape[1:] != shape:
        raise ConfigError(
            f"The state's {name} are of shape {tuple(found.shape[1:])} a row and this mixer's of {shape}: the state "
            "belongs to other settings; make it with this mixer's own new_state."
        )


def advance(lengths_B: Tensor, num_tokens: int, valid_B: Tensor | None) -> Tensor:
    """Row lengths after num_tokens more, of which only valid_B count."""
    return lengths_B + (num_tokens if valid_B is None else valid_B.to(lengths_B))


def valid_mask(valid_B: Tensor | None, num_tokens: int) -> Tensor | None:
    """True (B, T) for tokens before valid_B; None when all are."""
    if valid_B is None:
        return None
    return torch.arange(num_tokens, device=valid_B.device) < valid_B[:, None]


def without_padding(x_BTD: Tensor, valid_B: Tensor | None) -> Tensor:
    """The input with zeros past valid_B: products with masked numbers stay finite, whatever the padding holds."""
    valid_BT = valid_mask(valid_B, x_BTD.shape[1])
    return x_BTD if valid_BT is None else torch.where(valid_BT[:, :, None], x_BTD, 0.0)


def with_values(v_BTE: Tensor, context: Context) -> Tensor:
    """A mixer's values with those that the block adds, if it does; E is mixer.values_dim."""
    return v_BTE if context.values_BTD is None else v_BTE + context.values_BTD.to(v_BTE.dtype)


def may_write(*tensors: Tensor) -> bool:
    """Whether tensors of a state may be written in place: no graph is being made, and none made them."""
    return not torch.is_grad_enabled() and not any(x.requires_grad for x in tensors)


def put_rows(mine: Tensor, rows_B: Tensor, theirs: Tensor) -> Tensor:
    """`mine` with the rows `rows_B` replaced by `theirs`, in place where that is allowed."""
    if mine.shape[1:] != theirs.shape[1:]:
        raise ConfigError(
            f"Rows of shape {tuple(theirs.shape[1:])} do not fit a state of {tuple(mine.shape[1:])}; "
            "make both states with the same mixer."
        )
    put = mine.index_copy_ if may_write(mine, theirs) else mine.index_copy
    return put(0, rows_B, theirs.to(mine.dtype))
