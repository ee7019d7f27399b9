"""Reinforcement on tasks: advantages, rollouts that agree with the trainer, what is dropped, resuming, learning."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from train_faults import stop_at
from tune_parts import FP32, base_run, tokenizer, write_lines

from wren import checkpoint, cli, tasks
from wren.batch import IGNORE
from wren.errors import ConfigError, DataError
from wren.generate import Completion, Drawn, load_run
from wren.policy import Drawing, PolicyConfig, PolicyLoss, policy_terms
from wren.progress import TrainingProgress
from wren.replies import length_of
from wren.rl import held_out, reinforce
from wren.rl.advantage import advantages, has_signal, token_weights
from wren.rl.batches import RolloutBatches
from wren.rl.rollout import Group, RolloutConfig, ask, batch_of
from wren.rl.settings import Asked, plan
from wren.run import Run
from wren.tasks.passes import pass_at_k
from wren.tasks.task import Problem
from wren.think.asker import Asker, form_of, read_task
from wren.train import Interrupted

TASK = "reverse_word:min_letters=2:max_letters=3:alphabet=5"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_run(tmp_path_factory.mktemp("base") / "run")


@pytest.fixture(autouse=True)
def _few_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "command_line" not in request.node.name:
        monkeypatch.setattr(reinforce, "reward_plot", lambda run: run.path)


def batches_for(base: Path, task: str = TASK, **changes: Any) -> RolloutBatches:
    loaded = load_run(base, torch.device("cpu"))
    config = RolloutConfig(**{"prompts": 4, "samples": 3, "max_tokens": 6, "redraw": 0, **changes})
    asker = Asker(read_task(task), loaded.tokenizer, "bare")
    return RolloutBatches(loaded.model, asker, config, FP32, seed=3)


# advantages


def test_advantages_sum_to_nothing_in_every_group():
    rewards_GS = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    for baseline in ("mean", "others"):
        assert advantages(rewards_GS, baseline).sum(1).abs().max() < 1e-6


def test_the_baseline_of_the_others_is_their_mean():
    rewards_GS = torch.tensor([[1.0, 0.0, 0.5, 0.25]])
    expected = [own - (1.75 - own) / 3 for own in (1.0, 0.0, 0.5, 0.25)]
    assert advantages(rewards_GS, "others")[0].tolist() == pytest.approx(expected)


def test_scaled_advantages_have_a_spread_of_one():
    rewards_GS = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.2, 0.2, 0.1, 0.1]])
    assert advantages(rewards_GS, scaled=True).std(1, unbiased=False).tolist() == pytest.approx([1, 1], abs=1e-4)


def test_a_group_of_one_reward_has_no_signal():
    rewards_GS = torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    assert has_signal(rewards_GS).tolist() == [False, False, True]
    assert not advantages(rewards_GS[:2], scaled=True).any()


def test_weights_of_tokens_give_the_means_that_their_names_say():
    """What the loop makes of them: sum over a sample's tokens of w / (all tokens)."""
    advantage_R, lengths_R = torch.tensor([1.0, -0.5, 2.0]), torch.tensor([2, 4, 6])
    total = lengths_R.sum()
    shares = {
        name: token_weights(advantage_R, lengths_R, name, 10) * lengths_R / total  # type: ignore[arg-type]
        for name in ("dapo", "dr_grpo", "grpo")
    }
    torch.testing.assert_close(shares["dapo"], advantage_R * lengths_R / 12)
    torch.testing.assert_close(shares["dr_grpo"], advantage_R * lengths_R / (3 * 10))
    torch.testing.assert_close(shares["grpo"], advantage_R / 3)


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one():
    from itertools import combinations

    for samples in range(1, 7):
        for right in range(samples + 1):
            for k in range(1, samples + 1):
                subsets = list(combinations([i < right for i in range(samples)], k))
                assert pass_at_k(samples, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    with pytest.raises(ValueError, match="pass@3"):
        pass_at_k(2, 1, 3)


# rollouts


def test_a_row_is_prompt_and_reply_with_the_reply_learned():
    stopped = Completion([Drawn(7, -0.1, -0.2), Drawn(8, -0.3, -0.4)], "stop", Drawn(9, -0.5, -0.6))
    cut = Completion([Drawn(5, -1.0, -1.1)], "length")
    problem = Problem(prompt="?", answer="!")
    groups = [Group(problem, [1, 2, 3], [stopped, cut], [1.0, 0.0])]
    batch = batch_of(groups, torch.tensor([0.5, -0.5]), pad_id=0)
    assert batch.tokens_BT.tolist() == [[1, 2, 3, 7, 8], [1, 2, 3, 0, 0]]
    assert batch.targets_BT.tolist() == [[IGNORE, IGNORE, 7, 8, 9], [IGNORE, IGNORE, 5, IGNORE, IGNORE]]
    assert batch.logprobs_BT is not None
    assert batch.weights_BT is not None
    assert batch.logprobs_BT[0].tolist() == pytest.approx([0, 0, -0.2, -0.4, -0.6])
    assert batch.weights_BT[1, 2] == -0.5
    assert batch.num_targets() == length_of(stopped) + length_of(cut)


CUTS: list[dict[str, Any]] = [
    {}, {"temperature": 0.6}, {"top_k": 3}, {"top_p": 0.5}, {"top_k": 20, "top_p": 0.7, "temperature": 1.3}
]  # fmt: skip


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_the_trainer_gives_the_tokens_the_probability_that_the_engine_drew_them_with(base, cut, monkeypatch):
    scores = iter(range(10_000))
    monkeypatch.setattr(Asker, "score", lambda self, problem, completion: float(next(scores) % 2))
    batches = batches_for(base, **cut)
    with torch.no_grad():  # sharper than an untrained model, so that the cuts cut
        batches.model.head.weight.mul_(10)
    batch = batches.next_batch()
    assert batch.logprobs_BT is not None
    loss = PolicyLoss(PolicyConfig(), batches.drawing)
    loss(batches.model, batch)
    assert loss.seen.targets == batch.num_targets() > 20
    assert loss.seen.difference < 1e-4
    if cut.get("top_k") == 3:
        assert batch.kept_BTK is not None
        assert batch.kept_BTK.shape[-1] == 3
        plain = policy_terms(batches.model, batch._replace(kept_BTK=None), batches.drawing)
        drawn_N = batch.logprobs_BT.flatten()[plain.index_N]
        assert float((plain.logprobs_N - drawn_N).detach().abs().max()) > 0.01, "the cut has to matter for this test"


def test_rollouts_leave_the_model_in_training(base):
    batches = batches_for(base)
    batches.model.train()
    batches.next_batch()
    assert batches.model.training


def test_samples_of_a_round_differ_and_rounds_too(base):
    batches = batches_for(base, samples=4)
    first, second = batches.next_batch(), batches.next_batch()
    rows = [tuple(row) for batch in (first, second) for row in batch.targets_BT.tolist()]
    assert len(set(rows)) > len(rows) // 2
    assert batches.last["samples"] == 16


def test_problems_whose_samples_fared_alike_are_dropped_and_a_step_remains(base, monkeypatch):
    batches = batches_for(base, prompts=4, samples=3)
    batch = batches.next_batch()  # an untrained model is right nowhere
    assert batches.last["signal"] == 0
    assert len(batch.tokens_BT) == 3
    assert batch.weights_BT is not None
    assert not batch.weights_BT.any()
    scores = iter(range(10_000))
    monkeypatch.setattr(
        Asker, "score", lambda self, problem, completion: float(next(scores) % 2) if "a" in problem.prompt[9:] else 0.0
    )
    batch = batches.next_batch()
    assert batches.last["signal"] == pytest.approx(len(batch.tokens_BT) / 12)
    assert 0 < len(batch.tokens_BT) < 12


def test_redrawing_asks_more_problems_for_those_without_signal(base):
    batches = batches_for(base, redraw=2)
    batches.next_batch()
    assert batches.last["samples"] == 3 * 4 * 3
    assert batches.source.state() == {"index": 12}


def test_the_state_of_a_round_in_pieces_comes_back(base, monkeypatch):
    scores = iter(range(10_000))
    monkeypatch.setattr(Asker, "score", lambda self, problem, completion: float(next(scores) % 2))
    batches = batches_for(base, updates=2, top_k=5)
    batches.next_batch()
    state = json.loads(json.dumps(batches.state()))
    expected = [batches.next_batch(), batches.next_batch()]
    again = batches_for(base, updates=2, top_k=5)
    again.load_state(state)
    monkeypatch.setattr(Asker, "score", lambda self, problem, completion: float((next(scores) + 1) % 2))
    found = again.next_batch()
    for name, value in expected[0]._asdict().items():
        other = getattr(found, name)
        assert (value is None) == (other is None)
        if value is not None:
            assert torch.equal(value, other), name


# the run


def asked(base: Path, out: Path, **changes: Any) -> Asked:
    usual: dict[str, Any] = {"prompts": 4, "samples": 3, "max_tokens": 6, "steps": 6, "problems": 5, "lr": 1e-2}
    settings = ("train.save_every=2", "train.eval_every=3", "rollout.redraw=0")
    return Asked(run=base, task=TASK, out=out, **{**usual, "settings": settings, **changes})


def play(given: Asked, said: list[str] | None = None) -> dict[str, Any]:
    return reinforce.reinforce(given, device="cpu", say=(said if said is not None else []).append)


def half_right(self: Asker, problem: Problem, completion: Completion) -> float:
    """A score that follows from the sample alone."""
    return float(sum(completion.tokens) % 2)


def weights(path: Path) -> dict[str, torch.Tensor]:
    found, _ = checkpoint.newest_good(Run(path).checkpoints_path)
    assert found is not None
    return checkpoint.load(found).model


@pytest.mark.parametrize("updates", [1, 2])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(base, tmp_path, monkeypatch, updates):
    monkeypatch.setattr(Asker, "score", half_right)
    more = {"kl": 0.1, "settings": ("train.save_every=2", f"rollout.updates={updates}", "train.eval_every=3")}
    straight = play(asked(base, tmp_path / "straight", **more))
    watch = TrainingProgress.watch
    monkeypatch.setattr(TrainingProgress, "watch", lambda self, *row: (stop_at(3)(*row), watch(self, *row))[1])
    with pytest.raises(Interrupted):
        play(asked(base, tmp_path / "stopped", **more))
    monkeypatch.setattr(TrainingProgress, "watch", watch)
    resumed = play(asked(base, tmp_path / "stopped", **more))
    one, other = weights(tmp_path / "straight"), weights(tmp_path / "stopped")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert resumed["accuracy"] == straight["accuracy"]
    assert resumed["samples"] == straight["samples"]
    rows = [[r for r in Run(tmp_path / n).metrics() if r["kind"] == "rollout"] for n in ("straight", "stopped")]
    for each in (row for found in rows for row in found):
        each.pop("rollout_seconds")
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0]] == [1, 2, 3, 4, 5, 6]
    assert max(row["kl"] for row in rows[0]) > 0


def test_what_pays_is_learned(base, tmp_path):
    """From random weights: of 300 tokens the one that the verifier wants."""
    path = write_lines(tmp_path / "say.jsonl", [{"question": f"{i}?", "answer": "a"} for i in range(300)])
    said: list[str] = []
    given = Asked(
        run=base, task=f"file:{path}", out=tmp_path / "out", form="bare", steps=30, lr=1e-2, prompts=64, samples=8,
        max_tokens=1, problems=20, settings=("train.eval_every=0",),
    )  # fmt: skip
    result = play(given, said)
    assert result["before"]["accuracy"] < 0.5
    assert result["accuracy"] > 0.9
    assert result["largest_logprob_difference"] < 1e-4
    assert any("held-out" in line for line in said)


def test_a_played_run_is_an_ordinary_run(base, tmp_path):
    play(asked(base, tmp_path / "out"))
    loaded = load_run(tmp_path / "out", torch.device("cpu"))
    assert loaded.step == 6
    assert loaded.tokenizer.fingerprint() == tokenizer().fingerprint()
    again = plan(asked(tmp_path / "out", tmp_path / "next"), Run(tmp_path / "out").config(), loaded, read_task(TASK))
    assert again.form == "bare"
    assert (tmp_path / "out" / "samples" / "step_000006.txt").read_text().count("a right answer") == 5


def test_the_same_call_on_a_finished_run_only_asks_again(base, tmp_path):
    first = play(asked(base, tmp_path / "out"))
    said: list[str] = []
    again = play(asked(base, tmp_path / "out"), said)
    assert any("complete" in line for line in said)
    assert {k: first[k] for k in ("accuracy", "passes", "reward")} == {
        k: again[k] for k in ("accuracy", "passes", "reward")
    }


def test_another_setting_does_not_go_on_with_a_run(base, tmp_path):
    play(asked(base, tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"begun with optimizer\.lr = 0\.01"):
        play(asked(base, tmp_path / "out", lr=1e-3))
    with pytest.raises(ConfigError, match="another run"):
        play(asked(base, base_run(tmp_path / "other")))


def test_the_command_line(base, tmp_path, capsys):
    given = ["play", "--run", str(base), "--task", TASK, "--out", str(tmp_path / "out"), "--steps", "2"]
    given += ["--prompts", "2", "--samples", "2", "--problems", "3", "--device", "cpu"]
    assert cli.app.cli(args=[*given, "--dry-run"]) == 0
    assert "Would reinforce" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert cli.app.cli(args=[*given, "--json", str(tmp_path / "r.json")]) == 0
    assert "of 3 held-out problems" in capsys.readouterr().out
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["steps"] == 2
    assert (tmp_path / "out" / "reward.png").stat().st_size > 1000


# mistakes


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"steps": 3, "seconds": 10.0}, "exclude each other"),
        ({"samples": 1}, r"rollout\.samples is 1"),
        ({"settings": ("rollout.updates=9",)}, r"rollout\.updates is 9"),
        ({"settings": ("rollout.temperature=0",)}, "above 0"),
        ({"settings": ("rolout.updates=9",)}, "rolout"),
        ({"kl": -1.0}, r"policy\.kl"),
        ({"seed": -1}, "seed"),
        ({"problems": 0}, "eval_problems"),
    ],
    ids=str,
)
def test_mistakes_are_told(base, tmp_path, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        play(asked(base, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_a_verifier_that_fails_its_own_gold_is_no_teacher(base, tmp_path, monkeypatch):
    monkeypatch.setattr(type(tasks.read(TASK)), "score", lambda self, problem, text: 0.0)
    with pytest.raises(DataError, match="gold answer"):
        play(asked(base, tmp_path / "out"))


def test_a_run_without_chat_tokens_holds_no_conversation():
    assert form_of({"objective": "answers"}) == "chat"
    assert form_of({}) == "bare"
    assert form_of({"form": "plain", "objective": "answers"}) == "plain"


def test_a_reply_that_no_position_is_left_for_is_told(tmp_path):
    path = base_run(tmp_path / "short", learned_positions=8)
    with pytest.raises(ConfigError, match="8 positions"):
        play(asked(path, tmp_path / "out", max_tokens=8))


def test_pass_1_of_held_out_problems_is_the_mean_reward_of_exact_scores(base, monkeypatch):
    monkeypatch.setattr(Asker, "score", half_right)
    batches = batches_for(base)
    problems = batches.asker.task.distinct(0, 6, "test")
    found = held_out.solved(batches.model, batches.asker, problems, FP32, samples=4, max_tokens=6)
    assert found["passes"][1][0] == pytest.approx(found["reward"])
    assert found["passes"][4][0] >= found["passes"][1][0]
    assert found["count"] == 6
    assert held_out.row(found)["val_pass_4"] == found["passes"][4][0]


def test_drawing_knows_which_ids_can_be_drawn(base):
    batches = batches_for(base)
    assert batches.drawing == Drawing(temperature=1.0, drawable=tokenizer().vocab_size)
    groups = ask(batches.asker, batches.engine, [Problem(prompt="x", answer="y")], 2, batches.config.sampling(0))
    assert len(groups[0].samples) == len(groups[0].rewards) == 2
