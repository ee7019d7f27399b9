"""Llama: RoPE, RMSNorm, SwiGLU, grouped-query attention, no biases, AdamW (Touvron et al. 2302.13971, 2307.09288).

At the defaults its blocks hold 85M parameters; embedding and head (untied unless asked) come on top.
"""

from wren.mixers import attention
from wren.mlps import swiglu
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
    num_kv_heads: int | None = None,
    context_len: int = 2048,
    batch_size: int = 256,
    steps: int = 20_000,
    lr: float = 6e-4,
    tie_embeddings: bool = False,
) -> RunConfig:
    return RunConfig(
        recipe="llama",
        model=ModelConfig(
            vocab_size=vocab_size,
            dim=dim,
            depth=depth,
            mixers=(attention.Config(num_heads=num_heads, num_kv_heads=num_kv_heads),),
            mlp=swiglu.Config(),
            tie_embeddings=tie_embeddings,
        ),
        optimizer=OptimizerConfig(kind="adamw", lr=lr, betas=(0.9, 0.95), weight_decay=0.1),
        schedule=ScheduleConfig(kind="cosine", warmup_steps=1000, final=0.1),
        train=TrainConfig(steps=steps, batch_size=batch_size, context_len=context_len),
    )
