"""Groups of permutations as multiplication tables, and the word problem over one: what is x_1 x_2 ... x_t?

B batch (examples), T time, E elements of the group.
"""

from collections.abc import Callable
from itertools import permutations

import numpy as np

from wren.batch import Batch
from wren.probe import ProbeConfig, Setting
from wren.probe_parts import demand, examples, mark_places, small_setting


def symmetric(size: int) -> np.ndarray:
    """The table of all permutations of `size` things, E = size!; table_EE[i, j] is i after j, and 0 does nothing."""
    return _table(list(permutations(range(size))))


def alternating(size: int) -> np.ndarray:
    """The table of the even permutations of `size` things, E = size! / 2; 0 does nothing."""
    return _table([p for p in permutations(range(size)) if _is_even(p)])


def cyclic(size: int) -> np.ndarray:
    """The table of addition modulo `size`."""
    place = np.arange(size)
    return (place[:, None] + place) % size


def _is_even(permutation: tuple[int, ...]) -> bool:
    pairs = [(a, b) for i, a in enumerate(permutation) for b in permutation[i + 1 :]]
    return sum(a > b for a, b in pairs) % 2 == 0


def _table(elements: list[tuple[int, ...]]) -> np.ndarray:
    number = {element: i for i, element in enumerate(elements)}
    return np.array([[number[tuple(a[k] for k in b)] for b in elements] for a in elements])


def word_problem(count: int, elements: int, rng: np.random.Generator, table_EE: np.ndarray) -> Batch:
    """Rows of a beginning token, E, and `elements` random elements; at each of these the product so far is asked for.

    Raises ConfigError for a word without elements.
    """
    demand(elements >= 1, f"A word has at least 1 element, not {elements}.")
    size = len(table_EE)
    tokens_BT = rng.integers(size, size=(count, elements + 1))
    tokens_BT[:, 0] = size
    targets_BT = mark_places(count, elements + 1)
    product_B = np.zeros(count, dtype=np.int64)
    for t in range(1, elements + 1):
        product_B = table_EE[product_B, tokens_BT[:, t]]
        targets_BT[:, t] = product_B
    return examples(tokens_BT, targets_BT)


def word_levels(trained: int, tested: int, group_size: int) -> dict[str, float]:
    """What following the word as far as the trained length, and guessing behind it, scores."""
    return {"the trained length alone": (trained + (tested - trained) / group_size) / tested}


def word_sizes(config: Callable[[int], ProbeConfig], group_size: int) -> dict[str, Setting]:
    """The sizes of a word problem, by what makes a config of so many elements."""
    small = small_setting(
        config(16),
        {f"{n} elements": config(n) for n in (32, 16, 64, 128)},
        depth=1,
        num_heads=4,
        steps=500 if group_size < 60 else 1000,
        batch_size=64,
        lrs=(2e-3, 5e-3),
        chance=1 / group_size,
        says="As the paper's, but width 64, trained on 16 elements and tested on 32 (headline), 16, 64 and 128.",
    ).with_levels(word_levels(16, 32, group_size))
    paper = Setting(
        train=config(128),
        tests={f"{n} elements": config(n) for n in (512, 128, 256, 1024, 2048)},
        dim=128,
        depth=1,
        num_heads=8,
        mlp="swiglu",
        mlp_hidden=512,
        tie_embeddings=False,
        train_examples=99_000,
        test_examples=1000,
        steps=100 * 49,
        batch_size=2048,
        lrs=(1e-3,),
        weight_decays=(1e-6,),
        warmup=0.0,
        eval_every=490,
        chance=1 / group_size,
        levels=word_levels(128, 512, group_size),
        says="DeltaProduct (2502.10297, automl/DeltaProduct 38cd4e4): 1 layer, width 128, 8 heads, 99,000 words of 128 "
        "elements, 100 epochs, batch 2048. There a head is 32 wide (name the mixer with head_dim=32), what counts is "
        "whole words (here: elements), and 4x the trained length; the other lengths are the curve.",
    )
    return {"cpu": small, "paper": paper}
