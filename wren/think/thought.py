"""One problem that is being thought about: an algorithm's asks as requests to an engine, counted against its budget."""

import dataclasses

from wren.generate import Engine, Handle, Request, Sampling, row_seed
from wren.generate.prefix import Prefix
from wren.generate.settings import Completion
from wren.think.algorithm import Algorithm
from wren.think.branch import Ask, Branch
from wren.think.case import Case

_KEPT = 0.5  # of an engine's memory that prefixes may fill: the rest is for rows that decode


class Thought:
    """Between calls of `advance` its requests run in the engine, beside those of others. chosen: the answer, when done.

    samples: completions so far. adapter: that answers, 0 = none.
    """

    def __init__(self, algorithm: Algorithm, case: Case, engine: Engine, stop_ids: frozenset[int], *, adapter: int = 0):
        self.case, self.engine, self.stop_ids, self.adapter = case, engine, stop_ids, adapter
        self.chosen: Branch | None = None
        self.samples = 0
        self._steps = algorithm.solve(case)
        self._asks: list[Ask] = []
        self._handles: list[Handle] = []
        self._prefixes: list[Prefix] = []

    @property
    def done(self) -> bool:
        return self.chosen is not None

    def begin(self) -> None:
        """Reads the prompt and asks for the first branches; raises ConfigError for a prompt that does not fit."""
        if self._has_room():
            self.case.root = Branch(prefix=self._mine(self.engine.prefix(self.case.prompt, adapter=self.adapter)))
        self._go(None)

    def advance(self) -> None:
        """Goes on where all that was asked for is there; raises the error of a request that had one."""
        if self.done or not all(handle.done for handle in self._handles):
            return
        found = []
        for ask, handle in zip(self._asks, self._handles, strict=True):
            found.append([self._branch(ask, completion) for completion in handle.completions])
        self._go(found)

    def close(self) -> None:
        """Ends its requests and gives up what it keeps."""
        for handle in self._handles:
            self.engine.cancel(handle)
        for prefix in self._prefixes:
            prefix.release()
        self._prefixes.clear()

    def _go(self, found: list[list[Branch]] | None) -> None:
        try:
            asks = next(self._steps) if found is None else self._steps.send(found)
        except StopIteration as end:
            self.chosen = end.value
            self.close()
            return
        if sum(ask.most for ask in asks) > self.case.left or not all(ask.most > 0 for ask in asks):
            raise RuntimeError(f"{asks} of an algorithm with {self.case.left} tokens left")
        self._asks = asks
        self._handles = [self.engine.submit(self._request(ask)) for ask in asks]

    def _request(self, ask: Ask) -> Request:
        whole = (*self.case.prompt, *ask.branch.tokens)
        prefix = ask.branch.kept()
        seed = row_seed(self.case.seed, self.samples)
        self.samples += ask.n
        return Request(
            prompt=whole if prefix is None else whole[len(prefix.tokens) :],
            n=ask.n,
            sampling=Sampling(max_tokens=ask.max_tokens, temperature=ask.temperature, seed=seed),
            stop_ids=self.stop_ids,
            prefix=prefix,
            keep=ask.keep,
            adapter=self.adapter,
        )

    def _branch(self, ask: Ask, completion: Completion) -> Branch:
        if completion.error is not None:
            raise completion.error
        drawn = [*completion.drawn, *([completion.ended_by] if completion.ended_by is not None else [])]
        self.case.spent += len(drawn)
        branch = Branch(
            (*ask.branch.tokens, *completion.tokens),
            (*ask.branch.logprobs, *(each.logprob for each in drawn)),
            completion.ended_by is not None,
            ask.branch,
            completion.prefix,
        )
        if completion.prefix is None:
            return branch
        if (branch.ended and not ask.keep_ended) or not self._has_room():
            completion.prefix.release()
            return dataclasses.replace(branch, prefix=None)
        self._mine(completion.prefix)
        return branch

    def _has_room(self) -> bool:
        """Whether more may be kept; what is not kept is read again, so that nothing but time is lost."""
        return self.engine.bytes_in_use < _KEPT * self.engine.max_bytes

    def _mine(self, prefix: Prefix) -> Prefix:
        self._prefixes = [each for each in self._prefixes if not each.released]
        self._prefixes.append(prefix)
        return prefix
