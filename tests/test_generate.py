"""Sampling: cached decoding equals uncached, rows do not depend on each other, truncation, stop strings."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wren import recipes
from wren.errors import ConfigError
from wren.generate import Pieces, Sampling, generate, truncate, until_stop
from wren.model import LM
from wren.precision import Precision

FP32 = Precision(device=torch.device("cpu"), autocast=None, why="test")
RECIPES = {
    "tiny": [],
    "gpt2": ["depth=2", "dim=32", "num_heads=2", "context_len=64"],
    "small": ["depth=2", "dim=64"],
    "wren": ["depth=4", "dim=64", "head_dim=32", "window=8", "bigrams=64", "trigrams=64"],
}


@pytest.fixture(params=sorted(RECIPES))
def model(request: pytest.FixtureRequest) -> LM:
    torch.manual_seed(0)
    built = recipes.build(request.param, vocab_size=50, settings=RECIPES[request.param]).model.build().eval()
    with torch.no_grad():  # sharper than at initialisation, so that draws depend on what was read
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built


def sample(model: LM, prompts: list[list[int]], **options) -> list[list[int]]:
    """The tokens of every row, ended rows cut."""
    steps = list(generate(model, prompts, Sampling(**options), FP32))
    return [[int(step[row]) for step in steps if step[row] >= 0] for row in range(len(prompts))]


def test_cached_greedy_decoding_equals_uncached(model: LM):
    prompt = [3, 1, 4, 1, 5]
    (tokens,) = sample(model, [prompt], temperature=0.0, max_tokens=20)
    expected = list(prompt)
    with torch.no_grad():
        for _ in range(20):
            expected.append(int(model(torch.tensor([expected]))[0, -1].argmax()))
    assert tokens == expected[len(prompt) :]


def test_rows_of_different_length_do_not_influence_each_other(model: LM):
    model = model.double()
    prompts = [[1, 2, 3, 4, 5, 6, 7], [9], [8, 8, 8]]
    together = sample(model, prompts, temperature=1.0, max_tokens=12, seed=5)
    alone = sample(model, prompts[:1], temperature=1.0, max_tokens=12, seed=5)
    assert together[0] == alone[0]
    assert sample(model, [*prompts[:1], [2, 2], [4]], temperature=1.0, max_tokens=12, seed=5)[0] == alone[0]


def test_seed_decides_the_text(model: LM):
    once, again, other = (sample(model, [[1, 2]], max_tokens=20, temperature=1.0, seed=s)[0] for s in (1, 1, 2))
    assert once == again
    assert once != other


def test_stop_ids_end_a_row_and_are_not_yielded(model: LM):
    (free,) = sample(model, [[7]], temperature=0.0, max_tokens=10)
    stop = free[4]
    steps = generate(model, [[7]], Sampling(temperature=0.0, max_tokens=10), FP32, stop_ids=frozenset([stop]))
    assert [int(step[0]) for step in steps] == free[: free.index(stop)]


def test_truncate_keeps_the_likeliest():
    probs_BV = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    assert truncate(probs_BV, 2, None).nonzero()[:, 1].tolist() == [1, 3]
    assert truncate(probs_BV, None, 0.65).nonzero()[:, 1].tolist() == [1, 3]
    assert truncate(probs_BV, None, 0.71).nonzero()[:, 1].tolist() == [1, 2, 3]
    assert truncate(probs_BV, None, 1e-9).nonzero()[:, 1].tolist() == [1]
    assert torch.equal(truncate(probs_BV, None, None), probs_BV)


def test_tokens_past_the_learned_positions_are_refused():
    model = recipes.build("gpt2", vocab_size=50, settings=RECIPES["gpt2"]).model.build()
    with pytest.raises(ConfigError, match="64 learned positions"):
        next(generate(model, [[1] * 60], Sampling(max_tokens=10), FP32))


@pytest.mark.parametrize(
    "bad", [{"max_tokens": 0}, {"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_settings_out_of_range_are_refused(bad: dict):
    with pytest.raises(ConfigError):
        Sampling(**bad)


@given(
    st.text(alphabet="abc", max_size=30),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
    st.data(),
)
def test_stop_strings_cut_the_text_however_it_arrives(text: str, stop: list[str], data: st.DataObject):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    found = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    assert "".join(until_stop(iter(pieces), stop)) == (text[: min(found)[1]] if found else text)


def test_pieces_are_whole_characters_and_tell_what_stopped_them():
    row = Pieces(["END"])
    data = "é😀 wren EN".encode()
    assert "".join(row.push(data[i : i + 1]) for i in range(len(data))) == "é😀 wren "
    assert (row.push(b"D and more"), row.stopped, row.push(b"nothing"), row.finish()) == ("", "END", "", "")
    half = Pieces()
    assert (half.push("a😀".encode()[:3]), half.finish()) == ("a", "\ufffd")
    held = Pieces(["END"])
    assert (held.push(b"an EN"), held.finish()) == ("an ", "EN")
