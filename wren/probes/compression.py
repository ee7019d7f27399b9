"""Compression: every token, told again from what is kept of them.  (MAD, 2403.17844; athms/mad-lab 0f49a45)

    tokens    a b a c  |  ?1 ?2 ?3 ?4
    targets   . . . .  .   a  b  a  c

Not MAD's own form: there an auto-encoder takes the hidden vector at `|` alone, adds a sine table of places and reads
each token off by an MLP. A model that reads tokens in order and answers in place cannot be kept from looking back, so
this is the nearest form: one query token per place, no answer fed back. A state of fixed size must hold all tokens as
there; attention need not, so its row does not compare with the published one.
"""

from dataclasses import dataclass

import numpy as np

from wren.batch import Batch
from wren.probe import Setting
from wren.probe_parts import demand, examples, mad_setting, mark_places, small_setting


@dataclass(frozen=True, kw_only=True)
class Config:
    """letters: tokens to be kept. letter_vocab: different ones. places: query tokens there are."""

    letters: int = 31
    letter_vocab: int = 15
    places: int = 31

    def __post_init__(self) -> None:
        name = "compression"
        demand(self.letter_vocab >= 2, f"{name}.letter_vocab is {self.letter_vocab}; it must be at least 2.")
        demand(
            1 <= self.letters <= self.places,
            f"{name}.letters is {self.letters}; it must lie between 1 and places, {self.places}.",
        )

    @property
    def vocab_size(self) -> int:
        return self.letter_vocab + 1 + self.places

    @property
    def length(self) -> int:
        return 2 * self.letters + 1

    def batch(self, count: int, rng: np.random.Generator, *, train: bool) -> Batch:
        letters = self.letters
        tokens_BT = rng.integers(self.letter_vocab, size=(count, self.length))
        targets_BT = mark_places(count, self.length)
        targets_BT[:, letters + 1 :] = tokens_BT[:, :letters]
        tokens_BT[:, letters:] = self.letter_vocab + np.arange(letters + 1)
        return examples(tokens_BT, targets_BT)


def _tests(places: int, *letters: int) -> dict[str, Config]:
    return {f"{n} letters": Config(letters=n, places=places) for n in letters}


SIZES: dict[str, Setting] = {
    "cpu": small_setting(
        Config(letters=24, places=24),
        _tests(24, 24, 16, 8),
        score="macro",
        num_heads=4,
        chance=1 / 15,
        says="MAD's task as queries, not as an auto-encoder; 24 letters instead of 31. Shorter ones are the curve: "
        "places beyond the trained ones have no query token.",
    ),
    "paper": mad_setting(
        Config(),
        _tests(31, 31, 24, 16, 8),
        chance=1 / 15,
        says="15 letters and the mark, 31 places. As queries, not as an auto-encoder: attention can look back.",
    ),
}
