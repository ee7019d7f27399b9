"""Fuzzy in-context recall: keys and values of one to three tokens each.  (MAD, 2403.17844; athms/mad-lab 0f49a45)

    tokens         p  p  a  b  c  x  y  d  c  a  z  a  b  c  x
    targets, test  .  .  .  .  .  .  .  .  .  .  .  .  .  x  y       the values of keys that were shown before
    targets, train p  a  b  c  x  y  d  c  a  z  a  b  c  x  y       every next token, pads (p) too, as there

Keys are arrangements of the first half of the tokens, values of the second, of sizes 1 to 3 with the same chance; a
test takes keys of size 3 alone. A pair is chosen beforehand, put where the row first reaches a random place, and asked
for at the end. Now and then that place lies behind all pairs and the last key was never shown, so that at most 99.2
of 100 places can be told at `paper`.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from wren.batch import IGNORE, Batch
from wren.probe import Setting
from wren.probe_parts import demand, examples, mad_setting, small_setting

_MOTIF = 3  # the most tokens of a key, and of a value


@dataclass(frozen=True, kw_only=True)
class Config:
    """The last token is the pad; of the others the first half makes keys, the second values."""

    length: int = 128
    vocab_size: int = 16

    def __post_init__(self) -> None:
        name = "fuzzy_recall"
        demand(self.length >= 24, f"{name}.length is {self.length}; it must be at least 24.")
        demand(self.vocab_size >= 7, f"{name}.vocab_size is {self.vocab_size}; it must be at least 7.")

    def batch(self, count: int, rng: np.random.Generator, *, train: bool) -> Batch:
        pieces = [self._rows(min(4096, count - start), rng, train) for start in range(0, count, 4096)]
        rows_BT, scored_BT = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        targets_BT = rows_BT[:, 1:]
        return examples(rows_BT[:, :-1], targets_BT if train else np.where(scored_BT[:, 1:], targets_BT, IGNORE))

    def _rows(self, count: int, rng: np.random.Generator, train: bool) -> tuple[np.ndarray, np.ndarray]:
        """length + 1 tokens a row, and which of them a test scores."""
        plain = self.vocab_size - 1
        keys, values = _Motifs(0, plain // 2), _Motifs(plain // 2, plain)
        row_B, smallest = np.arange(count), 1 if train else _MOTIF
        probe_B = keys.draw(rng, count, smallest)
        answer_B = values.draw(rng, count, 1)
        last_B = keys.size_M[probe_B] + values.size_M[answer_B]
        place_B = rng.integers(self.length - 2 * last_B)

        written = _Rows(count, self.length + 1 + 2 * _MOTIF, plain)
        value_BM = np.full((count, len(keys.size_M)), -1)  # the value of each key, once it was shown
        placed_B = np.zeros(count, dtype=bool)
        while len(rows := row_B[written.end_B < self.length - last_B - 2 * _MOTIF]):
            key_R, value_R = keys.draw(rng, len(rows), smallest), values.draw(rng, len(rows), 1)
            due_R = (written.end_B[rows] >= place_B[rows]) & ~placed_B[rows]
            key_R = np.where(due_R, probe_B[rows], key_R)
            placed_B[rows] |= key_R == probe_B[rows]
            known_R = value_BM[rows, key_R]
            value_R = np.where(known_R >= 0, known_R, np.where(key_R == probe_B[rows], answer_B[rows], value_R))
            value_BM[rows, key_R] = value_R
            written.add(rows, keys, key_R)
            written.add(rows, values, value_R, scored_R=known_R >= 0)
        written.add(row_B, keys, probe_B)
        written.add(row_B, values, answer_B, scored_R=np.ones(count, dtype=bool))
        return written.flushed_right(self.length + 1)


class _Motifs:
    """Every arrangement of 1 to 3 of the tokens start .. stop - 1; M numbers them, the short ones first."""

    def __init__(self, start: int, stop: int):
        by_size = [list(permutations(range(start, stop), size)) for size in range(1, _MOTIF + 1)]
        self.counts = np.array([len(motifs) for motifs in by_size])
        self.starts = self.counts.cumsum() - self.counts
        self.size_M = np.repeat(np.arange(1, _MOTIF + 1), self.counts)
        self.tokens_MK = np.array([motif + (0,) * (_MOTIF - len(motif)) for motifs in by_size for motif in motifs])

    def draw(self, rng: np.random.Generator, count: int, smallest: int) -> np.ndarray:
        """Sizes from the smallest on have the same chance, and the motifs of one size."""
        size_R = rng.integers(smallest - 1, _MOTIF, size=count)
        return self.starts[size_R] + rng.integers(self.counts[size_R])


class _Rows:
    """Rows that are being written, each as far as it has come."""

    def __init__(self, count: int, width: int, pad: int):
        self.tokens_BT, self.pad = np.full((count, width), pad), pad
        self.scored_BT = np.zeros((count, width), dtype=bool)
        self.end_B = np.zeros(count, dtype=np.int64)

    def add(self, rows: np.ndarray, motifs: _Motifs, motif_R: np.ndarray, scored_R: np.ndarray | None = None) -> None:
        for k in range(_MOTIF):
            here = k < motifs.size_M[motif_R]
            place = rows[here], self.end_B[rows[here]] + k
            self.tokens_BT[place] = motifs.tokens_MK[motif_R[here], k]
            self.scored_BT[place] = False if scored_R is None else scored_R[here]
        self.end_B[rows] += motifs.size_M[motif_R]

    def flushed_right(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows with their pads in front."""
        from_BT = np.arange(length) - (length - self.end_B[:, None])
        inside_BT, from_BT = from_BT >= 0, np.maximum(from_BT, 0)
        tokens_BT = np.where(inside_BT, np.take_along_axis(self.tokens_BT, from_BT, axis=1), self.pad)
        return tokens_BT, inside_BT & np.take_along_axis(self.scored_BT, from_BT, axis=1)


def _tests(*lengths: int) -> dict[str, Config]:
    return {f"{n} tokens": Config(length=n) for n in lengths}


SIZES: dict[str, Setting] = {
    "cpu": small_setting(
        Config(length=96, vocab_size=10),
        {f"{n} tokens": Config(length=n, vocab_size=10) for n in (96, 192, 384)},
        score="macro",
        num_heads=4,
        steps=600,
        chance=1 / 5,
        says="MAD's task at 96 tokens and vocab 10 instead of 128 and 16; the curve is 2x and 4x the trained length.",
    ),
    "paper": mad_setting(
        Config(),
        _tests(128, 256, 512, 1024, 2048),
        chance=1 / 8,
        says="vocab 16, 128 tokens, motifs of up to 3 tokens; the lengths up to 16x are our addition.",
    ),
}
