"""pass@k from n samples of which some are right, without bias: 1 - C(n - c, k) / C(n, k)  (Chen et al., 2107.03374)."""

import math


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The chance that k of the samples, drawn without replacement, hold a right one.

    Raises ValueError unless 0 <= right <= samples and 1 <= k <= samples.
    """
    if not 0 <= right <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {right} right ones in {samples} samples")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)
