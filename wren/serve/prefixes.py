"""States of recent conversations, so that a next turn reads its new tokens only. Bounded in bytes and in number."""

from collections.abc import Sequence
from dataclasses import dataclass

from wren.generate import Prefix


@dataclass(eq=False)
class Kept:
    """key: the tokens of a conversation, as its text is encoded, that the state stands for.

    The state was made of the tokens that were drawn; where these spell the same text otherwise, it is not exact.
    """

    key: tuple[int, ...]
    prefix: Prefix
    size: int
    users: int = 0  # requests that have yet to read it

    @property
    def exact(self) -> bool:
        return self.prefix.tokens == self.key


class Prefixes:
    """What was not used for longest goes first. One thread uses it."""

    def __init__(self, max_bytes: int, most: int = 256):
        self.max_bytes, self.most = max_bytes, most
        self.bytes = 0
        self._kept: dict[tuple[int, ...], Kept] = {}  # the one used last stands last

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, prompt: Sequence[int], *, exact: bool) -> Kept | None:
        """The longest beginning of the prompt that is kept, until `done` gives it back; exact: nothing else will do."""
        best: Kept | None = None
        for kept in self._kept.values():
            length = len(kept.key)
            if length >= len(prompt) or (best is not None and length <= len(best.key)) or (exact and not kept.exact):
                continue
            if prompt[length - 1] == kept.key[-1] and tuple(prompt[:length]) == kept.key:
                best = kept
        if best is not None:
            self._kept[best.key] = self._kept.pop(best.key)
            best.users += 1
        return best

    def done(self, kept: Kept) -> None:
        """One request has read it."""
        kept.users -= 1

    def keep(self, key: tuple[int, ...], prefix: Prefix) -> None:
        """Keeps a state, or releases it where there is no room."""
        size = 0 if prefix.state is None else prefix.state.size()
        before = self._kept.get(key)
        if before is not None and not before.users:
            self._drop(before)
        if key in self._kept or size > self.max_bytes:
            prefix.release()
            return
        for kept in list(self._kept.values()):
            if self.bytes + size <= self.max_bytes and len(self._kept) < self.most:
                break
            if not kept.users:
                self._drop(kept)
        if self.bytes + size > self.max_bytes or len(self._kept) >= self.most:
            prefix.release()
            return
        self._kept[key] = Kept(key, prefix, size)
        self.bytes += size

    def clear(self) -> None:
        for kept in list(self._kept.values()):
            self._drop(kept)

    def _drop(self, kept: Kept) -> None:
        del self._kept[kept.key]
        self.bytes -= kept.size
        kept.prefix.release()
