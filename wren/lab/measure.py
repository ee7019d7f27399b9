"""Speed and memory of one training, measured in a process of its own, so that nothing else weighs on it.

python -m wren.lab.measure < request.json prints one JSON line; `measured(...)` starts it and reads the answer.
A training step's peak is, on a GPU, the most that was reserved; on Linux, weights, gradients and optimizer state as
they are counted, and what a step raises the resident memory's high-water mark by; elsewhere unknown (null).
"""

import ctypes
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from wren import config as configs
from wren.data.loader import TokenLoader
from wren.errors import ConfigError, DataError
from wren.generate import Sampling, generate
from wren.lab.compare_data import Text
from wren.lab.schema import Measured
from wren.loss import cross_entropy
from wren.model import LM
from wren.optim.optimizer import Optimizer
from wren.precision import Precision, choose_device, choose_precision
from wren.recipes import RunConfig
from wren.resume import Progress, TrainState
from wren.step import Step, compiled
from wren.train import measure_step_seconds

STATE_LENGTHS = (2048, 32768)
PREFILL, DECODED = 64, 64  # tokens
FIRST_STEPS = 3  # of a training: what is compiled is compiled by then
_SPEED = (
    "step_seconds", "compile_seconds", "tokens_per_second", "peak_memory_bytes", "decode_tokens_per_second", "load",
)  # fmt: skip


def shape(config: RunConfig) -> Measured:
    """What is known of a model without running it."""
    with torch.random.fork_rng():
        model = config.model.build()
    return Measured(
        params=model.num_params(),
        table_params=model.table_params(),
        core_params=model.num_params(embeddings=False),
        flops_per_token=model.flops_per_token(config.train.context_len),
        state_bytes={str(length): model.state_bytes(length) for length in STATE_LENGTHS},
    )


def training_flops_per_token(config: RunConfig) -> float:
    """Of a training step: three times a forward pass, with the heads that only training uses."""
    with torch.random.fork_rng():
        model = config.model.build()
    return 3 * model.flops_per_token(config.train.context_len, training=True)


def measured(config: RunConfig, folder: Path, device: str) -> Measured:
    """Shape, speed and memory; raises ConfigError with the reason when the other process could not measure."""
    request = {
        "config": configs.to_json(config),
        "data": str(folder),
        "device": device,
        "threads": torch.get_num_threads(),
    }
    answer = subprocess.run(
        [sys.executable, "-m", "wren.lab.measure"], input=json.dumps(request), capture_output=True, text=True
    )
    if answer.returncode:
        lines = answer.stderr.strip().splitlines() or [f"it ended with code {answer.returncode}, perhaps for memory"]
        raise ConfigError(f"Recipe {config.recipe} could not be measured: {lines[-1].removeprefix('wren.measure: ')}")
    values = json.loads(answer.stdout.strip().splitlines()[-1])
    return dataclasses.replace(shape(config), **{name: values[name] for name in _SPEED})


def main() -> int:
    from wren.exits import exit_code

    return exit_code("wren.measure", _answer)


def _answer() -> int:
    try:
        request = json.loads(sys.stdin.read())
        threads, device, folder = int(request["threads"]), str(request["device"]), Path(request["data"])
        config = configs.from_json(RunConfig, request["config"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"The request is not what `measured` sends ({error!r}).") from error
    torch.set_num_threads(threads)
    print(json.dumps(measure(config, Text.open(folder), device)))
    return 0


def measure(config: RunConfig, text: Text, device: str) -> dict[str, Any]:
    """The numbers of this process; the first training on its device should be this one."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    precision = choose_precision(choose_device(device), config.train.dtype)
    torch.manual_seed(config.seed)
    model = config.model.build().to(precision.device)
    optimizer = config.optimizer.build(model)
    length = config.train.context_len
    loader = TokenLoader(text.train(length), batch_size=config.train.batch_size, seed=config.seed)
    peak = peak_memory(model, optimizer, loader, config, precision)
    seconds = measure_step_seconds(model, optimizer, loader, cross_entropy, config.train, precision)
    return {
        "step_seconds": seconds,
        "compile_seconds": compilation(model, optimizer, loader, config, precision, seconds),
        "tokens_per_second": config.train.batch_size * length / seconds,
        "peak_memory_bytes": peak,
        "decode_tokens_per_second": decode_speed(model, precision),
        "load": load,
    }


def peak_memory(
    model: LM, optimizer: Optimizer, loader: TokenLoader, config: RunConfig, precision: Precision
) -> int | None:
    """Bytes that a training step holds at most, libraries not counted; None where the system does not say."""
    step = _step(model, optimizer, loader, config, precision)
    step(1e-6)  # makes the optimizer's state, and what is only made once
    if precision.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(precision.device)
        step(1e-6)
        return torch.cuda.max_memory_reserved(precision.device)
    if precision.device.type != "cpu" or not _reset_high_water():
        return None
    before = _resident("VmRSS")
    step(1e-6)
    highest = _resident("VmHWM")
    if before is None or highest is None:
        return None
    kept = [*model.parameters(), *(p.grad for p in model.parameters() if p.grad is not None)]
    kept += optimizer.tensors().values()
    return max(0, highest - before) + sum(x.numel() * x.element_size() for x in kept)


def _step(model: LM, optimizer: Optimizer, loader: TokenLoader, config: RunConfig, precision: Precision) -> Step:
    """A training step as the trainings take it."""
    scaler = torch.amp.GradScaler(precision.device.type, enabled=precision.scaler)
    progress = Progress(micro_batch_size=config.train.micro_batch_size or config.train.batch_size)
    state = TrainState(model, optimizer, loader, scaler, precision.device, progress)
    loss = compiled(cross_entropy) if config.train.compile else cross_entropy
    return Step(state, loss, precision, config.train.grad_clip, lambda message: None)


def compilation(
    model: LM,
    optimizer: Optimizer,
    loader: TokenLoader,
    config: RunConfig,
    precision: Precision,
    step_seconds: float,
) -> float:
    """Seconds that the first steps of a training take beyond their own, for compilation; 0 where nothing is compiled.

    Every training compiles anew, as this does; like them it finds in torch's cache on disk what was compiled before.
    """
    if not config.train.compile:
        return 0.0
    torch.compiler.reset()
    step = _step(model, optimizer, loader, config, precision)
    for _ in range(FIRST_STEPS):
        step(1e-6)
    return max(0.0, step.state.progress.seconds - FIRST_STEPS * step_seconds)


def _reset_high_water() -> bool:
    """Sets the high-water mark of the resident memory to what is resident now; False where that cannot be done.

    What the C library keeps of freed memory is given back first: it would hide what a step takes.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # another C library than glibc
        return False
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident(key: str) -> int | None:
    """A line of /proc/self/status in bytes; None where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{key}:")]
    return int(found[0]) * 1024 if found else None


def decode_speed(model: LM, precision: Precision) -> float | None:
    """Tokens a second of one row after a prefill; None where the model has no room for both."""
    rows = model.config.learned_positions
    prefill = PREFILL if rows is None else min(PREFILL, rows // 2)
    count = DECODED if rows is None else min(DECODED, rows - prefill - 1)
    if prefill < 1 or count < 1:
        return None
    sampling = Sampling(max_tokens=count + 1, temperature=0.0)
    seconds = 0.0
    for _ in range(2):  # the first time warms up
        tokens = generate(model, [[0] * prefill], sampling, precision)
        next(tokens)
        start = time.perf_counter()
        for _ in tokens:
            pass
        seconds = time.perf_counter() - start
    return count / seconds


if __name__ == "__main__":
    sys.exit(main())
