"""What the tests of `wren compare` share: prepared text, settings for tiny arms, and numbers without times."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from wren import config as configs
from wren import stories
from wren.lab import arms, compare, compare_cell, compare_data, compare_plan, measure
from wren.lab.compare_cell import Settings
from wren.lab.compare_display import CompareDisplay
from wren.lab.schema import Comparison, Measured
from wren.precision import choose_precision
from wren.recipes import RunConfig

CPU = choose_precision(torch.device("cpu"), "fp32")
TINY = "tiny:dim=16:depth=1:batch_size=2:context_len=16"
TIMES = ("seconds", "started")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of stories, and shards of two vocabularies under data/; made once for all files that take it."""
    root = tmp_path_factory.getbasetemp() / "compare"
    if not root.exists():
        root.mkdir()
        texts = stories.texts(0, 30_000)
        (root / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        opened(root, 300, 280)
    return root


def opened(root: Path, *vocab_sizes: int) -> dict[int, compare_data.Text]:
    return compare_data.prepare_all(
        vocab_sizes, root, source=[str(root / "text.jsonl")], val=(), data=None, text_key="text", fresh=False,
        say=lambda text: None,
    )  # fmt: skip


def fake_speed(config: RunConfig, folder: Path, device: str) -> Measured:
    """Measured without a process of its own: a step takes 0.1 seconds."""
    return dataclasses.replace(measure.shape(config), step_seconds=0.1)


def asked(out: Path, recipes: str = TINY, **changes: Any) -> Settings:
    read = arms.read_arms(recipes, 300)
    grid = compare_plan.read_grid(changes.pop("lrs", "3e-3"), changes.pop("decays", "0"))
    sizes, contexts = arms.read_sizes(changes.pop("sizes", None)), arms.read_contexts(changes.pop("contexts", None))
    usual: dict[str, Any] = {
        "arms": read, "cells": tuple(compare_plan.plan_cells(read, sizes, contexts, out, "fp32")),
        "budget": compare_plan.read_budget(changes.pop("budget", "192tokens")), "grid": grid, "seeds": 1,
        "baseline": read[0].name, "source": "stories",
    }  # fmt: skip
    return Settings(**{**usual, **changes})


def compared(
    settings: Settings,
    texts: dict[int, compare_data.Text],
    out: Path,
    *,
    measured: compare_cell.Measure = fake_speed,
    display: CompareDisplay | None = None,
) -> Comparison:
    display = display or CompareDisplay(say=lambda text: None)
    return compare.compare(settings, texts, out, precision=CPU, display=display, measured=measured)


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [without_times(item) for item in value if not is_rule_of_times(item)]
    return value


def is_rule_of_times(value: Any) -> bool:
    """The rules that say what the clock measured: how long the runs took, and how busy the machine was."""
    beginnings = ("Times come from a quiet machine", "Arms get the same time")
    return isinstance(value, dict) and value.get("rule", "").startswith(beginnings)


def numbers(comparison: Comparison) -> Any:
    return without_times(json.loads(json.dumps(configs.to_json(comparison))))


COMMAND = ["--recipes", f"{TINY},b={TINY}:optimizer.kind=adamw", "--budget", "960tokens", "--seeds", "2"]
COMMAND += ["--lrs", "1e-3,3e-3", "--weight-decays", "0", "--vocab-size", "300", "--device", "cpu", "--dtype", "fp32"]
