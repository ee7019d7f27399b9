"""What `wren compare` is asked for and trains on: arms, budgets, grids, held-back text, and every mistake in them."""

from pathlib import Path
from typing import Any

import lab_compare_parts
import numpy as np
import pytest
from lab_compare_parts import COMMAND, TINY, asked, opened

from wren.cli import main
from wren.errors import ConfigError, DataError
from wren.lab import arms, compare_data, compare_plan
from wren.lab.schema import Arm

prepared = lab_compare_parts.prepared


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
    paid = {"step_seconds": 0.1, "compile_seconds": 0.5}  # a budget of time pays for compilation, no other one does
    assert compare_plan.read_budget("2s").steps(cell, 7.0, **paid) == 15
    assert compare_plan.read_budget("2s").steps(cell, 7.0, share=0.5, **paid) == 5
    assert compare_plan.read_budget("1e3tokens").steps(cell, 7.0, **paid) == 1000 // tokens
    with pytest.raises(ConfigError, match=r"which takes 0\.1s after 0\.5s of compilation"):
        compare_plan.read_budget("0.55s").steps(cell, 7.0, **paid)
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
    assert (
        "2 tuning trainings (more while the best is at the grid's edge) and 2 final ones of 30 steps"
        in capsys.readouterr().out
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "kind"), [("config.json", "a training run"), ("manifest.json", "prepared data")])
@pytest.mark.parametrize(
    "verb", [["probe", "--probes", "parity"], ["compare", "--recipes", "tiny", "--source", "x.txt"]]
)
def test_a_folder_of_another_kind_is_left_alone(tmp_path, capsys, verb, name, kind):
    (tmp_path / name).write_text("{}")
    assert main([*verb, "--out", str(tmp_path), "--dry-run"]) == 2
    assert f"{tmp_path} holds {kind} ({name}); choose another --out." in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_recipe_that_follows_the_horizon_is_told_the_budget(tmp_path: Path):
    listed = arms.read_arms("wren:depth=1,mine=wren:depth=1:batch_size=3,llama:depth=1", 300)
    short, long = (
        compare_plan.plan_cells(listed, [("own", ())], [None], tmp_path, "fp32", n) for n in (10**6, 64 * 10**6)
    )
    assert long[0].batch_tokens == 8 * short[0].batch_tokens
    assert [cells[1].config.train.batch_size for cells in (short, long)] == [3, 3]
    assert short[2].config == long[2].config
