"""What a round of self-play leaves to learn from, kept in a file of the run so that a resumed run finds it.

N positions, T time, M moves of the game, K = 2 last places: of the worth, of the move.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wren.errors import CheckpointError
from wren.files import atomic_writer

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Positions:
    """tokens_NT; probs_NM: of moves; worths_N3: of loss, draw and win; weights_NK.

    legal_NM, logprobs_N: for a policy gradient, the moves that could be drawn and the drawn one's log-probability; its
    probs_NM is 1 for the drawn move, and its weight the advantage. Else without rows.
    """

    tokens_NT: np.ndarray
    probs_NM: np.ndarray
    worths_N3: np.ndarray
    weights_NK: np.ndarray
    legal_NM: np.ndarray
    logprobs_N: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens_NT)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_writer(path) as file:
            np.savez_compressed(file, **vars(self))

    @classmethod
    def load(cls, path: Path) -> "Positions":
        """Raises CheckpointError where the file is missing or damaged."""
        try:
            with np.load(path) as arrays:
                return cls(**{name: arrays[name] for name in cls.__dataclass_fields__})
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise CheckpointError(
                f"{path}, a round of games to go on from, cannot be read ({error}); begin again in another --run."
            ) from error

    @classmethod
    def joined(cls, parts: "Sequence[Positions]") -> "Positions":
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


def positions(
    tokens_NT: np.ndarray,
    probs_NM: np.ndarray,
    worths_N3: np.ndarray,
    weights_NK: np.ndarray,
    legal_NM: np.ndarray | None = None,
    logprobs_N: np.ndarray | None = None,
) -> Positions:
    """In the types that are kept."""
    return Positions(
        tokens_NT.astype(np.int16),
        probs_NM.astype(np.float32),
        worths_N3.astype(np.float32),
        weights_NK.astype(np.float32),
        np.zeros((0, probs_NM.shape[1]), dtype=bool) if legal_NM is None else legal_NM.astype(bool),
        np.zeros(0, dtype=np.float32) if logprobs_N is None else logprobs_N.astype(np.float32),
    )


def three(worth: float) -> tuple[float, float, float]:
    """A worth between -1 and 1 as probabilities of loss, draw and win whose mean it is."""
    worth = max(-1.0, min(1.0, worth))
    return max(-worth, 0.0), 1 - abs(worth), max(worth, 0.0)
