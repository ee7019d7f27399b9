"""What is asked of the engine, and what it answers. V vocabulary."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from torch import Tensor

from wren.errors import ConfigError, WrenError

if TYPE_CHECKING:
    from wren.generate.prefix import Prefix

Finish = Literal["stop", "length", "cancelled", "error"]
Mask = Callable[[Sequence[int]], Tensor | None]
_GOLDEN = 0x9E3779B97F4A7C15
MOST_TOP = 100


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """temperature: 0 = always the likeliest token. top_k, top_p: keep the k likeliest, or the likeliest that together
    hold probability p (1904.09751). min_tokens: no stop token is drawn before so many others. seed: the draws are a
    function of it, of the number of the sample and of the place in the text alone.
    """

    max_tokens: int = 200
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    min_tokens: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens is {self.max_tokens}; it must be at least 1.")
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature is {self.temperature}; it must be 0 (always the likeliest) or above.")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k is {self.top_k}; it must be at least 1.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; it must lie in (0, 1].")
        if not 0 <= self.min_tokens <= self.max_tokens:
            raise ConfigError(f"min_tokens is {self.min_tokens}; it must lie in 0 to max_tokens, {self.max_tokens}.")


def row_seed(seed: int, row: int) -> int:
    """The seed of sample `row`; sample 0 keeps the seed itself, and sample j of sample i is sample i + j."""
    return (seed + row * _GOLDEN) % 2**63


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt to be continued n times.

    prompt: token ids; what stands in `prefix` comes before them and is not read again.
    stop_ids: tokens that end a sample; they are not part of its tokens.
    top_logprobs: how many of the likeliest tokens are reported at every place, 0 = none.
    echo: the prompt's own log-probabilities are asked for too.
    bias: added to the logits of some tokens. allowed: True (V,) for tokens that may be drawn, None = all. mask: gives
        such a tensor for the tokens drawn so far, or None; called before every draw.
    keep: the completions carry a `prefix` with which another request can go on.
    adapter: the number of one in the model's `adapters`, 0 = none.
    """

    prompt: Sequence[int]
    n: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    stop_ids: frozenset[int] = frozenset()
    top_logprobs: int = 0
    echo: bool = False
    bias: Mapping[int, float] = field(default_factory=dict)
    allowed: Tensor | None = None
    mask: Mask | None = None
    prefix: "Prefix | None" = None
    keep: bool = False
    adapter: int = 0

    def check(self, entries: int, drawable: int) -> None:
        """Raises ConfigError for what can be seen to be wrong; entries: ids a model knows, drawable: may draw."""
        if self.n < 1:
            raise ConfigError(f"n is {self.n}; it must be at least 1.")
        if not len(self.prompt) and (self.prefix is None or not self.prefix.pending):
            raise ConfigError("A prompt is empty; every row needs at least one token.")
        wrong = next((token for token in self.prompt if not 0 <= token < entries), None)
        if wrong is not None:
            raise ConfigError(f"The prompt holds token {wrong}; the model knows 0 to {entries - 1}.")
        if not 0 <= self.top_logprobs <= min(MOST_TOP, drawable):
            most = min(MOST_TOP, drawable)
            raise ConfigError(f"top_logprobs is {self.top_logprobs}; it must lie in 0 to {most}.")
        self._check_choice(drawable)

    def _check_choice(self, drawable: int) -> None:
        for token, value in self.bias.items():
            if not 0 <= token < drawable:
                raise ConfigError(f"bias names token {token}; the model draws 0 to {drawable - 1}.")
            if not math.isfinite(value):
                raise ConfigError(f"The bias of token {token} is {value}; give a finite number, or use `allowed`.")
        if self.allowed is not None:
            check_mask(self.allowed, drawable)
            if not bool(self.allowed[:drawable].any()):
                raise ConfigError("`allowed` leaves no token; allow at least one.")


def check_mask(mask_V: Tensor, drawable: int) -> None:
    """Raises ConfigError unless the mask has a truth value for every token that can be drawn."""
    if mask_V.dim() != 1 or len(mask_V) < drawable or mask_V.dtype.is_floating_point:
        shape, kind = tuple(mask_V.shape), str(mask_V.dtype).removeprefix("torch.")
        raise ConfigError(f"A mask of tokens is {kind} {shape}; it must be bool ({drawable},).")


class Row(NamedTuple):
    """A row to draw for: what was asked, its own seed, and what it has drawn so far."""

    request: Request
    seed: int
    tokens: Sequence[int]


class Drawn(NamedTuple):
    """A token with its log-probability under the model and under the distribution it was drawn from, which differs by
    bias, masks, temperature, top_k and top_p; top: the model's likeliest tokens with theirs."""

    token: int
    logprob: float
    sampled_logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass
class Completion:
    """One sample: drawn, in order; ended_by: the stop token, which is not among them.

    prompt_logprobs: of each prompt token, None for the first, which nothing predicts; with echo only. prefix: to go on
    from where it ended, with keep only; None where there was no room for it.
    error: why finish is "error".
    """

    drawn: list[Drawn] = field(default_factory=list)
    finish: Finish | None = None
    ended_by: Drawn | None = None
    prompt_logprobs: list[float | None] | None = None
    prompt_top: list[tuple[tuple[int, float], ...]] | None = None
    prefix: "Prefix | None" = None
    error: WrenError | None = None

    @property
    def tokens(self) -> list[int]:
        return [each.token for each in self.drawn]

    @property
    def logprobs(self) -> list[float]:
        """The model's own."""
        return [each.logprob for each in self.drawn]

    @property
    def sampled_logprobs(self) -> list[float]:
        """Of the distribution that was drawn from."""
        return [each.sampled_logprob for each in self.drawn]
