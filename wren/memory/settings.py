"""Which settings that save memory go together."""

import torch

from wren.errors import ConfigError
from wren.optim.optimizer import OptimizerConfig
from wren.precision import Precision


def check_memory_settings(
    optimizer: OptimizerConfig,
    precision: Precision,
    *,
    batch_size: int,
    micro_batch_size: int | None,
    compile: bool,
    num_ranks: int = 1,
) -> None:
    """Raises ConfigError for settings that save memory and do not go with the others."""
    if optimizer.weight_dtype == "bf16" and precision.autocast != torch.bfloat16:
        raise ConfigError(
            f"optimizer.weight_dtype is bf16, but matrix products are in {precision.name}; use --dtype bf16, or "
            "optimizer.weight_dtype=fp32."
        )
    if not optimizer.in_backward:
        return
    if micro_batch_size is not None and micro_batch_size < batch_size:
        raise ConfigError(
            "optimizer.in_backward steps in every backward pass, so train.micro_batch_size of "
            f"{micro_batch_size} must be the whole batch of {batch_size}; leave it out, or leave out "
            "optimizer.in_backward."
        )
    if precision.scaler:
        raise ConfigError(
            "optimizer.in_backward does not go with fp16, whose overflows must be seen before any weight changes; use "
            "--dtype bf16 or fp32, or leave it out."
        )
    if compile:
        raise ConfigError(
            "optimizer.in_backward saves nothing with --compile, where all gradients are made at once; leave out one."
        )
    if num_ranks > 1:
        raise ConfigError(
            "optimizer.in_backward steps before other processes have sent their gradients; leave it out, or train in "
            "one process."
        )
