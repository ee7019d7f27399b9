"""Examples and their packing: nothing lost, nothing seen across conversations, resumable, the mask as it should be."""

from dataclasses import replace
from io import StringIO
from typing import Any

import model_cases
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tune_parts import chat, examples, talk, tokenizer

from wren.batch import IGNORE, Batch
from wren.errors import CheckpointError, ConfigError, DataError
from wren.loss import cross_entropy
from wren.tokenizer.chat import read_messages
from wren.tune.examples import Examples, Long, better_answers, check_learned, encode, split
from wren.tune.formats import Conversation
from wren.tune.loader import ExampleLoader, batches_in_order, epoch_rows, make_batch, pack
from wren.tune.show import show_example


def conversation(number: int = 0) -> Conversation:
    return Conversation("here", tuple(read_messages(talk(number)["messages"])), answer=0)


@given(st.lists(st.integers(1, 20), max_size=60), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_packing_loses_nothing_and_fills_rows(lengths: list[int], seed: int) -> None:
    sizes = np.array(lengths, dtype=np.int64)
    order = np.random.default_rng(seed).permutation(len(lengths))
    rows = pack(sizes, order, 20)
    assert sorted(e for row in rows for e in row) == list(range(len(lengths)))
    assert all(sizes[row].sum() <= 20 for row in rows)
    rooms = sorted(20 - sizes[row].sum() for row in rows)
    assert sum(rooms[-2:]) < 40 or len(rows) < 2
    smallest = [sizes[row].min() for row in rows]
    full = [sizes[row].sum() for row in rows]  # best fit: a later row's first example did not fit an earlier row
    assert all(
        full[a] + smallest[b] > 20 or sizes[rows[b][0]] + full[a] > 20 for b in range(len(rows)) for a in range(b)
    )


def test_a_row_too_long_for_the_context_is_refused() -> None:
    with pytest.raises(ConfigError, match="21 tokens does not fit a row of 20"):
        pack(np.array([21]), np.array([0]), 20)


def test_epochs_differ_and_repeat() -> None:
    lengths = np.random.default_rng(0).integers(1, 20, size=100)
    first, again, second = (epoch_rows(lengths, 20, 3, epoch) for epoch in (0, 0, 1))
    assert first == again != second
    assert sorted(e for row in second for e in row) == list(range(100))
    assert len(epoch_rows(lengths, 20, 3, 0, packed=False)) == 100


def documents(batch: Batch) -> list[tuple[list[int], list[int]]]:
    """Tokens and targets of every document of a batch, padding left out."""
    assert batch.documents_BT is not None
    found = []
    for tokens, targets, numbers in zip(batch.tokens_BT, batch.targets_BT, batch.documents_BT, strict=True):
        for number in numbers.unique():
            if (targets[numbers == number] != IGNORE).any():
                found.append((tokens[numbers == number].tolist(), targets[numbers == number].tolist()))
    return found


def test_a_batch_holds_each_document_with_its_targets() -> None:
    given = examples([5, 9, 3, 7], 50)
    batch = make_batch(given, [[0, 1], [2], [3]], 16, pad_id=49)
    expected = []
    for start, stop in zip(given.starts[:-1], given.starts[1:], strict=True):
        targets = [int(t) if learns else IGNORE for t, learns in zip(given.tokens_N[start + 1 : stop],
                   given.learned_N[start + 1 : stop], strict=True)]  # fmt: skip
        expected.append((given.tokens_N[start : stop - 1].tolist(), targets))
    assert documents(batch) == expected
    assert batch.positions_BT is not None
    assert batch.positions_BT[0].tolist() == [*range(4), *range(8), *range(4)]
    assert batch.num_targets() == given.num_learned()
    assert (batch.tokens_BT[1, 2:] == 49).all()
    assert batch.weights_BT is None


CASES = [
    "attention-0", "block_sparse_attention-0", "delta_net-0", "delta_product-0", "forgetting_attention-0",
    "gated_delta_net-0", "gla-0", "kda-0", "latent_attention-0", "linear_attention-0", "mamba-0", "rwkv7-0",
    "short_conv-0", "gpt2", "attention+moe", "attention+all", "gated_delta_net+all",
]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_packed_equals_unpacked_in_loss_and_gradient(name: str) -> None:
    config = replace(model_cases.CONFIGS[name], documents=True)
    torch.manual_seed(0)
    model = model_cases.shaken(config.build()).train()
    given = examples([7, 12, 3, 18, 5, 9, 2], model_cases.VOCAB)
    found = []
    for packed in (True, False):
        rows = epoch_rows(given.lengths(), 24, 0, 0, packed=packed)
        assert (len(rows) < 7) == packed
        batch = make_batch(given, rows, 24, pad_id=0)
        model.zero_grad()
        loss = cross_entropy(model, batch) / batch.num_targets()
        loss.backward()
        found.append((loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (loss, grads), (other, others) = found
    torch.testing.assert_close(loss, other, atol=1e-5, rtol=1e-5)
    assert grads.keys() == others.keys()
    for parameter, grad in grads.items():
        torch.testing.assert_close(grad, others[parameter], atol=1e-5, rtol=1e-5, msg=parameter)


def loader(given: Examples, **changes: Any) -> ExampleLoader:
    return ExampleLoader(given, **{"context_len": 20, "batch_size": 3, "seed": 1, "pad_id": 0, **changes})


def test_an_epoch_gives_every_example_once_and_batches_go_on_into_the_next() -> None:
    given = examples(list(np.random.default_rng(0).integers(2, 20, size=40)), 50)
    batches = loader(given)
    count = len(epoch_rows(given.lengths(), 20, 1, 0))
    seen: list[Any] = []
    for _ in range(-(-count // 3)):
        seen += documents(batches.next_batch())
    whole = documents(make_batch(given, [[e] for e in range(40)], 20, 0))
    assert sorted(seen[:40]) == sorted(whole)
    assert batches.epoch == 1
    assert batches.row == (-count) % 3
    assert batches.num_batches(1) == max(1, round(count / 3))
    assert batches.num_batches(0.001) == 1
    assert batches.num_batches(2.5) > batches.num_batches(2)


def test_a_loader_goes_on_where_it_was() -> None:
    given = examples([4, 9, 3, 7, 12, 5], 50)
    whole, parts = loader(given), loader(given)
    for step in range(12):
        expected, found = whole.next_batch(), parts.next_batch()
        assert torch.equal(expected.tokens_BT, found.tokens_BT)
        assert torch.equal(expected.targets_BT, found.targets_BT)
        state = parts.state()
        parts = loader(given)
        parts.load_state(state)
        assert parts.state() == state, step
    with pytest.raises(CheckpointError, match="other data"):
        loader(examples([4, 9], 50)).load_state(whole.state())
    with pytest.raises(CheckpointError, match="another seed"):
        loader(given, seed=2).load_state(whole.state())


def test_processes_share_a_batch() -> None:
    given = examples([4, 9, 3, 7, 12, 5, 8, 8], 50, documents=2)
    whole = loader(given, context_len=30, batch_size=2).next_batch()
    parts = [loader(given, context_len=30, batch_size=2, rank=r, num_ranks=2).next_batch() for r in (0, 1)]
    for name in ("tokens_BT", "targets_BT", "weights_BT"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))
    with pytest.raises(ConfigError, match="cannot be shared by 2"):
        loader(given, num_ranks=2)
    with pytest.raises(ConfigError, match="seed is -1"):
        loader(given, seed=-1)


def test_evaluation_reads_everything_or_a_fixed_part() -> None:
    given = examples([4, 9, 3, 7, 12, 5], 50)
    sizes = {"context_len": 20, "batch_size": 1, "pad_id": 0}
    every = [d for batch in batches_in_order(given, **sizes) for d in documents(batch)]
    assert len(every) == 6
    part = [d for batch in batches_in_order(given, **sizes, max_tokens=20) for d in documents(batch)]
    assert 0 < len(part) < 6
    assert part == [d for batch in batches_in_order(given, **sizes, max_tokens=20) for d in documents(batch)]


def test_conversations_become_examples_up_to_the_last_learned_token() -> None:
    messages = read_messages([*talk(0)["messages"], {"role": "user", "content": "Thanks!"}])
    found, long = encode([conversation(), Conversation("here", tuple(messages))], chat(), 100)
    assert long == Long()
    assert len(found) == 2
    tokens = found.tokens_N[: found.starts[1]].tolist()
    assert tokens == found.tokens_N[found.starts[1] :].tolist()
    assert tokenizer().decode(tokens, keep_special=True).endswith("It is blue.<|wren:end|>")


def test_what_is_too_long_is_cut_or_left_out_and_counted() -> None:
    short, length = conversation(), len(encode([conversation()], chat(), 100)[0].tokens_N)
    question = Conversation("here", tuple(read_messages([{"role": "user", "content": "what " * 60},
                                                         {"role": "assistant", "content": "x"}])))  # fmt: skip
    answer = Conversation("here", tuple(read_messages([{"role": "user", "content": "what"},
                                                       {"role": "assistant", "content": "is " * 60}])))  # fmt: skip
    cut, long = encode([short, question, answer], chat(), length)
    assert long == Long(truncated=1, empty=1)
    assert cut.lengths().tolist() == [length - 1, length]
    dropped, long = encode([short, question, answer], chat(), length, "drop")
    assert long == Long(dropped=2)
    assert len(dropped) == 1
    assert "2 were left out" in str(long.sentence(9))
    for how in ("drop", "truncate"):
        with pytest.raises(DataError, match=r"No conversation is left.*longer --context"):
            encode([question], chat(), length, how)  # type: ignore[arg-type]


def test_a_mask_that_trains_nothing_or_everything_is_an_error() -> None:
    given = examples([5, 5], 50)
    with pytest.raises(DataError, match="Nothing would be learned"):
        check_learned(replace(given, learned_N=np.zeros(10, bool)))
    with pytest.raises(DataError, match="Everything would be learned"):
        check_learned(replace(given, learned_N=np.array([False, *[True] * 4] * 2)))
    check_learned(given)


def test_held_out_conversations_follow_from_their_words() -> None:
    every = [conversation(i) for i in range(100)]
    train, held = split(every)
    assert len(held) == 2
    assert [one for one in every if one in train] == train
    again, same = split([*every[::-1], *held])
    assert set(same) == set(held)
    assert not set(again) & set(held)
    with pytest.raises(DataError, match="too few different"):
        split([conversation(1)] * 3)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        split(every, 1.0)


def test_the_better_answers_of_pairs() -> None:
    given = examples([4, 9, 3, 7], 50, documents=2)
    found = better_answers(given)
    assert found.starts.tolist() == [0, 4, 7]
    assert found.tokens_N.tolist() == [*given.tokens_N[:4], *given.tokens_N[13:16]]
    assert better_answers(found) is found


def test_a_sample_shows_what_is_learned() -> None:
    found, _ = encode([conversation()], chat(), 100)
    plain = Console(file=StringIO(), color_system=None, width=500)
    show_example(found, 0, tokenizer(), plain)
    text = plain.file.getvalue()  # type: ignore[attr-defined]
    assert "between « and »" in text
    inside = text.split("assistant|>«")[1]
    assert inside.replace("|", "").startswith("It is blue.<wren:end>»")
    colour = Console(file=StringIO(), force_terminal=True, color_system="standard", width=500)
    show_example(found, 0, tokenizer(), colour)
    assert "\x1b[1;32m<|wren:end|>" in colour.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[1;32m<|wren:user|>" not in colour.file.getvalue()  # type: ignore[attr-defined]
