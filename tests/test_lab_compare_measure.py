"""What a comparison measures beside its trainings: speed, memory, compilation, the machine, probes; and the display."""

import dataclasses
import functools
import io
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import lab_compare_parts
import pytest
import torch
from lab_compare_parts import CPU, TINY, asked, compared, fake_speed, opened
from rich.console import Console

from wren.data.loader import TokenLoader
from wren.errors import ConfigError
from wren.files import read_json, write_json
from wren.lab import arms, compare, compare_probes, compare_run, machine, measure, time_left
from wren.lab.compare_display import CompareDisplay
from wren.lab.probe_display import ProbeDisplay
from wren.lab.schema import Measured, TrainedRun
from wren.recipes import RunConfig

prepared = lab_compare_parts.prepared


# both are torch's own, while it traces
@pytest.mark.compiles
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


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compilation_is_measured_as_a_training_pays_it(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        time.sleep(0.2)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    config = asked(tmp_path, f"{TINY}:train.compile=true").cells[0].config
    plain = dataclasses.replace(config, train=dataclasses.replace(config.train, compile=False))
    model = config.model.build()
    optimizer = config.optimizer.build(model)
    loader = TokenLoader(opened(prepared, 300)[300].train(16), batch_size=2, seed=0)
    counts, found = [], []
    for _ in range(2):  # the second one compiles anew, as the second training does
        found.append(measure.compilation(model, optimizer, loader, config, CPU, 0.0))
        counts.append(len(graphs))
    torch.compiler.reset()
    assert counts[1] == 2 * counts[0] > 0
    assert min(found) >= 0.2
    assert measure.compilation(model, optimizer, loader, plain, CPU, 0.0) == 0.0
    assert len(graphs) == counts[1]


def test_a_budget_of_time_counts_compilation(prepared: Path, tmp_path: Path):
    def slow(config: RunConfig, folder: Path, device: str) -> Measured:
        return dataclasses.replace(fake_speed(config, folder, device), compile_seconds=1.0)

    cell = compared(
        asked(tmp_path, budget="2s", tune_share=0.75, lrs="1e-3,3e-3"), opened(prepared, 300), tmp_path, measured=slow
    ).cells[0]
    assert cell.measured.compile_seconds == 1.0
    assert {run.steps for run in cell.final} == {10}  # of 20
    assert {run.steps for run in cell.tuning} == {5}
    with pytest.raises(ConfigError, match=r"too small for one step of .*after 1s of compilation"):
        compared(asked(tmp_path / "b", budget="1.05s"), opened(prepared, 300), tmp_path / "b", measured=slow)


def test_a_comparison_goes_on_only_on_its_machine(prepared: Path, tmp_path: Path):
    texts = opened(prepared, 300)
    first = compared(asked(tmp_path), texts, tmp_path)
    path, measured = tmp_path / "comparison.json", asked(tmp_path).cells[0].folder / "measured.json"
    here = machine.this_machine(torch.device("cpu"))
    assert read_json(path)["machine"] == read_json(measured)["machine"] == here
    assert first.machine == machine.in_words(here)
    assert f"{here['cores']} cores, 1 thread, torch {torch.__version__}" in first.machine

    other = {**here, "device": "Abacus 9000"}
    for each in (path, measured):
        write_json(each, {**read_json(each), "machine": other})
    again = compared(asked(tmp_path), texts, tmp_path)  # nothing is left to do: it is read anywhere
    assert again.machine.startswith("Abacus 9000, ")
    assert again.cells == first.cells
    words = (
        rf"The training .*seed1 is not done yet, .*begun on Abacus 9000.*this is {re.escape(here['device'])}.*--fresh"
    )
    with pytest.raises(ConfigError, match=words):
        compared(asked(tmp_path, seeds=2), texts, tmp_path)
    measured.unlink()
    with pytest.raises(ConfigError, match=r"Measuring .* is not done yet.*Abacus 9000"):
        compared(asked(tmp_path), texts, tmp_path)
    write_json(path, {key: value for key, value in read_json(path).items() if key != "machine"})
    with pytest.raises(ConfigError, match="begun on a machine it does not name"):
        compared(asked(tmp_path), texts, tmp_path)


def test_a_measurement_of_another_machine_is_refused(prepared: Path, tmp_path: Path):
    compared(asked(tmp_path), opened(prepared, 300), tmp_path)
    measured = asked(tmp_path).cells[0].folder / "measured.json"
    found = read_json(measured)
    write_json(measured, {**found, "machine": {**found["machine"], "threads": 64}})
    with pytest.raises(ConfigError, match=r"was measured on .*64 threads.*remove it"):
        compared(asked(tmp_path), opened(prepared, 300), tmp_path)


def test_the_processor_is_called_by_its_name(tmp_path: Path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Abacus 9000 @ 1 Hz\nmodel name\t: x\n")
    assert machine.processor(tmp_path / "cpuinfo") == "Abacus 9000 @ 1 Hz"
    assert machine.processor(tmp_path / "none")
    (tmp_path / "cpuinfo").write_text("")
    assert machine.processor(tmp_path / "cpuinfo")


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
    assert found.compile_seconds == 0.0
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
    asked_for = dataclasses.replace(CPU, autocast=torch.bfloat16)  # what a comparison may have chosen
    scores = list(compare_probes.scores(cells, asked_for, CompareDisplay(say=lines.append)))
    assert {score.dtype for score in scores} == {"fp32"}  # on a CPU, whatever the comparison has
    assert {read_json(cell.folder / "cell.json")["dtype"] for cell in cells} == {"fp32"}
    assert [(score.arm, score.probe) for score in scores] == [("tiny:depth=1", "induction"), ("b", "induction")]
    assert all(0 <= score.accuracy <= 1 and score.state_bytes > 0 for score in scores)
    assert lines[1].startswith("[2/2] probe induction, b: ")


def test_the_display_shows_all_arms_and_the_time_left(prepared: Path, tmp_path: Path):
    texts, screen, clock = opened(prepared, 300), io.StringIO(), iter(range(10**6))
    settings = asked(tmp_path, f"{TINY},[b]={TINY}:lr=1e-2", lrs="1e-3,3e-3")
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


def test_the_time_left_counts_the_probes(tmp_path: Path):
    now = [0.0]
    lines: list[str] = []
    display = CompareDisplay(say=lines.append, clock=lambda: now[0])
    cell = asked(tmp_path).cells[0]
    config = cell.tuned(lr=1e-3, weight_decay=0.0, seed=0, steps=4)
    job = compare_run.Job(path=tmp_path, name="x", phase="final", config=config, flops_per_token=1.0)
    done = TrainedRun(
        folder="x", phase="final", seed=0, lr=1e-3, weight_decay=0.0, steps=4, tokens=1, seconds=10.0, flops=1.0,
        tuned=1.0,
    )  # fmt: skip
    display.plan([cell], [[10.0, 10.0]], probes=3)
    assert display.left() == ""  # nothing is known yet
    display.begin(cell, job)
    now[0] += 10
    display.end(cell, done, stored=False)
    assert display.left() == "  about 10s left, 3 probes after that"
    display.finish(cell, "done")
    assert display.left() == "  3 probes left"
    display.begin_probe()
    display.end_probe("[1/3] stored", stored=True)
    assert display.left() == "  2 probes left"  # what was stored tells nothing
    display.begin_probe()
    now[0] += 60
    display.end_probe("[2/3] probe", stored=False)
    assert lines[-1] == "[2/3] probe  about 1m00s left"
    display.begin_probe()
    display.end_probe("[3/3] probe", stored=False)
    assert display.left() == ""


def test_an_estimate_that_is_used_up_is_said():
    assert time_left.about(-3.0) == time_left.about(0.0) == "past its estimate"
    assert time_left.about(0.2) == "less than 1s left"
    assert time_left.about(200.0) == "about 3m20s left"
    lines: list[str] = []
    display = ProbeDisplay(say=lines.append, every=0.0)
    display.number = display.total = display.trained = 1
    display.start = display.begun  # a cell took no time so far, and this one has begun a while ago
    display.say("step 1/2")
    assert lines[-1].endswith("past its estimate")
