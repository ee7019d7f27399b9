"""Gradients that every rank has for its own rows, summed over the ranks in flat buckets (DDP: 2006.15704).

A bucket leaves as soon as the backward pass has completed it, so that it travels while the rest is computed. torch's
own wrapper hangs on a module's forward pass and averages; here the loss is a function of the model, gradients are sums
already divided by the targets of the whole global batch, and a rank that runs out of memory in mid-backward must
still take part in every exchange, so that all of them can go back together.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET_BYTES = 25 * 2**20


class Buckets:
    """Sums the gradients of `params`, which lie whole on every rank.

    overlap: buckets leave during the backward pass; without, all at its end.
    """

    def __init__(self, params: Iterable[nn.Parameter], *, overlap: bool, bucket_bytes: int | None = None):
        self.params = [p for p in params if p.requires_grad]
        self.overlap = overlap
        self._buckets = _cut(
            reversed(self.params), bucket_bytes or BUCKET_BYTES
        )  # about the order in which gradients are completed
        self._place = {id(p): i for i, bucket in enumerate(self._buckets) for p in bucket}
        self._armed = False
        self._missing: list[int] = []
        self._sent: list[dist.Work] = []
        self._present: dict[int, bool] = {}
        if overlap:
            for p in self.params:
                p.register_post_accumulate_grad_hook(self._completed)

    def arm(self) -> None:
        """The next backward pass is the step's last one."""
        self._armed = True
        self._missing = [len(bucket) for bucket in self._buckets]

    def _completed(self, param: Tensor) -> None:
        if not self._armed:
            return
        self._missing[self._place[id(param)]] -= 1
        # always in the order of the list: it must be the same on every rank
        while len(self._sent) < len(self._buckets) and self._missing[len(self._sent)] == 0:
            self._send()

    def _send(self) -> None:
        """Lets the next bucket go; from here on the gradients are views of what travels."""
        bucket = self._buckets[len(self._sent)]
        self._present.update((id(p), p.grad is not None) for p in bucket)
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in bucket])
        for p, part in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
            p.grad = part.view_as(p)
        work = dist.all_reduce(flat, async_op=True)
        assert work is not None
        self._sent.append(work)

    def finish(self, *, failed: bool) -> bool:
        """Waits for all buckets; whether some rank failed, in which case the gradients mean nothing.

        A parameter that no rank has a gradient of has none afterwards, as on a single rank.
        """
        while len(self._sent) < len(self._buckets):
            self._send()
        counts = torch.tensor([int(failed), *(int(self._present[id(p)]) for p in self.params)])
        dist.all_reduce(counts)  # on the CPU: no wait for the device
        for work in self._sent:
            work.wait()
        for p, count in zip(self.params, counts[1:].tolist(), strict=True):
            if count == 0:
                p.grad = None
        self._armed = False
        self._sent, self._present = [], {}
        return bool(counts[0])


def _cut(params: Iterable[nn.Parameter], bucket_bytes: int) -> list[list[nn.Parameter]]:
    """Buckets of one device and dtype; a parameter larger than a bucket has one of its own."""
    buckets: list[list[nn.Parameter]] = []
    filling: dict[tuple[torch.device, torch.dtype], tuple[list[nn.Parameter], int]] = {}
    for p in params:
        kind, size = (p.device, p.dtype), p.numel() * p.element_size()
        bucket, full = filling.get(kind, ([], bucket_bytes))
        if full + size > bucket_bytes:
            bucket, full = [], 0
            buckets.append(bucket)
        bucket.append(p)
        filling[kind] = bucket, full + size
    return buckets
