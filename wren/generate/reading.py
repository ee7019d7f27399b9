"""Prompts that are read together, a chunk at a time, until their samples fork from them.

R rows, T tokens of a chunk, D model width, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from wren.generate.draw import prompt_logprobs
from wren.generate.forward import Forward
from wren.generate.prefix import Prefix
from wren.generate.sample import Handle, Sample
from wren.state import LMState

_AT_ONCE = 128  # places whose logits are held at a time
WASTE = 1.5  # padded over real tokens, at most


class Prompt:
    """One row: the tokens to be read, and the requests that go on from it."""

    def __init__(self, tokens: Sequence[int], prefix: Prefix | None, handle: Handle):
        self.tokens, self.prefix, self.handles = tuple(tokens), prefix, [handle]
        self.adapter = handle.request.adapter
        self.need = max(sample.need for sample in handle.samples)
        self.echo = handle.request.echo
        self.top = handle.request.top_logprobs
        self.logprobs: list[float | None] = [None]
        self.tops: list[tuple[tuple[int, float], ...]] = [()]

    def is_same(self, other: "Prompt") -> bool:
        """Whether what is read for one serves the other."""
        mine = (self.tokens, self.adapter, self.echo, self.top)
        return mine == (other.tokens, other.adapter, other.echo, other.top) and self.prefix is other.prefix

    @property
    def waiting(self) -> list[Sample]:
        return [sample for handle in self.handles for sample in handle.samples if not sample.done]


class Reading:
    """A few prompts with one prefix, or none; complete when `left` is 0."""

    def __init__(self, prompts: list[Prompt], forward: Forward, drawable: int):
        self.prompts, self.forward, self.drawable = prompts, forward, drawable
        self.max_len = max(prompt.need for prompt in prompts)
        self.longest = max(len(prompt.tokens) for prompt in prompts)
        self.read = 0
        self.state: LMState | None = None
        self.last: list[Tensor | None] = [None] * len(prompts)  # (D,): what the first draw reads
        self.placed: set[Sample] = set()

    @property
    def left(self) -> int:
        return self.longest - self.read

    @property
    def waiting(self) -> list[tuple[Sample, int]]:
        """Samples that have not begun, with the row they fork from."""
        return [
            (sample, row)
            for row, prompt in enumerate(self.prompts)
            for sample in prompt.waiting
            if sample not in self.placed
        ]

    def begin(self) -> None:
        state = self.forward.new_state(len(self.prompts), self.max_len)
        prefix = self.prompts[0].prefix
        if prefix is not None and prefix.state is not None:
            past = prefix.state.select(self.forward.index([0] * len(self.prompts)))
            state.write(self.forward.index(range(len(self.prompts))), past)
            state.know_longest(prefix.num_read)
        self.state = state

    def step(self, num_tokens: int) -> int:
        """Reads up to so many tokens of every row; how many were read of the longest."""
        assert self.state is not None
        start, stop = self.read, min(self.longest, self.read + num_tokens)
        width = stop - start
        counts = [max(0, min(len(prompt.tokens) - start, width)) for prompt in self.prompts]
        pieces = [[*prompt.tokens[start:stop], *[0] * (width - n)] for prompt, n in zip(self.prompts, counts)]  # noqa: B905
        valid_R = None if min(counts) == width else self.forward.index(counts)
        tokens_RT = torch.tensor(pieces, device=self.forward.device)
        adapters = [prompt.adapter for prompt in self.prompts]
        hidden_RTD = self.forward.hidden(tokens_RT, self.state, adapters, valid_R)
        self.read = stop
        for row, (prompt, count) in enumerate(zip(self.prompts, counts, strict=True)):
            if count and start + count == len(prompt.tokens):
                self.last[row] = hidden_RTD[row, count - 1].clone()
            if prompt.echo and count:
                self._echo(prompt, hidden_RTD[row, :count], start)
        prefix = self.prompts[0].prefix
        before = 0 if prefix is None else prefix.num_read
        self.state.know_longest(before + min(stop, self.longest))
        return width

    def _echo(self, prompt: Prompt, hidden_TD: Tensor, start: int) -> None:
        """Keeps the log-probabilities of the tokens that these places predict."""
        next_T = torch.tensor(prompt.tokens[start + 1 : start + 1 + len(hidden_TD)], dtype=torch.long)
        next_T = next_T.to(self.forward.device)
        for piece in range(0, len(next_T), _AT_ONCE):
            targets = next_T[piece : piece + _AT_ONCE]
            logits_TV = self.forward.logits(hidden_TD[piece : piece + len(targets)][None], [prompt.adapter])[0]
            values, tops = prompt_logprobs(logits_TV, targets, self.drawable, prompt.top)
            prompt.logprobs += values
            prompt.tops += tops

    def size(self) -> int:
        return 0 if self.state is None else self.state.size()


def gathered(prompts: Sequence[Prompt], forward: Forward, free: int) -> list[Prompt]:
    """The first prompts that may be read together within `free` bytes; none where not even one fits.

    Beside the state that reads there is room for one sample of the first prompt, or else for all samples of all that
    read together. Prompts of like length and need go together.
    """
    chosen: list[Prompt] = []
    for prompt in prompts:
        group = [*chosen, prompt]
        need = max(each.need for each in group)
        aside = sum(len(each.waiting) for each in group) if chosen else 1
        if (len(group) + aside) * forward.row_bytes(need) > free:
            return chosen
        lengths = [len(each.tokens) for each in group]
        wasted = len(group) * max(lengths) > WASTE * sum(lengths) + 64
        apart = chosen and (prompt.prefix is not chosen[0].prefix or forward.lane(need) != forward.lane(chosen[0].need))
        if apart or (chosen and wasted):
            return chosen
        chosen = group
    return chosen
