"""Muon over several ranks: in every step each matrix is made orthogonal once, whole, by one rank that owns it.

Matrices that every rank has whole: their updates are handed round. Matrices whose rows are spread over the ranks: the
rows travel to the owner and the update's rows back; a rank holds no more than its share of whole matrices, where a
gather would give all of them to all (the distributed Muon of 2502.16982, with an exchange instead of the gather).

N matrices, R rows, C columns; S rows on this rank.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from wren.optim.muon import orthogonalised


class Across:
    """What Muon asks on several ranks. Every rank must come with the same matrices in the same order."""

    def __init__(self, rank: int, size: int):
        self.rank, self.size = rank, size

    def orthogonalised(self, directions: list[Tensor], rows: int | None, dtype: torch.dtype) -> Tensor:
        """Updates (N, S, C) for N directions (S, C). rows: of the matrix on all ranks together, None = all are here.

        dtype: of the Newton-Schulz steps and of the updates that travel.
        """
        if rows is None:
            return self._handed_round(directions, dtype)
        return self._exchanged(directions, rows, dtype)

    def norms(self, stacks: tuple[Tensor, ...], rows: int | None) -> list[Tensor]:
        """The norms (N, 1, 1) of each stack of matrices (N, S, C)."""
        if rows is None:
            return [x.norm(dim=(-2, -1), keepdim=True) for x in stacks]
        squares = torch.stack([x.square().sum(dim=(-2, -1), keepdim=True) for x in stacks])
        dist.all_reduce(squares)
        return list(squares.sqrt())

    def _handed_round(self, directions: list[Tensor], dtype: torch.dtype) -> Tensor:
        count = -(-len(directions) // self.size)
        mine = torch.zeros(count, *directions[0].shape, dtype=dtype, device=directions[0].device)
        if own := directions[self.rank :: self.size]:
            mine[: len(own)] = orthogonalised(torch.stack(own), dtype)
        everyones = mine.new_empty(self.size, *mine.shape)
        dist.all_gather(list(everyones), mine)
        updates = everyones.transpose(0, 1).flatten(0, 1)  # the k-th matrix of rank r is number k size + r
        return updates[: len(directions)].to(directions[0].dtype)

    def _exchanged(self, directions: list[Tensor], rows: int, dtype: torch.dtype) -> Tensor:
        columns = directions[0].shape[1]
        heights = _heights(rows, self.size)
        owned = [len(range(rank, len(directions), self.size)) for rank in range(self.size)]
        away = [count * heights[self.rank] * columns for count in owned]
        back = [owned[self.rank] * height * columns for height in heights]
        order = [i for rank in range(self.size) for i in range(rank, len(directions), self.size)]
        pieces = self._swap(torch.cat([directions[i].reshape(-1) for i in order]), away, back).split(back)
        parts = [part.view(owned[self.rank], height, columns) for part, height in zip(pieces, heights, strict=True)]
        whole = torch.cat(parts, dim=1)
        whole = orthogonalised(whole, dtype).to(dtype) if owned[self.rank] else whole.to(dtype)
        flat = torch.cat([part.reshape(-1) for part in whole.split(heights, dim=1)])
        updates = self._swap(flat, back, away).view(len(directions), heights[self.rank], columns)
        places = torch.tensor(order).argsort()
        return updates[places.to(updates.device)].to(directions[0].dtype)

    def _swap(self, flat: Tensor, sizes: list[int], received: list[int]) -> Tensor:
        """Sends sizes[r] numbers to rank r and returns what came, received[r] from rank r."""
        result = flat.new_empty(sum(received))
        dist.all_to_all_single(result, flat, received, sizes)
        return result


def _heights(rows: int, size: int) -> list[int]:
    """Rows of each rank where a tensor is sharded along its first dimension: as torch.chunk cuts."""
    height = -(-rows // size)
    return [max(0, min(height, rows - rank * height)) for rank in range(size)]
