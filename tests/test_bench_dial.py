"""bench/dial.py: the dial's rates and multiples of them at several depths, the parabola and the law."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import bench_parts  # noqa: F401
import pytest
import torch
from lab_compare_parts import opened, prepared
from measures import dial
from rich.console import Console

from wren.errors import ConfigError
from wren.optim.schedule import ScheduleConfig

CPU = torch.device("cpu")
__all__ = ["prepared"]  # a fixture


def row(depth: int, scale: float, loss: float | None, seed: int = 0) -> dict[str, Any]:
    size = {"block_params": 1000 * depth, "tokens": 5000, "flops": 1e9 * depth**4, "matrix_lr": 5e-3}
    return {"depth": depth, "scale": scale, "seed": seed, "bits_per_byte": loss, **size}


def terms(**changes: Any) -> dial.Terms:
    usual: dict[str, Any] = {"depths": (1,), "scales": (1.0, 2.0), "tokens_per_param": 0.05, "context_len": 16}
    return dial.Terms(**{**usual, "dtype": "fp32", "eval_tokens": 500, **changes})


def test_the_parabola_finds_its_own_least():
    losses = {s: 2.0 + 0.1 * (math.log(s) - math.log(1.3)) ** 2 for s in (0.5, 1.0, 2.0)}
    best, least = dial.parabola(losses)
    assert best == pytest.approx(1.3)
    assert least == pytest.approx(2.0)


@pytest.mark.parametrize(
    "losses", [{1.0: 2.0, 2.0: 2.1}, {0.5: 2.0, 1.0: 2.1, 2.0: 2.3}, {0.5: 2.0, 1.0: 2.1, 2.0: 2.0}]
)
def test_no_least_among_the_scales_is_none(losses: dict[float, float]):
    assert dial.parabola(losses) == (None, None)


def test_the_summary_holds_what_the_dial_gives_up_and_the_law():
    rows = []
    for depth in (1, 2, 3):
        law = 3.0 * (1e9 * depth**4) ** -0.05
        rows += [row(depth, s, law + 0.05 * (math.log(s) - math.log(1.2)) ** 2) for s in (0.5, 1.0, 2.0)]
    found = dial.summary(rows)
    assert [size["depth"] for size in found["sizes"]] == [1, 2, 3]
    for size in found["sizes"]:
        assert size["best_scale"] == pytest.approx(1.2)
        assert size["given_up"] == pytest.approx(0.05 * math.log(1.2) ** 2)
        assert abs(size["off_the_law"]) < 1e-3
    assert found["law"]["b"] == pytest.approx(0.05, abs=0.01)


def test_trainings_that_diverged_are_left_out_and_a_size_without_the_dial_too():
    found = dial.summary([row(1, 1.0, 2.0), row(1, 2.0, None), row(1, 0.5, 2.2), row(2, 1.0, None), row(2, 2.0, 1.9)])
    (size,) = found["sizes"]
    assert (size["depth"], size["losses"], size["best_scale"]) == (1, {0.5: 2.2, 1.0: 2.0}, None)
    assert found["law"] is None


def test_all_rates_are_multiplied_and_nothing_else_changes():
    one, two = (terms().config(512, 2, scale, 3) for scale in (1.0, 2.0))
    for name in ("lr", "matrix_lr", "ngram_lr"):
        assert getattr(two.optimizer, name) == pytest.approx(2 * getattr(one.optimizer, name), rel=1e-5)
    rates = {"lr": one.optimizer.lr, "matrix_lr": one.optimizer.matrix_lr, "ngram_lr": one.optimizer.ngram_lr}
    assert dataclasses.replace(two, optimizer=dataclasses.replace(two.optimizer, **rates)) == one
    assert one.seed == 3


def test_it_trains_keeps_each_row_and_goes_on(prepared: Path):
    text, kept = opened(prepared, 300)[300], []
    result = dial.measure(text, terms(), CPU, say=lambda line: None, keep=lambda r: kept.append(len(r["rows"])))
    assert kept == [1, 2]
    assert [(r["depth"], r["scale"]) for r in result["rows"]] == [(1, 1.0), (1, 2.0)]
    assert all(r["bits_per_byte"] > 0 and r["flops"] > 0 and r["block_params"] > 0 for r in result["rows"])
    again = dial.measure(text, terms(), CPU, say=lambda line: None, done=json.loads(json.dumps(result["rows"])))
    assert again["summary"] == result["summary"]
    console = Console(width=160, record=True)
    dial.show(json.loads(json.dumps(again)), console)
    assert "at the edge" in console.export_text()


def test_a_training_that_diverges_is_a_row_without_a_loss(prepared: Path, monkeypatch: pytest.MonkeyPatch):
    def factor(self: ScheduleConfig, step: int, steps: int) -> float:
        return math.inf

    monkeypatch.setattr(ScheduleConfig, "factor", factor)
    result = dial.measure(opened(prepared, 300)[300], terms(scales=(1.0,)), CPU, say=lambda line: None)
    assert result["rows"][0]["bits_per_byte"] is None
    assert result["summary"]["sizes"] == []


@pytest.mark.parametrize("scales", [(0.5, 2.0), (1.0, 1.0)])
def test_scales_without_the_dial_or_named_twice_are_refused(prepared: Path, scales: tuple[float, ...]):
    with pytest.raises(ConfigError, match="name 1 among them"):
        dial.measure(opened(prepared, 300)[300], terms(scales=scales), CPU, say=lambda line: None)
