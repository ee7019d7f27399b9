"""The worked example of docs/adding-a-mixer.md: its file alone makes a mixer that everything finds."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import mixer_contract
import pytest
import torch

import wren.mixer
import wren.mixers
from wren import config as configs
from wren import mixers
from wren.lab import probe_trial
from wren.model import ModelConfig
from wren.probes import mqar
from wren.recipes import build

DOCUMENT = Path(__file__).parent.parent / "docs" / "adding-a-mixer.md"
CODE = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The example's code as a file where the package looks for mixers."""
    assert CODE is not None
    (tmp_path / "min_gru.py").write_text(CODE[1], encoding="utf-8")
    monkeypatch.setattr(wren.mixers, "__path__", [*wren.mixers.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    yield "min_gru"
    import sys

    sys.modules.pop("wren.mixers.min_gru", None)
    if hasattr(wren.mixers, "min_gru"):
        delattr(wren.mixers, "min_gru")


def test_it_is_as_short_as_it_says():
    assert CODE is not None
    count = len(CODE[1].splitlines())
    assert count <= 60
    assert f"({count} lines)" in DOCUMENT.read_text(encoding="utf-8")


def test_it_keeps_the_contract(saved: str):
    found = {name: config for name, config in mixer_contract.found_configs() if name.startswith(saved)}
    assert list(found) == ["min_gru-0"]
    for config in found.values():
        for check in mixer_contract.CHECKS:
            check(mixer_contract.build(config))


def test_its_forward_is_its_equation(saved: str):
    mixer = mixers.read(saved, num_heads=1).build(8).double()
    x_BTD = torch.randn(2, 9, 8, dtype=torch.float64)
    found = mixer(x_BTD, wren.mixer.Context())
    h_BE, gate, value = torch.zeros(2, 8, dtype=torch.float64), mixer.get_submodule("gate"), mixer.get_submodule("v")
    for t in range(9):
        z_BE = gate(x_BTD[:, t]).sigmoid()
        h_BE = (1 - z_BE) * h_BE + z_BE * value(x_BTD[:, t])
        torch.testing.assert_close(found[:, t], mixer.get_submodule("out")(h_BE))


def test_config_recipes_probes_and_bench_find_it(saved: str):
    assert saved in mixers.names()  # what bench/mixers.py goes through
    setting = mqar.SIZES["cpu"]
    names = [type(mixer).__name__ for mixer in probe_trial.model_for(f"{saved}+attention", setting).build().mixers()]
    assert names == ["MinGRU", "Attention"]
    config = build("small", vocab_size=50, settings=["model.mixers=mixers.min_gru"])
    again = configs.from_json(ModelConfig, configs.to_json(config.model))
    assert again == config.model
    assert type(again.build().mixers()[0]).__name__ == "MinGRU"
