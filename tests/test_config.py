"""Settings to JSON and back, and what is said to someone who writes them wrongly."""

import importlib
import json
import re
import sys
from dataclasses import dataclass
from typing import Literal

import pytest

from wren import config as configs
from wren import recipes
from wren.errors import ConfigError
from wren.mixers import attention
from wren.mlps import gelu, swiglu
from wren.model import MlpConfig
from wren.recipes import RunConfig


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    flag: bool = False


@dataclass(frozen=True, kw_only=True)
class Outer:
    count: int
    name: str = "a"
    limit: int | None = None
    size: float | Literal["auto"] = "auto"
    mode: Literal["fast", "slow"] = "fast"
    pair: tuple[float, float] = (0.9, 0.95)
    mlps: tuple[MlpConfig, ...] = (gelu.Config(),)
    inner: Inner = Inner()


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_survives_json(name: str):
    config = recipes.get(name)(vocab_size=300)
    text = json.dumps(configs.to_json(config))
    assert configs.from_json(RunConfig, json.loads(text)) == config


def test_all_kinds_of_fields_survive_json():
    config = Outer(count=3, limit=4, size=0.25, mode="slow", pair=(1.0, 2.0), mlps=(swiglu.Config(hidden=8),) * 2)
    assert configs.from_json(Outer, json.loads(json.dumps(configs.to_json(config)))) == config
    assert configs.from_json(Outer, {"count": 1}) == Outer(count=1)


def test_only_architectures_carry_their_type():
    value = configs.to_json(Outer(count=1, mlps=(swiglu.Config(),)))
    assert value["mlps"] == [{"type": "mlps.swiglu", "hidden": None}]
    assert "type" not in value
    assert "type" not in value["inner"]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"cuont": 1}, "config key 'cuont' is unknown; did you mean 'count'? It can be: count, inner, limit"),
        ({"count": 1, "inner": {"rat": 1}}, "config.inner key 'rat' is unknown; did you mean 'rate'?"),
        ({"count": 1, "type": "os.path"}, "config key 'type' is unknown"),
        ({}, "config lacks 'count'; add it."),
        ([], "config must be an object with keys, not []."),
        ({"count": True}, "config.count must be of type int, not True."),
        ({"count": 1.5}, "config.count must be of type int, not 1.5."),
        ({"count": "many"}, "config.count must be a number (int), not 'many'."),
        ({"count": None}, "config.count must be of type int, not None."),
        ({"count": 1, "limit": "x"}, "config.limit must be a number (int), not 'x'."),
        ({"count": 1, "name": 4}, "config.name must be of type str, not 4."),
        ({"count": 1, "mode": "fats"}, "config.mode value 'fats' is unknown; did you mean 'fast'?"),
        ({"count": 1, "mode": None}, "config.mode value 'None' is unknown"),
        ({"count": 1, "mode": ["fast"]}, "config.mode value"),
        ({"count": 1, "pair": [1.0]}, "config.pair must hold 2 values, not 1."),
        ({"count": 1, "pair": [1.0, "b"]}, "config.pair.1 must be a number (float), not 'b'."),
        ({"count": 1, "pair": 3}, "config.pair must be a list, not 3."),
        ({"count": 1, "inner": {"flag": "maybe"}}, "config.inner.flag must be of type bool, not 'maybe'; write true"),
        ({"count": 1, "inner": {"rate": float("nan")}}, "config.inner.rate must be a finite number, not nan."),
        ({"count": 1, "inner": {"rate": 10**400}}, "config.inner.rate must be a finite number"),
        ({"count": 1, "inner": 3}, "config.inner must be an object with keys, not 3."),
        ({"count": 1, "mlps": [{"hidden": 3}]}, "config.mlps.0 must be an object with a 'type'"),
        ({"count": 1, "mlps": [{"type": "mlps.gleu"}]}, "'mlps.gleu' is unknown; did you mean 'mlps.gelu'?"),
        ({"count": 1, "mlps": [{"type": "mlps.gelu", "hiden": 3}]}, "key 'hiden' is unknown; did you mean 'hidden'?"),
    ],
)
def test_a_mistake_is_named_with_its_mend(value: object, sentence: str):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        configs.from_json(Outer, value)


@pytest.mark.parametrize(
    "kind",
    [
        "os.path",
        "os",
        "mixers.../../evil",
        "mixers/../evil",
        "mlps..gelu",
        "mlps.gelu.evil",
        "mlps.__init__",
        "mlps.",
        "checkpoint",
        "wren.mlps.gelu",
        "mlps.gelu\n",
        "mlps.evil",
        7,
        None,
        ["mlps.gelu"],
    ],
)
def test_only_modules_of_wren_can_be_named(kind: object, tmp_path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "evil.py").write_text("raise SystemExit('someone else\\'s code ran')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="type"):
        configs.from_json(Outer, {"count": 1, "mlps": [{"type": kind}]})
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("count", "12", 12),
        ("count", "1e3", 1000),
        ("count", "12345678901234567891", 12345678901234567891),
        ("name", "[b", "[b"),
        ("limit", "none", None),
        ("limit", "5", 5),
        ("size", "0.5", 0.5),
        ("size", "auto", "auto"),
        ("mode", "slow", "slow"),
        ("pair", "0.8, 0.99", (0.8, 0.99)),
        ("pair", "[0.8, 0.99]", (0.8, 0.99)),
        ("mlps", "mlps.swiglu,mlps.gelu", (swiglu.Config(), gelu.Config())),
        ("mlps", '[{"type": "mlps.swiglu", "hidden": 8}]', (swiglu.Config(hidden=8),)),
        ("inner", '{"rate": 2}', Inner(rate=2.0)),
        ("inner.rate", "1e-3", 1e-3),
        ("inner.flag", "True", True),
        ("mlps.0.hidden", "9", (gelu.Config(hidden=9),)),
    ],
)
def test_texts_are_read_as_the_fields_type(key: str, text: str, expected: object):
    changed = configs.replace(Outer(count=1), {key: text})
    value = getattr(changed, key.split(".")[0])
    if key.startswith("inner."):
        value = getattr(value, key.split(".")[1])
    assert value == expected
    assert type(value) is type(expected)
    # values that are no texts are taken too
    assert configs.replace(Outer(count=1), {"count": 2}) == Outer(count=2)


@pytest.mark.parametrize(
    ("key", "text", "sentence"),
    [
        ("coutn", "1", "config key 'coutn' is unknown; did you mean 'count'?"),
        ("inner.rte", "1", "config.inner key 'rte' is unknown; did you mean 'rate'?"),
        ("count.deep", "1", "config.count is a single value and has no key 'deep'."),
        ("count", "1.5", "config.count must be a whole number, not '1.5'."),
        ("count", "inf", "config.count must be a whole number, not 'inf'."),
        ("inner.rate", "nan", "config.inner.rate must be a finite number"),
        ("mlps.1.hidden", "9", "config.mlps is a list of 1; name an item by its number, 0 to 0."),
        ("mlps.x.hidden", "9", "config.mlps is a list of 1"),
        ("mlps.0.deep.er", "9", "config.mlps.0 key 'deep' is unknown"),
        ("mlps", "os.path", "config.mlps.0.type 'os.path' is not a module of wren"),
        ("mlps", "[{]", "config.mlps is not valid JSON"),
        ("pair", "1,2,3", "config.pair must hold 2 values, not 3."),
    ],
)
def test_a_wrong_setting_is_named(key: str, text: str, sentence: str):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        configs.replace(Outer(count=1), {key: text})


def test_replacing_keeps_the_rest_and_the_checks_of_the_class():
    config = recipes.get("gpt2")(vocab_size=300)
    changed = configs.replace(config, {"model.mixers.0.num_heads": "6", "optimizer.lr": "1e-4", "seed": "3"})
    (mixer,) = changed.model.mixers
    assert isinstance(mixer, attention.Config)
    assert (mixer.num_heads, changed.optimizer.lr, changed.seed) == (6, 1e-4, 3)
    assert configs.replace(changed, configs_difference(config)) == config
    with pytest.raises(ConfigError, match=re.escape("model.depth is 0; it must be at least 1.")):
        configs.replace(config, {"model.depth": "0"})


def configs_difference(config: RunConfig) -> dict[str, object]:
    """The values that the test above changed, as `config` has them."""
    heads = config.model.mixers[0].num_heads  # pyright: ignore[reportAttributeAccessIssue]
    return {"model.mixers.0.num_heads": heads, "optimizer.lr": config.optimizer.lr, "seed": config.seed}


def test_every_architecture_file_can_be_named():
    for kind in ("mixers", "mlps"):
        for name in configs._modules(kind):
            module = importlib.import_module(f"wren.{kind}.{name}")
            example = module.EXAMPLES[0] if kind == "mixers" else module.Config()
            assert configs.to_json(example)["type"] == f"{kind}.{name}"
