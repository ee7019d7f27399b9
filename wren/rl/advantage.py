"""What a sample is worth beside the others of its prompt, and what each of its tokens then weighs.

The advantage is the reward less a baseline of the group: its mean (GRPO, 2402.03300), or the mean of the others, which
no reward of its own biases (RLOO, 2402.14740). The loop divides the loss by the number of learned tokens, so that

    dapo       w = A                          every token counts the same                        (2503.14476)
    dr_grpo    w = A tokens / (R max_tokens)  every sample's tokens are divided by one constant  (2503.20783)
    grpo       w = A / std x tokens / (R L)   every sample counts the same, however long          (2402.03300)

R samples, L a sample's own length, G groups, S samples of a group.
"""

from typing import Literal

from torch import Tensor

Normalise = Literal["dapo", "dr_grpo", "grpo"]
Baseline = Literal["mean", "others"]
_LEAST = 1e-6  # a spread below it is none


def advantages(rewards_GS: Tensor, baseline: Baseline = "mean", *, scaled: bool = False) -> Tensor:
    """(G, S); scaled: over the standard deviation of the group, as GRPO has it. Raises ValueError for single samples
    whose baseline are the others."""
    mean_G1 = rewards_GS.mean(1, keepdim=True)
    advantage_GS = rewards_GS - mean_G1
    samples = rewards_GS.shape[1]
    if baseline == "others":
        if samples < 2:
            raise ValueError("a group of one has no others")
        advantage_GS = advantage_GS * (samples / (samples - 1))
    if scaled:
        advantage_GS = advantage_GS / (rewards_GS.std(1, keepdim=True, unbiased=False) + _LEAST)
    return advantage_GS


def has_signal(rewards_GS: Tensor) -> Tensor:
    """(G,) bool: groups whose samples differ in reward; the others have no gradient."""
    return rewards_GS.amax(1) - rewards_GS.amin(1) > _LEAST


def token_weights(advantage_R: Tensor, lengths_R: Tensor, normalise: Normalise, max_tokens: int) -> Tensor:
    """(R,): what each learned token of a sample weighs in a batch of these samples."""
    tokens, count = lengths_R.sum(), max(len(lengths_R), 1)
    if normalise == "dapo":
        return advantage_R
    if normalise == "dr_grpo":
        return advantage_R * tokens / (count * max_tokens)
    return advantage_R * tokens / (count * lengths_R.clamp(min=1))
