"""Wren's own: three cheap layers to every global one, short mixing before all of them, lookup tables, and Muon.

Counted from the last layer down, which is global: attention without positions over the whole context, few key-value
heads and a gate; below it `state`, a recurrent layer or a local one; then two local ones of a window. A model of four
layers is local, local, state, global. A first draft: docs/LOG.md has what is measured of it so far.
"""

from wren.block import NearConfig
from wren.errors import ConfigError
from wren.mixer import MixerConfig
from wren.mixers import attention, gated_delta_net
from wren.mlps import relu2
from wren.model import ModelConfig
from wren.optim.optimizer import OptimizerConfig
from wren.optim.schedule import ScheduleConfig
from wren.recipes import RunConfig
from wren.skips import SkipsConfig
from wren.tables import TablesConfig
from wren.train import TrainConfig


def recipe(
    *,
    vocab_size: int,
    depth: int = 4,
    dim: int | None = None,
    head_dim: int = 64,
    kv_share: int = 4,
    window: int = 128,
    bigrams: int = 16_384,
    trigrams: int = 0,
    context_len: int = 512,
    batch_size: int = 16,
    steps: int = 2000,
    lr: float = 5e-3,
) -> RunConfig:
    """dim: None = 64 a layer. kv_share: query heads of a global layer to one key-value head, at most."""
    width = dim or 64 * depth
    if width % head_dim:
        raise ConfigError(f"dim is {width}, which heads of {head_dim} do not divide; choose another dim or head_dim.")
    heads = width // head_dim
    return RunConfig(
        recipe="wren",
        model=ModelConfig(
            vocab_size=vocab_size,
            dim=width,
            depth=depth,
            mixers=_mixers(depth, heads, head_dim, kv_share, window),
            mlp=relu2.Config(),
            zero_outputs=True,
            logit_softcap=15.0,
            tie_embeddings=False,
            norm_gain=False,
            near=NearConfig(token_shift=True),
            skips=SkipsConfig(x0=True),
            tables=TablesConfig(values="alternate", bigrams=bigrams, trigrams=trigrams),
        ),
        optimizer=OptimizerConfig(kind="muon", lr=lr, weight_decay=0.0, normalise=True),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=20, decay=0.65),
        train=TrainConfig(steps=steps, batch_size=batch_size, context_len=context_len),
    )


def _mixers(depth: int, heads: int, head_dim: int, kv_share: int, window: int) -> tuple[MixerConfig, ...]:
    """One for each layer, the pattern laid so that it ends with the last one."""
    local = attention.Config(num_heads=heads, head_dim=head_dim, qk_norm=True, window=window)
    state = gated_delta_net.Config(num_heads=heads, negative_eigenvalues=True)
    shared = next(n for n in range(min(kv_share, heads), 0, -1) if heads % n == 0)
    everywhere = attention.Config(
        num_heads=heads, num_kv_heads=heads // shared, head_dim=head_dim, positions="none", qk_norm=True, gate="head"
    )
    pattern = (everywhere, state, local, local)  # from the last layer down
    return tuple(pattern[(depth - 1 - layer) % 4] for layer in range(depth))
