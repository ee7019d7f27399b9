"""Stochastic rounding to bf16: up or down by chance, so that the mean is the number itself (2010.06192).

A bf16 number keeps 8 bits: a change of less than a 512th of it would always be lost by rounding to the nearest. bf16
is the upper half of float32, so a random number below 2^16 is added to the lower half, which is then cut off.
"""

import torch
from torch import Tensor

_MASK = 2**64 - 1


def stochastically_rounded(x: Tensor, generator: torch.Generator) -> Tensor:
    """float32 -> bf16 of the same shape; what bf16 holds exactly, infinity and NaN stay what they are."""
    noise = torch.empty(x.shape, dtype=torch.int32, device=x.device).random_(0, 1 << 16, generator=generator)
    rounded = (noise.add_(x.contiguous().view(torch.int32)).bitwise_and_(-65536)).view(torch.float32)
    return torch.where(x.isfinite(), rounded, x).to(torch.bfloat16)


class Draws:
    """Random numbers for rounding that follow from a seed, the number of steps and the place in the model alone.

    So a resumed run rounds as one that never stopped, and all processes that hold the same weights round alike.
    """

    def __init__(self, seed: int):
        self.seed, self.count = seed, 0
        self._generators: dict[torch.device, torch.Generator] = {}

    def at(self, device: torch.device, *place: int) -> torch.Generator:
        """A generator for a place, such as the number of a parameter and of a piece of it; valid until the next call.

        device: where it draws.
        """
        if device not in self._generators:
            self._generators[device] = torch.Generator(device)
        mixed = self.seed & _MASK
        for number in (self.count, *place):
            mixed = _mix(mixed ^ (number + 0x9E3779B97F4A7C15 & _MASK))
        return self._generators[device].manual_seed(mixed >> 1)


def _mix(x: int) -> int:
    """A 64-bit finaliser that spreads every bit (Steele et al. 2014, SplitMix)."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)
