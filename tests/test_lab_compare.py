"""`wren compare` at work: what is read, paired, tuned and kept; resuming; what a kill and a full disk leave."""

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

import lab_compare_parts
import numpy as np
import pytest
import torch
from lab_compare_parts import COMMAND, CPU, TINY, asked, compared, fake_speed, numbers, opened, without_times

from wren import config as configs
from wren.cli import main
from wren.data.loader import TokenLoader, TokenStream
from wren.errors import ConfigError, DiskError
from wren.interrupt import Interrupted
from wren.lab import compare, compare_data, compare_plan, compare_report, compare_run
from wren.lab.compare_display import CompareDisplay
from wren.lab.schema import Comparison
from wren.precision import choose_precision
from wren.run import Run

prepared = lab_compare_parts.prepared


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
    assert cell.lr is not None
    assert cell.lr < 1e38
    diverged = [run for run in cell.tuning if run.tuned is None]
    assert [run.lr for run in diverged] == [1e38]
    assert 0 < diverged[0].steps < 6
    lines: list[str] = []
    display = CompareDisplay(say=lines.append)
    cell = compared(asked(tmp_path / "all", arm, lrs="1e38,2e38"), texts, tmp_path / "all", display=display).cells[0]
    assert (cell.lr, cell.weight_decay, cell.edge, cell.final) == (None, None, False, ())
    assert sorted({run.lr for run in cell.tuning}) == pytest.approx([2.5e37, 5e37, 1e38, 2e38])  # two steps down
    assert all(run.tuned is None for run in cell.tuning)
    assert sum("every tuning run diverged, so there is no final run; give lower --lrs" in line for line in lines) == 1


@pytest.mark.parametrize("baseline", ["good", "lost"])
def test_an_arm_that_always_diverges_keeps_its_place_and_the_others_are_compared(
    baseline: str, prepared: Path, tmp_path: Path
):
    arms = f"lost={TINY}:optimizer.kind=adamw:lr=1e38,good={TINY},other={TINY}:lr=1e-2"
    settings = asked(tmp_path, arms, lrs="2", decays="1", baseline=baseline, seeds=2)
    found = compared(settings, opened(prepared, 300), tmp_path)
    assert {cell.arm: len(cell.final) for cell in found.cells} == {"lost": 0, "good": 2, "other": 2}
    assert compare.load(tmp_path / "compare.json") == found
    rule = next(rule for rule in found.rules if rule.rule.startswith("Every arm has all its final runs"))
    assert not rule.kept
    assert "lost (own, 16) at all 4 points of its grid" in rule.did
    inside = next(rule for rule in found.rules if rule.rule.startswith("The baseline's sweep"))
    assert "Every point of the grid diverged: lost (own, 16)." in inside.did
    assert inside.kept == (baseline != "lost" and not next(cell.edge for cell in found.cells if cell.arm == baseline))
    summary = compare_report.write(found, tmp_path)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "lost diverged at every learning rate of its grid." in markdown
    assert "no final run: every tuning run diverged" in markdown
    seeds = {(row["arm"], row["baseline"]): row["seeds"] for row in summary["differences"]}
    assert seeds == {(arm, baseline): 2 * ("lost" not in (arm, baseline)) for arm, _ in seeds}
    assert len(seeds) == 2
    json.dumps(summary, allow_nan=False)
    again = compared(settings, opened(prepared, 300), tmp_path)
    assert configs.to_json(again) == configs.to_json(found)


def test_a_grid_of_one_point_is_not_tuned(prepared: Path, tmp_path: Path):
    lines: list[str] = []
    settings = asked(tmp_path, f"{TINY}:lr=2e-3", lrs="1", decays="1", seeds=2)
    assert "no tuning trainings and 2 final ones" in compare.describe(
        settings, choose_precision(torch.device("cpu"), "fp32")
    )
    display = CompareDisplay(say=lines.append)
    cell = compared(settings, opened(prepared, 300), tmp_path, display=display).cells[0]
    assert (cell.tuning, cell.lr, cell.edge, len(cell.final)) == ((), 2e-3, True, 2)
    assert not any("tune" in line for line in lines)


def test_what_is_done_is_written_before_the_rest_begins(prepared: Path, tmp_path: Path):
    class Killed(CompareDisplay):
        def begin(self, cell: compare_plan.CellPlan, job: compare_run.Job) -> None:
            if cell.arm.name == "b":
                raise RuntimeError("killed")
            super().begin(cell, job)

    settings = asked(tmp_path, f"a={TINY},b={TINY}:lr=1e-2,c={TINY}:lr=2e-2", probes=("induction",))
    with pytest.raises(RuntimeError, match="killed"):
        compared(settings, opened(prepared, 300), tmp_path, display=Killed(say=lambda text: None))
    found = compare.load(tmp_path / "compare.json")
    assert [cell.arm for cell in found.cells] == ["a"]
    assert found.cells[0].final[0].detail is not None
    assert found.left[:2] == ("b @16", "c @16")
    assert found.left[2:] == tuple(f"probe induction, {name}" for name in "abc")
    compare_report.write(found, tmp_path)
    assert "Not over yet; left to do: b @16; c @16; probe" in (tmp_path / "report.md").read_text(encoding="utf-8")


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
    with pytest.raises(ConfigError, match="is damaged; remove it, and the same command"):
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
    assert parts.left == whole.left == ()
    assert numbers(parts) == numbers(whole)


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


def test_the_command_ends_with_its_findings_and_the_report(prepared: Path, tmp_path: Path, capsys):
    arguments = [
        "compare",
        "--recipes",
        f"{TINY},same={TINY}",
        "--budget",
        "192tokens",
        "--seeds",
        "2",
        "--lrs",
        "3e-3",
    ]
    arguments += ["--weight-decays", "0", "--vocab-size", "300", "--source", str(prepared / "text.jsonl")]
    arguments += ["--device", "cpu", "--dtype", "fp32", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert f"Note: {TINY} and same are the same model and settings." in said
    end = said[said.rindex("bits per byte on validation") :]
    assert "no difference" in end
    assert "rules of fair comparison were not kept" in end
    assert end.rstrip().endswith(f"Report: {tmp_path / 'out' / 'report.html'}")
    (tmp_path / "out" / "comparison.json").write_text('{"budget": ')
    assert main(arguments) == 2
    assert "is damaged; remove it, and the same command" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "out" / "comparison.json").unlink()
    assert main(arguments) == 0
    assert "(stored)" in capsys.readouterr().out
