"""The rules of fair comparison: which of them a comparison says it kept."""

import dataclasses
from pathlib import Path
from typing import Any

import lab_compare_parts
import lab_examples
import pytest
from lab_compare_parts import TINY, asked, compared, opened

from wren.lab import compare_clock, compare_plan, compare_rules
from wren.lab.schema import Rule

prepared = lab_compare_parts.prepared


def test_the_rules_say_what_was_not_followed(prepared: Path, tmp_path: Path):
    found = compared(asked(tmp_path), opened(prepared, 300), tmp_path)
    broken = [rule.rule for rule in found.rules if not rule.kept]
    for beginning in ("Arms get the same time", "Every arm is tuned", "A claim rests", "Three seeds", "More than one"):
        assert any(rule.startswith(beginning) for rule in broken), beginning
    assert all(rule.did.endswith(".") for rule in found.rules)


def test_arms_that_cost_the_same_are_told_from_those_that_do_not(prepared: Path, tmp_path: Path):
    texts = opened(prepared, 300)
    for number, (other, kept) in enumerate(((f"b={TINY}:lr=1e-2", True), (f"b={TINY.replace('16', '32')}", False))):
        out = tmp_path / str(number)
        found = compared(asked(out, f"{TINY}:context_len=16,{other}:context_len=16", budget="64tokens"), texts, out)
        rule = next(rule for rule in found.rules if rule.rule.startswith("Beside time, arms agree"))
        assert rule.kept == kept
        assert ("operations a token 1 times; parameters" in rule.did) == kept


@pytest.mark.parametrize(("factor", "kept"), [(1.1, True), (0.9, True), (1.6, False), (0.5, False)])
def test_times_of_a_busy_machine_are_told(factor: float, kept: bool):
    """A step of the final runs that takes otherwise than when it was measured breaks a rule, which the page names."""
    cell = next(iter(lab_examples.comparison().cells))
    runs = [dataclasses.replace(run, seconds=factor * run.steps * 0.25) for run in cell.final]
    found = compare_clock.quiet(
        [dataclasses.replace(cell, measured=dataclasses.replace(cell.measured, step_seconds=0.25), final=tuple(runs))]
    )
    assert found.kept == kept
    assert ("Do not compare seconds" in found.did) != kept


def test_seeds_are_paired_by_the_tokens_and_not_by_the_size_of_a_vocabulary(tmp_path: Path):
    """With --data arms of any vocabulary read the same shards; with --source each size has its own."""

    def rule(recipes: str, contents: dict[int, str], **changes: Any) -> Rule:
        return compare_rules.pairs(asked(tmp_path, recipes, **changes).cells, contents)

    wider = f"a={TINY},b={TINY}:vocab_size=320"
    assert rule(wider, {300: "x", 320: "x"}).kept
    found = rule(wider, {300: "x", 320: "y"})
    assert not found.kept
    assert "differ in tokens;" in found.did
    found = rule(f"a={TINY},b={TINY.replace('batch_size=2', 'batch_size=4')}", {300: "x"})
    assert not found.kept
    assert "differ in rows in a batch;" in found.did
    assert rule(f"a={TINY},b={TINY}:lr=1e-3", {300: "x"}).kept


@pytest.mark.parametrize(
    ("budget", "seconds", "kept"),
    [("5m", (300.0, 303.0), True), ("5m", (300.0, 360.0), False), ("1e9tokens", (1.0, 1.0), False)],
)
def test_equal_time_is_judged_by_what_the_runs_took(budget: str, seconds: tuple[float, float], kept: bool):
    cells = [
        dataclasses.replace(cell, final=tuple(dataclasses.replace(run, seconds=took) for run in cell.final))
        for cell, took in zip(lab_examples.comparison(gaps={"A": 0.0, "B": 0.0}).cells, seconds, strict=True)
    ]
    found = compare_clock.same_time(compare_plan.read_budget(budget), cells, "Abacus 9000, 2 cores")
    assert found.kept == kept
    assert "on one machine: Abacus 9000, 2 cores." in found.did
    apart = {300.0: "1 times", 303.0: "1.01 times", 360.0: "1.2 times", 1.0: "1 times"}[seconds[1]]
    assert f"{apart} apart" in found.did


def test_a_run_that_diverged_early_does_not_make_times_unequal():
    a, b = lab_examples.comparison(gaps={"A": 0.0, "B": 0.0}, seeds=2).cells
    early = dataclasses.replace(b.final[0], tuned=None, seconds=1.0)
    b = dataclasses.replace(b, final=(early, b.final[1]))
    budget = compare_plan.read_budget("5m")
    assert compare_clock.same_time(budget, [a, b], "x").kept
    rule = compare_rules.all_there([a, b])
    assert not rule.kept
    assert "B (small, 512) in 1 of 2 final runs" in rule.did
    assert compare_rules.all_there([a]).kept


def test_compilation_that_was_not_measured_is_told(tmp_path: Path):
    plans = asked(tmp_path, f"a={TINY}:train.compile=true,b={TINY}").cells
    cells = [
        dataclasses.replace(cell, size="own", context_len=16, arm=name)
        for name, cell in zip("ab", lab_examples.comparison(gaps={"A": 0.0, "B": 0.0}).cells, strict=True)
    ]
    time, tokens = compare_plan.read_budget("5m"), compare_plan.read_budget("1e9tokens")
    assert not compare_clock.clock(plans, cells, time).kept
    assert compare_clock.clock(plans, cells, tokens).kept
    known = dataclasses.replace(cells[0], measured=dataclasses.replace(cells[0].measured, compile_seconds=12.0))
    found = compare_clock.clock(plans, [known, cells[1]], time)
    assert found.kept
    assert "every training of a pays for its compilation" in found.did
    assert "it takes 12s, which the budget counts." in found.did


def test_compilation_is_no_sign_of_a_busy_machine():
    cell = lab_examples.comparison().cells[0]
    measured = dataclasses.replace(cell.measured, step_seconds=0.25, compile_seconds=500.0)
    runs = [dataclasses.replace(run, seconds=500.0 + run.steps * 0.25) for run in cell.final]
    assert compare_clock.quiet([dataclasses.replace(cell, measured=measured, final=tuple(runs))]).kept
