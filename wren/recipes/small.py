"""A small modern transformer for a CPU or any GPU: RoPE, QK-norm, squared ReLU, zero-initialised outputs, Muon.

The shape of `wren quickstart`: 1.6M parameters in two wide blocks, trained in minutes on two CPU cores (docs/LOG.md has
the shapes that were tried).
"""

from wren.mixers import attention
from wren.mlps import relu2
from wren.model import ModelConfig
from wren.optim.optimizer import OptimizerConfig
from wren.optim.schedule import ScheduleConfig
from wren.recipes import RunConfig
from wren.train import TrainConfig


def recipe(
    *,
    vocab_size: int,
    depth: int = 2,
    dim: int = 256,
    head_dim: int = 32,
    context_len: int = 256,
    batch_size: int = 8,
    steps: int = 1000,
    lr: float = 7e-3,
) -> RunConfig:
    return RunConfig(
        recipe="small",
        model=ModelConfig(
            vocab_size=vocab_size,
            dim=dim,
            depth=depth,
            mixers=(attention.Config(num_heads=max(1, dim // max(1, head_dim)), head_dim=head_dim, qk_norm=True),),
            mlp=relu2.Config(),
            zero_outputs=True,
        ),
        optimizer=OptimizerConfig(kind="muon", lr=lr, weight_decay=0.1),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=50, decay=0.5),
        train=TrainConfig(steps=steps, batch_size=batch_size, context_len=context_len),
    )
