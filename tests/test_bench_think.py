"""bench/think.py: budgets, paired differences, the vote that is as good as auto, a larger model's FLOPs."""

import json
from pathlib import Path
from typing import Any

import bench_parts  # noqa: F401
import pytest
import think as bench
from measures import thinking

from wren.errors import ConfigError

TASK = "reverse_word:min_letters=2:max_letters=3:alphabet=5"


def row(name: str, times: Any, right: str, tokens: float = 10.0, seed: int = 0, params: int = 1) -> dict[str, Any]:
    share = right.count("1") / len(right)
    return {
        "task": "t", "seed": seed, "params": params, "name": name, "times": times, "right": right, "accuracy": share,
        "tokens": tokens, "flops": tokens,
    }  # fmt: skip


def lines(*rows: dict[str, Any]) -> dict[tuple[str, Any, int], dict[str, Any]]:
    [group] = thinking.result(rows)["tasks"]
    return {(line["name"], line["times"], line["params"]): line for line in group["rows"]}


def test_differences_are_of_the_same_problems():
    found = lines(row("greedy", 1, "1100" * 5), row("vote", 16, "1110" * 5), row("tree", 16, "0011" * 5))
    gained = found["vote", 16, 1]["over_greedy"]
    assert gained["mean"] == pytest.approx(0.25)
    assert 0 < gained["low"] < 0.25 < gained["high"]
    none = found["tree", 16, 1]["over_greedy"]
    assert none["mean"] == 0
    assert none["low"] < -0.2
    assert "over_greedy" not in found["greedy", 1, 1]


def test_auto_is_beside_the_cheapest_vote_that_is_as_good():
    votes = [row("vote", times, right, 10 * times) for times, right in ((4, "1000"), (16, "1110"), (64, "1110"))]
    found = lines(row("greedy", 1, "1000"), *votes, row("auto", 16, "1101", 40.0), row("auto", 64, "1111", 90.0))
    assert found["auto", 16, 1]["as_good_a_vote"] == 16
    assert found["auto", 16, 1]["as_good_tokens"] == 4
    assert found["auto", 16, 1]["over_vote"]["mean"] == 0
    assert "as_good_a_vote" not in found["auto", 64, 1]
    assert found["auto", 64, 1]["over_vote"]["mean"] == pytest.approx(0.25)
    assert found["auto", 64, 1]["vote_tokens"] == pytest.approx(640 / 90)


def test_a_search_is_beside_the_larger_model_of_its_seed():
    rows = [row("greedy", 1, "10", seed=seed, params=params) for seed in (0, 1) for params in (1, 4)]
    rows += [row("best_of_n", "larger", "11", seed=0), row("best_of_n", "larger", "01", seed=1)]
    found = lines(*rows)["best_of_n", "larger", 1]["over_larger"]
    assert found["mean"] == pytest.approx(0.25)
    assert found["over_seeds"]["count"] == 2


def test_a_longer_reply_costs_llama_more():
    found = [thinking.branches(1 << 26, 256, reply, 4, 128)["ratio"] for reply in (64, 512, 2048)]
    assert found == sorted(found)
    assert found[0] > 0


def test_the_bench_runs_and_goes_on_where_it_was(tmp_path: Path, capsys):
    given = ["--tasks", TASK, "--seeds", "1", "--gold", "20", "--start-steps", "2", "--size", "1x32", "--test", "6"]
    given += ["--larger", "1x64", "--times", "2", "--no-branches", "--json", str(tmp_path / "think.json")]
    assert bench.main(given) == 0
    rows = json.loads((tmp_path / "think.json").read_text())["parts"]["thinking"]["rows"]
    assert [(each["name"], each["times"]) for each in rows] == [
        ("greedy", 1), ("vote", 2), ("auto", 2), ("best_of_n", 2),
        ("greedy", 1), ("vote", "larger"), ("auto", "larger"), ("best_of_n", "larger"),
    ]  # fmt: skip
    large = rows[4]
    assert large["params"] > rows[0]["params"]
    assert all(each["flops"] <= large["flops"] for each in rows if each["times"] == "larger")
    assert all(len(each["right"]) == 6 for each in rows)
    capsys.readouterr()
    assert bench.main([*given, "--done", str(tmp_path / "think.json")]) == 0
    assert "seed 0" not in capsys.readouterr().out


def test_an_unknown_algorithm_is_told():
    with pytest.raises(ConfigError, match="Algorithm 'luck' is unknown"):
        bench.main(["--ways", "luck"])
