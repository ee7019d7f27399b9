"""Starting a job of several processes in the tests, with torchrun's environment and store but without torchrun, and
reading its curves."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processes import python_path
from torch.distributed import TCPStore

from wren.run import Run

CHILD = Path(__file__).with_name("distributed_child.py")


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun sets; one thread a process, since float32 sums depend on their number."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    usual = {"OMP_NUM_THREADS": "1", "PYTHONPATH": python_path(), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    return {**os.environ, **usual, **{name: str(value) for name, value in place.items()}}


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


@dataclass
class Job:
    """store: what torchrun itself holds for its processes; it outlives each of them."""

    store: TCPStore
    processes: list[subprocess.Popen[str]]

    def ends(self, timeout: float = 240) -> list[tuple[int, str, str]]:
        """Exit code, output and errors of each process."""
        try:
            found = [process.communicate(timeout=timeout) for process in self.processes]
        except subprocess.TimeoutExpired as error:
            for process in self.processes:
                process.kill()
            raise AssertionError([process.communicate() for process in self.processes]) from error
        return [(process.returncode, *texts) for process, texts in zip(self.processes, found, strict=True)]


def start(size: int, *arguments: str, ranks: range | None = None) -> Job:
    """The processes of a job (or some of its ranks)."""
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=environment(rank, size, store.port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ranks or range(size)
    ]
    return Job(store, processes)


def go(folder: Path, size: int, jobs: list[dict[str, Any]], *, shard: bool = False) -> list[tuple[int, str, str]]:
    return start(size, str(CHILD), str(folder), str(int(shard)), json.dumps(jobs)).ends()


def trained(folder: Path, size: int, jobs: list[dict[str, Any]], *, shard: bool = False) -> None:
    """As go, for what must end well."""
    found = go(folder, size, jobs, shard=shard)
    assert all(code == 0 for code, _, _ in found), "\n".join(errors for _, _, errors in found)


def losses(path: Path) -> list[float]:
    return [row["loss"] for row in Run(path).metrics() if row["kind"] == "train"]


def farthest(left: Path, right: Path) -> float:
    """The largest difference of two loss curves."""
    pairs = list(zip(losses(left), losses(right), strict=True))
    assert pairs
    return max(abs(a - b) for a, b in pairs)
