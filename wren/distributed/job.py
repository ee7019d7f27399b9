"""A process's place in a torchrun job: how it joins, and how the job ends.

What goes wrong is said once: the first rank that meets an error claims it in the job's key-value store and speaks, the
others end without a word. The store lies in torchrun itself and so outlives every rank.
"""

import contextlib
import datetime
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from wren.distributed.group import Group
from wren.distributed.ranks import ALONE, Ranks
from wren.errors import ConfigError, JobError, WrenError
from wren.interrupt import Interrupted
from wren.precision import choose_device

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_LOST = ("closed by peer", "reset by peer", "gloo", "NCCL", "Broken pipe", "Timed out", "Connection", "Socket")


@dataclass(frozen=True)
class Place:
    """A process's place in a job, as torchrun's environment tells it."""

    rank: int
    size: int
    local_rank: int
    address: str
    attempt: int

    @classmethod
    def read(cls) -> "Place | None":
        """None for a process that trains alone; raises ConfigError for half an environment."""
        environment = os.environ
        if environment.get("WORLD_SIZE", "1") == "1":
            return None
        missing = [name for name in _NAMES if not environment.get(name)]
        if missing:
            raise ConfigError(f"WORLD_SIZE is set and {missing[0]} is not; start several processes with torchrun.")
        try:
            rank, size, local_rank = (int(environment[name]) for name in _NAMES[:3])
            attempt = int(environment.get("TORCHELASTIC_RESTART_COUNT", "0"))
        except ValueError as error:
            raise ConfigError(f"RANK, WORLD_SIZE or LOCAL_RANK is no number ({error}); use torchrun.") from error
        address = f"{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}"
        return cls(rank, size, local_rank, address, attempt)


@contextlib.contextmanager
def joined(device: str, *, sharded: bool = False, wait: float = 600.0) -> Iterator[Ranks]:
    """The ranks of this job, from torchrun's environment: a process group while inside, or ALONE without one.

    device: cpu (gloo) or a CUDA device (nccl), or auto. sharded: the model is spread over the ranks. wait: seconds to
    wait for all processes. Other ranks than the first print nothing. An error that leaves the block is raised on one
    rank only; the others end by SystemExit. Raises ConfigError, and JobError when a process is missing or was lost.
    """
    place = Place.read()
    if place is None:
        if sharded:
            raise ConfigError("--shard spreads a model over several processes, here is one; start them with torchrun.")
        yield ALONE
        return
    with contextlib.ExitStack() as stack:
        if place.rank != 0:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        store = _store(place, wait)
        try:
            yield Group(_own(place, choose_device(device)), place.rank, place.size, store, sharded=sharded)
        except BaseException as error:
            ending = _ending(error, store, place)
            if ending is error:
                raise
            raise ending from error
        torch.distributed.destroy_process_group()


def _store(place: Place, wait: float) -> Any:
    """The job's key-value store, once every rank has come to it."""
    from torch.distributed.rendezvous import rendezvous

    def missing(who: str) -> JobError:
        return JobError(
            f"{who} at {place.address} within {wait:g} seconds; check that every node was started with the same "
            "--rdzv-endpoint (or --master-addr), that its port is open, and that --nnodes is right."
        )

    deadline = time.monotonic() + wait
    try:
        store, _, _ = next(rendezvous("env://", timeout=datetime.timedelta(seconds=wait)))
        store = torch.distributed.PrefixStore(f"wren/{place.attempt}", store)  # type: ignore[attr-defined]
        store.set(f"here/{place.rank}", "")
        absent = range(place.size)
        while absent := [rank for rank in absent if not store.check([f"here/{rank}"])]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
    except RuntimeError as error:  # torch's DistError and what older versions raise
        if place.rank == 0:
            raise missing(f"Not all {place.size} processes of the job came") from error
        raise missing(f"Rank {place.rank} on {socket.gethostname()} did not find the whole job") from error
    if absent and not _claims(store, place):
        raise SystemExit(2)
    if absent:
        others = f" and {len(absent) - 1} more" if absent[1:] else ""
        raise missing(f"Not all {place.size} processes of the job came (rank {absent[0]}{others} did not)")
    return store


def _ending(error: BaseException, store: Any, place: Place) -> BaseException:
    """What ends this rank's part of a failed or interrupted job: the error on one rank, SystemExit on the others."""
    if isinstance(error, SystemExit):
        return error
    if not _claims(store, place):
        if isinstance(error, Interrupted):
            return SystemExit(128 + error.signal_number)
        return SystemExit(130 if isinstance(error, KeyboardInterrupt) else 2 if isinstance(error, WrenError) else 1)
    if isinstance(error, RuntimeError) and any(word in str(error) for word in _LOST):
        short = " ".join(str(error).split())[:120]
        return JobError(
            f"Rank {place.rank} lost touch with another process of the job, which was killed or whose node has gone "
            f"({short}). The same command goes on from the last checkpoint; torchrun --max-restarts N does so by "
            "itself."
        )
    return error


def _claims(store: Any, place: Place) -> bool:
    """Whether this rank is the first to report an error."""
    try:
        store.set_timeout(datetime.timedelta(seconds=10))
        return store.add("error", 1) == 1
    except RuntimeError:  # the store died with the first rank: there was no torchrun to keep it
        return place.rank == 1


def _own(place: Place, device: torch.device) -> torch.device:
    """The device of this rank alone."""
    if device.type == "mps":
        raise ConfigError("Several processes train on CUDA GPUs or on the CPU; use --device cpu.")
    if device.type == "cpu":
        return device
    count = torch.cuda.device_count()
    if place.local_rank >= count:
        raise ConfigError(
            f"torchrun started process {place.local_rank} on {socket.gethostname()}, which has {count} GPUs; "
            f"use --nproc-per-node {count}, or --device cpu."
        )
    torch.cuda.set_device(place.local_rank)
    return torch.device("cuda", place.local_rank)
