"""GPT-2 as nanoGPT trains it: learned positions, LayerNorm, GELU, AdamW, cosine; documents read each other.

Radford et al. 2019; the shape and settings of github.com/karpathy/nanoGPT's train.py (124M parameters at the defaults).
"""

from wren.mixers import attention
from wren.mlps import gelu
from wren.model import ModelConfig
from wren.optim.optimizer import OptimizerConfig
from wren.optim.schedule import ScheduleConfig
from wren.recipes import RunConfig
from wren.train import TrainConfig


def recipe(
    *,
    vocab_size: int,
    depth: int = 12,
    dim: int = 768,
    num_heads: int = 12,
    context_len: int = 1024,
    batch_size: int = 480,
    steps: int = 20_000,
    lr: float = 6e-4,
    bias: bool = False,
    dropout: float = 0.0,
) -> RunConfig:
    return RunConfig(
        recipe="gpt2",
        model=ModelConfig(
            vocab_size=vocab_size,
            dim=dim,
            depth=depth,
            mixers=(attention.Config(num_heads=num_heads, positions="none", bias=bias, dropout=dropout),),
            mlp=gelu.Config(bias=bias),
            norm="layer",
            bias=bias,
            learned_positions=context_len,
            documents=False,
            dropout=dropout,
        ),
        optimizer=OptimizerConfig(kind="adamw", lr=lr, betas=(0.9, 0.95), weight_decay=0.1),
        schedule=ScheduleConfig(kind="cosine", warmup_steps=2000, final=0.1),
        train=TrainConfig(steps=steps, batch_size=batch_size, context_len=context_len),
    )
