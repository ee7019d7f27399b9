"""The share of a device's peak that training reaches, and how often a compiled step is compiled."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import train_child as child
from torch import Tensor

from wren import utilisation
from wren.batch import Batch
from wren.model import LM
from wren.precision import Precision
from wren.report import _utilisation as in_words
from wren.run import Run
from wren.step import EXPECTED_COMPILING
from wren.utilisation import Peak, Utilisation, peak, product_flops

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def precision(device: torch.device, autocast: torch.dtype | None) -> Precision:
    return Precision(device=device, autocast=autocast, why="tests")


@pytest.mark.parametrize(
    ("name", "autocast", "flops"),
    [
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 989.5e12),
        ("Tesla T4", torch.float16, 65e12),
        ("Tesla P100-PCIE-16GB", torch.float16, 18.7e12),
        ("Tesla P100-PCIE-16GB", None, 9.3e12),
    ],
)
def test_a_known_gpu_has_its_makers_peak(name: str, autocast: Any, flops: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak(precision(CUDA, autocast)) == Peak(flops, False)


@pytest.mark.parametrize(("name", "autocast"), [("NVIDIA Riva", None), ("Tesla T4", torch.bfloat16)])
def test_what_is_not_in_the_table_is_measured(name: str, autocast: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(utilisation, "_measured", lambda precision, threads: 5e12)
    assert peak(precision(CUDA, autocast)) == Peak(5e12, True)


def test_a_cpu_is_measured_once():
    here = precision(CPU, None)
    first = peak(here)
    assert first.measured
    assert first.flops > 1e8
    assert peak(precision(CPU, None)) == first  # the same number: not measured again
    assert product_flops(here, seconds=0.01, size=64) > 0
    assert str(Peak(1.25e12, True)) == "1.25 TFLOP/s (measured)"


def test_mfu_counts_tokens_seconds_and_devices():
    used = Utilisation(6e9, Peak(1e12, False))
    assert used.of(1000, 10.0) == pytest.approx(0.6)
    assert used.of(1000, 10.0, num_devices=4) == pytest.approx(0.15)
    result = {"mfu": 0.6, "peak_flops": 1e12, "peak_flops_measured": False}
    assert in_words(result) == {"model FLOPs utilisation": "60.0% of 1 TFLOP/s"}
    assert in_words({}) == {}


def test_every_row_of_a_run_has_its_mfu(tmp_path: Path):
    used = Utilisation(6e6, Peak(1e12, False))
    child.go(tmp_path, child.settings(steps=3), utilisation=used)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["kind"] == "train"]
    assert len(trained) == 3
    seconds = [0.0, *(row["seconds"] for row in trained)]
    tokens = child.FakeBatches().next_batch().tokens_BT.numel()
    for row, before, after in zip(trained, seconds, seconds[1:], strict=False):
        assert row["mfu"] == pytest.approx(6e6 * tokens / (after - before) / 1e12, rel=1e-6)
        assert "compiled_graphs" not in row


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it traces
@pytest.mark.parametrize("changing", [False, True])
def test_steps_that_compile_again_are_counted_and_told(
    changing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    numbers = iter(range(100))

    class Setting:
        value = 0

    def loss(model: LM, batch: Batch) -> Tensor:
        return child.cross_entropy(model, batch) * (1.0 if Setting.value >= 0 else 0.0) + 0 * Setting.value

    def watch(progress: Any, row: Any) -> None:
        if changing:
            Setting.value = next(numbers) * 10 + 3

    torch.compiler.reset()
    said: list[str] = []
    steps = EXPECTED_COMPILING + 4
    config = child.settings(steps=steps, compile=True, micro_batch_size=None)
    with torch._dynamo.config.patch(specialize_int=True, automatic_dynamic_shapes=False):
        child.go(tmp_path, config, loss=loss, say=said.append, watch=watch)
    torch.compiler.reset()
    rows = [row for row in Run(tmp_path).metrics() if row["kind"] == "train"]
    graphs = [row["compiled_graphs"] for row in rows]
    assert graphs == sorted(graphs)
    assert graphs[0] >= 1
    warnings = [text for text in said if "has compiled something in" in text]
    if changing:
        assert graphs[EXPECTED_COMPILING] >= EXPECTED_COMPILING + 1
        assert len(warnings) == 1
    else:
        assert set(graphs) == {graphs[0]}
        assert warnings == []
