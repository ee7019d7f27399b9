"""Adapting to a text: nothing leaks from the future, nothing stays behind, streams and gates do as they say."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from tune_parts import FP32, base_run, tokenizer

from wren import cli
from wren.adapt.documents import Asked, adapt_documents
from wren.adapt.gate import Gate, GateConfig
from wren.adapt.learner import Learner, adapting
from wren.adapt.stream import Read, StreamConfig, adapt, score
from wren.adapt.windows import Windows
from wren.adapters.adapter import Adapter, AdapterConfig
from wren.batch import IGNORE, Batch
from wren.errors import ConfigError, DataError
from wren.loss import token_losses
from wren.mixers import attention, gated_delta_net
from wren.mlps import relu2
from wren.model import LM, ModelConfig

VOCAB = 29
RECOMPUTE = Windows(chunk=5, context=7)
CARRY = Windows(chunk=5, context=10, past="carry")
FORMS = {
    "plain": StreamConfig(lr=0.02, rank=2, windows=RECOMPUTE, gate=None),
    "gate": StreamConfig(lr=0.02, rank=2, windows=RECOMPUTE, gate=GateConfig(margin=0.01, give_up=0.5, rest=1)),
    "replay": StreamConfig(lr=0.02, rank=2, windows=RECOMPUTE, gate=None, replay=True),
    "carry": StreamConfig(lr=0.02, rank=2, windows=CARRY, gate=None),
    "carry-gate": StreamConfig(lr=0.02, rank=2, windows=CARRY, gate=GateConfig(margin=0.01, give_up=0.5, rest=1)),
}


def new_model() -> LM:
    torch.manual_seed(0)
    mixers = (attention.Config(num_heads=2), gated_delta_net.Config(num_heads=2))
    return ModelConfig(
        vocab_size=VOCAB, dim=16, depth=2, mixers=mixers, mlp=relu2.Config(hidden=24), init_std=0.3
    ).build()


def text(length: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, (length,), generator=torch.Generator().manual_seed(seed))


def pattern(length: int) -> Tensor:
    return torch.tensor([3, 14, 1, 5, 9, 2, 6]).repeat(length // 7 + 1)[:length]


def noisy(length: int, seed: int) -> Tensor:
    """The pattern, a fifth of it replaced."""
    replaced_T = torch.rand(length, generator=torch.Generator().manual_seed(seed)) < 0.2
    return torch.where(replaced_T, text(length, seed), pattern(length))


def adapted(model: LM, texts: list[Tensor], config: StreamConfig, learners: list[Learner] | None = None) -> list[Read]:
    with adapting(model) as adapters:
        return adapt(adapters, texts, config, FP32, learners=learners)


@pytest.mark.parametrize("form", FORMS)
def test_the_future_changes_no_score_before_it(form: str):
    model, first = new_model(), text(43)
    (before,) = adapted(model, [first], FORMS[form])
    for place in (6, 8, 21, 40):
        changed = first.clone()
        changed[place:] = (changed[place:] + 1) % VOCAB
        (after,) = adapted(model, [changed], FORMS[form])
        assert torch.equal(before.nats_N[: place - 1], after.nats_N[: place - 1])
        assert not torch.equal(before.nats_N[place - 1 :], after.nats_N[place - 1 :])
    (shorter,) = adapted(model, [first[:30]], FORMS[form])
    torch.testing.assert_close(shorter.nats_N, before.nats_N[:29], atol=1e-4, rtol=1e-4)


def test_a_chunk_is_scored_before_the_adapter_learns_from_it():
    """Beside a loop that does it by hand, one window at a time."""
    model, one, config = new_model(), text(33), FORMS["plain"]
    (found,) = adapted(model, [one], config)
    with adapting(model) as adapters:
        adapter = Adapter(model, AdapterConfig(rank=2), torch.Generator().manual_seed(0))
        number = adapters.add(adapter)
        optimizer = torch.optim.AdamW(adapter.parameters(), lr=config.lr, betas=(0.9, 0.95), weight_decay=0.0)
        nats = []
        for start in range(1, len(one), 5):
            begin, end = max(0, start - 1 - 7), min(len(one), start + 5)
            targets_T = one[begin + 1 : end].clone()
            targets_T[: start - 1 - begin] = IGNORE
            with adapters.rows(number):
                losses_BT = token_losses(model, Batch(one[None, begin : end - 1], targets_T[None]))
                nats.append(losses_BT[0, start - 1 - begin :].detach())
                (losses_BT.sum() / (end - start)).backward()
            torch.nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(found.nats_N.float(), torch.cat(nats), atol=1e-4, rtol=1e-4)
    assert (found.chunks, found.adapted, found.learned) == (7, 7, 7)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_stays_behind(form: str):
    model, tokens_BT = new_model().train(), text(20)[None]
    weights = {name: p.clone() for name, p in model.named_parameters()}
    logits_BTV = model(tokens_BT)
    adapted(model, [text(40), text(23, 1)], FORMS[form])
    assert torch.equal(model(tokens_BT), logits_BTV)
    assert all(torch.equal(p, weights[name]) and p.requires_grad for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    assert (model.training, model.adapters) == (True, None)


@torch.no_grad()
def test_a_learner_taken_back_is_as_it_was():
    model, tokens_BT = new_model(), text(20)[None]
    with adapting(model) as adapters:
        learner = Learner(adapters, AdapterConfig(rank=2), 0.1, torch.Generator().manual_seed(0))
        logits = [model(tokens_BT)]

        def learn() -> Tensor:
            with torch.enable_grad(), adapters.rows(learner.number):
                model(tokens_BT).square().mean().backward()
            assert learner.step()
            with adapters.rows(learner.number):
                return model(tokens_BT)

        logits.append(learn())
        moment = learner.moment()
        logits.append(learn())
        learner.restore(moment)
        assert torch.equal(learn(), logits[2])  # the optimizer is the one of that moment too
        learner.reset()
        with adapters.rows(learner.number):
            assert torch.equal(model(tokens_BT), logits[0])
        assert torch.equal(learn(), logits[1])
        assert not torch.equal(logits[1], logits[0])


@pytest.mark.parametrize("form", FORMS)
def test_streams_do_not_know_each_other(form: str):
    model, texts = new_model(), [text(31, 1), text(43, 2), pattern(38)]
    together = adapted(model, texts, FORMS[form])
    for one, found in zip(texts, together, strict=True):
        (alone,) = adapted(model, [one], FORMS[form])
        torch.testing.assert_close(found.nats_N, alone.nats_N, atol=2e-3, rtol=2e-3)
        assert found[1:-1] == alone[1:-1]
        assert found.plain == pytest.approx(alone.plain, rel=1e-4, nan_ok=True)


@pytest.mark.parametrize("windows", [RECOMPUTE, CARRY], ids=["recompute", "carry"])
def test_a_shut_gate_gives_the_plain_scores_exactly(windows: Windows):
    model, texts = new_model(), [text(31, 1), text(43, 2)]
    shut = StreamConfig(lr=0.02, rank=2, windows=windows, gate=GateConfig(margin=1e9))
    for plain, found in zip(score(model, texts, windows, FP32), adapted(model, texts, shut), strict=True):
        assert torch.equal(plain.nats_N, found.nats_N)
        assert (found.adapted, found.learned) == (0, found.chunks)


def test_plain_scores_are_those_of_the_model():
    model, one = new_model(), text(30)
    whole = token_losses(model, Batch(one[None, :-1], one[None, 1:])).double()[0]
    for windows in (Windows(chunk=4, context=40), Windows(chunk=4, context=40, past="carry")):
        (found,) = score(model, [one], windows, FP32)
        torch.testing.assert_close(found.nats_N, whole, atol=1e-5, rtol=1e-5)


def test_learning_helps_where_a_text_repeats_itself():
    model, one = new_model(), pattern(200)
    (plain,) = score(model, [one], RECOMPUTE, FP32)
    for form in ("plain", "gate", "replay", "carry"):
        (found,) = adapted(model, [one], FORMS[form])
        assert found.nats_N.sum() < 0.8 * plain.nats_N.sum(), form


def test_the_gate_bounds_the_harm():
    """A model that knows the text already can only lose by steps that are too large."""
    model, one = new_model(), noisy(400, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(60):
        rows_BT = torch.stack([noisy(41, 40 * step + row) for row in range(1, 9)])
        token_losses(model, Batch(rows_BT[:, :-1], rows_BT[:, 1:])).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    (plain,) = score(model, [one], RECOMPUTE, FP32)
    (free,) = adapted(model, [one], StreamConfig(lr=0.3, rank=2, windows=RECOMPUTE, gate=None))
    (gated,) = adapted(model, [one], StreamConfig(lr=0.3, rank=2, windows=RECOMPUTE))
    assert free.nats_N.sum() > 1.1 * plain.nats_N.sum()
    assert gated.nats_N.sum() < 1.02 * plain.nats_N.sum()
    assert gated.learned < gated.chunks / 2  # a rest costs nothing


def test_the_gate_decides_by_the_past():
    gate = Gate(GateConfig(margin=1.0, give_up=2.0, memory=0.5, rest=2))
    assert not gate.trusts
    assert gate.learn_from(10.0, 8.0)
    assert gate.trusts
    assert gate.learn_from(10.0, 11.0)
    assert (gate.lead, gate.trusts) == (0.0, False)
    for rest in (2, 4):
        assert not gate.learn_from(10.0, 15.0)
        assert gate.rests == rest
        for _ in range(rest):
            assert not gate.trusts
            gate.rest()
        assert gate.rests == 0
    assert not gate.learn_from(10.0, float("nan"))


@pytest.mark.parametrize("form", ["plain", "gate", "carry", "carry-gate"])
def test_an_adapter_that_leaves_the_finite_numbers_is_taken_back(form: str):
    model, texts, windows = new_model(), [text(31, 1), text(43, 2)], FORMS[form].windows
    with adapting(model) as adapters:
        learners = [Learner(adapters, AdapterConfig(rank=2), 0.02, torch.Generator().manual_seed(0)) for _ in texts]
        with torch.no_grad():
            learners[0].adapter.pairs["blocks.0.mlp.up"][1].fill_(1e30)  # of the longer text, which comes first
        learners[0]._start = learners[0].moment()  # so that taking it back does not help
        other, lost = adapt(adapters, texts, FORMS[form], FP32, learners=learners)
    assert lost.rollbacks > 0
    assert lost.adapted == lost.learned == 0
    if windows.past == "recompute":
        (plain,) = score(model, texts[1:], windows, FP32)
        torch.testing.assert_close(lost.nats_N, plain.nats_N, atol=1e-5, rtol=1e-5)
        (alone,) = adapted(model, texts[:1], FORMS[form])
        torch.testing.assert_close(other.nats_N, alone.nats_N, atol=2e-3, rtol=2e-3)
    assert other.nats_N.isfinite().all()
    assert lost.nats_N.isfinite().all()


def test_a_step_too_far_is_undone():
    model, one = new_model(), text(43)
    (found,) = adapted(model, [one], StreamConfig(lr=1e30, rank=2, windows=RECOMPUTE, gate=None))
    (plain,) = score(model, [one], RECOMPUTE, FP32)
    assert (found.rollbacks, found.learned) == (found.chunks, 0)
    torch.testing.assert_close(found.nats_N, plain.nats_N)


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": one}) + "\n" for one in texts), encoding="utf-8")
    return str(path)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = base_run(tmp_path / "run")
    texts = write(
        tmp_path / "a.jsonl", ["What is the colour of the sky? It is blue. " * 6, "", "The sea is green. " * 9]
    )
    others = write(tmp_path / "b.jsonl", ["The sun is red. " * 9])
    command = ["adapt", "--run", str(run), "--text", texts, "--choose", others, "--json", str(tmp_path / "out.json")]
    assert cli.main([*command, "--chunk", "8", "--rank", "2", "--dtype", "fp32"]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert [row["name"].rpartition(":")[2] for row in found["texts"]] == ["1", "3"]
    assert found["bits_per_byte"] < found["before"]
    assert found["low"] < found["bits_per_byte"] < found["high"]
    assert found["lr"] in [row["lr"] for row in found["chosen"]]
    names = [row["name"] for row in found["forms"]]
    assert names[:3] == ["context 40", "with the gate", "without a gate"]
    assert "bits/byte" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"texts": ()}, "nothing to adapt to"),
        ({"lr": -1.0}, "learning rate is -1"),
        ({"lr": float("nan")}, "learning rate is nan"),
        ({"rank": 0}, "rank is 0"),
        ({"chunk": 0}, "chunk is 0"),
        ({"context": -1}, "context is -1"),
        ({"streams": 0}, "0 streams"),
        ({"max_tokens": 0}, "--max-tokens is 0"),
        ({"lr": 0.1, "choose": ("x",)}, "give one of them"),
        ({"choose": ("{texts}",)}, "must be chosen on other documents"),
        ({"texts": ("{empty}",)}, "no text in"),
    ],
)
def test_a_mistake_gets_a_sentence(tmp_path: Path, changes: dict, says: str):
    places = {"texts": write(tmp_path / "a.jsonl", ["The sea."]), "empty": write(tmp_path / "empty.jsonl", [""])}
    run = base_run(tmp_path / "run")
    asked = {"texts": (places["texts"],), **changes}
    for key in ("texts", "choose"):
        asked[key] = tuple(name.format(**places) for name in asked.get(key, ()))
    with pytest.raises((ConfigError, DataError), match=says):
        adapt_documents(run, FP32, Asked(**asked))


def test_a_text_shorter_than_a_token():
    assert tokenizer().encode("") == []
    with pytest.raises(DataError, match="nothing to score"):
        score(new_model(), [torch.tensor([0])], RECOMPUTE, FP32)
