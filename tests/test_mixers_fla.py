"""What mixers hand to flash-linear-attention's kernels, with functions in their place that only take note of it."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import mixer_contract
import pytest
import torch
from torch import Tensor

from wren.batch import positions_in_documents
from wren.mixer import Context
from wren.ops import fla

KERNELS = {
    "delta_rule": "chunk_delta_rule",
    "forgetting_attn": "parallel_forgetting_attn",
    "gated_delta_product": "chunk_gated_delta_product",
    "gated_delta_rule": "chunk_gated_delta_rule",
    "generalized_delta_rule": "chunk_dplr_delta_rule",
    "gla": "chunk_gla",
    "kda": "chunk_kda",
    "simple_gla": "chunk_simple_gla",
}
MIXERS = (
    "delta_net",
    "delta_product",
    "forgetting_attention",
    "gated_delta_net",
    "gla",
    "kda",
    "linear_attention",
    "rwkv7",
)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The cu_seqlens of every call of a kernel."""
    seen: list[Tensor] = []
    for folder, name in KERNELS.items():

        def kernel(q: Tensor, v: Tensor, cu_seqlens: Tensor, kind: str = name, **_: Any) -> Any:
            seen.append(cu_seqlens)
            o_1NHV = v.new_zeros(*q.shape[:3], v.shape[-1])
            return o_1NHV if kind == "parallel_forgetting_attn" else (o_1NHV, None)

        module = ModuleType(f"fla.ops.{folder}")
        setattr(module, name, kernel)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("fla", "fla.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(fla, "can_take", lambda x: True)
    return seen


@torch.no_grad()
@pytest.mark.parametrize("name", MIXERS)
def test_the_layers_of_a_pass_share_the_boundaries_of_documents(name: str, given: list[Tensor]):
    documents_BT = torch.tensor([[0, 0, 1, 1, 1, 2], [0, 0, 0, 0, 0, 0]])
    positions_BT, x_BTD = positions_in_documents(documents_BT), torch.randn(2, 6, mixer_contract.DIM)
    for config in import_module(f"wren.mixers.{name}").EXAMPLES:
        given.clear()
        layers = [mixer_contract.build(config, torch.float32) for _ in range(3)]
        context = Context(None, positions_BT, documents_BT, boundaries=fla.Boundaries(documents_BT))
        for layer in layers:
            layer(x_BTD, context)
        assert [x is given[0] for x in given] == [True] * 3
        assert given[0].tolist() == [0, 2, 5, 6, 12]
        layers[0](x_BTD, context._replace(boundaries=None))
        assert given[3].tolist() == [0, 2, 5, 6, 12]
        assert given[3] is not given[0]
