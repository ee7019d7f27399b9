"""The table of probes says what it rests on: which seeds are shown, widths, and what half-knowing answers score."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wren import probes
from wren.batch import IGNORE
from wren.errors import ConfigError, DataError
from wren.files import read_json, write_json
from wren.lab import probe_report, probe_sweep, probe_trial
from wren.precision import choose_precision
from wren.probe import Setting

CPU = choose_precision(torch.device("cpu"), "fp32")
SHORT = dataclasses.replace(
    probes.get("parity").SIZES["cpu"], steps=3, batch_size=4, dim=16, test_examples=4, lrs=(1e-3, 3e-3), stop_at=None
)


class Quiet:
    def begin(self, cell: probe_sweep.Cell, number: int, total: int) -> None: ...
    def say(self, text: str) -> None: ...
    def end(self, cell: probe_sweep.Cell, result: dict[str, Any]) -> None: ...


def result(folder: Path, seeds: int, setting: Setting = SHORT, arm: str = "gla") -> dict[str, Any]:
    cell = probe_sweep.Cell(
        probe="parity", arm=arm, size="cpu", setting=setting, model=probe_trial.model_for(arm, setting), folder=folder
    )
    (found,) = probe_sweep.sweep([cell], seeds=seeds, precision=CPU, display=Quiet(), halving=False)
    return found


def test_the_run_that_chose_the_learning_rate_is_not_shown_where_there_are_others(tmp_path: Path):
    one, two = result(tmp_path / "one", 1), result(tmp_path / "two", 2)
    assert (one["tuning_seed"], one["final_seeds"]) == (0, [0])
    assert (two["tuning_seed"], two["final_seeds"]) == (0, [1, 2])
    assert len(two["tests"][0]["accuracy"]) == 2
    assert {path.name for path in (tmp_path / "two").glob("lr*")} == {
        "lr0.001-wd0.1-seed0", "lr0.003-wd0.1-seed0", f"lr{two['lr']:g}-wd0.1-seed1", f"lr{two['lr']:g}-wd0.1-seed2"
    }  # fmt: skip
    only = result(tmp_path / "only", 2, dataclasses.replace(SHORT, lrs=(1e-3,)))  # nothing was chosen
    assert only["final_seeds"] == [0, 1]

    said = "one seed, whose run also chose the learning rate, so its score is rather too high"
    fresh = "the seed that chose the learning rate is not among those shown"
    for found, here, absent in (([one], said, fresh), ([two], fresh, said)):
        text = probe_report.markdown(found)
        assert here in text
        assert absent not in text
        assert here in str(probe_report.table(found).caption)
    assert "nothing was chosen" in probe_report.markdown([only])
    assert probe_report.write([one], tmp_path / "out")["rows"][0]["final_seeds"] == [0]


@pytest.mark.parametrize(("seeds", "lrs", "trainings"), [(1, (1e-3, 3e-3), 2), (3, (1e-3, 3e-3), 5), (3, (1e-3,), 3)])
def test_a_dry_run_counts_the_trainings(seeds: int, lrs: tuple[float, ...], trainings: int, tmp_path: Path):
    cells = probe_sweep.plan(["gla"], ["parity"], "cpu", tmp_path)
    cells = [dataclasses.replace(cell, setting=dataclasses.replace(cell.setting, lrs=lrs)) for cell in cells]
    assert f" {trainings} trainings" in probe_sweep.describe(cells, seeds)


def test_the_table_tells_widths_and_levels(tmp_path: Path):
    found = [result(tmp_path / str(dim), 1, dataclasses.replace(SHORT, dim=dim)) for dim in (16, 32)]
    text = probe_report.markdown(found)
    assert "| probe | mixer | width | test |" in text
    assert "| parity | gla | 16 | 160 bits | 160 |" in text.replace("| 161 |", "| 160 |")
    assert "| parity | gla | 32 | 160 bits |" in text
    assert "guessing: parity 50.0 (62.5 by the trained length alone)" in text
    assert "(62.5 by the trained length alone)" in str(probe_report.table(found).caption)


def test_a_cell_of_another_device_is_not_taken_for_this_one(tmp_path: Path):
    assert result(tmp_path, 1)["device"] == "cpu"
    path = tmp_path / "cell.json"
    write_json(path, {**read_json(path), "device": "cuda"})
    with pytest.raises(ConfigError, match="another device; choose another --out, or add --fresh"):
        result(tmp_path, 1)


def _values_of_the_row(tokens_T: np.ndarray, targets_T: np.ndarray, values: range) -> float:
    """The expected score of any one of the values that stand in the row, by the answers that are right."""
    shown = {int(token) for token in tokens_T if token in values}
    asked = targets_T[targets_T != IGNORE]
    return float(np.mean([(int(target) in shown) / len(shown) for target in asked]))


VALUES = {
    "mqar": lambda config: range(config.vocab_size // 2, config.vocab_size),
    "noisy_mqar": lambda config: range(
        config.noise_vocab + (config.vocab_size - config.noise_vocab) // 2, config.vocab_size
    ),
    "key_overwrite": lambda config: range(1 + config.key_vocab, config.vocab_size),
}


@pytest.mark.parametrize("name", VALUES)
def test_any_value_of_the_row_scores_what_the_table_says(name: str):
    for size, setting in probes.get(name).SIZES.items():
        config: Any = next(iter(setting.tests.values()))
        batch = config.batch(5, np.random.default_rng(0), train=False)
        tokens_BT, targets_BT = batch.tokens_BT.numpy(), batch.targets_BT.numpy()
        scores = [_values_of_the_row(x, y, VALUES[name](config)) for x, y in zip(tokens_BT, targets_BT, strict=True)]
        assert np.mean(scores) == pytest.approx(setting.levels["any value of the row"]), size
        if name == "key_overwrite":
            newest = np.mean([1 / len({int(y) for y in row if y != IGNORE}) for row in targets_BT])
            assert newest == pytest.approx(setting.levels["any key's newest value"])


@pytest.mark.parametrize("name", ["parity", "s3", "a5", "s5"])
def test_the_trained_length_alone_scores_what_the_table_says(name: str):
    for size, setting in probes.get(name).SIZES.items():
        trained, test = setting.train.length - 1, next(iter(setting.tests.values()))
        batch = test.batch(200, np.random.default_rng(0), train=False)
        targets_BT = batch.targets_BT.numpy()
        guesses_BT = np.random.default_rng(1).integers(test.vocab_size - 1, size=targets_BT.shape)
        guesses_BT[:, : 1 + trained] = targets_BT[:, : 1 + trained]
        scored_BT = targets_BT != IGNORE
        score = (guesses_BT == targets_BT)[scored_BT].mean()
        assert score == pytest.approx(setting.levels["the trained length alone"], abs=0.01), size


@pytest.mark.parametrize(
    ("places", "kept"),
    [
        ([], []),
        ([64], [64]),
        ([17, 33, 65, 129], [17, 33, 65, 129]),
        ([2.05, 3.2, 8.19, 9.34, 25.1, 32.8, 35.1, 50.2, 100], [2.05, 8.19, 25.1, 50.2, 100]),
        ([100, 101, 102], [100]),
    ],
)
def test_names_of_ticks_have_room(places, kept):
    assert probe_report.ticks(places) == kept


@pytest.mark.parametrize("broken", ['{"probe": ', "[]", ""])
def test_a_damaged_cell_says_what_to_remove(tmp_path, broken):
    cell = probe_sweep.plan(["attention"], ["parity"], "cpu", tmp_path)[0]
    cell.folder.mkdir(parents=True)
    (cell.folder / "cell.json").write_text(broken)
    with pytest.raises(DataError, match=r"cell.json is damaged; remove it, or add --fresh"):
        probe_sweep.sweep([cell], seeds=1, precision=CPU, display=Quiet())
