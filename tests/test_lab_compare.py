"""`wren compare`: arms, budgets, grids, what is trained on and judged by, resuming, the rules."""

import dataclasses
import functools
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lab_examples
import numpy as np
import pytest
import torch
from rich.console import Console

from wren import config as configs
from wren import stories
from wren.cli import main
from wren.data.loader import TokenLoader, TokenStream
from wren.errors import ConfigError, DataError, DiskError
from wren.interrupt import Interrupted
from wren.lab import arms, compare, compare_data, compare_plan, compare_probes, compare_rules, compare_run, measure
from wren.lab.compare_cell import Settings
from wren.lab.compare_display import CompareDisplay
from wren.lab.schema import Arm, Comparison, Measured
from wren.precision import choose_precision
from wren.recipes import RunConfig
from wren.run import Run

CPU = choose_precision(torch.device("cpu"), "fp32")
TINY = "tiny:dim=16:depth=1:batch_size=2:context_len=16"
TIMES = ("seconds", "started")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of stories, and shards of two vocabularies under data/."""
    root = tmp_path_factory.mktemp("compare")
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


def compared(settings: Settings, texts: dict[int, compare_data.Text], out: Path, **options: Any) -> Comparison:
    display = CompareDisplay(say=lambda text: None)
    return compare.compare(settings, texts, out, precision=CPU, display=display, measured=fake_speed, **options)


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [without_times(item) for item in value if not is_rule_of_times(item)]
    return value


def is_rule_of_times(value: Any) -> bool:
    """The rule that says how busy the machine was: what it states is measured by the clock."""
    return isinstance(value, dict) and value.get("rule", "").startswith("Times come from a quiet machine")


def numbers(comparison: Comparison) -> Any:
    return without_times(json.loads(json.dumps(configs.to_json(comparison))))


def test_arms_are_recipes_with_settings_and_names():
    read = arms.read_arms("tiny, plain=small:depth=4:optimizer.kind=adamw,wide=tiny:vocab_size=4k", 512)
    assert read == (
        Arm(name="tiny", recipe="tiny", vocab_size=512),
        Arm(name="plain", recipe="small", settings=("depth=4", "optimizer.kind=adamw"), vocab_size=512),
        Arm(name="wide", recipe="tiny", vocab_size=4000),
    )
    listed = 'a=tiny:model.mixers=[{"type":"mixers.attention","num_heads":2}]:optimizer.betas=[0.8,0.9]'
    config = arms.config_of(arms.read_arms(listed, 300)[0])
    assert (len(config.model.mixers), config.optimizer.betas) == (1, (0.8, 0.9))


def test_a_context_length_keeps_the_tokens_of_a_batch():
    arm = arms.read_arms("gpt2:dim=16:num_heads=2:depth=1:context_len=64:batch_size=4", 300)[0]
    with pytest.raises(ConfigError, match="sets its context length, and so does --contexts"):
        arms.config_of(arm, (), 128)
    arm = arms.read_arms("gpt2:dim=16:num_heads=2:depth=1:batch_size=4", 300)[0]
    config = arms.config_of(arm, (), 256)
    assert (config.train.context_len, config.train.batch_size, config.model.learned_positions) == (256, 16, 256)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: arms.read_arms("tiny,tyni", 300), "Recipe 'tyni' is unknown; did you mean 'tiny'"),
        (lambda: arms.read_arms(" , ", 300), "--recipes is empty"),
        (lambda: arms.read_arms("tiny,tiny", 300), "Two arms have the name 'tiny'"),
        (lambda: arms.read_arms("=tiny", 300), "has an empty name"),
        (lambda: arms.read_arms("tiny:seed=3", 300), "sets seed, which --seeds decides"),
        (lambda: arms.config_of(arms.read_arms("tiny:dim=16", 300)[0], ("dim=32",)), "and so does --sizes"),
        (lambda: arms.config_of(arms.read_arms("tiny:wide=3", 300)[0]), "Arm 'tiny:wide=3': Setting 'wide' is unknown"),
        (lambda: arms.read_sizes(";"), "--sizes is empty"),
        (lambda: arms.read_sizes("dim=16;dim=16"), "names one size twice"),
        (lambda: arms.read_sizes("steps=10"), "--budget"),
        (lambda: arms.read_contexts(""), "--contexts is empty"),
        (lambda: arms.read_contexts("64,64"), "twice"),
        (lambda: compare_plan.read_grid("", "2"), "--lrs is empty"),
        (lambda: compare_plan.read_grid("0", "2"), "--lrs is 0"),
        (lambda: compare_plan.read_grid("1e-3,x", "2"), "'x' is not a learning rate"),
        (lambda: compare_plan.read_grid("4", "-0.1"), "a weight decay of -0.1 makes no sense"),
        (lambda: compare_plan.read_budget("5 parsecs"), "'5 parsecs' is not a budget; write a time"),
        (lambda: asked(Path("x"), seeds=0), "--seeds is 0"),
        (lambda: asked(Path("x"), tune_share=0.0), "--tune-share is 0.0"),
        (lambda: asked(Path("x"), baseline="other"), "Baseline 'other' is unknown"),
    ],
)
def test_wrong_inputs_are_one_sentence(call: Any, says: str):
    with pytest.raises(ConfigError) as error:
        call()
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_budgets_become_steps(tmp_path: Path):
    cell = asked(tmp_path).cells[0]
    tokens = cell.batch_tokens
    assert compare_plan.read_budget("1e3tokens").steps(cell, 7.0, None) == 1000 // tokens
    assert compare_plan.read_budget(f"{3 * tokens * 7 + 1}flops").steps(cell, 7.0, None) == 3
    assert compare_plan.read_budget("2s").steps(cell, 7.0, 0.1) == 20
    assert compare_plan.read_budget("2s").steps(cell, 7.0, 0.1, share=0.25) == 5
    for text in ("31tokens", "200flops", "0.05s"):
        with pytest.raises(ConfigError, match="too small for one step of"):
            compare_plan.read_budget(text).steps(cell, 7.0, 0.1)


def test_grids_are_around_the_recipes_own_or_as_given():
    grid = compare_plan.read_grid("4", "2")
    assert grid.learning_rates(1.0) == [0.5, 1.0, 2.0, 4.0]
    assert grid.weight_decays(0.1) == pytest.approx([0.1, 0.01])
    assert grid.weight_decays(0.0) == [0.0, 0.01]
    given = compare_plan.read_grid("2e-3,1e-3", "0.1,0")
    assert (given.learning_rates(9.0), given.weight_decays(9.0)) == ([1e-3, 2e-3], [0.1, 0.0])
    assert compare_plan.outward([1.0, 2.0, 4.0], 4.0) == 8.0
    assert compare_plan.outward([1.0, 2.0, 4.0], 1.0) == 0.5
    assert compare_plan.outward([1.0, 2.0, 4.0], 2.0) is None


def test_the_matrices_learning_rate_moves_along(tmp_path: Path):
    cell = asked(tmp_path, f"{TINY}:optimizer.matrix_lr=0.03:lr=0.01").cells[0]
    tuned = cell.tuned(lr=0.02, weight_decay=0.5, seed=4, steps=100)
    assert (tuned.optimizer.lr, tuned.optimizer.weight_decay, tuned.seed) == (0.02, 0.5, 4)
    assert tuned.optimizer.matrix_lr == pytest.approx(0.06)
    assert tuned.train.steps == 100
    assert tuned.train.steps // tuned.train.eval_every == compare_plan.NUM_POINTS


def test_all_vocabularies_hold_back_the_same_documents(prepared: Path):
    texts = opened(prepared, 300, 280)
    ends, splits = [], []
    for text in texts.values():
        held_back = np.concatenate(text.held_back_shards)
        assert held_back[0] == text.manifest.document_id
        ends.append(text.tokenizer.decode_bytes(held_back.tolist()))
        trained = sum(map(len, text.train_shards))
        assert trained + len(held_back) == text.manifest.splits["train"].tokens
        splits.append(text.manifest.splits["train"].bytes)
    assert ends[0] == ends[1]
    assert 0.025 * splits[0] <= len(ends[0]) <= 0.1 * splits[0]


def test_the_cut_takes_a_document_start_near_the_end_or_goes_through_one():
    sizes = np.ones(10, dtype=np.int64)
    sizes[9] = 0
    long = np.zeros(1000, dtype=np.uint16)
    long[0] = 9
    assert compare_data.cut_of([long], sizes, 999, 9) == 950  # no document starts there
    many = np.zeros(1000, dtype=np.uint16)
    many[::30] = 9
    place = compare_data.cut_of([many[:600], many[600:]], sizes, 966, 9)
    assert many[place] == 9
    assert 20 <= 1000 - place <= 100
    shards = [many[:940], many[940:]]  # the cut in the first of them
    before, after = compare_data.split_at(shards, 930)
    assert [len(x) for x in before] == [930]
    assert [len(x) for x in after] == [10, 60]
    with pytest.raises(DataError, match="too small to hold back"):
        compare_data.cut_of([np.array([9], dtype=np.uint16)], sizes, 0, 9)


class Recorder:
    """Stands in for the streams of a Text and remembers which windows of which one were read."""

    def __init__(self, text: compare_data.Text):
        self.text, self.read = text, {"train": [], "held_back": [], "val": []}

    def __getattr__(self, name: str) -> Any:
        if name not in ("train", "held_back", "val"):
            return getattr(self.text, name)
        log = self.read[name]

        def stream(context_len: int) -> TokenStream:
            found = getattr(self.text, name)(context_len)
            original = found.batch

            def batch(windows: Any) -> Any:
                made = original(windows)
                log.append(made.tokens_BT.clone())
                return made

            found.batch = batch
            return found

        return stream


def test_tuning_never_reads_validation_and_finals_read_it_once(prepared: Path, tmp_path: Path):
    recorder = Recorder(opened(prepared, 300)[300])
    cell = asked(tmp_path).cells[0]
    for phase, seed in (("tune", 5), ("final", 0)):
        config = cell.tuned(lr=1e-3, weight_decay=0.0, seed=seed, steps=4)
        job = compare_run.Job(
            path=tmp_path / phase,
            name=phase,
            phase=phase,  # type: ignore[arg-type]
            config=config,
            flops_per_token=2.0,
        )
        result = compare_run.run_training(job, recorder, CPU)  # type: ignore[arg-type]
        assert (result.detail is None) == (phase == "tune")
        assert (len(recorder.read["val"]) == 0) == (phase == "tune")
        again = sum(len(x) for x in recorder.read["val"])
        assert compare_run.run_training(job, recorder, CPU) == result  # type: ignore[arg-type]
        assert sum(len(x) for x in recorder.read["val"]) == again
    assert again == recorder.text.val(16).num_windows
    assert len(recorder.read["train"]) == 8
    assert [point.step for point in result.curve] == [0, 1, 2, 3, 4]
    assert result.tuned == result.curve[-1].bits_per_byte
    assert result.flops == result.tokens * 2.0 == 4 * 32 * 2.0


def test_paired_seeds_see_equal_batches_whatever_the_arm(prepared: Path, tmp_path: Path):
    seen = []
    for arm in (TINY, "adam=" + TINY + ":optimizer.kind=adamw:model.mixers=mixers.mamba"):
        recorder = Recorder(opened(prepared, 300)[300])
        cell = asked(tmp_path, arm).cells[0]
        job = compare_run.Job(
            path=cell.folder, name="x", phase="final", flops_per_token=1.0,
            config=cell.tuned(lr=1e-3 * (1 + len(seen)), weight_decay=0.0, seed=3, steps=3),
        )  # fmt: skip
        compare_run.run_training(job, recorder, CPU)  # type: ignore[arg-type]
        seen.append(recorder.read)
    for name in ("train", "val", "held_back"):
        assert len(seen[0][name]) == len(seen[1][name]) > 0
        assert all(torch.equal(a, b) for a, b in zip(seen[0][name], seen[1][name], strict=True))
    other = TokenLoader(opened(prepared, 300)[300].train(16), batch_size=2, seed=4).next_batch()
    assert not torch.equal(other.tokens_BT, seen[0]["train"][0])


def test_edges_extend_and_what_stays_at_one_is_said(prepared: Path, tmp_path: Path):
    texts = opened(prepared, 300)
    settings = asked(tmp_path, lrs="1e-6,2e-6", decays="0,0.1", seeds=2)  # far too small: more is always better
    found = compared(settings, texts, tmp_path)
    cell = found.cells[0]
    assert sorted({run.lr for run in cell.tuning}) == pytest.approx([1e-6, 2e-6, 4e-6, 8e-6])
    assert len(cell.tuning) == 8
    assert (cell.lr, cell.edge) == (pytest.approx(8e-6), True)
    assert [run.seed for run in cell.final] == [0, 1]
    assert all(run.lr == cell.lr and run.detail is not None for run in cell.final)
    kept = {rule.rule: rule.kept for rule in found.rules}
    assert not kept["The baseline's sweep is kept and its best setting lies inside the grid"]
    settings = asked(tmp_path / "in", lrs="1e-6,3e-3,1e3", decays="0")
    cell = compared(settings, texts, tmp_path / "in").cells[0]
    assert (cell.lr, cell.edge, len(cell.tuning)) == (3e-3, False, 3)


def test_a_diverged_grid_point_loses_and_all_of_them_are_one_sentence(prepared: Path, tmp_path: Path):
    texts, arm = opened(prepared, 300), f"{TINY}:optimizer.kind=adamw"
    cell = compared(asked(tmp_path, arm, lrs="1e-3,3e-3,1e38"), texts, tmp_path).cells[0]
    assert cell.lr < 1e38
    diverged = [run for run in cell.tuning if run.tuned is None]
    assert [run.lr for run in diverged] == [1e38]
    assert 0 < diverged[0].steps < 6
    with pytest.raises(ConfigError, match=r"Every tuning run of .* diverged; give lower --lrs"):
        compared(asked(tmp_path / "all", arm, lrs="1e38"), texts, tmp_path / "all")


def test_arms_sizes_contexts_and_vocabularies(prepared: Path, tmp_path: Path):
    settings = asked(
        tmp_path, "tiny:batch_size=4,b=tiny:vocab_size=280:batch_size=4", sizes="dim=16,depth=1;dim=32,depth=1",
        contexts="16,32", budget="256tokens",
    )  # fmt: skip
    found = compared(settings, opened(prepared, 300, 280), tmp_path)
    places = [(cell.arm, cell.size, cell.context_len) for cell in found.cells]
    assert len(set(places)) == len(places) == 8
    assert {cell.context_len for cell in found.cells} == {16, 32}
    assert {run.tokens for cell in found.cells for run in cell.final} <= set(range(250, 257))
    for cell in found.cells:
        assert cell.final[0].folder.startswith(cell.arm) or cell.final[0].folder.startswith("tiny,")
    assert compare.load(tmp_path / "compare.json") == found
    weights = {str(path.relative_to(tmp_path / "runs").parents[2]) for path in tmp_path.rglob("model.safetensors")}
    finals = [(cell.arm, run) for cell in found.cells for run in cell.final if run.detail is not None]
    best = {}
    for arm, run in finals:  # of all weights, each arm's best final ones stay
        best[arm] = min(best.get(arm, run), run, key=lambda run: run.detail.whole.bits_per_byte)  # type: ignore[union-attr]
    assert weights == {run.folder for run in best.values()}


def test_a_repeated_call_trains_nothing_and_changed_settings_are_refused(prepared: Path, tmp_path: Path):
    texts = opened(prepared, 300)
    first = compared(asked(tmp_path), texts, tmp_path)
    results = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    again = compared(asked(tmp_path), texts, tmp_path)
    assert configs.to_json(again) == configs.to_json(first)
    more = compared(asked(tmp_path, seeds=2), texts, tmp_path)  # seeds may be added
    assert [run.seed for run in more.cells[0].final] == [0, 1]
    assert {path: path.stat().st_mtime_ns for path in results} == results
    changed: tuple[tuple[dict[str, Any], str], ...] = (
        ({"budget": "640tokens"}, "budget = 192tokens, and now it is 640tokens"),
        ({"lrs": "1e-3"}, "lrs = "),
        ({"tune_share": 0.5}, "tune_share = 1.0"),
    )
    for changes, key in changed:
        with pytest.raises(ConfigError, match=re.escape(key)):
            compared(asked(tmp_path, **changes), texts, tmp_path)
    renamed = asked(tmp_path, f"{TINY}:lr=1e-4")
    folder = shutil.copytree(asked(tmp_path).cells[0].folder, renamed.cells[0].folder)
    with pytest.raises(ConfigError, match=r"was begun with optimizer\.lr = 0\.003, and now it is 0\.0001"):
        compared(renamed, texts, tmp_path)
    assert folder.exists()
    (tmp_path / "comparison.json").write_text("[]")
    with pytest.raises(ConfigError, match="is not what a comparison writes"):
        compared(asked(tmp_path), texts, tmp_path)
    compare.clear(tmp_path)
    assert compared(asked(tmp_path, budget="64tokens"), texts, tmp_path).budget == "64tokens"


def test_fresh_spares_what_is_no_comparisons(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    mine = tmp_path / "runs" / "mine" / "config.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("{}")
    with pytest.raises(ConfigError, match="so --fresh removes nothing there"):
        compare.clear(tmp_path)
    (tmp_path / "comparison.json").write_text("{}")
    flags = ["--budget", "1ktokens", "--out", str(tmp_path), "--fresh", "--source", str(tmp_path / "typo.txt")]
    assert main(["compare", "--recipes", TINY, *flags]) == 2  # a mistake is told before anything is removed
    assert "does not exist" in capsys.readouterr().err
    assert mine.exists()
    compare.clear(tmp_path)
    assert not (tmp_path / "runs").exists()


class FullDisk(Run):
    """Has no room, while `full`, for the metrics of steps 2 and 4, nor for what step 3 took."""

    full = True

    def log_metrics(self, row: dict[str, Any]) -> None:
        if FullDisk.full and (row["step"] in (2, 4) or (row["step"], row["kind"]) == (3, "train")):
            raise DiskError("Cannot write metrics: the disk is full.")
        super().log_metrics(row)


def test_metrics_lost_to_a_full_disk_are_not_a_divergence(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(compare_run, "Run", FullDisk)
    config = asked(tmp_path).cells[0].tuned(lr=1e-3, weight_decay=0.0, seed=0, steps=4)
    job = compare_run.Job(path=tmp_path / "x", name="x", phase="final", config=config, flops_per_token=1.0)
    text = opened(prepared, 300)[300]
    with pytest.raises(DiskError, match="lacks the last evaluation"):
        compare_run.run_training(job, text, CPU)
    monkeypatch.setattr(FullDisk, "full", False)
    found = compare_run.run_training(job, text, CPU)
    assert (found.steps, found.tokens, found.tuned) == (4, 4 * 32, found.curve[-1].bits_per_byte)
    assert found.detail is not None
    assert [(point.step, point.tokens) for point in found.curve] == [(0, 0), (1, 32), (4, 128)]


# both are torch's own, while it traces
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_every_training_pays_for_its_own_compilation(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    graphs: list[Any] = []
    counts: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        """Traces alone: what counts here is when. One for all: code compiled for another is not shared."""
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    cell = asked(tmp_path, f"{TINY}:train.compile=true").cells[0]
    for seed in (0, 1):
        config = cell.tuned(lr=1e-3, weight_decay=0.0, seed=seed, steps=2)
        path = tmp_path / str(seed)
        job = compare_run.Job(path=path, name=str(seed), phase="tune", config=config, flops_per_token=1.0)
        compare_run.run_training(job, opened(prepared, 300)[300], CPU)
        counts.append(len(graphs))
    torch.compiler.reset()
    assert counts[1] == 2 * counts[0] > 0


def test_an_interrupted_comparison_ends_with_the_numbers_of_one_left_alone(prepared: Path, tmp_path: Path):
    texts = opened(prepared, 300)
    whole = compared(asked(tmp_path / "whole", lrs="1e-3,3e-3", seeds=2, budget="384tokens"), texts, tmp_path / "whole")
    settings, stops = asked(tmp_path / "parts", lrs="1e-3,3e-3", seeds=2, budget="384tokens"), 0

    class Stopping(CompareDisplay):
        """Sends Ctrl-C at the thirteenth row of every life."""

        rows = 0

        def watch(self, job: compare_run.Job) -> Any:
            def see(progress: Any, row: dict[str, Any]) -> None:
                self.rows += 1
                if self.rows == 13:
                    os.kill(os.getpid(), signal.SIGINT)

            return see

    while True:
        display = Stopping(say=lambda text: None)
        try:
            parts = compare.compare(
                settings, texts, tmp_path / "parts", precision=CPU, display=display, measured=fake_speed
            )
            break
        except Interrupted:
            stops += 1
    assert stops >= 5
    assert numbers(parts) == numbers(whole)


COMMAND = ["--recipes", f"{TINY},b={TINY}:optimizer.kind=adamw", "--budget", "960tokens", "--seeds", "2"]
COMMAND += ["--lrs", "1e-3,3e-3", "--weight-decays", "0", "--vocab-size", "300", "--device", "cpu", "--dtype", "fp32"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_kills_change_nothing(prepared: Path, tmp_path: Path):
    """kill -9 at any moment of preparing, measuring, tuning and training, and Ctrl-C, through the command itself."""
    rng = np.random.default_rng(0)
    command = [sys.executable, "-m", "wren", "compare", *COMMAND, "--source", str(prepared / "text.jsonl"), "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(tmp_path / "whole")], env=environment, check=True, capture_output=True)
    codes = []
    for life in range(8):
        process = subprocess.Popen(
            [*command, str(tmp_path / "parts")], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        time.sleep(4 + rng.random() * 6)
        process.send_signal(signal.SIGINT if life % 4 == 3 else signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
        assert b"Traceback" not in errors
        codes.append(process.returncode)
        if process.returncode == 0:
            break
    subprocess.run([*command, str(tmp_path / "parts")], env=environment, check=True, capture_output=True)
    assert codes.count(-signal.SIGKILL) >= 2
    assert set(codes) <= {0, -signal.SIGKILL, 130, -signal.SIGINT}  # the last: while Python itself begins or ends
    left, right = (judged(compare.load(tmp_path / name / "compare.json")) for name in ("whole", "parts"))
    assert left == right


def judged(comparison: Comparison) -> Any:
    """What does not depend on the clock."""
    return [without_times(configs.to_json(run)) for cell in comparison.cells for run in (*cell.tuning, *cell.final)]


def test_measuring_gives_speed_memory_and_shape(prepared: Path, tmp_path: Path):
    text = opened(prepared, 300)[300]
    config = asked(tmp_path).cells[0].config
    found = measure.measure(config, text, "cpu")
    assert found["step_seconds"] > 0
    assert found["tokens_per_second"] == pytest.approx(32 / found["step_seconds"])
    assert found["decode_tokens_per_second"] > 0
    if sys.platform == "linux" and found["peak_memory_bytes"] is not None:
        assert found["peak_memory_bytes"] > 4 * 4 * measure.shape(config).params * 0.9  # weights, gradients, moments
    shape = measure.shape(config)
    model = config.model.build()
    assert shape.state_bytes == {"2048": model.state_bytes(2048), "32768": model.state_bytes(32768)}
    assert shape.core_params + shape.table_params + model.head.weight.numel() == shape.params
    assert measure.training_flops_per_token(config) == 3 * shape.flops_per_token


def test_the_measuring_process_answers_or_says_why(prepared: Path, tmp_path: Path):
    config = asked(tmp_path).cells[0].config
    found = measure.measured(config, prepared / "data" / "vocab300", "cpu")
    assert found.step_seconds is not None
    with pytest.raises(ConfigError, match=r"could not be measured: .* does not exist"):
        measure.measured(config, tmp_path / "nowhere", "cpu")


def test_arms_are_probed_at_the_probes_shape():
    from wren import probes

    setting = probes.get("mqar").SIZES["cpu"]
    arm = arms.read_arms("small:dim=512:depth=7:model.logit_softcap=30", 300)[0]
    model = compare_probes.model_for_arm(arm, setting)
    assert (model.dim, model.depth, model.logit_softcap) == (setting.dim, setting.depth, 30.0)
    assert model.vocab_size == max(c.vocab_size for c in (setting.train, *setting.tests.values()))
    model.build()
    with pytest.raises(ConfigError, match="unknown"):
        compare_probes.plan_probes([arm], ["mqra"], Path("x"))


def test_arms_are_scored_on_probes(tmp_path: Path):
    read = arms.read_arms("tiny:depth=1,b=small:head_dim=16", 300)
    cells = compare_probes.plan_probes(read, ["induction"], tmp_path)
    short = {"steps": 2, "lrs": (1e-3,), "weight_decays": (0.0,), "batch_size": 2, "test_examples": 2}
    cells = [dataclasses.replace(c, setting=dataclasses.replace(c.setting, **short)) for c in cells]
    lines: list[str] = []
    scores = compare_probes.score(cells, CPU, lines.append)
    assert [(score.arm, score.probe) for score in scores] == [("tiny:depth=1", "induction"), ("b", "induction")]
    assert all(0 <= score.accuracy <= 1 and score.state_bytes > 0 for score in scores)
    assert lines[1].startswith("[2/2] probe induction, b: ")


def test_the_display_shows_all_arms_and_the_time_left(prepared: Path, tmp_path: Path):
    texts, screen, clock = opened(prepared, 300), io.StringIO(), iter(range(10**6))
    settings = asked(tmp_path, f"{TINY},[b]={TINY}:lr=1e-2")
    console = Console(file=screen, force_terminal=True, width=110)
    with CompareDisplay(console=console, clock=lambda: float(next(clock))) as display:
        compare.compare(settings, texts, tmp_path, precision=CPU, display=display, measured=fake_speed)
    shown = screen.getvalue()
    assert "[b] @16" in shown
    assert "bits per byte" in shown
    lines: list[str] = []
    shutil.rmtree(tmp_path / "runs" / "[b]".replace("[", ",").replace("]", ","))
    display = CompareDisplay(say=lines.append, every=0.0, clock=lambda: float(next(clock)))
    compare.compare(settings, texts, tmp_path, precision=CPU, display=display, measured=fake_speed)
    assert any("(stored)" in line for line in lines)
    assert any(line.startswith("[b] @16: tune") and "step 3/6" in line for line in lines)
    assert any(" left" in line for line in lines)
    assert not lines[-1].endswith(" left")


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


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "Give either --source PATH... or --data FOLDER"),
        (["--source", "TEXT", "--data", "x"], "Give either --source"),
        (["--source", "TEXT", "--lrs", ""], "--lrs is empty"),
        (["--source", "TEXT", "--recipes", "tyni"], "Recipe 'tyni' is unknown"),
        (["--source", "TEXT", "--budget", "3tokens"], "too small for one step"),
        (["--source", "TEXT", "--probes", "mqra"], "unknown"),
        (["--data", "nowhere"], "does not exist"),
        (["--data", "DATA", "--val", "TEXT"], "has a validation split of its own; leave --val out"),
        (["--source", "TEXT", "--val", "nofile.txt"], "nofile.txt does not exist"),
    ],
)
def test_the_verb_says_what_is_wrong_before_it_writes(
    flags: list[str], says: str, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    places = {"TEXT": str(prepared / "text.jsonl"), "DATA": str(prepared / "data" / "vocab300")}
    flags = [places.get(flag, flag) for flag in flags]
    assert main(["compare", *COMMAND[:2], *flags, "--out", str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = ["--source", str(prepared / "text.jsonl"), "--out", str(tmp_path / "out"), "--dry-run"]
    assert main(["compare", *COMMAND, *flags]) == 0
    assert "2 tuning and 2 final trainings of 30 steps" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("factor", "kept"), [(1.1, True), (0.9, True), (1.6, False), (0.5, False)])
def test_times_of_a_busy_machine_are_told(factor: float, kept: bool):
    """A step of the final runs that takes otherwise than when it was measured breaks a rule, which the page names."""
    cell = next(iter(lab_examples.comparison().cells))
    runs = [dataclasses.replace(run, seconds=factor * run.steps * 0.25) for run in cell.final]
    found = compare_rules._quiet(
        [dataclasses.replace(cell, measured=dataclasses.replace(cell.measured, step_seconds=0.25), final=tuple(runs))]
    )
    assert found.kept == kept
    assert ("Do not compare seconds" in found.did) != kept
