"""Small language models to test: one of every mixer in wren/mixers, of every recipe, and of every switch around mixers.

B batch, T time, V vocabulary.
"""

from dataclasses import replace
from typing import Any

import mixer_contract
import torch

from wren.ahead import AheadConfig
from wren.block import NearConfig
from wren.mixers import attention, gated_delta_net
from wren.mlps import gelu, moe, relu2
from wren.model import LM, ModelConfig
from wren.recipes import get
from wren.skips import SkipsConfig
from wren.tables import TablesConfig

VOCAB = 29
LENGTH = 70  # the longest row of a test: past one chunk of 64
PLAIN = ModelConfig(vocab_size=VOCAB, dim=16, depth=2, mixers=(attention.Config(num_heads=2),), mlp=gelu.Config())
_RECIPES = {
    "gpt2": {"depth": 2, "dim": 16, "num_heads": 2, "context_len": LENGTH},
    "gpt2-biases": {"depth": 2, "dim": 16, "num_heads": 2, "context_len": LENGTH, "bias": True},
    "llama": {"depth": 2, "dim": 16, "num_heads": 4, "num_kv_heads": 2},
    "small": {"depth": 2, "dim": 32, "head_dim": 16},
    "tiny": {"depth": 2, "dim": 16},
}


def _of_mixer(name: str) -> ModelConfig:
    mixer = dict(mixer_contract.found_configs())[name]
    return ModelConfig(vocab_size=VOCAB, dim=16, depth=2, mixers=(mixer,), mlp=relu2.Config(hidden=24))


CONFIGS = {name: _of_mixer(name) for name, _ in mixer_contract.found_configs()}
CONFIGS |= {name: get(name.split("-")[0])(vocab_size=VOCAB, **dials).model for name, dials in _RECIPES.items()}

SWITCHES: dict[str, dict[str, Any]] = {
    "token_shift": {"near": NearConfig(token_shift=True)},
    "canon": {"near": NearConfig(canon=("A", "C"))},
    "canon_c": {"near": NearConfig(token_shift=True, canon=("C",), canon_width=3)},
    "value_tables": {"tables": TablesConfig(values="alternate")},
    "value_skip": {"skips": SkipsConfig(values=True), "depth": 3},
    "x0": {"skips": SkipsConfig(x0=True)},
    "unet": {"skips": SkipsConfig(unet=True), "depth": 5},
    "ngrams": {"tables": TablesConfig(bigrams=50, trigrams=70)},
    "ngrams_every_block": {"tables": TablesConfig(bigrams=50, every_block=True, on_cpu=True)},
    "norm_gate": {"norm_gate": 4},
    "norm_plain": {"norm_gain": False, "norm": "layer"},
    "moe": {"mlp": moe.Config(num_experts=4, active=2, hidden=8, shared=8)},
    "moe_softmax": {"mlp": moe.Config(num_experts=3, active=1, hidden=8, scores="softmax")},
    "loops": {"loops": 2},
    "ahead": {"ahead": AheadConfig(tokens=2)},
    "all": {
        "depth": 3,
        "near": NearConfig(token_shift=True, canon=("A", "C")),
        "tables": TablesConfig(values="all", bigrams=50, trigrams=70, every_block=True, on_cpu=True),
        "skips": SkipsConfig(x0=True, unet=True, values=True),
        "norm_gate": 4,
        "norm_gain": False,
        "mlp": moe.Config(num_experts=4, active=2, hidden=8, shared=8),
        "loops": 2,
        "ahead": AheadConfig(tokens=2),
        "logit_softcap": 3.0,
        "learned_positions": LENGTH,
    },
}
_UNDER = {"attention": attention.Config(num_heads=2), "gated_delta_net": gated_delta_net.Config(num_heads=2)}


def switched(switch: str, mixer: str = "attention") -> ModelConfig:
    """A small model with one switch on, or all."""
    plain = ModelConfig(vocab_size=VOCAB, dim=16, depth=2, mixers=(_UNDER[mixer],), mlp=relu2.Config(hidden=24))
    return replace(plain, **SWITCHES[switch])


CONFIGS |= {f"{mixer}+{switch}": switched(switch, mixer) for mixer in _UNDER for switch in SWITCHES}


def build(name: str, dtype: torch.dtype = torch.float64) -> LM:
    """A model whose weights all differ from zero and one, in evaluation mode."""
    torch.manual_seed(0)
    return shaken(CONFIGS[name].build().to(dtype).eval())


def shaken(model: LM) -> LM:
    """Random steps away from initial values: zero outputs, unit gains and zero factors would hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def tokens(batch: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
