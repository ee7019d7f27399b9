"""`wren plan` and the plan that training makes: the ladder, the largest size, what is said, mistakes as sentences."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from wren import cli, gpus, recipes
from wren.errors import ConfigError
from wren.memory.trace import Tracer
from wren.planning import command
from wren.planning.cost import cost, flops_per_token
from wren.planning.ladder import Ladder, rungs
from wren.planning.largest import Wish, largest, rounded
from wren.planning.machine import Machine
from wren.planning.needs import job, least, needs
from wren.precision import Precision

VOCAB = 512


def machine(memory: float, kind: str = "cuda", name: str = "bf16") -> Machine:
    autocast = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[name]
    return Machine(
        name="a test's machine",
        kind=kind,
        memory=int(memory),
        allowance=0,
        precision=Precision(device=torch.device("cpu"), autocast=autocast, why="tests"),
        narrow_muon=False,
        flops=1e12,
        measured=False,
        watts=100,
        link=1e9,
    )


def config(*settings: str, recipe: str = "llama") -> recipes.RunConfig:
    small = ("depth=2", "dim=64", "num_heads=2") if recipe == "llama" else ("depth=2", "dim=64")
    return recipes.build(recipe, vocab_size=VOCAB, settings=[*small, "context_len=64", "batch_size=8", *settings])


@pytest.fixture(scope="module")
def tracer() -> Tracer:
    return Tracer()


def need(tracer: Tracer, run: recipes.RunConfig, target: Machine) -> int:
    return needs(tracer, run, target).total


def test_with_room_nothing_is_changed_but_the_micro_batch(tracer: Tracer):
    found = Ladder(tracer, machine(1e9), frozenset()).fit(config())
    assert found.fits
    assert found.rungs == ()
    assert found.settings == {"train.micro_batch_size": 8}


def test_less_room_takes_more_of_the_ladder_and_never_more_than_there_is(tracer: Tracer):
    whole = need(tracer, config(), machine(1e9))
    before = -1.0
    for share in (0.9, 0.7, 0.55):
        target = machine(share * whole)
        found = Ladder(tracer, target, frozenset()).fit(config())
        assert found.fits
        assert found.needs.total <= target.memory
        saved = whole / found.needs.peak
        assert saved > before
        before = saved
        assert need(tracer, found.config, target) == found.needs.total


def test_what_fits_in_no_way_says_how_much_it_takes(tracer: Tracer):
    found = Ladder(tracer, machine(1e5), frozenset()).fit(config())
    assert not found.fits
    assert found.needs.total > 1e5
    assert found.config.optimizer.in_backward
    assert found.config.train.batch_size == 1


def test_a_mixture_of_experts_is_fitted_and_costs_its_active_ones(tracer: Tracer):
    run = config('model.mlp={"type":"mlps.moe","num_experts":8,"active":2}', "batch_size=32", "train.loss_chunk=256")
    whole = need(tracer, run, machine(1e9))
    found = Ladder(tracer, machine(0.6 * whole), frozenset()).fit(run)
    assert found.fits
    assert 0 < found.config.train.micro_batch_size < 32
    assert found.needs.total <= 0.6 * whole
    few, many = (config(f'model.mlp={{"type":"mlps.moe","num_experts":{e},"active":2,"hidden":64}}') for e in (4, 32))
    assert need(tracer, many, machine(1e9)) > need(tracer, few, machine(1e9))
    routers = 3 * 2 * 64 * (32 - 4) * 2  # a larger router in both layers, forward and backward
    assert flops_per_token(many) - flops_per_token(few) == routers


def test_what_must_be_there_is_less_than_what_is_needed_where_gradients_are_of_rows(tracer: Tracer):
    target = machine(1e9, "cpu", "fp32")
    run = config(recipe="wren")
    bound = least(tracer, run, target)
    assert tracer.standing(job(run, target)).sparse > 0
    assert bound < need(tracer, run, target) < bound + tracer.standing(job(run, target)).sparse
    compiled = config("train.compile=true", recipe="wren")
    assert tracer.standing(job(compiled, target)).sparse == 0


def test_what_the_user_has_set_stays(tracer: Tracer):
    given = frozenset(
        ("train.micro_batch_size", "optimizer.state_dtype", "train.activation_checkpointing", "batch_size")
    )
    run = config("train.micro_batch_size=2")
    whole = need(tracer, run, machine(1e9))
    found = Ladder(tracer, machine(0.8 * whole), given).fit(run)
    assert found.config.train.micro_batch_size == 2
    assert found.config.train.batch_size == 8
    assert found.config.optimizer.state_dtype == "fp32"
    assert found.config.train.activation_checkpointing == "none"


def test_the_rows_are_as_many_as_fit(tracer: Tracer):
    run = config("batch_size=64", "train.loss_chunk=256")
    target = machine(1e9)
    at = {
        rows: need(tracer, replace(run, train=replace(run.train, micro_batch_size=rows)), target) for rows in (16, 32)
    }
    found = Ladder(tracer, machine((at[16] + at[32]) / 2), frozenset()).fit(run, all_means=False)
    assert found.config.train.micro_batch_size == 16


def test_rungs_follow_what_the_machine_can_do():
    def keys(run: recipes.RunConfig, target: Machine) -> set[str]:
        return {key for rung in rungs(run, target, frozenset()) for key in rung.settings}

    wren = config(recipe="wren")
    assert {"model.tables.on_cpu", "optimizer.offload", "optimizer.weight_dtype"} <= keys(wren, machine(1e9))
    assert "model.tables.on_cpu" not in keys(config(), machine(1e9))
    assert keys(config(), machine(1e9, "cpu", "fp32")).isdisjoint(
        {"train.loss_chunk", "optimizer.offload", "optimizer.weight_dtype"}
    )
    assert "optimizer.in_backward" not in keys(config(), machine(1e9, name="fp16"))
    assert "optimizer.in_backward" not in keys(config("train.compile=true"), machine(1e9))


def test_every_rung_gives_settings_that_training_takes():
    target = machine(1e9)
    for recipe in ("llama", "wren"):
        run = config(recipe=recipe)
        everything = Ladder(Tracer(), target, frozenset()).everything(run)
        everything.train.check(everything.optimizer, target.precision)
        assert everything.train.steps * everything.train.batch_size == run.train.steps * run.train.batch_size


def test_the_largest_size_was_traced_and_fits(tracer: Tracer):
    wish = Wish("llama", VOCAB, ("context_len=64", "batch_size=8"))
    target = machine(150e6)
    found = largest(wish, tracer, target, frozenset())
    assert found is not None
    params, fit = found
    assert fit.fits
    assert fit.needs.total <= 150e6
    beyond = Ladder(tracer, target, frozenset()).last(wish.config(params * 2))
    assert not beyond.fits
    assert largest(wish, tracer, machine(1e4), frozenset()) is None


def test_rounded_to_two_digits():
    assert [rounded(x) for x in (1_290_000, 99, 354e6)] == [1_200_000, 99, 350_000_000]


def test_cost_adds_what_is_run_again_and_what_travels():
    run, target = config(), machine(1e9)
    full = replace(run, train=replace(run.train, activation_checkpointing="full"))
    half = replace(run, train=replace(run.train, activation_checkpointing="selective"))
    assert flops_per_token(full) == pytest.approx(4 / 3 * flops_per_token(run))
    assert flops_per_token(run) < flops_per_token(half) < flops_per_token(full)
    muon = config(recipe="small")
    assert flops_per_token(muon) > flops_per_token(replace(muon, optimizer=replace(muon.optimizer, kind="adamw")))
    plain = cost(run, target, 0, 10**6, per_kwh=1.0)
    away = cost(replace(run, optimizer=replace(run.optimizer, offload=True)), target, 10**9, 10**6, per_kwh=1.0)
    assert plain.seconds
    assert away.seconds
    assert away.seconds > plain.seconds
    assert plain.kilowatt_hours == pytest.approx(plain.seconds * 100 / 3.6e6)
    assert plain.price == plain.kilowatt_hours
    dear = cost(run, target, 0, 10**6, per_kwh=0.0, per_hour=3.6)
    assert dear.price == pytest.approx(plain.seconds / 1000)
    assert cost(run, replace(target, flops=None), 0, 10**6).tokens_per_second is None


@pytest.mark.parametrize(
    ("text", "name", "memory"),
    [
        ("6GB", "a GPU of 6 GB", 6_000_000_000),
        ("16gib", "a GPU of 17.2 GB", 16 * 2**30),
        ("T4", "T4", int(14.6 * 2**30)),
        ("p100", "P100", int(15.9 * 2**30)),
        ("3060", "RTX 3060", int(11.6 * 2**30)),
        ("NVIDIA GeForce RTX 4090", "RTX 4090", int(23.6 * 2**30)),
        ("NVIDIA H100 80GB HBM3", "H100", int(79.1 * 2**30)),
    ],
)
def test_gpus_by_name_and_size(text: str, name: str, memory: int):
    gpu, assumption = gpus.asked(text)
    assert (gpu.name, gpu.memory) == (name, memory)
    assert bool(assumption) == name.startswith("a GPU")
    assert gpu.capability >= (8, 0) or not assumption


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gpu", "RTX 9999"], "GPU 'RTX 9999' is unknown; name one of H200, "),
        (["--gpu", "0GB"], "is no memory of a GPU"),
        (["--gpu", "6MB"], "is no size; write gigabytes such as 6GB"),
        (["--gpu", "-6"], "is no size"),
        (["--gpu", "6GB", "--params", "some"], "'some' is not a number of parameters"),
        (["--gpu", "6GB", "--params", "9M", "--depth", "3"], "--depth and --params both say"),
        (["--gpu", "T4", "--dtype", "bf16"], "bf16 needs a GPU of compute capability 8.0"),
        (["--gpu", "6GB", "--vocab-size", "many"], "'many' is not a vocabulary size"),
        (["--gpu", "6GB", "--price-per-kwh", "-1"], "A price of -1.0 is none"),
        (["--recipe", "huge"], "Recipe 'huge' is unknown"),
        (["--gpu", "6GB", "--set", "optimizer.colour=red"], "optimizer key 'colour' is unknown"),
    ],
)
def test_a_mistake_is_a_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    arguments = [f"{arguments[0]}={arguments[1]}", *arguments[2:]]
    assert cli.main(["plan", *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


SMALL = ["--vocab-size", "512", "--context", "32", "--tokens", "1M", "--set", "batch_size=2"]


def test_the_command_says_it_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "plan.json"
    size = ["depth=1", "dim=64"]
    assert cli.main(["plan", "--recipe", "small", "--gpu", "T4", *SMALL, *size, "--json", str(out)]) == 0
    said = capsys.readouterr().out
    for words in ("It fits: ", "fp16", "lookup tables", "context (assumed)", "1M tokens take", "Assumed: "):
        assert words in said
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["fits"]
    assert result["micro_batch_size"] == 2
    assert result["tokens"] == 1_000_000
    assert result["peak_memory_bytes"] == result["parts"]["together"]
    parts = [value for name, value in result["parts"].items() if name not in ("together", "in main memory besides")]
    assert sum(parts) == result["peak_memory_bytes"]


def test_the_command_says_what_would_fit(capsys: pytest.CaptureFixture[str]):
    asked: dict[str, Any] = {"recipe": "llama", "vocab_size": 512, "settings": ("context_len=16", "batch_size=1")}
    made = command.plan(command.Asked(**asked, depth=9, gpu="0.58GB"))
    from wren.planning.plan import lines

    said = "\n".join(lines(made))
    assert not made.fit.fits
    assert made.largest is not None
    assert "It does not fit" in said
    assert "the largest size that fits here is --params" in said
    assert "would hold it" in said


def fitting(fit: str | None, said: list[str], **changes: Any) -> command.Fitting:
    options: dict[str, Any] = {"given": frozenset(), "device": "cpu", "dtype": "fp32", "say": said.append}
    wish = Wish("llama", VOCAB, ("context_len=32", "batch_size=4"))
    return command.Fitting(**{"wish": wish, "fit": fit, **options, **changes})


def test_training_on_a_cpu_plans_only_when_asked():
    said: list[str] = []
    assert fitting(None, said).size(is_given=False) == []
    assert fitting(None, said).memory(config()) == []
    assert said == []


def test_fit_chooses_settings_that_build_the_same_run():
    said: list[str] = []
    found = fitting("0.55GB", said).memory(config())
    assert "train.micro_batch_size=8" in found
    assert said[0].startswith("Planned: ")
    again = recipes.build("llama", vocab_size=VOCAB, settings=[*found, "depth=2", "context_len=64", "batch_size=8"])
    assert again.train.micro_batch_size == 8


def test_fit_in_a_run_that_exists_repeats_its_plan():
    said: list[str] = []
    kept = fitting("6GB", said, stored=("depth=3", "optimizer.state_dtype=8bit"))
    assert kept.size(is_given=False) == ["depth=3", "optimizer.state_dtype=8bit"]
    assert kept.memory(config()) == []


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (2.0, "Planned: the whole batch at once"),
        (0.8, "Planned: micro-batches of "),
        (0.1, "Warning: by the plan one row"),
    ],
)
def test_on_a_gpu_the_micro_batch_is_planned_unasked(tracer: Tracer, share: float, said: str):
    heard: list[str] = []
    run = config("batch_size=32", "train.loss_chunk=256")
    target = machine(share * need(tracer, run, machine(1e9)))
    found = fitting(None, heard)._micro_batch(Ladder(tracer, target, frozenset()), run, target)
    assert heard[0].startswith(said)
    assert [key.partition("=")[0] for key in found] == ["train.micro_batch_size"]


def test_fit_is_for_one_process():
    with pytest.raises(ConfigError, match="--fit plans for one process"):
        fitting("6GB", [], num_ranks=2).size(is_given=True)


def test_fit_says_when_nothing_helps():
    with pytest.raises(ConfigError, match="with every means of saving memory; choose a smaller --params"):
        fitting("0.5GB", []).memory(config())


def test_fit_without_a_size_means_here():
    assert cli._completed(["train", "--fit", "--steps", "3"]) == ["train", "--fit", "here", "--steps", "3"]
    assert cli._completed(["train", "--fit"]) == ["train", "--fit", "here"]
    assert cli._completed(["train", "--fit", "6GB"]) == ["train", "--fit", "6GB"]


def test_a_fitted_training_keeps_its_plan_and_resumes_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text = tmp_path / "text.txt"
    text.write_text("the wren is small and loud. " * 4000, encoding="utf-8")
    data, run = tmp_path / "data", tmp_path / "run"
    assert cli.main(["data", "--source", str(text), "--out", str(data), "--vocab-size", "300"]) == 0
    options = ["--recipe", "tiny", "--depth", "2", "--device", "cpu", "--fit", "0.6GB", "--steps", "2"]
    command_line = ["train", "--data", str(data), "--run", str(run), *options, "--set", "batch_size=2"]
    assert cli.main(command_line) == 0
    planned = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert planned["planned"] == ["train.micro_batch_size=2"]
    assert planned["train"]["micro_batch_size"] == 2
    assert "Planned: " in capsys.readouterr().err
    assert cli.main(command_line) == 0
    assert "Planned: " not in capsys.readouterr().err
