"""Forward and backward of every mixer beside attention, and beside `transformers`' own of it, in one run.

    python bench/mixers.py [--mixers all] [--lengths 512,2048,8192] [--tokens 8192] [--dim 256] [--dtype bf16|fp32]

All take turns, and each repeat gives ratios of neighbouring times, so that a busy machine slows them alike. A batch
holds --tokens tokens (one row at least). Peak memory is of one forward and backward in a process of its own. Files of
wren/mixers are found by themselves; bench/peers.py knows which of them have a peer.
"""

import argparse
import contextlib
import logging
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measures import options
from peers import LONGEST, PEERS
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from wren import mixers, units
from wren.exits import exit_code
from wren.files import write_json
from wren.mixer import Context

OUT = Path(__file__).parent / "out" / "mixers.json"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
BASELINE = "attention"
Run = Callable[[], None]


def ours(name: str, arguments: argparse.Namespace, x_BTD: Tensor) -> Run:
    torch.manual_seed(0)
    mixer = mixers.read(name, num_heads=arguments.heads).build(arguments.dim).to(x_BTD.device)
    return _step(lambda: mixer(x_BTD, Context()), mixer, x_BTD)


def theirs(name: str, arguments: argparse.Namespace, x_BTD: Tensor) -> Run | None:
    if name not in PEERS:
        return None
    torch.manual_seed(0)
    module, call = PEERS[name](arguments.dim, arguments.heads)
    module.to(x_BTD.device)
    return _step(lambda: call(x_BTD), module, x_BTD)


def _step(forward: Callable[[], Tensor], module: nn.Module, x_BTD: Tensor) -> Run:
    def run() -> None:
        module.zero_grad(set_to_none=True)
        x_BTD.grad = None
        forward().float().square().mean().backward()
        if x_BTD.device.type == "cuda":
            torch.cuda.synchronize()

    return run


def inputs(arguments: argparse.Namespace, length: int) -> Tensor:
    batch = max(1, arguments.tokens // length)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, length, arguments.dim, generator=generator).to(arguments.device).requires_grad_()


def autocast(arguments: argparse.Namespace) -> Any:
    if arguments.dtype == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(arguments.device, DTYPES[arguments.dtype])


def turns(runs: dict[str, Run], seconds: float) -> dict[str, list[float]]:
    """Seconds of every repeat; the runs take turns, at least three times and for `seconds` a run."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds * len(runs)
    while len(next(iter(times.values()))) < 3 or time.perf_counter() < end:
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def _ratio(slower: list[float], faster: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


def measure(names: list[str], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for length in arguments.lengths:
        x_BTD = inputs(arguments, length)
        for name in names:
            runs = {"ours": ours(name, arguments, x_BTD), "attention": ours(BASELINE, arguments, x_BTD)}
            peer = theirs(name, arguments, x_BTD) if length <= LONGEST.get(name, arguments.peer_length) else None
            if peer is not None:
                runs["peer"] = peer
            with autocast(arguments):
                times = turns(runs, arguments.seconds)
            row = {
                "name": name,
                "length": length,
                "batch": len(x_BTD),
                "tokens_per_second": x_BTD[..., 0].numel() / statistics.median(times["ours"]),
                "against_attention": _ratio(times["attention"], times["ours"]),
                "against_peer": _ratio(times["peer"], times["ours"]) if peer is not None else None,
                "peak_memory_bytes": peak_memory(name, length, arguments) if arguments.memory else None,
                "repeats": len(times["ours"]),
            }
            rows.append(row)
            print(_line(row), flush=True)
    return rows


def _line(row: dict[str, Any]) -> str:
    peer = "" if row["against_peer"] is None else f"  {row['against_peer']:.2f}x transformers"
    memory = "" if row["peak_memory_bytes"] is None else f"  {units.size(row['peak_memory_bytes'])}"
    speed = f"{row['tokens_per_second']:>10,.0f} tokens/s  {row['against_attention']:.2f}x attention"
    return f"{row['length']:>6}  {row['name']:<44} {speed}{peer}{memory}"


def peak_memory(name: str, length: int, arguments: argparse.Namespace) -> int | None:
    """Bytes that one forward and backward adds at its peak, measured in a fresh process; None where that fails."""
    command = [sys.executable, __file__, "--memory-of", name, "--lengths", str(length)]
    for key in ("tokens", "dim", "heads", "dtype", "device"):
        command += [f"--{key}", str(getattr(arguments, key))]
    # big blocks straight from the system and back to it, so that the process's size is what is in use
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return int(done.stdout) if done.returncode == 0 else None


def memory_of(arguments: argparse.Namespace) -> int:
    """What the child process prints: peak minus what was there before."""
    run = ours(arguments.memory_of, arguments, inputs(arguments, arguments.lengths[0]))
    with autocast(arguments):
        warm_up = inputs(arguments, 64)[:1].detach().requires_grad_()
        ours(arguments.memory_of, arguments, warm_up)()
        if arguments.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run()
            return torch.cuda.max_memory_allocated() - before
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _status("VmRSS")
        run()
        return _status("VmHWM") - before


def _status(key: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(key + ":")).split()[1]) * 1024


def crossovers(rows: list[dict[str, Any]]) -> dict[str, int | None]:
    """The shortest measured length from which on a mixer is faster than attention; None = at none."""
    found: dict[str, int | None] = {}
    for name in dict.fromkeys(row["name"] for row in rows if row["name"] != BASELINE):
        faster = {row["length"]: row["against_attention"] > 1 for row in rows if row["name"] == name}
        lengths = sorted(faster)
        good = [a for i, a in enumerate(lengths) if all(faster[b] for b in lengths[i:])]
        found[name] = good[0] if good else None
    return found


def show(rows: list[dict[str, Any]], arguments: argparse.Namespace, console: Console) -> None:
    threads = torch.get_num_threads()
    table = Table(title=f"forward + backward, {arguments.dtype}, width {arguments.dim}, {threads} threads")
    for heading in ("mixer", "length", "tokens/s", "x attention", "x transformers", "peak memory"):
        table.add_column(heading, justify="left" if heading == "mixer" else "right")
    for name in dict.fromkeys(row["name"] for row in rows):
        for row in (row for row in rows if row["name"] == name):
            peer, memory = row["against_peer"], row["peak_memory_bytes"]
            table.add_row(
                name,
                str(row["length"]),
                f"{row['tokens_per_second']:,.0f}",
                f"{row['against_attention']:.2f}",
                "" if peer is None else f"{peer:.2f}",
                "" if memory is None else units.size(memory),
            )
    console.print(table)
    for name, length in crossovers(rows).items():
        found = "at none of these lengths" if length is None else f"from {length} tokens on"
        console.print(f"{name} is faster than attention {found}", highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixers", default="all", help="comma-separated, with settings if wanted; all = every file")
    parser.add_argument(
        "--lengths", type=options.wholes, default=[512, 2048, 8192], help="tokens in a row, comma-separated"
    )
    parser.add_argument("--tokens", type=options.whole, default=8192, help="tokens in a batch; longer rows are fewer")
    parser.add_argument("--dim", type=int, default=256, help="model width")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16", help="autocast; fp32 = none")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each of the runs that take turns")
    parser.add_argument("--peer-length", type=int, default=8192, help="the longest row that peers are run at")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True, help="measure peak memory too")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, default=OUT, help="where to write the numbers")
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(memory_of(arguments))
        return
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="transformers")
    known = [*mixers.names(), *(name for name in PEERS if name not in mixers.names())]
    names = known if arguments.mixers == "all" else arguments.mixers.split(",")
    console = Console()
    rows = measure(names, arguments)
    show(rows, arguments, console)
    setting = {key: getattr(arguments, key) for key in ("dtype", "dim", "heads", "tokens", "device")}
    machine = {"torch": torch.__version__, "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    write_json(arguments.json, {**machine, **setting, "rows": rows, "crossovers": crossovers(rows)})


if __name__ == "__main__":
    sys.exit(exit_code("mixers.py", main))
