"""The slot cache: a state that keeps something of every token, such as its key and value, in a fixed number of slots.

B batch, T time, S slots.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wren.errors import ConfigError
from wren.mixer import Context, State, advance, as_kind, check_tail, may_write, once, put_rows


class NextSlot(NamedTuple):
    """Where one more token of every row goes, and what it sees: the same for all layers of a call.

    place: in the slot tensors. used: the first slots, which are all that is in use. lengths_B: with the token.
    seen_BS: which of the slots in use it sees, None = all.
    """

    place: tuple[Tensor, Tensor]
    used: int
    lengths_B: Tensor
    seen_BS: Tensor | None


@dataclass
class SlotState(State):
    """A token stands at slot (its place in its row) mod S. A subclass declares the tensors (B, S, ...) that it keeps.

    max_len: the longest row allowed; None: any length fits, since tokens that left their slot are needed no more.
    longest: no row is longer; known without asking the device.
    """

    max_len: int | None
    longest: int

    def slots(self) -> dict[str, Tensor]:
        """The tensors (B, S, ...) by their field's name: all but lengths_B, unless the subclass holds others too."""
        return {name: x for name, x in self.tensors().items() if name != "lengths_B"}

    @property
    def num_slots(self) -> int:
        return next(iter(self.slots().values())).shape[1]

    def write(self, rows_B: Tensor, other: State) -> None:
        """As State.write; `other` may be made for another max_len as long as its rows fit."""
        other = as_kind(other, type(self))
        mine, theirs = self.slots(), other.slots()
        for name, cache in mine.items():
            check_tail(name.rpartition("_")[0], theirs[name][:, 0], cache.shape[2:])
        longest = int(other.lengths_B.max()) if len(other.lengths_B) else 0
        if self.max_len is not None and longest > self.max_len:
            raise ConfigError(_too_long(longest, self.max_len))
        source_BS = slot_places(other.lengths_B, self.num_slots).clamp(min=0) % other.num_slots
        rows_B1 = torch.arange(len(source_BS), device=source_BS.device)[:, None]
        for name, cache in mine.items():
            setattr(self, name, put_rows(cache, rows_B, theirs[name][rows_B1, source_BS]))
        self.lengths_B = put_rows(self.lengths_B, rows_B, other.lengths_B)
        self.longest = int(self.lengths_B.max())

    def admit(self, num_tokens: int, valid_B: Tensor | None) -> None:
        """Makes sure that the next tokens fit; raises ConfigError past max_len. Comes before `append`."""
        self.longest += num_tokens
        if self.max_len is not None and self.longest > self.max_len:  # rows that were replaced or padded: ask
            self.longest = int(advance(self.lengths_B, num_tokens, valid_B).max())
            if self.longest > self.max_len:
                raise ConfigError(_too_long(self.longest, self.max_len))

    def append(self, valid_B: Tensor | None, **new: Tensor) -> None:
        """Stores the last tokens before valid_B that the slots can hold, and advances the lengths.

        new: what every slot tensor gets, (B, T, ...) by its field's name.
        """
        caches = self.slots()
        B, T = next(iter(new.values())).shape[:2]
        S = self.num_slots
        end_B = self.lengths_B.new_full((B,), T) if valid_B is None else valid_B.to(self.lengths_B)
        index_BT = end_B[:, None] - min(T, S) + torch.arange(min(T, S), device=end_B.device)
        slots_BT = (self.lengths_B[:, None] + index_BT) % S
        rows_B1 = torch.arange(B, device=end_B.device)[:, None]
        in_place = may_write(*caches.values(), *new.values())
        for name, cache in caches.items():
            x = new[name]
            x = x[:, -S:].to(cache.dtype) if valid_B is None else x[rows_B1, index_BT.clamp(min=0)].to(cache.dtype)
            if valid_B is not None:  # where padding leaves too few tokens, a slot gets back what it held
                is_new_BT = (index_BT >= 0).view(*index_BT.shape, *[1] * (x.dim() - 2))
                x = torch.where(is_new_BT, x, cache[rows_B1, slots_BT])
            put = cache.index_put_ if in_place else cache.index_put
            setattr(self, name, put((rows_B1, slots_BT), x))
        self.lengths_B = advance(self.lengths_B, T, valid_B)

    def append_one(self, shared: dict[Hashable, Any] | None, window: int | None, **new: Tensor) -> NextSlot:
        """append for one token a row, (B, 1, ...), none of it padding; where it went. Comes after `admit`."""
        slots: int = getattr(self, next(iter(new))).shape[1]
        used = min(self.longest, slots)
        slot = once(shared, ("slot", slots, used, window), lambda: _next_slot(self.lengths_B, slots, used, window))
        for key, x in new.items():
            cache: Tensor = getattr(self, key)
            put = cache.index_put_ if may_write(cache, x) else cache.index_put
            setattr(self, key, put(slot.place, x.to(cache.dtype)))
        self.lengths_B = slot.lengths_B
        return slot

    def next_places(self, num_tokens: int) -> Tensor:
        """(B, T): where in their rows the next tokens will stand."""
        return self.lengths_B[:, None] + torch.arange(num_tokens, device=self.lengths_B.device)

    def append_and_place(self, valid_B: Tensor | None, **new: Tensor) -> tuple[Tensor, Tensor]:
        """append; then the places of the new tokens (B, T) and of the slots in use (B, U), below 0 where empty.

        Padding stands at its row's last place, and slot 0 never counts as empty: every token sees some slot, so that
        no softmax is NaN. U = min(longest, S): read the first U slots. Right only where no token of this call pushes
        out another that is still needed.
        """
        query_BT = self.next_places(next(iter(new.values())).shape[1])
        self.append(valid_B, **new)
        place_BU = slot_places(self.lengths_B, self.num_slots)[:, : min(self.longest, self.num_slots)]
        place_BU[:, 0] = place_BU[:, 0].clamp(min=0)
        return query_BT.clamp(max=(self.lengths_B - 1).clamp(min=0)[:, None]), place_BU


def _next_slot(lengths_B: Tensor, num_slots: int, used: int, window: int | None) -> NextSlot:
    rows_B1 = torch.arange(len(lengths_B), device=lengths_B.device)[:, None]
    place_BU = slot_places(lengths_B + 1, num_slots)[:, :used]
    seen_BU = place_BU >= 0
    if window is not None:
        seen_BU &= place_BU > lengths_B[:, None] - window
    # asking a GPU would wait for it; there the mask stays
    is_all = lengths_B.device.type == "cpu" and not torch.compiler.is_compiling() and bool(seen_BU.all())
    return NextSlot((rows_B1, lengths_B[:, None] % num_slots), used, lengths_B + 1, None if is_all else seen_BU)


def slot_places(lengths_B: Tensor, num_slots: int) -> Tensor:
    """(B, S): which place of its row each slot holds, the newest that falls on it; below 0 where it is empty."""
    last_B1 = lengths_B[:, None] - 1
    return last_B1 - (last_B1 - torch.arange(num_slots, device=lengths_B.device)) % num_slots


def positions(x_BTD: Tensor, context: Context) -> Tensor:
    """int64 (B or 1, T) positions of the tokens of x: the context's own, or else counted on from the state."""
    if context.positions_BT is not None:
        return context.positions_BT
    index_1T = torch.arange(x_BTD.shape[1], device=x_BTD.device)[None]
    return index_1T if context.state is None else context.state.lengths_B[:, None] + index_1T


def _too_long(length: int, max_len: int) -> str:
    return f"A row of {length} tokens does not fit a state made for {max_len}; make it with a larger max_len."
