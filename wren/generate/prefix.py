"""What was read once and can be gone on from several times: a conversation so far, a node of a search tree."""

from dataclasses import dataclass, field

from wren.state import LMState


@dataclass(eq=False)
class Prefix:
    """tokens: all of it. pending: the last few, which are not in the state yet. Changed weights make it stale.

    It counts against its engine's memory, by num_bytes, until it is released. In a `with` statement it is released at
    the end.
    """

    tokens: tuple[int, ...]
    pending: tuple[int, ...]
    state: LMState | None = field(repr=False)
    num_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_bytes = 0 if self.state is None else self.state.size()  # once: a search keeps hundreds of them

    @property
    def num_read(self) -> int:
        """Tokens in the state."""
        return len(self.tokens) - len(self.pending)

    @property
    def released(self) -> bool:
        return self.state is None

    def release(self) -> None:
        self.state, self.num_bytes = None, 0

    def __enter__(self) -> "Prefix":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()
