"""One number for a model's size: shapes, and what the recipe `wren` makes of size and horizon."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from wren import budget as budgets
from wren import config as configs
from wren import dial, shapes
from wren.errors import ConfigError
from wren.recipes import RunConfig, build, wren
from wren.run import Run

SIZES = [(p, v) for p in (2e5, 1e6, 5e6, 124e6, 350e6, 1e9, 7e9) for v in (256, 2048, 32_768) if p >= 32 * v + 12_288]


@pytest.mark.parametrize(("params", "vocab_size"), SIZES)
def test_a_shape_has_the_wanted_parameters(params: float, vocab_size: int):
    depth, dim = shapes.shape(int(params), vocab_size)
    assert abs(math.log(shapes.size(depth, dim, vocab_size) / params)) < 0.25
    assert dim % shapes.head_dim(dim) == 0
    if vocab_size * dim < params / 2:  # else the head leaves little to choose
        assert 32 <= dim / depth <= 128


def test_the_size_is_that_of_a_built_transformer():
    config = build("llama", vocab_size=1000, settings=["depth=3", "dim=96", "num_heads=3"])
    with torch.device("meta"):
        model = config.model.build()
    counted = model.num_params() - model.table_params()
    assert abs(counted / shapes.size(3, 96, 1000) - 1) < 0.02  # norms, and a hidden layer of a rounded width


def test_a_size_below_every_model_is_a_sentence():
    with pytest.raises(ConfigError, match="No model of 10k parameters has a head of 2,048 tokens"):
        shapes.shape(10_000, 2048)


@pytest.mark.parametrize("recipe", ["wren", "llama", "gpt2", "small"])
def test_depth_and_params_size_every_recipe(recipe: str):
    model = build(recipe, vocab_size=512, settings=dial.settings(recipe, vocab_size=512, depth=3, params=None)).model
    assert (model.depth, model.dim) == (3, 192)
    chosen = dial.settings(recipe, vocab_size=512, depth=None, params=3_000_000)
    with torch.device("meta"):
        model = build(recipe, vocab_size=512, settings=chosen).model.build()
    counted = model.num_params(embeddings=False) + 512 * model.config.dim
    assert 0.6 < counted / 3e6 < 1.6


def test_depth_and_params_exclude_each_other():
    with pytest.raises(ConfigError, match="--depth and --params both say"):
        dial.settings("wren", vocab_size=512, depth=2, params=10**6)


@pytest.mark.parametrize(
    ("size", "given", "sentence"),
    [
        ({"depth": 0}, [], "--depth is 0; it must be at least 1."),
        ({"depth": 3}, ["depth=5"], "--set gives depth, and --depth chooses it"),
        ({"params": 10**6}, ["lr=1e-3", "dim=64"], "--set gives dim, and --params chooses it"),
    ],
)
@pytest.mark.parametrize("recipe", ["wren", "llama"])
def test_a_size_said_twice_or_none_is_a_sentence(recipe: str, size: dict, given: list[str], sentence: str):
    wanted = {"depth": None, "params": None} | size
    with pytest.raises(ConfigError, match=sentence):
        dial.settings(recipe, vocab_size=512, given=given, **wanted)


def test_neither_depth_nor_params_leaves_a_recipe_as_it_is():
    assert dial.settings("llama", vocab_size=512, depth=None, params=None) == []


def test_longer_training_gets_larger_batches_and_a_wider_model_a_lower_learning_rate():
    short, long = (wren.recipe(vocab_size=512, depth=4, tokens=n) for n in (1_000_000, 64_000_000))
    assert long.train.batch_size == 8 * short.train.batch_size
    wide = wren.recipe(vocab_size=512, depth=8, tokens=1_000_000)
    assert wide.optimizer.lr < short.optimizer.lr
    for config in (short, long, wide):
        trained = config.train.steps * config.train.batch_size * config.train.context_len
        assert config.horizon is not None
        assert abs(trained / config.horizon - 1) < 0.01


def test_steps_or_tokens_give_the_same_batch():
    by_tokens = wren.recipe(vocab_size=512, tokens=16_000_000)
    by_steps = wren.recipe(vocab_size=512, steps=by_tokens.train.steps)
    assert by_steps.train == by_tokens.train
    assert by_steps.optimizer == by_tokens.optimizer


@pytest.mark.parametrize("setting", ["depth=0", "dim=0", "tokens=0", "steps=0", "batch_size=-1", "head_dim=0"])
def test_a_dial_below_one_is_a_sentence(setting: str):
    with pytest.raises(ConfigError, match="must be at least 1"):
        build("wren", vocab_size=300, settings=[setting])


def test_an_unknown_letter_of_the_pattern_is_a_sentence():
    with pytest.raises(ConfigError, match="Letter of pattern 'X' is unknown"):
        build("wren", vocab_size=300, settings=["pattern=LLX"])
    with pytest.raises(ConfigError, match="pattern is empty"):
        build("wren", vocab_size=300, settings=["pattern="])


def test_only_a_recipe_with_a_horizon_is_asked_for_it():
    assert dial.follows_horizon("wren", ["depth=2"])
    assert not dial.follows_horizon("wren", ["tokens=1000"])
    assert not dial.follows_horizon("wren", ["steps=10"])
    assert not dial.follows_horizon("llama", [])


def test_a_run_begun_by_time_goes_on_with_the_tokens_measured_then(tmp_path: Path):
    config = wren.recipe(vocab_size=300, tokens=123_456)
    run = Run(tmp_path / "run")
    run.create(configs.to_json(dataclasses.replace(config, time_budget=5.0)))
    assert configs.from_json(RunConfig, run.config()).horizon == 123_456
    budget = budgets.Budget(seconds=5.0)
    assert budgets.horizon(config, tmp_path / "no data", run, budget, "cpu") == "tokens=123456"
    assert budgets.horizon(config, tmp_path, run, budgets.Budget(steps=7), "cpu") == "steps=7"
    assert budgets.horizon(config, tmp_path, run, budgets.Budget(tokens=99), "cpu") == "tokens=99"
    assert budgets.horizon(config, tmp_path, run, budgets.Budget(), "cpu") == "tokens=123456"


def test_pairs_of_a_small_vocabulary_have_a_row_each():
    rows = [wren.recipe(vocab_size=n).model.tables.bigrams for n in (65, 2048)]
    assert rows == [65 * 65, 65_536]
    assert wren.recipe(vocab_size=65, bigrams=0).model.tables.bigrams == 0


@pytest.mark.parametrize(("vocab_size", "ratio"), [(65, 1.0), (512, 2.0), (2048, 4.0), (32_768, 4.0)])
def test_rare_rows_learn_faster_than_the_matrices(vocab_size: int, ratio: float):
    own, given = (wren.recipe(vocab_size=vocab_size, lr=lr).optimizer for lr in (None, 1e-2))
    assert (given.lr, given.matrix_lr) == (1e-2, 1e-2 / ratio)
    plain = wren.recipe(vocab_size=128).optimizer.lr
    assert (own.lr, own.matrix_lr) == (pytest.approx(ratio * plain), pytest.approx(plain))
