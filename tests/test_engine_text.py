"""Text of several rows at once: whole characters, stop strings, and rows that end freeing their place."""

import pytest
import torch
from engine_parts import FP32

from wren import recipes
from wren.generate import Engine, Loaded, Sampling, row_seed, sample_texts, stream_rows, stream_text, text_request
from wren.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    tokenizer = Tokenizer.train(["naïve wrens sing é😀, wrens sing again and again"] * 3, 300)
    torch.manual_seed(0)
    settings = ["depth=2", "dim=32", "num_heads=2", "context_len=64"]
    model = recipes.build("gpt2", vocab_size=384, settings=settings).model.build().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return Loaded(model, tokenizer, 0)


def whole_text(loaded: Loaded, prompt: str, sampling: Sampling, row: int) -> str:
    """Its tokens all decoded at once."""
    engine = Engine(loaded.model, FP32, vocab_size=loaded.tokenizer.vocab_size)
    request = text_request(loaded.tokenizer, prompt, sampling, row + 1)
    handle = engine.submit(request)
    while engine.busy:
        engine.step()
    tokens = handle.completions[row].tokens
    return loaded.tokenizer.decode_bytes(tokens).decode(errors="replace")


def test_rows_stream_side_by_side(loaded: Loaded):
    sampling = Sampling(max_tokens=30, temperature=1.0, seed=4)
    engine = Engine(loaded.model, FP32, vocab_size=loaded.tokenizer.vocab_size)
    handles = [engine.submit(text_request(loaded.tokenizer, prompt, sampling, 2)) for prompt in ("wrens", "é")]
    texts, order = [""] * 4, []
    for row, piece in stream_rows(engine, loaded.tokenizer, handles):
        texts[row] += piece
        order.append(row)
    expected = [whole_text(loaded, prompt, sampling, row) for prompt in ("wrens", "é") for row in (0, 1)]
    assert texts == expected
    assert order != sorted(order)


def test_a_stop_string_ends_its_row_alone(loaded: Loaded):
    sampling = Sampling(max_tokens=40, temperature=1.0, seed=1)
    free = [whole_text(loaded, "wrens", sampling, row) for row in (0, 1)]
    stop = free[0][3:5]
    expected = [text[: text.find(stop)] if stop in text else text for text in free]
    engine = Engine(loaded.model, FP32, vocab_size=loaded.tokenizer.vocab_size)
    handle = engine.submit(text_request(loaded.tokenizer, "wrens", sampling, 2))
    texts = ["", ""]
    for row, piece in stream_rows(engine, loaded.tokenizer, [handle], [stop]):
        texts[row] += piece
    assert texts == expected
    assert len(texts[0]) < len(free[0])
    assert handle.completions[0].finish == "cancelled"
    assert not engine.busy
    assert engine.bytes_in_use == 0
    one = "".join(stream_text(loaded, "wrens", sampling, FP32, stop=[stop], row=1))
    assert one == expected[1]


def test_who_stops_listening_frees_the_rows(loaded: Loaded):
    engine = Engine(loaded.model, FP32, vocab_size=loaded.tokenizer.vocab_size)
    handle = engine.submit(text_request(loaded.tokenizer, "w", Sampling(max_tokens=50, temperature=1.0), 3))
    stream = stream_rows(engine, loaded.tokenizer, [handle])
    next(stream)
    stream.close()
    assert handle.done
    engine.step()
    assert (engine.num_rows, engine.busy) == (0, False)


def test_texts_end_where_learned_positions_do(loaded: Loaded):
    prompts = ["wrens sing", "a" * 200, "é"]
    sampling = Sampling(max_tokens=100, temperature=1.0, seed=2)
    texts = sample_texts(loaded, prompts, FP32, sampling)
    assert texts[1] == prompts[1]
    for row in (0, 2):
        assert texts[row].startswith(prompts[row])
        room = 63 - len(loaded.tokenizer.encode(prompts[row]))
        own = Sampling(max_tokens=room, temperature=1.0, seed=row_seed(2, row))
        assert texts[row] == prompts[row] + whole_text(loaded, prompts[row], own, 0)
