"""The lab's verbs: argument types and calls. Nothing heavy is imported before a verb runs."""

from pathlib import Path
from typing import Literal

from wren.errors import ConfigError
from wren.flags import Device, Json, check_json, listed, write

MIXERS = (
    "attention,linear_attention:decay=fixed,delta_net,gated_delta_net,gated_delta_net:negative_eigenvalues,"
    "reflections=delta_product:decay=false:gate=false:conv_size=none"
)
PROBES = "mqar,copy,parity,s3,selective_copying"


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
        mixers: Mixers, with settings and a name if wanted (two=delta_product:num_steps=2), or patterns over depth
            (short_conv+attention).
        probes: Synthetic tasks; --probes list prints them all.
        size: cpu (minutes on two cores) or paper (the papers' own settings); some probes have more.
        seeds: Trainings at the best learning rate; from two on none of them is the one that chose it.
        lrs: Learning rates instead of the probe's own, such as 1e-3,3e-3.
        dims: Widths instead of the probe's own, such as 32,64,128: accuracy against state bytes.
        steps: Optimizer steps instead of the probe's own.
        halving: Only the better half of the learning rates trains on; --no-halving trains all of them to the end.
        out: Folder of trainings, table and pictures; the same command again goes on there.
        fresh: Train the named cells anew.
        dtype: Number format of matrix products; auto is fp32 on a CPU and chosen by the device elsewhere.
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
    _check_free(out)
    cells = probe_sweep.plan(listed(mixers, "mixers"), listed(probes, "probes"), size, out, widths, steps)
    if dry_run:
        print(probe_sweep.describe(cells, seeds))
        return 0
    from rich.console import Console

    from wren.lab import probe_report
    from wren.lab.probe_display import ProbeDisplay
    from wren.precision import choose_device, choose_precision

    where = choose_device(device)
    # narrow models gain nothing from a CPU's bf16, and attention loses (docs/LOG.md)
    precision = choose_precision(where, "fp32" if (dtype, where.type) == ("auto", "cpu") else dtype)
    with ProbeDisplay() as display:
        results = probe_sweep.sweep(
            cells, seeds=seeds, precision=precision, display=display, lrs=rates, halving=halving, fresh=fresh
        )
    summary = probe_report.write(results, out)
    Console().print(probe_report.table(results))
    print(f"Size {size}, {precision.name} on {precision.device}. Table and pictures: {out}")
    return write(json_, summary)


def compare(
    recipes: str = "small,llama:dim=256:depth=2:num_heads=8:context_len=256:batch_size=8",
    budget: str = "5m",
    source: tuple[str, ...] = (),
    data: Path | None = None,
    val: tuple[str, ...] = (),
    seeds: int = 3,
    lrs: str = "4",
    weight_decays: str = "2",
    sizes: str | None = None,
    contexts: str | None = None,
    vocab_size: str | None = None,
    baseline: str | None = None,
    tune_share: float = 1.0,
    probes: str | None = None,
    out: Path = Path("runs/compare"),
    keep_checkpoints: bool = False,
    text_key: str = "text",
    fresh: bool = False,
    device: Device = "auto",
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    dry_run: bool = False,
    json_: Json = None,
) -> int:
    """Compare architectures fairly: equal budgets, equal tuning, paired seeds, intervals; resumable anywhere.

    Args:
        recipes: Arms, each with a name and settings if wanted: plain=small:depth=4:optimizer.kind=adamw.
        budget: What each training may use: a time (5m), 1e15flops or 50Mtokens.
        source: Files, folders or globs of text; every vocabulary size gets its own shards of them.
        data: A folder made by `wren data` instead of --source.
        val: Files of the validation split; by default a part is chosen by the content of each document.
        seeds: Final trainings of every arm: 3 to see, 5 to claim.
        lrs: Learning rates to tune over: how many around the recipe's own, or a list such as 1e-3,2e-3.
        weight_decays: Weight decays to tune over: how many (the recipe's own and tenths of it), or a list.
        sizes: Settings of every size, such as "dim=64;dim=128,depth=4"; by default the recipes' own.
        contexts: Context lengths, such as 256,1024; by default the recipes' own.
        vocab_size: Entries of the tokenizer of arms that do not set vocab_size; by default 2048, or that of --data.
        baseline: The arm that the others are compared with; by default the first.
        tune_share: Share of the budget that a tuning run gets.
        probes: Synthetic tasks that the arms are tested on as well; `wren probe --probes list` prints them.
        out: Folder of data, trainings and report; the same command again goes on there.
        keep_checkpoints: Keep the weights of every training, not of each arm's best alone.
        text_key: The JSON key or parquet column that holds the text.
        fresh: Begin anew: remove what an earlier comparison left in --out.
        dtype: Number format of matrix products; auto chooses by the device.
        dry_run: Only say what would be trained.
    """
    from wren.lab import arms as reading
    from wren.lab import compare as engine
    from wren.lab import compare_data, compare_plan, compare_probes, compare_report
    from wren.lab.compare_display import CompareDisplay
    from wren.precision import choose_device, choose_precision

    check_json(json_)
    _check_free(out)
    compare_data.check_source(source, data, val, text_key)
    size = _vocab_size(vocab_size, data)
    arms = reading.read_arms(recipes, size)
    names = tuple(listed(probes, "probes")) if probes is not None else ()
    allowed = compare_plan.read_budget(budget)
    tokens = round(allowed.amount) if allowed.kind == "tokens" else None
    plans = compare_plan.plan_cells(
        arms, reading.read_sizes(sizes), reading.read_contexts(contexts), out, dtype, tokens
    )
    settings = engine.Settings(
        arms=arms,
        cells=tuple(plans),
        budget=allowed,
        grid=compare_plan.read_grid(lrs, weight_decays),
        seeds=seeds,
        baseline=baseline if baseline is not None else arms[0].name,
        source=str(data) if data is not None else ", ".join(source),
        tune_share=tune_share,
        probes=names,
        keep_checkpoints=keep_checkpoints,
    )
    precision = choose_precision(choose_device(device), dtype)
    compare_probes.plan_probes(arms, names, out)  # whatever is unknown is said before any work
    print(engine.describe(settings, precision))
    if dry_run:
        return 0
    if fresh:
        engine.clear(out)
    texts = compare_data.prepare_all(
        [arm.vocab_size for arm in arms], out, source=source, val=val, data=data, text_key=text_key, fresh=fresh,
        say=print,
    )  # fmt: skip
    with CompareDisplay() as display:
        comparison = engine.compare(settings, texts, out, precision=precision, display=display)
    summary = compare_report.write(comparison, out)
    print(compare_report.told(comparison, out))
    return write(json_, summary)


def _vocab_size(text: str | None, data: Path | None) -> int:
    """Of arms that do not set their own."""
    from wren import units
    from wren.data.shards import Manifest

    if text is not None:
        return units.count(text, "vocabulary size")
    return 2048 if data is None else Manifest.load(data).vocab_size


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
        example = "32,64,128" if kind is int else "1e-3,3e-3"
        raise ConfigError(f"'{text}' is not a {what}; write for example {example}.") from error
    if not 0 < value < float("inf"):
        raise ConfigError(f"A {what} of {text} makes no sense; it must be above 0.")
    return value


def _check_free(out: Path) -> None:
    """Raises ConfigError for the folder of a training run or of prepared data: a report would be written over."""
    for name, kind in (("config.json", "a training run"), ("manifest.json", "prepared data")):
        if (out / name).exists():
            raise ConfigError(f"{out} holds {kind} ({name}); choose another --out.")
