"""A made-up comparison whose truth is known, for what reads comparisons: B below A by a gap, C like A."""

import itertools
import math

import numpy as np

from wren.lab.schema import (
    Arm,
    Cell,
    Comparison,
    Detail,
    Measured,
    Part,
    Point,
    ProbeScore,
    Rule,
    TrainedRun,
)

SHAPES = {"small": 1e6, "medium": 3e6, "large": 9e6, "huge": 27e6}
STEPS = 400


def comparison(
    *,
    gaps: dict[str, float] | None = None,
    seeds: int = 5,
    sizes: tuple[str, ...] = ("small",),
    contexts: tuple[int, ...] = (512,),
    noise: float = 0.002,
    speed: dict[str, float] | None = None,
    blocks: int = 40,
    vocab: dict[str, int] | None = None,
    edge: tuple[str, ...] = (),
) -> Comparison:
    """gaps: arm -> its true distance from the baseline, the first arm, in bits per byte. speed: tokens/s relative."""
    gaps = {"A": 0.0, "B": -0.03, "C": 0.0} if gaps is None else gaps
    rng = np.random.default_rng(1)
    shared = {(s, c, seed): 0.01 * rng.normal() for s in sizes for c in contexts for seed in range(seeds)}
    text = rng.normal(0, 0.1, size=blocks)  # how hard each stretch of the split is, for all arms
    vocab = vocab or {}
    cells = []
    for size in sizes:
        for context in contexts:
            for name, gap in gaps.items():
                rate = (speed or {}).get(name, 1.0)
                finals = []
                for seed in range(seeds):
                    level = 0.9 + 30 * SHAPES[size] ** -0.3 + shared[size, context, seed] + gap + noise * rng.normal()
                    finals.append(_final(name, size, context, seed, level, rate, text, rng))
                cells.append(_cell(name, size, context, rate, finals, edge=name in edge))
    return Comparison(
        arms=tuple(
            Arm(name=name, recipe="tiny", settings=(f"model.mixer={name}",), vocab_size=vocab.get(name, 4096))
            for name in gaps
        ),
        baseline=next(iter(gaps)),
        budget="5m",
        tune_share=0.25,
        seeds=tuple(range(seeds)),
        source="stories",
        validation="the last 1 MB of stories",
        device="cpu",
        precision="fp32",
        machine="2 CPU cores, 24 GB",
        started="2026-07-01 12:00",
        command="wren compare tiny tiny --budget 5m --seeds 5 --source stories",
        cells=tuple(cells),
        rules=(
            Rule(rule="equal wall-clock on the same device", kept=True, did="5m of training steps each"),
            Rule(rule="at least 4 learning rates x 2 weight decays", kept=False, did="3 learning rates"),
        ),
        probes=tuple(
            ProbeScore(
                arm=name,
                probe=probe,
                accuracy=0.5 + 0.4 * (i % 2),
                chance=0.1,
                state_bytes=65_536,
                dtype="fp32",
                levels={"any value of the row": 0.25} if probe == "mqar" else {},
            )
            for i, name in enumerate(gaps)
            for probe in ("mqar", "copy")
        ),
    )


def _cell(name: str, size: str, context: int, rate: float, finals: list[TrainedRun], *, edge: bool) -> Cell:
    lrs, decays = (3e-4, 1e-3, 3e-3, 1e-2), (0.0, 0.1)
    best = finals[0].tuned or 2.0
    tuning = tuple(
        _run("tune", 0, lr, decay, best + 0.1 * math.log(lr / 3e-3) ** 2 + decay / 10 if lr < 1e-2 else None)
        for lr in lrs
        for decay in decays
    )
    state = {"2048": 2_097_152, "32768": 33_554_432} if name == "A" else {"2048": 131_072, "32768": 131_072}
    measured = Measured(
        params=int(SHAPES[size]),
        table_params=262_144,
        core_params=int(SHAPES[size]) - 524_288,
        flops_per_token=2 * SHAPES[size],
        state_bytes=state,
        tokens_per_second=16_000.0 * rate,
        step_seconds=0.75 / rate,
        peak_memory_bytes=10**9,
        decode_tokens_per_second=210.0,
        load=1.5,
    )
    return Cell(
        arm=name, size=size, context_len=context, measured=measured, lr=3e-3, weight_decay=0.0, edge=edge,
        tuning=tuning, final=tuple(finals),
    )  # fmt: skip


def _final(
    name: str, size: str, context: int, seed: int, level: float, rate: float, text: np.ndarray, rng: np.random.Generator
) -> TrainedRun:
    tokens, flops = 4096, 6 * SHAPES[size] * 4096
    second = SHAPES[size] / 4e6 / rate
    curve = tuple(
        Point(step=s, tokens=s * tokens, seconds=s * second, flops=s * flops,
              bits_per_byte=level + 2.0 / math.sqrt(1 + s) - 2.0 / math.sqrt(1 + STEPS))
        for s in range(0, STEPS + 1, 20)
    )  # fmt: skip
    late = 0.004 if name == "B" else 0.0  # B loses late in the context, and on repeats
    ends = [0, 16, *(2**i for i in range(5, 1 + int(math.log2(context))))]
    buckets = enumerate(itertools.pairwise(ends))
    places = [_part(f"{a}-{b - 1}", level + 0.5 - 0.1 * i + late * i) for i, (a, b) in buckets]
    repeats = (
        _part("repeat-2", level - 0.4 + 5 * late),
        _part("repeat-3", level - 0.6 + 10 * late),
        _part("new", level + 0.3),
    )
    wobble = 0.004 * rng.normal(size=len(text))
    levels = level + text + (wobble - wobble.mean() if len(text) else 0)
    stretches = [_part(str(i), each) for i, each in enumerate(levels)]
    detail = Detail(whole=_part("whole", level), places_in_row=tuple(places), repeats=repeats, blocks=tuple(stretches))
    run = _run("final", seed, 3e-3, 0.0, level)
    return TrainedRun(
        **{**vars(run), "seconds": STEPS * second, "flops": STEPS * flops, "curve": curve, "detail": detail}
    )


def _run(phase: str, seed: int, lr: float, decay: float, tuned: float | None) -> TrainedRun:
    return TrainedRun(
        folder=f"runs/{phase}-{lr}-{decay}-{seed}", phase=phase, seed=seed, lr=lr, weight_decay=decay, steps=STEPS,
        tokens=STEPS * 4096, seconds=300.0, flops=1e13, tuned=tuned,
    )  # fmt: skip


def _part(name: str, bits_per_byte: float) -> Part:
    """A part of 30,000 bytes and 10,000 tokens."""
    return Part(name=name, nats=bits_per_byte * math.log(2) * 30_000, tokens=10_000, bytes=30_000)
