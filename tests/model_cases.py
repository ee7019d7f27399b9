"""Small language models to test: one of every mixer in wren/mixers, and one of every recipe.

B batch, T time, V vocabulary.
"""

import mixer_contract
import torch

from wren.mlps import relu2
from wren.model import LM, ModelConfig
from wren.recipes import get

VOCAB = 29
LENGTH = 70  # the longest row of a test: past one chunk of 64
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


def build(name: str, dtype: torch.dtype = torch.float64) -> LM:
    """A model whose weights all differ from zero and one, in evaluation mode."""
    torch.manual_seed(0)
    model = CONFIGS[name].build().to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # zero-initialised outputs and unit gains would hide mistakes
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def tokens(batch: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))
