"""The machine that a comparison is made on: times of two machines are not set against each other."""

import platform
from pathlib import Path
from typing import Any

import torch

from wren.run import environment

Machine = dict[str, Any]


def this_machine(device: torch.device) -> Machine:
    """What decides how fast a training is here: device (its model's name), cores, threads, torch, platform."""
    known = environment()
    return {
        "device": known["gpu"] if device.type == "cuda" else processor(),
        "cores": known["cpu_count"],
        "threads": known["threads"],
        "torch": known["torch"],
        "platform": known["platform"],
    }


def processor(path: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as the system calls it."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next((name for name in names if name), platform.processor() or platform.machine())


def in_words(machine: Machine | None) -> str:
    """ "AMD EPYC 7B13, 2 cores, 1 thread, torch 2.13.0, Linux-6.1"; "a machine it does not name" for None."""
    if machine is None:
        return "a machine it does not name"
    threads = machine.get("threads")
    return (
        f"{machine.get('device')}, {machine.get('cores')} cores, {threads} thread{'' if threads == 1 else 's'}, "
        f"torch {machine.get('torch')}, {machine.get('platform')}"
    )
