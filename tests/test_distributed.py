"""Many processes train the same model: the curve of one, in copies and in shards; whatever the faults, one voice.

All on the CPU (gloo). Jobs are started with torchrun's environment but without torchrun, which test_distributed_jobs.py
has; several runs share a job, since its start costs more than they do.
"""

import math
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_parts import farthest, go, losses, trained

from wren import checkpoint
from wren.run import Run

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")

CURVES: list[dict[str, Any]] = [
    {"name": "adamw64", "dtype": "float64"},
    {"name": "muon64", "dtype": "float64", "optimizer": "muon"},
    {"name": "adamw32"},
    {"name": "muon32", "optimizer": "muon", "lr": 2e-3},
    {
        "name": "normuon64",
        "dtype": "float64",
        "optimizer": "muon",
        "normalise": True,
        "micro_batch_size": 1,
        "steps": 20,
    },
    {"name": "rich64", "dtype": "float64", "kind": "rich", "optimizer": "muon", "steps": 20},
    {"name": "nan", "fault": "nan", "steps": 6},
    {"name": "bf16", "autocast": "bfloat16", "steps": 10},
    {"name": "recomputed64", "dtype": "float64", "kind": "rich", "recompute": "full", "steps": 10},
    {"name": "fp16", "autocast": "float16", "optimizer": "muon", "steps": 10},
]
WITHIN = {"adamw64": 1e-9, "muon64": 1e-9, "adamw32": 1e-5, "muon32": 1e-3, "normuon64": 1e-9, "rich64": 1e-9}
WITHIN |= {"recomputed64": 1e-9, "bf16": 1e-2, "fp16": 1e-2}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of a single process."""
    folder = tmp_path_factory.mktemp("alone")
    trained(folder, 1, CURVES)
    return folder


def check_curves(runs: list[dict[str, Any]], size: int, shard: bool, alone: Path, folder: Path) -> None:
    trained(folder, size, runs, shard=shard)
    names = [run["name"] for run in runs if run["name"] in WITHIN]
    apart = {name: farthest(folder / name, alone / name) for name in names}
    assert {name: apart[name] for name in names if not apart[name] <= WITHIN[name]} == {}
    for name in names:
        assert losses(folder / name)[-1] < losses(folder / name)[0]


@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_have_the_curve_of_one(shard: bool, alone: Path, tmp_path: Path) -> None:
    check_curves(CURVES, 2, shard, alone, tmp_path)
    # a step that is not finite on one rank is left out by both
    rows = [row for row in Run(tmp_path / "nan").metrics() if row["kind"] == "train"]
    assert [row["skipped"] for row in rows] == [0, 0, 1, 1, 1, 1]
    assert rows[2]["loss"] is None
    assert all(math.isfinite(row["loss"]) for row in rows[3:])


@pytest.mark.parametrize("shard", [False, True])
def test_four_processes_have_the_curve_of_one(shard: bool, alone: Path, tmp_path: Path) -> None:
    check_curves([run for run in CURVES if run["name"] in ("muon64", "adamw32")], 4, shard, alone, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_four_processes_have_all_curves_of_one(shard: bool, alone: Path, tmp_path: Path) -> None:
    check_curves(CURVES, 4, shard, alone, tmp_path)


def test_a_rank_without_memory_takes_all_back_to_smaller_micro_batches(alone: Path, tmp_path: Path) -> None:
    shared = {"dtype": "float64", "steps": 10, "optimizer": "muon", "kind": "rich"}
    trained(tmp_path, 2, [{**shared, "name": "short", "fault": "memory"}, {**shared, "name": "whole"}])
    assert farthest(tmp_path / "short", tmp_path / "whole") < 1e-9
    assert newest(tmp_path / "short").state["progress"]["micro_batch_size"] == 1


def newest(path: Path) -> checkpoint.Checkpoint:
    found, warnings = checkpoint.newest_good(Run(path).checkpoints_path)
    assert found is not None
    assert warnings == []
    return checkpoint.load(found)


def test_a_run_goes_on_with_another_number_of_ranks_in_copies_or_shards(tmp_path: Path) -> None:
    run: dict[str, Any] = {"name": "run", "kind": "rich", "dtype": "float64", "optimizer": "muon", "normalise": True}
    run |= {"steps": 24, "save_every": 5}
    trained(tmp_path / "whole", 1, [run])
    path = tmp_path / "parts"
    lives = [(4, True, 7), (2, False, 11), (2, True, 16), (4, True, 19)]
    for size, shard, stop in lives:
        found = go(path, size, [{**run, "stop": stop}], shard=shard)
        # SIGTERM came to the last rank alone: all stop after the same step, one says so
        assert [code for code, _, _ in found] == [128 + signal.SIGTERM] * size, found
        told = [errors for _, _, errors in found if errors.strip()]
        assert told == [f"child: Interrupted; saved at step {stop}. The same command goes on from there.\n"]
        assert all(output == "" for _, output, _ in found[1:])
        step = path / "run" / "checkpoints" / f"step_{stop:06d}"
        assert len(list(step.glob("shard-*.safetensors"))) == (size if shard else 0)
        assert checkpoint.verify(step) is None
    shutil.copytree(path, tmp_path / "copy")
    trained(path, 1, [run])
    assert farthest(path / "run", tmp_path / "whole" / "run") < 1e-9
    a, b = newest(path / "run"), newest(tmp_path / "whole" / "run")
    assert a.state["batches"] == b.state["batches"]
    for one, two in ((a.model, b.model), (a.optimizer, b.optimizer)):
        assert {name for name in one if "@" not in name} == two.keys()
        assert all(torch.allclose(one[name], two[name], atol=1e-7) for name in two if not name.startswith("rng/"))
    check_one_piece(tmp_path / "copy" / "run" / "checkpoints" / "step_000019")


def check_one_piece(path: Path) -> None:
    """A sharded checkpoint written anew as an ordinary one holds the same tensors; a damaged part of it is found."""
    parted = checkpoint.load(path)
    other = path.with_name("step_000020")
    shutil.copytree(path, other)
    checkpoint.joined(path)
    assert sorted(file.name for file in path.iterdir()) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    whole = checkpoint.load(path)
    for one, two in ((parted.model, whole.model), (parted.optimizer, whole.optimizer)):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) and one[name].dtype == two[name].dtype for name in one)
    part = next(other.glob("shard-*.safetensors"))
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    assert checkpoint.verify(other) == f"{part.name} does not match its checksum"


@pytest.mark.parametrize("shard", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_dropout_differs_between_ranks_and_goes_on_exactly(shard: bool, tmp_path: Path) -> None:
    run: dict[str, Any] = {"name": "run", "dropout": 0.2, "steps": 10}
    trained(tmp_path / "whole", 2, [run], shard=shard)
    assert go(tmp_path / "parts", 2, [{**run, "stop": 4}], shard=shard)[0][0] == 128 + signal.SIGTERM
    trained(tmp_path / "parts", 2, [run], shard=shard)
    assert losses(tmp_path / "parts" / "run") == losses(tmp_path / "whole" / "run")
    rngs = [newest(tmp_path / "whole" / "run").optimizer[name] for name in ("rng/cpu", "rng/cpu@1")]
    assert not torch.equal(*rngs)


@pytest.mark.parametrize(
    ("fault", "codes", "sentence"),
    [
        ("death", (-signal.SIGKILL, 2), "lost touch with another process of the job, which was killed"),
        ("error", (1, 1), "ValueError: a bug on one rank"),
    ],
)
def test_a_lost_or_failing_rank_ends_the_job_with_one_message(
    fault: str, codes: tuple[int, int], sentence: str, tmp_path: Path
) -> None:
    found = go(tmp_path, 4, [{"name": "run", "fault": fault, "save_every": 3}])
    *others, last = found
    assert last[0] == codes[0]
    assert all(code != 0 for code, _, _ in others)
    told = [errors for _, _, errors in found if errors.strip()]
    assert len(told) == 1, told
    assert sentence in told[0]
    assert ("Traceback" in told[0]) == (fault == "error")
    if fault == "death":
        assert max(code for code, _, _ in others) == 2
        assert newest(tmp_path / "run").step == 6
