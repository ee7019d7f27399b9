"""The lab's verbs: argument types and calls. Nothing heavy is imported before a verb runs."""

from pathlib import Path
from typing import Literal

from wren.errors import ConfigError
from wren.flags import Device, Json, check_json, listed, write

MIXERS = "attention,gated_delta_net,gated_delta_net:negative_eigenvalues,delta_net,gla,linear_attention:decay=fixed"
PROBES = "mqar,copy,parity,s3,noisy_mqar"


def probe(
    mixers: str = MIXERS,
    probes: str = PROBES,
    size: str = "cpu",
    seeds: int = 1,
    lrs: str | None = None,
    dims: str | None = None,
    steps: int | None = None,
    halving: bool = True,
    out: Path = Path("runs/probes"),
    fresh: bool = False,
    device: Device = "auto",
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    dry_run: bool = False,
    json_: Json = None,
) -> int:
    """Test what mixers can and cannot compute: a table mixers x probes, resumable anywhere.

    Args:
        mixers: Mixers, each with settings if wanted (gla:num_heads=4), or patterns over depth (short_conv+attention).
        probes: Synthetic tasks; --probes list prints them all.
        size: cpu (minutes on two cores) or paper (the papers' own settings); some probes have more.
        seeds: Trainings at the best learning rate.
        lrs: Learning rates instead of the probe's own, such as 1e-3,3e-3.
        dims: Widths instead of the probe's own, such as 32,64,128: accuracy against state bytes.
        steps: Optimizer steps instead of the probe's own.
        halving: Only the better half of the learning rates trains on; --no-halving trains all of them to the end.
        out: Folder of trainings, table and pictures; the same command again goes on there.
        fresh: Train the named cells anew.
        dtype: Number format of matrix products; auto chooses by the device.
        dry_run: Only say what would be trained.
    """
    from wren.lab import probe_sweep

    if probes.strip() == "list":
        return _list_probes()
    check_json(json_)
    if seeds < 1:
        raise ConfigError(f"--seeds is {seeds}; it must be at least 1.")
    widths = [int(_number(int, text, "width")) for text in listed(dims, "widths")] if dims is not None else []
    rates = [_number(float, text, "learning rate") for text in listed(lrs, "learning rates")] if lrs is not None else []
    cells = probe_sweep.plan(listed(mixers, "mixers"), listed(probes, "probes"), size, out, widths, steps)
    if dry_run:
        print(probe_sweep.describe(cells, seeds))
        return 0
    from rich.console import Console

    from wren.lab import probe_report
    from wren.lab.probe_display import ProbeDisplay
    from wren.precision import choose_device, choose_precision

    precision = choose_precision(choose_device(device), dtype)
    with ProbeDisplay() as display:
        results = probe_sweep.sweep(
            cells, seeds=seeds, precision=precision, display=display, lrs=rates, halving=halving, fresh=fresh
        )
    summary = probe_report.write(results, out)
    Console().print(probe_report.table(results))
    print(f"Size {size}, {precision.name} on {precision.device}. Table and pictures: {out}")
    return write(json_, summary)


def _list_probes() -> int:
    from wren import probes

    for name in probes.names():
        module = probes.get(name)
        print(f"{name:18} {(module.__doc__ or '').splitlines()[0]}  [{', '.join(module.SIZES)}]")
    return 0


def _number(kind: type, text: str, what: str) -> float:
    try:
        value = kind(text)
    except ValueError as error:
        raise ConfigError(f"'{text}' is not a {what}.") from error
    if not 0 < value < float("inf"):
        raise ConfigError(f"A {what} of {text} makes no sense; it must be above 0.")
    return value
