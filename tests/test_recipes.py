"""Recipes: found by name, turned by their dials, of the published sizes; and loss curves that must not change."""

import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from wren import recipes
from wren.errors import ConfigError
from wren.mixers import attention, gated_delta_net
from wren.recipes import build, gpt2, wren


def _golden() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_make", Path(__file__).parent / "golden" / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


golden = _golden()


@pytest.mark.parametrize("name", golden.DIALS)
def test_the_loss_curve_is_the_golden_one(name: str):
    """A change that only moves code leaves it as it is; `python tests/golden/make.py` stores a wanted change."""
    losses = golden.curve(name)
    assert golden.curve(name) == losses  # bit for bit on one machine
    assert golden.difference(losses, golden.stored(name)) < 1e-5  # CPUs add in different orders
    assert losses[-1] < losses[0] - 0.3


def test_a_changed_curve_would_be_noticed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(golden.DIALS["llama"], "lr", 1.001e-2)
    assert golden.difference(golden.curve("llama"), golden.stored("llama")) > 1e-5


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_builds_a_model_and_an_optimizer_at_its_defaults(name: str):
    config = recipes.get(name)(vocab_size=300)
    assert config.recipe == name
    with torch.device("meta"):
        model = config.model.build()
    assert model.num_params() > 0
    assert model.flops_per_token(config.train.context_len) > 2 * model.num_params(embeddings=False)
    parameters = inspect.signature(recipes.get(name)).parameters
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters.values())
    assert {"vocab_size", "depth", "dim", "context_len", "batch_size", "steps", "lr"} <= parameters.keys()
    wanted = recipes.get(name)(vocab_size=300, depth=3, context_len=64, batch_size=5, steps=11, lr=1e-4)
    train = wanted.train
    assert (wanted.model.depth, train.context_len, train.batch_size, train.steps) == (3, 64, 5, 11)
    assert wanted.optimizer.lr == 1e-4


def test_gpt2_has_the_published_size():
    with torch.device("meta"):
        assert gpt2.recipe(vocab_size=50257, bias=True).model.build().num_params() == 124_439_808


def test_gpt2_drops_out_wherever_nanogpt_does():
    model = gpt2.recipe(vocab_size=30, depth=2, dim=16, num_heads=2, dropout=0.3).model
    assert (model.dropout, model.mixers[0].dropout) == (0.3, 0.3)  # pyright: ignore[reportAttributeAccessIssue]


def test_settings_turn_dials_and_dotted_keys():
    config = build("small", vocab_size=300, settings=["depth=2", "lr=1e-3", "model.mlp.hidden=64", "seed=5"])
    assert (config.model.depth, config.optimizer.lr, config.seed) == (2, 1e-3, 5)
    assert config.model.mlp.hidden == 64  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("name", "setting", "sentence"),
    [
        ("smal", "depth=2", "Recipe 'smal' is unknown; did you mean 'small'?"),
        ("small", "deph=2", "Setting 'deph' is unknown; did you mean 'depth'?"),
        ("small", "depth", "'depth' is not a setting; write KEY=VALUE"),
        ("small", "=2", "'=2' is not a setting"),
        ("small", "vocab_size=7", "Setting 'vocab_size' is unknown"),
        ("small", "depth=deep", "depth must be a number (int), not 'deep'"),
        ("small", "model.deph=2", "model key 'deph' is unknown; did you mean 'depth'?"),
        ("small", "modle.depth=2", "key 'modle' is unknown; did you mean 'model'?"),
        ("small", "train.steps=0", "train.steps is 0; it must be at least 1."),
    ],
)
def test_a_wrong_setting_is_named(name: str, setting: str, sentence: str):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        build(name, vocab_size=300, settings=[setting])


@pytest.mark.parametrize(
    ("depth", "wanted"), [(1, "G"), (2, "DG"), (3, "LDG"), (4, "LLDG"), (6, "DGLLDG"), (8, "LLDGLLDG")]
)
def test_wren_lays_its_pattern_from_the_last_layer_down(depth: int, wanted: str):
    config = wren.recipe(vocab_size=300, depth=depth)
    kinds = [
        "D" if isinstance(mixer, gated_delta_net.Config) else "G" if mixer.window is None else "L"  # type: ignore[union-attr]
        for mixer in config.model.mixers
    ]
    assert "".join(kinds) == wanted
    assert config.model.dim == 64 * depth
    globals_ = [m for m in config.model.mixers if isinstance(m, attention.Config) and m.window is None]
    assert all(m.num_heads % (m.num_kv_heads or 0) == 0 for m in globals_)


def test_wren_refuses_a_width_that_heads_do_not_divide():
    with pytest.raises(ConfigError, match="dim is 100, which heads of 32 do not divide"):
        wren.recipe(vocab_size=300, dim=100)
