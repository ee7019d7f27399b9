"""The engine: continuous batching for sampling, evaluation, reinforcement learning and serving.

    engine = Engine(model, precision, vocab_size=tokenizer.vocab_size)
    completions = engine.generate(prompts, n=4, sampling=Sampling(seed=1))

or, step by step, with requests that come and go:

    handle = engine.submit(Request(prompt=tokens))
    while engine.busy:
        for event in engine.step(): ...

A step reads a chunk of what was submitted and draws one token for every row that decodes. A prompt is read once for all
of its samples, and once for equal prompts that are read together; a `Prefix` is read once for all requests that name
it. What a sample says depends on its prompt, its settings and its seed, not on the rows beside it: exactly in float64;
in other formats products of other shapes round differently, and a token differs where two perturbed scores of the draw
lie as close together as that.

Memory is bounded: a state is admitted by its bytes, and what does not fit waits. One thread uses an engine at a time.
"""

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from wren import units
from wren.errors import ConfigError, WrenError
from wren.generate.asking import checked, tokens_before
from wren.generate.draw import Rules, draw
from wren.generate.forward import Forward
from wren.generate.lane import Lane, trimmed
from wren.generate.memory import default_bytes
from wren.generate.prefix import Prefix
from wren.generate.reading import Prompt, Reading, gathered
from wren.generate.sample import Event, Handle, Sample
from wren.generate.settings import Completion, Request, Sampling, row_seed
from wren.generate.weights import Bits, prepared
from wren.model import LM
from wren.precision import Precision
from wren.state import LMState

IDLE = 32  # times the chunk is read at once while no row decodes


class Engine:
    """vocab_size: ids from there on are never drawn (a padded vocabulary). max_rows: samples that decode at once.

    max_bytes: of all states together, None = half of the memory that is free now. chunk: tokens of prompts read
    between two draws. bits: linear layers are held in 8 or 4 bits, None = in the number format of `precision`, and in
    float32 they are the model's own tensors.
    """

    def __init__(
        self,
        model: LM,
        precision: Precision,
        *,
        vocab_size: int | None = None,
        max_rows: int = 256,
        max_bytes: int | None = None,
        chunk: int = 512,
        bits: Bits | None = None,
    ):
        for name, value in (("max_rows", max_rows), ("max_bytes", max_bytes), ("chunk", chunk)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.")
        self.precision, self._source = precision, model
        self.bits: Bits | None = bits
        self.drawable = min(vocab_size or model.config.vocab_size, model.config.vocab_size)
        self.max_rows, self.chunk = max_rows, chunk
        self.forward = Forward(prepared(model, precision, bits), precision)
        self.max_bytes = default_bytes(precision.device) if max_bytes is None else max_bytes
        self._queue: deque[Prompt] = deque()
        self._readings: list[Reading] = []
        self._lanes: dict[int, Lane] = {}
        self._prefixes: list[Prefix] = []
        self._events: list[Event] = []
        self._count = 0

    @property
    def model(self) -> LM:
        """The model that runs: the one given, or its copy in another number format."""
        return self.forward.model

    @property
    def busy(self) -> bool:
        """Whether there is anything to do, or to tell."""
        return bool(self._queue or self._readings or self._events or self.num_rows)

    @property
    def num_rows(self) -> int:
        """Samples that decode now."""
        return sum(len(lane.live) for lane in self._lanes.values())

    @property
    def num_waiting(self) -> int:
        """Prompts that wait for memory or for a row."""
        return len(self._queue)

    @property
    def bytes_in_use(self) -> int:
        """Of all states: rows that decode, prompts that are read, prefixes that are kept."""
        self._prefixes = [prefix for prefix in self._prefixes if prefix.state is not None]
        prefixes = sum(prefix.num_bytes for prefix in self._prefixes)
        return prefixes + sum(each.size() for each in (*self._lanes.values(), *self._readings))

    def refresh(self) -> None:
        """Takes over weights that have changed; raises ConfigError while requests run. Every prefix is stale then."""
        if self.busy:
            raise ConfigError("Requests are running; let them end or cancel them before the weights change.")
        if self.forward.model is not self._source:
            self.forward = Forward(prepared(self._source, self.precision, self.bits), self.precision)
            self._lanes.clear()
        for prefix in self._prefixes:
            prefix.release()

    # what is asked

    def generate(
        self, prompts: Sequence[Sequence[int]], n: int = 1, sampling: Sampling | None = None, **options: Any
    ) -> list[Completion]:
        """n completions of every prompt, those of the first one first; options: fields of Request.

        Sample j of prompt i has the seed row_seed(sampling.seed, i n + j). Raises the error of a row that had one.
        """
        sampling = sampling or Sampling()
        handles = []
        for i, prompt in enumerate(prompts):
            own = dataclasses.replace(sampling, seed=row_seed(sampling.seed, i * n))
            handles.append(self._checked(Request(prompt=prompt, n=n, sampling=own, **options)))
        for handle in handles:
            self._enqueue(handle)
        try:
            with torch.inference_mode(), self.precision.context():  # one context: weights are cast at most once
                while not all(handle.done for handle in handles):
                    self._events += self._step()
        finally:
            self._forget(handles)
        completions = [each for handle in handles for each in handle.completions]
        for completion in completions:
            if completion.error is not None:
                raise completion.error
        return completions

    def submit(self, request: Request) -> Handle:
        """Queues a request; raises ConfigError for one that is wrong or can never fit."""
        handle = self._checked(request)
        self._enqueue(handle)
        return handle

    def prefix(self, tokens: Sequence[int], parent: Prefix | None = None, *, adapter: int = 0) -> Prefix:
        """Reads what several requests begin with; with a parent, what comes after it. Raises ConfigError."""
        if not len(tokens):
            raise ConfigError("A prefix is empty; give it at least one token.")
        request = Request(prompt=tokens, sampling=Sampling(max_tokens=1), prefix=parent, adapter=adapter)
        handle = self._checked(request)
        whole = tokens_before(request) + tuple(tokens)
        fed = (*(parent.pending if parent is not None else ()), *tokens)
        # the last token is left to those who go on: what they draw first, they draw after reading it
        prompt = Prompt(fed[:-1], parent, handle)
        with torch.inference_mode(), self.precision.context():
            reading = Reading([prompt], self.forward, self.drawable)
            reading.max_len = max(1, len(whole) - 1)
            if self.forward.row_bytes(reading.max_len) > self.free:
                raise ConfigError(f"A prefix of {len(whole)} tokens has no room beside what is kept; release another.")
            reading.begin()
            while reading.left:
                reading.step(self.chunk * IDLE)
        return self._kept(Prefix(whole, (whole[-1],), reading.state))

    def cancel(self, handle: Handle, sample: int | None = None) -> None:
        """Ends a request, or one of its samples, now; the next step tells so. What has ended stays as it is."""
        for each in handle.samples if sample is None else [handle.samples[sample]]:
            if not each.done:
                self._end(each)
                self._events.append(each.end("cancelled"))

    def step(self) -> list[Event]:
        """Reads a chunk of prompts, draws a token for every row, and tells what happened."""
        with torch.inference_mode(), self.precision.context():
            events = self._step()
        told, self._events = [*self._events, *events], []
        return told

    # how it is done

    @property
    def free(self) -> int:
        """Bytes that may be taken: a row is set aside for every prompt that was read and has not begun to decode."""
        aside = sum(self.forward.row_bytes(each.max_len) for each in self._readings)
        return self.max_bytes - self.bytes_in_use - aside

    def _checked(self, request: Request) -> Handle:
        self._count += 1
        return checked(request, self._count, self.forward, self.drawable, self.max_bytes)

    def _enqueue(self, handle: Handle) -> None:
        request = handle.request
        pending = () if request.prefix is None else request.prefix.pending
        prompt = Prompt((*pending, *request.prompt), request.prefix, handle)
        twin = next((each for each in self._queue if prompt.is_same(each)), None)
        if twin is None:
            self._queue.append(prompt)
            return
        need = max(twin.need, prompt.need)
        if 2 * self.forward.row_bytes(need) > self.max_bytes:
            self._queue.append(prompt)
            return
        twin.handles.append(handle)
        twin.need = need

    def _forget(self, handles: Sequence[Handle]) -> None:
        """After generate: what it left undone when it was interrupted, and events nobody waits for."""
        for handle in handles:
            self.cancel(handle)
        own = set(handles)
        self._events = [event for event in self._events if event.handle not in own]

    def _step(self) -> list[Event]:
        self._admit()
        self._read()
        events = [event for reading in list(self._readings) if not reading.left for event in self._place(reading)]
        for lane in list(self._lanes.values()):
            if lane.live:
                samples, logits_BV, rules = lane.step()
                events += self._take(samples, draw(logits_BV, [sample.row for sample in samples], rules))
                lane.tidy()
        return events

    def _admit(self) -> None:
        """Takes prompts off the queue, first come first served, as far as there is room."""
        while self._queue:
            waiting = [prompt for prompt in self._queue if prompt.waiting]
            self._queue = deque(waiting)
            room = self.max_rows - self.num_rows - sum(len(each.waiting) for each in self._readings)
            if not waiting or room <= 0:
                return
            chosen = gathered(waiting[:room], self.forward, self.free)
            if not chosen:
                if not self.num_rows and not self._readings:
                    self._refuse(self._queue.popleft())
                    continue
                return
            reading = Reading(chosen, self.forward, self.drawable)
            reading.begin()
            self._readings.append(reading)
            for _ in chosen:
                self._queue.popleft()

    def _refuse(self, prompt: Prompt) -> None:
        """Nothing runs that could make room: what is kept stands in the way."""
        kept = units.size(self.bytes_in_use)
        for sample in prompt.waiting:
            sample.completion.error = ConfigError(
                f"There is no room for a request beside {kept} of kept prefixes; release some, or raise max_bytes."
            )
            self._events.append(sample.end("error"))

    def _read(self) -> None:
        """Reads a chunk of tokens, of the prompts that came first; more while no row waits for its next token."""
        budget = self.chunk if self.num_rows else self.chunk * IDLE
        for reading in self._readings:
            if not reading.waiting:
                continue
            while reading.left and budget > 0:
                rows = len(reading.prompts)
                budget -= rows * reading.step(max(1, budget // rows))
        self._readings = [reading for reading in self._readings if reading.waiting]

    def _place(self, reading: Reading) -> list[Event]:
        """Draws the first tokens of as many samples as there is room for, and lets them decode."""
        waiting = reading.waiting
        lane = self._lanes.setdefault(self.forward.lane(reading.max_len), Lane(self.forward, self.drawable))
        count = min(len(waiting), self.max_rows - self.num_rows)
        free = self.free + self.forward.row_bytes(reading.max_len)
        cost = None
        while count > 0 and (cost := self._cost(lane, reading, count, free)) is None:
            count //= 2
        if cost is None:
            return []
        chosen = waiting[:count]
        last_BD = torch.stack([reading.last[row] for _, row in chosen])  # type: ignore[arg-type]
        rows = [sample.row for sample, _ in chosen]
        rules = Rules(rows, self.forward.device, self.drawable)
        logits_BV = self.forward.logits(last_BD, [row.request.adapter for row in rows])
        for sample, row in chosen:
            reading.placed.add(sample)
            if sample.request.echo:
                sample.completion.prompt_logprobs = reading.prompts[row].logprobs
                sample.completion.prompt_top = reading.prompts[row].tops
        events = list(self._take([s for s, _ in chosen], draw(logits_BV, rows, rules), reading))
        going = [(sample, row) for sample, row in chosen if not sample.done]
        assert reading.state is not None
        if going:
            source = reading.state
            if reading.waiting and lane.state is None and len(going) == len(source.lengths_B):
                source = source.select(self.forward.index(range(len(going))))  # others will fork from it yet
            lane.join([s for s, _ in going], source, [row for _, row in going], cost[1])
        if not reading.waiting:
            self._readings.remove(reading)
        return events

    def _cost(self, lane: Lane, reading: Reading, count: int, free: int) -> tuple[int, int] | None:
        """As Lane.cost; the state that was read is taken as it is where it serves as the lane's first."""
        if lane.state is None and [row for _, row in reading.waiting] == list(range(len(reading.prompts))) == list(
            range(count)
        ):
            return 0, count
        return lane.cost(count, reading.max_len, free)

    def _take(self, samples: Sequence[Sample], drawn: Sequence[Any], reading: Reading | None = None) -> Iterator[Event]:
        """Counts what was drawn; samples that end leave their row, and leave a prefix where one was asked for."""
        events = []
        for sample, each in zip(samples, drawn, strict=True):
            if isinstance(each, WrenError):
                sample.completion.error = each
                events.append(sample.end("error"))
            else:
                events.append(sample.take(each))
            if sample.done:
                if sample.request.keep and sample.completion.error is None:
                    sample.completion.prefix = self._prefix_of(sample, reading)
                self._end(sample)
        return iter(events)

    def _end(self, sample: Sample) -> None:
        for lane in self._lanes.values():
            if sample in lane.rows:
                lane.leave(sample)

    def _prefix_of(self, sample: Sample, reading: Reading | None) -> Prefix | None:
        """Where a sample ended, None without room for it."""
        request = sample.request
        if self.forward.row_bytes(max(1, sample.length)) > self.free:
            return None
        state: LMState
        if reading is not None and reading.state is not None:
            row = next(i for i, prompt in enumerate(reading.prompts) if sample.handle in prompt.handles)
            state = trimmed(self.forward, reading.state, row, sample.length)
        else:
            lane = next(lane for lane in self._lanes.values() if sample in lane.rows)
            state = lane.row_of(sample)
        tokens = (*tokens_before(request), *request.prompt, *sample.tokens)
        return self._kept(Prefix(tokens, tokens[sample.length :], state))

    def _kept(self, prefix: Prefix) -> Prefix:
        self._prefixes.append(prefix)
        return prefix
