"""How long training would take and what it would cost: operations, speed, power and price, and what is assumed."""

from dataclasses import dataclass

import torch

from wren import mlp as mlps
from wren.model import LM
from wren.optim.muon import STEPS
from wren.optim.optimizer import block_matrices
from wren.planning.machine import Machine
from wren.recipes import RunConfig

UTILISATION = 0.35  # of a card's peak, which a training step reaches
OF_PRODUCTS = 0.5  # of large matrix products' measured speed
PRICE_PER_KWH = 0.30


@dataclass(frozen=True)
class Cost:
    """Of training on so many tokens; None where the machine's speed is unknown. assumed: sentences."""

    tokens: int
    flops_per_token: float
    tokens_per_second: float | None
    seconds: float | None
    kilowatt_hours: float | None
    price: float | None
    assumed: tuple[str, ...]


def flops_per_token(config: RunConfig) -> float:
    """Floating-point operations of a training step per token: passes, what is run again, Muon's matrix products."""
    train = config.train
    with torch.device("meta"):
        model = config.model.build()
    forward = model.flops_per_token(train.context_len, training=True)
    again = {"none": 0.0, "full": forward, "selective": _mlp_flops(model)}[train.activation_checkpointing]
    update = 0.0
    if config.optimizer.kind == "muon":
        for matrix in block_matrices(model):
            short, long = sorted(matrix.shape)
            update += STEPS * (4 * short * short * long + 2 * short**3)
    return 3 * forward + again + update / (train.batch_size * train.context_len)


def _mlp_flops(model: LM) -> float:
    return model.config.loops * sum(mlps.flops_per_token(block.mlp) for block in model.blocks)  # type: ignore[union-attr]


def cost(
    config: RunConfig, machine: Machine, away: int, tokens: int, per_kwh: float = PRICE_PER_KWH, per_hour: float = 0.0
) -> Cost:
    """away: bytes in main memory, which travel in every update. per_hour: what renting the machine costs."""
    each = flops_per_token(config)
    name = machine.precision.name
    if machine.flops is None:
        why = (f"the speed of {machine.name} in {name} is not known",)
        return Cost(tokens, each, None, None, None, None, why)
    share = OF_PRODUCTS if machine.measured else UTILISATION
    batch = config.train.batch_size * config.train.context_len
    travel = 2 * away / machine.link if config.optimizer.offload else 0.0
    speed = batch / (batch * each / (share * machine.flops) + travel)
    seconds = tokens / speed
    energy = seconds * machine.watts / 3.6e6
    price = energy * per_kwh + seconds / 3600 * per_hour
    how = "measured matrix products" if machine.measured else "peak"
    assumed = [f"{share:.0%} of the {how} of {machine.flops / 1e12:.3g} TFLOP/s in {name} is reached"]
    assumed.append(f"a kWh costs {per_kwh:.2f}" + (f" and an hour {per_hour:.2f}" if per_hour else ""))
    return Cost(tokens, each, speed, seconds, energy, price, tuple(assumed))
