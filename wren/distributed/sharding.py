"""Weights spread over the ranks: FSDP2 (torch's fully_shard) on every block and on what stands around the blocks.

A block's matrices are gathered when it is reached and dropped behind it, in the forward and in the backward pass; what
remains of weights, gradients and optimizer states is 1/size. Gathered are the weights of linear layers in the number
format of the matrix products, which autocast would give them anyway, so that sharding changes no number but the order
of sums; all else (gains, decays, convolutions, routers) is small and stays whole on every rank.
"""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from wren.layout import is_sharded, local
from wren.mlp import SparseMlp
from wren.model import LM
from wren.precision import Precision
from wren.tables import Table


def shard(model: LM, precision: Precision) -> None:
    """Spreads the model, the same on every rank and still in main memory, over all ranks; it ends on their devices."""
    mesh = init_device_mesh(precision.device.type, (dist.get_world_size(),))
    kept = _kept(model, precision.device)
    policy = MixedPrecisionPolicy()
    if precision.autocast is not None:
        policy = MixedPrecisionPolicy(
            param_dtype=precision.autocast, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    units: list[nn.Module] = [*model.blocks, *(head.get_submodule("block") for head in model.ahead)]
    for unit in units:
        fully_shard(unit, mesh=mesh, mp_policy=policy, ignored_params=kept)
    for part in (model.values, model.ngrams):  # large, and each read in one place only
        for table in part.modules() if part is not None else ():
            if isinstance(table, (nn.Embedding, Table)) and table.weight not in kept:
                fully_shard(table, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params=kept)
    for name in ("hidden", "hiddens"):  # what the loss and generation call; forward alone is known to torch
        register_fsdp_forward_method(model, name)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # sums: the loss is divided by the targets of all ranks already
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
    model.to(precision.device)


def _kept(model: LM, device: torch.device) -> set[nn.Parameter]:
    """The parameters that stay whole on every rank."""
    kept: set[Any] = {p for p in model.parameters() if p.dim() < 2}
    for block in (*model.blocks, *model.ahead):
        matrices = {id(m.weight) for m in block.modules() if isinstance(m, nn.Linear)}
        kept |= {p for p in block.parameters() if id(p) not in matrices}
    for module in model.modules():
        if isinstance(module, SparseMlp):  # its router reads its weights in float32 whatever autocast says
            kept.update(child.weight for child in module.children() if isinstance(child, nn.Linear))
        if isinstance(module, Table) and module.on_cpu and device.type != "cpu":
            kept.add(module.weight)
    return kept


def clip(params: list[nn.Parameter], limit: float) -> Tensor:
    """torch's clip_grad_norm_ for gradients of which some are sharded: the norm of all of them, on every rank."""
    grads = [p.grad for p in params if p.grad is not None]
    whole, parts = [g for g in grads if not is_sharded(g)], [local(g) for g in grads if is_sharded(g)]
    squares = [_sum_of_squares(tensors, grads[0].device) for tensors in (parts, whole)]
    dist.all_reduce(squares[0])
    norm = (squares[0] + squares[1]).sqrt()
    factor = torch.clamp(limit / (norm + 1e-6), max=1.0) if math.isfinite(limit) else torch.ones_like(norm)
    for grad in (*whole, *parts):
        grad.mul_(factor.to(grad.device, grad.dtype))
    return norm.to(torch.promote_types(grads[0].dtype, torch.float32))


def _sum_of_squares(tensors: list[Tensor], device: torch.device) -> Tensor:
    total = torch.zeros((), dtype=torch.float64, device=device)  # squares overflow float32 early
    for x in tensors:
        total += torch.linalg.vector_norm(x).to(device, torch.float64).square()
    return total
