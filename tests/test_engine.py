"""The engine: a batch of rows that come and go answers as each row alone does, for every mixer."""

from typing import Any

import pytest
import torch
from engine_parts import FP32, PROMPTS, alone, close, logprobs_of, own_logits
from mixer_contract import found_configs
from model_cases import LENGTH, VOCAB, build

from wren.errors import ConfigError, DivergedError
from wren.generate import Engine, Request, Sampling, row_seed
from wren.model import LM

MIXERS = [name for name, _ in found_configs()]
SWITCHED = ["attention+all", "gated_delta_net+canon", "attention+moe", "attention+ngrams", "gpt2", "tiny"]
HOT = Sampling(max_tokens=8, temperature=1.0, seed=3)


@pytest.fixture(scope="module")
def models() -> dict[str, LM]:
    return {}


@pytest.fixture
def model(models: dict[str, LM]) -> LM:
    """Attention, in float64."""
    return models.setdefault("attention-1", build("attention-1"))


@pytest.mark.parametrize("name", [*MIXERS, *SWITCHED])
def test_a_batch_is_its_rows_alone(name: str, models: dict[str, LM]):
    """Prompts of several lengths, read in small chunks, more samples than rows: the same texts, both log-probabilities
    those of a recomputation."""
    model = models.setdefault(name, build(name))
    engine = Engine(model, FP32, chunk=7, max_rows=5)
    found = engine.generate(PROMPTS, n=2, sampling=HOT)
    for row, completion in enumerate(found):
        prompt = PROMPTS[row // 2]
        assert completion.tokens == alone(model, prompt, HOT, row).tokens
        expected = logprobs_of(own_logits(model, prompt, completion.tokens), completion.tokens)
        close(completion.logprobs, expected)
        close(completion.sampled_logprobs, expected)
        assert completion.finish == "length"
    assert (engine.bytes_in_use, engine.busy, engine.num_rows) == (0, False, 0)


@pytest.mark.parametrize("name", MIXERS)
def test_rows_join_leave_and_are_cancelled(name: str, models: dict[str, LM]):
    model = models.setdefault(name, build(name))
    engine = Engine(model, FP32, chunk=5)
    handles, told = [], []

    def submit(prompt: list[int], tokens: int) -> None:
        seed = len(handles)
        handles.append(
            engine.submit(Request(prompt=prompt, sampling=Sampling(max_tokens=tokens, temperature=1.0, seed=seed)))
        )

    submit([1, 2, 3], 30)
    submit([4] * 11, 3)
    for turn in range(14):
        told += engine.step()
        if turn in (1, 2, 7):
            submit([5 + turn, 6], 9)
        if turn == 4:
            engine.cancel(handles[2])
        if turn == 9:
            submit(list(range(1, 24)), 12)
    while engine.busy:
        told += engine.step()
    for seed, handle in enumerate(handles):
        (completion,) = handle.completions
        options = handle.request.sampling
        expected = alone(model, handle.request.prompt, options)
        own = [event.drawn for event in told if event.handle is handle and event.drawn is not None]
        assert own == completion.drawn
        assert [event.finish for event in told if event.handle is handle].count(None) == len(own) - (seed != 2)
        if seed == 2:
            assert completion.finish == "cancelled"
            assert completion.tokens == expected.tokens[: len(completion.tokens)]
            assert 0 < len(completion.tokens) < 9
        else:
            assert (completion.finish, completion.tokens) == ("length", expected.tokens)
    assert engine.bytes_in_use == 0


@pytest.mark.parametrize("name", [*MIXERS, "attention+ngrams", "gated_delta_net+canon"])
def test_forks_are_separate_runs(name: str, models: dict[str, LM]):
    """A prefix read once, forked by several, forked again from where one ended."""
    model = models.setdefault(name, build(name))
    engine = Engine(model, FP32, chunk=4)
    past = list(range(1, 12))
    with engine.prefix(past[:6]) as first, engine.prefix(past[6:], first) as prefix:
        assert prefix.tokens == tuple(past)
        found = engine.generate([[20, 21], [22]], n=2, sampling=HOT, prefix=prefix, keep=True)
        for row, completion in enumerate(found):
            whole = [*past, *([20, 21], [22])[row // 2]]
            assert completion.tokens == alone(model, whole, HOT, row).tokens
            assert completion.prefix is not None
            assert completion.prefix.tokens == (*whole, *completion.tokens)
        turn = found[1].prefix
        assert turn is not None
        (second,) = engine.generate([[13, 14]], sampling=HOT, prefix=turn)
        assert second.tokens == alone(model, [*turn.tokens, 13, 14], HOT).tokens
        (more,) = engine.generate([[]], sampling=HOT, prefix=turn)
        assert more.tokens == alone(model, turn.tokens, HOT).tokens
        for completion in found:
            assert completion.prefix is not None
            completion.prefix.release()
    assert engine.bytes_in_use == 0
    with pytest.raises(ConfigError, match="was released"):
        engine.submit(Request(prompt=[1], prefix=turn))


@pytest.mark.parametrize("name", MIXERS)
def test_chunks_are_the_whole_prompt(name: str, models: dict[str, LM]):
    model = models.setdefault(name, build(name))
    prompt = torch.randint(VOCAB, (55,), generator=torch.Generator().manual_seed(0)).tolist()
    whole = Engine(model, FP32, chunk=512).generate([prompt], sampling=HOT, echo=True)[0]
    pieces = Engine(model, FP32, chunk=1).generate([prompt], sampling=HOT, echo=True)[0]
    assert whole.tokens == pieces.tokens
    for completion in (whole, pieces):
        assert completion.prompt_logprobs is not None
        assert completion.prompt_logprobs[0] is None
        expected = logprobs_of(own_logits(model, prompt[:1], prompt[1:]), prompt[1:])
        close([x for x in completion.prompt_logprobs if x is not None], expected)


def test_a_long_prompt_does_not_stall_the_others(model: LM):
    engine = Engine(model, FP32, chunk=4)
    short = engine.submit(Request(prompt=[1, 2], sampling=Sampling(max_tokens=20)))
    engine.step()
    engine.submit(Request(prompt=[3] * 40, sampling=Sampling(max_tokens=2)))
    for _ in range(5):
        before = len(short.completions[0].drawn)
        assert [event.handle for event in engine.step()] == [short]
        assert len(short.completions[0].drawn) == before + 1


def test_a_prompt_is_read_once_for_its_samples_and_its_twins(model: LM, monkeypatch: pytest.MonkeyPatch):
    read = []
    hidden = model.hidden

    def watched(tokens: torch.Tensor, **options: Any) -> torch.Tensor:
        read.append(tokens.shape)
        return hidden(tokens, **options)

    monkeypatch.setattr(model, "hidden", watched)
    engine = Engine(model, FP32)
    engine.generate([[1, 2, 3, 4]] * 3, n=4, sampling=Sampling(max_tokens=2))
    assert read == [(1, 4), (12, 1)]


def test_memory_is_bounded_and_what_waits_gets_its_turn(model: LM):
    row = Engine(model, FP32).forward.row_bytes(20)
    engine = Engine(model, FP32, max_bytes=5 * row)
    options = Sampling(max_tokens=10, temperature=1.0)
    handles = [engine.submit(Request(prompt=[1 + i] * 10, n=3, sampling=options)) for i in range(4)]
    most = waited = 0
    while engine.busy:
        engine.step()
        most, waited = max(most, engine.bytes_in_use), max(waited, engine.num_waiting)
    assert 2 * row < most <= 5 * row
    assert waited > 0
    for i, handle in enumerate(handles):
        assert [c.tokens for c in handle.completions] == [
            alone(model, [1 + i] * 10, options, row).tokens for row in range(3)
        ]


def test_bytes_are_those_of_the_tensors(model: LM):
    engine = Engine(model, FP32)
    for length in (1, 20, 300):
        assert engine.forward.row_bytes(length) == model.new_state(1, length, dtype=torch.float64).size()


def test_what_can_never_fit_is_a_sentence(model: LM):
    row = Engine(model, FP32).forward.row_bytes(20)
    engine = Engine(model, FP32, max_bytes=2 * row)
    with pytest.raises(ConfigError, match=r"^Out of memory.*ask for fewer tokens, or raise max_bytes"):
        engine.submit(Request(prompt=[1] * 10, sampling=Sampling(max_tokens=11)))
    engine.generate([[1] * 10], sampling=Sampling(max_tokens=10))
    with engine.prefix([1] * 10), pytest.raises(ConfigError, match="kept prefixes"):
        engine.generate([[1] * 10], sampling=Sampling(max_tokens=10))
    engine.generate([[1] * 10], sampling=Sampling(max_tokens=10))


def test_fewer_rows_than_samples(model: LM):
    engine = Engine(model, FP32, max_rows=2)
    found = engine.generate(PROMPTS, n=3, sampling=HOT)
    assert [c.tokens for c in found] == [c.tokens for c in Engine(model, FP32).generate(PROMPTS, n=3, sampling=HOT)]


def test_short_and_long_rows_decode_apart():
    """Rows of 700 tokens and of 20 at once, over several growths of a lane."""
    model = build("attention-1", torch.float32)
    engine = Engine(model, FP32, chunk=400)
    prompts = [[i % VOCAB for i in range(690)], [3, 4], [5], [6, 7, 8]]
    handles = []
    for i, prompt in enumerate(prompts):
        options = Sampling(max_tokens=12, temperature=0.0, seed=i)
        handles.append(engine.submit(Request(prompt=prompt, sampling=options)))
        engine.step()
    while engine.busy:
        engine.step()
    for prompt, handle in zip(prompts, handles, strict=True):
        with torch.no_grad():
            whole = torch.tensor([[*prompt, *handle.completions[0].tokens]])
            expected = model(whole)[0, len(prompt) - 1 : -1].argmax(-1).tolist()
        assert handle.completions[0].tokens == expected


def test_seeds_number_the_samples(model: LM):
    together = Engine(model, FP32).generate([[1, 2]], n=3, sampling=HOT)
    texts = [completion.tokens for completion in together]
    assert len({tuple(text) for text in texts}) == 3
    assert row_seed(row_seed(3, 1), 1) == row_seed(3, 2)
    assert texts[2] == alone(model, [1, 2], HOT, 2).tokens
    assert texts != [c.tokens for c in Engine(model, FP32).generate([[1, 2]], n=3, sampling=Sampling(max_tokens=8))]


def test_float32_draws_the_same_alone_and_together():
    """Where a token differs, two perturbed scores were within 1e-3; with these seeds none is."""
    model = build("gated_delta_net-0", torch.float32)
    found = Engine(model, FP32, max_rows=16).generate(PROMPTS, n=4, sampling=HOT)
    assert [c.tokens for c in found] == [alone(model, PROMPTS[i // 4], HOT, i).tokens for i in range(20)]


def test_changed_weights_are_taken_over():
    model = build("attention-0", torch.float32)
    engine = Engine(model, FP32, bits=8)
    before = engine.generate([[1, 2]], sampling=HOT)[0].logprobs
    prefix = engine.prefix([1])
    with torch.no_grad():
        model.blocks[0].mlp.up.weight *= 1.5
    assert engine.generate([[1, 2]], sampling=HOT)[0].logprobs == before
    engine.refresh()
    assert prefix.released
    assert engine.generate([[1, 2]], sampling=HOT)[0].logprobs != before
    engine.submit(Request(prompt=[1]))
    with pytest.raises(ConfigError, match="Requests are running"):
        engine.refresh()


def test_adapters_are_chosen_by_row():
    from wren.adapters.adapter import Adapter, AdapterConfig
    from wren.adapters.rows import Adapters

    model = build("attention-0")
    plain = Engine(model, FP32).generate([[1, 2, 3]], sampling=HOT)[0]
    with pytest.raises(ConfigError, match="the model has none"):
        Engine(model, FP32).submit(Request(prompt=[1], adapter=1))
    adapter = Adapter(model, AdapterConfig(rank=2), torch.Generator().manual_seed(0)).double()
    for down, up in adapter.pairs.values():
        down.data, up.data = down.data.double(), torch.randn_like(up.data, dtype=torch.float64) * 0.3
    adapters = Adapters(model)
    number = adapters.add(adapter)
    engine = Engine(model, FP32)
    changed = engine.generate([[1, 2, 3]], sampling=HOT, adapter=number)[0]
    assert changed.tokens != plain.tokens
    handles = [engine.submit(Request(prompt=[1, 2, 3], sampling=HOT, adapter=a)) for a in (0, number)]
    while engine.busy:
        engine.step()
    assert [h.completions[0].tokens for h in handles] == [plain.tokens, changed.tokens]
    with pytest.raises(ConfigError, match="no adapter 7"):
        engine.submit(Request(prompt=[1], adapter=7))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": []}, "needs at least one token"),
        ({"prompt": [VOCAB]}, f"token {VOCAB}; the model knows 0 to {VOCAB - 1}"),
        ({"n": 0}, "n is 0"),
        ({"top_logprobs": -1}, "top_logprobs is -1"),
        ({"top_logprobs": 99}, f"in 0 to {VOCAB}"),
        ({"bias": {VOCAB: 1.0}}, f"bias names token {VOCAB}"),
        ({"bias": {1: float("inf")}}, "finite"),
        ({"allowed": torch.zeros(VOCAB, dtype=torch.bool)}, "leaves no token"),
        ({"allowed": torch.ones(3, dtype=torch.bool)}, "must be bool"),
        ({"allowed": torch.ones(VOCAB)}, "must be bool"),
        ({"prompt": [1] * (LENGTH - 5)}, f"{LENGTH} learned positions"),
    ],
)
def test_wrong_requests_are_sentences(options: dict, message: str, models: dict[str, LM]):
    model = models.setdefault("gpt2", build("gpt2"))
    with pytest.raises(ConfigError, match=message):
        Engine(model, FP32).submit(Request(**{"prompt": [1], "sampling": Sampling(max_tokens=6), **options}))


@pytest.mark.parametrize("options", [{"max_rows": 0}, {"max_bytes": 0}, {"chunk": 0}, {"bits": 3}])
def test_wrong_engines_are_sentences(model: LM, options: dict):
    with pytest.raises(ConfigError, match=f"{next(iter(options))} is"):
        Engine(model, FP32, **options)


def test_a_row_that_fails_ends_alone(model: LM):
    """A mask that leaves nothing, and one of another size: their rows end with the error, the other goes on."""
    engine = Engine(model, FP32)
    nothing, small = torch.zeros(VOCAB, dtype=torch.bool), torch.ones(2, dtype=torch.bool)
    good = engine.submit(Request(prompt=[1], sampling=HOT))
    bad = [
        engine.submit(Request(prompt=[1], sampling=HOT, mask=lambda tokens, m=m: m if len(tokens) == 2 else None))
        for m in (nothing, small)
    ]
    while engine.busy:
        engine.step()
    assert good.completions[0].tokens == alone(model, [1], HOT).tokens
    for handle, message in zip(bad, ("leaves no token", "must be bool"), strict=True):
        (completion,) = handle.completions
        assert (completion.finish, len(completion.tokens)) == ("error", 2)
        with pytest.raises(ConfigError, match=message):
            raise completion.error or AssertionError
    with pytest.raises(ConfigError, match="leaves no token"):
        engine.generate([[1]], sampling=HOT, mask=lambda tokens: nothing)
    assert not engine.busy


def test_a_model_that_diverged_is_a_sentence():
    model = build("attention-0", torch.float32)
    with torch.no_grad():
        model.head.weight[3] = torch.nan
    for temperature in (0.0, 1.0):
        with pytest.raises(DivergedError, match="its training diverged"):
            Engine(model, FP32).generate([[1]], sampling=Sampling(temperature=temperature, max_tokens=2))
