"""A hybrid of attention and gated delta net that trains in seconds: for tests and for a first look."""

from wren.mixers import attention, gated_delta_net
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
    dim: int = 32,
    context_len: int = 32,
    batch_size: int = 4,
    steps: int = 50,
    lr: float = 3e-3,
) -> RunConfig:
    return RunConfig(
        recipe="tiny",
        model=ModelConfig(
            vocab_size=vocab_size,
            dim=dim,
            depth=depth,
            mixers=(gated_delta_net.Config(num_heads=2), attention.Config(num_heads=2, qk_norm=True)),
            mlp=relu2.Config(),
        ),
        optimizer=OptimizerConfig(kind="muon", lr=lr, weight_decay=0.0),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=5),
        train=TrainConfig(
            steps=steps, batch_size=batch_size, context_len=context_len, eval_every=20, save_every=10, eval_tokens=2000
        ),
    )
