"""`wren probe`: batches, scores, the search over learning rates, resuming, the table."""

import dataclasses
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wren.batch import IGNORE, Batch
from wren.errors import CheckpointError, ConfigError
from wren.lab import probe_report, probe_sweep, probe_trial
from wren.lab.probe_data import ProbeBatches, accuracy, held_out_examples, scored_loss, tuning_examples
from wren.loss import cross_entropy
from wren.precision import choose_precision
from wren.probe import Setting
from wren.resume import TrainState
from wren.run import Run

CPU = choose_precision(torch.device("cpu"), "fp32")


@dataclass(frozen=True, kw_only=True)
class Echo:
    """The answer is the token itself: 4 symbols, scored from the second place on."""

    length: int = 8

    @property
    def vocab_size(self) -> int:
        return 4

    def batch(self, count: int, rng: np.random.Generator, *, train: bool) -> Batch:
        tokens_BT = torch.from_numpy(rng.integers(4, size=(count, self.length)))
        targets_BT = torch.full_like(tokens_BT, IGNORE)
        targets_BT[:, 1:] = tokens_BT[:, 1:]
        return Batch(tokens_BT, targets_BT)


ECHO = Setting(
    train=Echo(), tests={"8": Echo(), "16": Echo(length=16)}, dim=16, num_heads=2, depth=1, steps=60, batch_size=32,
    tie_embeddings=False, lrs=(1e-6, 3e-2), eval_every=10, test_examples=64, chance=0.25,
)  # fmt: skip


def cell(folder: Path, arm: str = "attention", setting: Setting = ECHO) -> probe_sweep.Cell:
    model = probe_trial.model_for(arm, setting)
    return probe_sweep.Cell(probe="echo", arm=arm, size="cpu", setting=setting, model=model, folder=folder / arm)


class Quiet:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def begin(self, cell: probe_sweep.Cell, number: int, total: int) -> None: ...
    def end(self, cell: probe_sweep.Cell, result: dict[str, Any]) -> None: ...

    def say(self, text: str) -> None:
        self.lines.append(text)


def swept(*cells: probe_sweep.Cell, **changes: Any) -> list[dict[str, Any]]:
    settings = {"seeds": 1, "precision": CPU, "display": Quiet(), **changes}
    return probe_sweep.sweep(cells, **settings)


def test_accuracy_counts_places_classes_and_examples():
    targets_BT = torch.tensor([[IGNORE, 1, 1, 1], [IGNORE, 2, 1, IGNORE]])
    right_BT = torch.tensor([[False, True, True, False], [True, False, True, True]])
    assert accuracy(right_BT, targets_BT, "token") == pytest.approx(3 / 5)
    assert accuracy(right_BT, targets_BT, "macro") == pytest.approx((3 / 4 + 0) / 2)
    assert accuracy(right_BT, targets_BT, "exact") == 0.0
    right_BT[0, 3] = True
    assert accuracy(right_BT, targets_BT, "exact") == 0.5


def test_the_loss_is_the_loss_of_every_stage():
    model = cell(Path()).model.build()
    batch = Echo().batch(4, np.random.default_rng(0), train=True)
    torch.testing.assert_close(scored_loss(model, batch), cross_entropy(model, batch))


def test_a_fixed_set_is_gone_through_once_an_epoch_and_resumes():
    setting = dataclasses.replace(ECHO, train_examples=10, batch_size=4)
    batches = ProbeBatches(setting, seed=3)
    rows = torch.cat([batches.next_batch().tokens_BT for _ in range(5)])
    known = setting.train.batch(10, np.random.default_rng((0, 3)), train=True).tokens_BT
    for epoch in (rows[:10], rows[10:]):
        assert sorted(epoch.tolist()) == sorted(known.tolist())
    again = ProbeBatches(setting, seed=3)
    again.load_state({"index": 3, "seed": 3})
    assert torch.equal(again.next_batch().tokens_BT, rows[12:16])


def test_fresh_examples_differ_from_each_other_and_from_what_is_tested():
    batches = ProbeBatches(ECHO, seed=0)
    seen = [batches.next_batch().tokens_BT, batches.next_batch().tokens_BT]
    seen += [tuning_examples(ECHO).tokens_BT[:32], held_out_examples(ECHO)["8"].tokens_BT[:32]]
    for i, one in enumerate(seen):
        assert not any(torch.equal(one, other) for other in seen[:i])


@pytest.mark.parametrize("trials", [1, 2, 3, 4, 8])
def test_halving_ends_with_one_that_trained_to_the_end(trials: int):
    plan = probe_trial.rungs(trials, halving=True)
    assert plan[0][0] == trials
    assert plan[-1] == (1, 1.0) or trials == 1
    assert all(a > b for (a, _), (b, _) in itertools.pairwise(plan))
    assert all(2 * x == y for (_, x), (_, y) in itertools.pairwise(plan))
    assert probe_trial.rungs(trials, halving=False) == [(trials, 1.0)]


def test_a_sweep_solves_what_can_be_solved_and_is_not_trained_twice(tmp_path: Path):
    cells = [cell(tmp_path, arm) for arm in ("attention", "gated_delta_net")]
    results = swept(*cells)
    for result in results:
        assert result["solved"]
        assert result["accuracy"] > 0.95
        assert result["lr"] == 3e-2
        assert [test["length"] for test in result["tests"]] == [8, 16]
    assert results[0]["tests"][1]["state_bytes"] == 2 * results[0]["tests"][0]["state_bytes"]
    assert not list(tmp_path.rglob("*.safetensors")), "the weights of finished cells stay on the disk"
    quiet = Quiet()
    assert swept(*cells, display=quiet) == results
    assert quiet.lines == []


def test_an_interrupted_sweep_goes_on_to_the_same_numbers(tmp_path: Path):
    expected = swept(cell(tmp_path / "whole"), seeds=2)[0]

    class Stop(Quiet):
        def say(self, text: str) -> None:
            super().say(text)
            if len(self.lines) == 3:
                raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        swept(cell(tmp_path / "cut"), seeds=2, display=Stop())
    found = swept(cell(tmp_path / "cut"), seeds=2)[0]
    for key in ("accuracy", "tests", "lr", "steps", "tuning"):
        assert found[key] == expected[key]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("train_examples", [None, 64])
def test_no_seed_trains_on_what_chooses_or_tests(seed: int, train_examples: int | None):
    """numpy's generators take the keys (1, 0) and (1, 0, 0) as one."""
    setting = dataclasses.replace(ECHO, train_examples=train_examples)
    batches = ProbeBatches(setting, seed)
    seen = batches.next_batch() if batches.fixed is None else batches.fixed
    rows = {tuple(row) for row in seen.tokens_BT.tolist()}
    for other in (tuning_examples(setting), held_out_examples(setting)["8"]):
        assert not rows & {tuple(row) for row in other.tokens_BT.tolist()}


@pytest.mark.parametrize("kill", ["before the last save", "before the last score", "before the result"])
def test_a_kill_at_the_end_changes_no_number(kill: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    setting = dataclasses.replace(ECHO, steps=25, lrs=(3e-4,), stop_at=None)
    expected = swept(cell(tmp_path / "whole", setting=setting))[0]

    def killed(*args: object, **names: object) -> None:
        raise RuntimeError("killed")

    save, score = TrainState.save, probe_trial.score
    if kill == "before the last save":
        monkeypatch.setattr(TrainState, "save", lambda s, *a: killed() if s.progress.step == 25 else save(s, *a))
    elif kill == "before the last score":
        counted = itertools.count(1)
        monkeypatch.setattr(probe_trial, "score", lambda *a: killed() if next(counted) == 3 else score(*a))
    else:
        monkeypatch.setattr(probe_sweep, "write_json", killed)
    with pytest.raises(RuntimeError, match="killed"):
        swept(cell(tmp_path / "cut", setting=setting))
    monkeypatch.undo()
    found = swept(cell(tmp_path / "cut", setting=setting))[0]
    for key in ("accuracy", "tests", "lr", "steps", "tuning"):
        assert found[key] == expected[key]


def test_lost_weights_are_not_tested_as_untrained_ones(tmp_path: Path):
    setting = dataclasses.replace(ECHO, lrs=(3e-2,))
    assert swept(cell(tmp_path, setting=setting))[0]["solved"]
    (tmp_path / "attention" / "cell.json").unlink()
    with pytest.raises(CheckpointError, match="its weights are gone"):
        swept(cell(tmp_path, setting=setting))


def test_a_rank_is_by_what_was_known_then(tmp_path: Path):
    trial = swept(cell(tmp_path, setting=dataclasses.replace(ECHO, steps=4, lrs=(1e-3,))))[0]
    assert trial["steps"] == 4
    folder = next((tmp_path / "attention").glob("lr*"))
    run = Run(folder)
    training = probe_trial.Training(_trial(run), run, CPU)
    assert training.rank(0) == (True, 0.0, -float("inf"))
    before = training.rank(4)
    run.log_metrics({"step": 9, "kind": "eval", "tune_score": 0.9})
    assert training.rank(4) == before
    assert training.rank(9)[1] == 0.9
    run.log_metrics({"step": 10, "kind": "eval", "tune_score": 0.0, "diverged": True})
    assert training.rank(10) < before < training.rank(9)


def _trial(run: Run) -> Any:
    """What the run says it was."""

    class Known:
        setting = ECHO
        to_json = staticmethod(run.config)

    return Known()


def test_changed_settings_are_refused_by_name(tmp_path: Path):
    swept(cell(tmp_path, setting=dataclasses.replace(ECHO, steps=4, lrs=(1e-3,))))
    for setting, words in (
        (dataclasses.replace(ECHO, steps=5, lrs=(1e-3,)), "setting.steps"),
        (dataclasses.replace(ECHO, steps=4, lrs=(2e-3,)), "setting.lrs"),
    ):
        with pytest.raises(ConfigError, match=words):
            swept(cell(tmp_path, setting=setting))
    with pytest.raises(ConfigError, match="another seeds"):
        swept(cell(tmp_path, setting=dataclasses.replace(ECHO, steps=4, lrs=(1e-3,))), seeds=2)


def test_a_training_that_diverges_is_a_score_of_nothing_and_not_the_end(tmp_path: Path):
    setting = dataclasses.replace(ECHO, lrs=(1e30, 3e-2))
    result = swept(cell(tmp_path, setting=setting), halving=False)[0]
    assert result["lr"] == 3e-2
    assert result["solved"]


def test_learned_positions_replace_rotary_ones_only_where_a_mixer_has_them():
    setting = dataclasses.replace(ECHO, learned_positions=True)
    assert probe_trial.model_for("attention", setting).learned_positions == 16
    assert probe_trial.model_for("attention", setting).mixers[0].positions == "none"  # type: ignore[attr-defined]
    assert probe_trial.model_for("gated_delta_net", setting).learned_positions is None


def test_a_mixer_can_be_given_a_name(tmp_path: Path):
    arms = ["two=delta_product:num_steps=2", "gla:rank=4", "short_conv+attention"]
    cells = probe_sweep.plan(arms, ["parity"], "cpu", tmp_path)
    assert [each.arm for each in cells] == ["two", "gla:rank=4", "short_conv+attention"]
    assert [type(mixer).__module__ for mixer in cells[2].model.mixers] == [
        "wren.mixers.short_conv",
        "wren.mixers.attention",
    ]


@pytest.mark.parametrize(
    ("arms", "names", "size", "words"),
    [
        ([], ["mqar"], "cpu", "at least one mixer"),
        (["attention"], [], "cpu", "one probe"),
        (["attention"], ["mqra"], "cpu", "did you mean 'mqar'.*parity"),
        (["attention"], ["mqar"], "gpu", "paper-64"),
        (["x=attention", "x=gla"], ["mqar"], "cpu", "Two mixers are called 'x'"),
    ],
)
def test_wrong_plans_are_one_sentence(arms: list[str], names: list[str], size: str, words: str):
    with pytest.raises(ConfigError, match=words):
        probe_sweep.plan(arms, names, size, Path())


def test_a_training_without_steps_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="--steps is 0"):
        probe_sweep.plan(["attention"], ["mqar"], "cpu", tmp_path, steps=0)


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ("atention", "did you mean 'attention'"),
        ("attention:window=x", "window"),
        ("attention:num_heads=3", "num_heads that divides"),
        ("gated_delta_net:foo=1", "foo"),
    ],
)
def test_wrong_mixers_are_one_sentence(arm: str, words: str):
    with pytest.raises(ConfigError, match=words):
        probe_trial.model_for(arm, ECHO)


def test_the_report_holds_every_number(tmp_path: Path):
    setting = dataclasses.replace(ECHO, steps=4, lrs=(1e-3,), says="made for this test")
    results = swept(*(cell(tmp_path, arm, setting) for arm in ("attention", "gated_delta_net")), seeds=2)
    summary = probe_report.write(results, tmp_path / "out")
    assert [row["mixer"] for row in summary["rows"]] == ["attention", "gated_delta_net"]
    assert json.loads((tmp_path / "out" / "probes.json").read_text())["rows"] == summary["rows"]
    text = (tmp_path / "out" / "table.md").read_text()
    assert "made for this test" in text
    assert f"{100 * results[0]['accuracy']:.1f}" in text
    for name in ("accuracy_length.png", "accuracy_state.png"):
        assert (tmp_path / "out" / name).read_bytes()[:4] == b"\x89PNG"
