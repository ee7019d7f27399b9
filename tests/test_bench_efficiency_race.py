"""Part text of bench/efficiency.py: arms, their trainings on prepared text, and the verdicts."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import bench_parts  # noqa: F401
import pytest
import torch
from lab_compare_parts import opened, prepared
from measures import race

from wren.errors import ConfigError

CPU = torch.device("cpu")
__all__ = ["prepared"]  # a fixture


def quiet(text: str) -> None:
    pass


def raced(name: str, seed: int, fraction: float, loss: float | None, seconds: float) -> dict[str, Any]:
    return {
        "name": name, "seed": seed, "fraction": fraction, "bits_per_byte": loss, "seconds": seconds,
        "budget": 40 * fraction,
    }  # fmt: skip


def test_the_least_time_is_that_of_the_mean_and_the_sure_one_that_of_the_whole_interval():
    rows = [raced("llama", seed, 1.0, 2.0 + 0.1 * seed, 40.0) for seed in (0, 1, 2)]
    mine = {0.25: (2.0, 2.4, 2.3), 0.5: (1.99, 2.14, 2.15), 1.0: (1.9, 2.0, 2.1)}
    rows += [raced("wren", s, f, loss, 40 * f) for f, found in mine.items() for s, loss in enumerate(found)]
    (verdict,) = race.verdicts(rows)
    assert (verdict["budget"], verdict["ratio"]) == (20.0, 2.0)  # 1.99 2.14 2.15 against 2.0 2.1 2.2: mean -0.007
    assert (verdict["sure_budget"], verdict["sure_ratio"]) == (40.0, 1.0)
    assert verdict["difference"]["mean"] == pytest.approx(-0.1)


def test_one_seed_is_never_sure_and_ratios_are_of_seconds_really_taken():
    rows = [raced("llama", 0, 1.0, 2.0, 44.0), raced("wren", 0, 0.25, 1.5, 11.0), raced("wren", 0, 1.0, 1.2, 40.0)]
    (verdict,) = race.verdicts(rows)
    assert (verdict["budget"], verdict["seconds"], verdict["ratio"]) == (10.0, 11.0, 4.0)
    assert verdict["sure_budget"] is None


def test_a_training_that_diverged_reaches_nothing():
    rows = [raced("llama", 0, 1.0, 2.0, 40.0), raced("wren", 0, 0.5, None, 20.0), raced("wren", 0, 1.0, 2.1, 40.0)]
    (verdict,) = race.verdicts(rows)
    assert (verdict["budget"], verdict["difference"]["mean"]) == (None, pytest.approx(0.1))
    assert [found["bits_per_byte"] is None for found in race.grouped(rows)] == [False, True, False]


def terms(**changes: Any) -> race.Terms:
    usual: dict[str, Any] = {"depth": 1, "dim": 32, "context_len": 16, "seconds": 0.2, "seeds": (0,), "dtype": "fp32"}
    return race.Terms(**{**usual, "fractions": (0.5, 1.0), "eval_tokens": 500, **changes})


def test_all_arms_of_the_table_race_on_real_text(prepared: Path, tmp_path: Path):
    asked: list[tuple[float, str]] = []
    text = opened(prepared, 300)[300]
    arms = tuple(
        each if each.batch_tokens is None else dataclasses.replace(each, batch_tokens=32) for each in race.CONTESTANTS
    )
    result = race.race(arms, text, terms(), CPU, say=quiet, begin=lambda seconds, what: asked.append((seconds, what)))
    names = [each.name for each in race.CONTESTANTS]
    assert [(row["name"], row["fraction"]) for row in result["rows"]] == [
        *((name, 1.0) for name in names[:-1]), ("wren", 0.5), ("wren", 1.0),
    ]  # fmt: skip
    assert asked[0] == (0.2, f"{names[0]} for 0.2 s")
    assert all(0 < row["bits_per_byte"] < 20 and row["batch_size"] * 16 > 0 for row in result["rows"])
    assert [verdict["baseline"] for verdict in result["verdicts"]] == names[:-1]
    json.dumps(result)


def test_an_arm_that_diverges_is_told_and_the_others_go_on(prepared: Path):
    arms = (
        race.Contestant(name="wild", recipe="llama", settings=("model.init_std=3e38",), batch_tokens=32),
        race.Contestant(name="wren", recipe="small", lr=1e-3, batch_tokens=32),
    )
    result = race.race(arms, opened(prepared, 300)[300], terms(fractions=(1.0,)), CPU, say=quiet)
    wild, wren = result["groups"]
    assert wild["bits_per_byte"] is None
    assert wren["bits_per_byte"]["mean"] > 0
    assert result["verdicts"][0]["budget"] is None


def test_a_learning_rate_is_carried_to_other_widths_and_settings_count_over_the_table():
    arm = race.Contestant(name="a", recipe="llama", lr=4e-3, width=128, batch_tokens=64)
    config = arm.config(terms(), 300, seed=7)
    assert config.optimizer.lr == pytest.approx(8e-3)
    assert (config.train.batch_size, config.train.context_len, config.seed) == (4, 16, 7)
    own = race.Contestant(name="a", recipe="llama", lr=4e-3, settings=("lr=1e-3", "batch_size=3"))
    assert (own.config(terms(), 300, seed=0).optimizer.lr, own.config(terms(), 300, seed=0).train.batch_size) == (
        1e-3, 3,
    )  # fmt: skip


def test_wren_chooses_its_batch_by_how_many_tokens_fit():
    arm = race.CONTESTANTS[-1]
    short, long = (arm.config(terms(), 300, seed=0, tokens=tokens) for tokens in (10**5, 10**9))
    assert short.train.batch_size < long.train.batch_size


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ("llama,gpt2", "one must be named wren"),
        ("wren", "there must be another"),
        ("llama:vocab_size=64,wren", "use --vocab-size"),
        ("lama,wren", "did you mean 'llama'"),
    ],
)
def test_arms_that_cannot_race_are_refused(arms: str, said: str):
    with pytest.raises(ConfigError, match=said):
        race.read_contestants(arms, 300)


def test_given_arms_keep_their_settings_and_get_a_batch_unless_the_recipe_chooses_one():
    llama, wren = race.read_contestants("big=llama:lr=1e-3,wren", 300)
    assert (llama.settings, llama.batch_tokens, wren.batch_tokens) == (("lr=1e-3",), 4096, None)
    with pytest.raises(ConfigError, match="Arm 'big': Setting 'lrr' is unknown"):
        race.Contestant(name="big", recipe="llama", settings=("lrr=1",)).config(terms(), 300, seed=0)
