"""bench/gpu.py on a CPU: its parts in a tiny form, what it does with one that fails, and the cards' peaks."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import bench_parts  # noqa: F401
import gpu
import pytest
import torch
from lab_compare_parts import opened, prepared
from measures import kernels, record, speed
from measures.peaks import peak_flops

from wren.errors import ConfigError
from wren.lab.measure import training_flops_per_token
from wren.ops import fla
from wren.ops.gated_delta_rule import chunked_gated_delta_rule, naive_gated_delta_rule
from wren.ops.gated_linear_attention import chunked_gated_linear_attention, naive_gated_linear_attention
from wren.recipes import tiny

CPU = torch.device("cpu")
TINY = ["--device", "cpu", "--size", "tiny"]
__all__ = ["prepared"]  # a fixture


@pytest.mark.parametrize(
    ("name", "dtype", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.5e12),
        ("NVIDIA H100 PCIe", "bf16", 756.5e12),
        ("NVIDIA H100 NVL", "fp16", 835.5e12),
        ("NVIDIA H200", "bf16", 989.5e12),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312e12),
        ("NVIDIA L40S", "bf16", 362.05e12),
        ("NVIDIA L40", "bf16", 181.05e12),
        ("NVIDIA L4", "bf16", 121e12),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2e12),
        ("NVIDIA GeForce RTX 3090 Ti", "bf16", None),  # another card
        ("Tesla T4", "fp16", 65e12),
        ("Tesla T4", "bf16", None),
        ("Tesla V100-PCIE-16GB", "fp16", 112e12),
        ("Tesla V100-SXM2-16GB", "fp16", 125e12),
        ("Tesla P100-PCIE-16GB", "fp32", 9.3e12),
        ("Tesla P100-SXM2-16GB", "fp16", 21.2e12),
        ("NVIDIA GeForce GTX 1060", "fp32", None),
    ],
)
def test_peaks_are_found_by_the_card_s_name(name: str, dtype: str, peak: float | None):
    assert peak_flops(name, dtype) == peak


def test_all_that_a_cpu_can_do_runs_from_one_command(prepared: Path, tmp_path: Path, capsys: Any):
    data, out = opened(prepared, 300)[300].folder, tmp_path / "gpu.json"
    arms = ["--arms", "tiny:batch_size=2,wren=small:batch_size=2", "--seconds", "0.1", "--eval-tokens", "300"]
    assert gpu.main([*TINY, "--data", str(data), "--json", str(out), *arms]) == 0
    found = json.loads(out.read_text())
    assert list(found["parts"]) == ["speed", "decode", "loss"]
    assert not [part for part in found["parts"].values() if "error" in part]
    assert [row["name"] for row in found["parts"]["speed"]["rows"]] == list(gpu.RECIPES)
    assert [row["fraction"] for row in found["parts"]["loss"]["rows"]] == [1.0, *sorted(gpu.FRACTIONS)]
    assert found["parts"]["loss"]["terms"]["context_len"] == 64
    assert (found["settings"]["depth"], found["settings"]["dim"], found["settings"]["vocab_size"]) == (*gpu.TINY, 300)
    printed = capsys.readouterr().out
    for said in ("Training speed", "least to most", "bits per byte", "written to"):
        assert said in printed


def test_what_a_cpu_cannot_do_fails_with_a_sentence_and_an_exit_code(tmp_path: Path, capsys: Any):
    out = tmp_path / "gpu.json"
    assert gpu.main([*TINY, "--parts", "kernels,loss", "--json", str(out)]) == 1
    parts = json.loads(out.read_text())["parts"]
    assert parts["loss"]["error"].startswith("Part loss needs --data FOLDER")
    assert parts["kernels"]["error"].startswith("Part kernels needs a GPU")
    assert "part loss failed: Part loss needs" in capsys.readouterr().err


def bench(tmp_path: Path, *words: str) -> gpu.Bench:
    return gpu.prepare([*TINY, "--json", str(tmp_path / "gpu.json"), *words])[0]


def test_a_part_that_fails_leaves_its_error_and_what_it_had_and_the_others_go_on(tmp_path: Path):
    made = bench(tmp_path)

    def breaks(bench: gpu.Bench) -> None:
        bench.record.put("speed", {"rows": [1]})
        raise RuntimeError("CUDA error: no such kernel")

    def stops(bench: gpu.Bench) -> None:
        raise record.OutOfTime("compile takes about 90 s")

    calls = {"speed": breaks, "compile": stops, "decode": lambda bench: bench.record.put("decode", {"rows": [2]})}
    assert gpu.run_parts(made, ["speed", "compile", "decode"], calls) == ["speed", "compile"]
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert parts["speed"]["rows"] == [1]
    assert parts["speed"]["error"] == "RuntimeError: CUDA error: no such kernel"
    assert "in breaks" in parts["speed"]["traceback"]
    assert parts["compile"]["error"] == "compile takes about 90 s"
    assert "traceback" not in parts["compile"]
    assert parts["decode"].keys() == {"rows", "part_seconds"}


def test_ctrl_c_ends_all_parts(tmp_path: Path):
    def interrupted(bench: gpu.Bench) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gpu.run_parts(bench(tmp_path), ["speed"], {"speed": interrupted})


def test_nothing_is_begun_that_would_end_too_late(tmp_path: Path):
    made = dataclasses.replace(bench(tmp_path), deadline=record.Deadline(-1.0))
    failed = gpu.run_parts(made, ["speed", "compile", "decode"], gpu.CALLS)
    assert failed == ["speed", "compile", "decode"]
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert parts["compile"]["error"] == "the speed of gpt2 takes about 90 s and 0 s are left: not begun."
    assert "rows" not in parts["speed"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--parts", "sped"], "Part 'sped' is unknown; did you mean 'speed'?"),
        (["--parts", ""], "Part '' is unknown"),
        (["--size", "large"], "'large' is not a number of parameters"),
        (["--device", "tpu"], "Device 'tpu' is unknown"),
    ],
)
def test_wrong_input_is_a_sentence(words: list[str], said: str, tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        gpu.main([*TINY, "--json", str(tmp_path / "gpu.json"), *words])
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("data", "device", "parts"),
    [
        (None, "cpu", ["speed", "decode"]),
        (Path("data"), "cpu", ["speed", "decode", "loss"]),
        (None, "cuda", ["speed", "decode", "kernels", "compile"]),
        (Path("data"), "cuda", list(gpu.PARTS)),
    ],
)
def test_all_parts_are_done_that_can_be(data: Path | None, device: str, parts: list[str]):
    assert gpu.parts_of(argparse.Namespace(parts=None, data=data), torch.device(device)) == parts


def test_speed_counts_a_training_step_s_operations():
    config = tiny.recipe(vocab_size=50)
    row = speed.speed("tiny", config, None, CPU)
    assert row["flops_per_token"] == training_flops_per_token(config)
    assert row["tokens_per_second"] == pytest.approx(4 * 32 / row["step_seconds"])
    assert (row["mfu"], row["peak_memory_bytes"], row["tokens"]) == (None, None, "random")


def forms(broken: float) -> list[kernels.Case]:
    """The chunked forms in the kernels' place; `broken` is added to what stands for Wren's call."""
    return [
        kernels.Case(
            "delta", kernels.delta_inputs, lambda *x: chunked_gated_delta_rule(*x)[0] + broken,
            lambda *x: naive_gated_delta_rule(*x)[0], lambda *x: chunked_gated_delta_rule(*x)[0],
        ),
        kernels.Case(
            "linear", kernels.linear_inputs, lambda *x: chunked_gated_linear_attention(*x)[0] + broken,
            lambda *x: naive_gated_linear_attention(*x)[0], lambda *x: chunked_gated_linear_attention(*x)[0],
        ),
    ]  # fmt: skip


@pytest.mark.parametrize(("broken", "agrees"), [(0.0, True), (1.0, False)])
def test_parity_sees_outputs_and_gradients(broken: float, agrees: bool):
    for case in forms(broken):
        errors = kernels.parity(case, CPU, torch.float32, (1, 40, 2, 8))
        assert (errors["error"] < 1e-4) == agrees
        assert max(errors["direct_error"], errors["gradient_error"], errors["direct_gradient_error"]) < 1e-4


def test_kernels_take_turns_and_are_judged():
    (row, _) = kernels.measure(
        forms(0.0), CPU, torch.float32, shape=(1, 16, 1, 8), seconds=0.0, parity_shape=(1, 20, 1, 8)
    )
    assert row["agrees"]
    assert row["repeats"] == 3
    assert row["ratio"] > 0


@pytest.mark.skipif(fla.is_installed(), reason="this machine has flash-linear-attention")
def test_without_fla_the_kernels_part_says_how_to_get_it():
    with pytest.raises(ConfigError, match=r"pip install wren-llm\[gpu\]"):
        kernels.cases()
