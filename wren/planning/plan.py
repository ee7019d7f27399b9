"""A plan: whether a run fits a machine, with which settings, what that takes, and the largest model that would fit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from wren import gpus, units
from wren.memory.trace import Tracer
from wren.planning.cost import Cost, cost
from wren.planning.ladder import Fit, Ladder
from wren.planning.largest import Wish, largest
from wren.planning.machine import Machine
from wren.planning.needs import PARTS
from wren.recipes import RunConfig


@dataclass(frozen=True)
class Plan:
    """num_params: all, and without lookup tables and head. largest: parameters of blocks and head, and its fit."""

    config: RunConfig
    machine: Machine
    fit: Fit
    cost: Cost
    num_params: tuple[int, int]
    largest: tuple[int, Fit] | None
    looked: bool


def make(
    config: RunConfig,
    machine: Machine,
    *,
    locked: frozenset[str],
    tokens: int | None = None,
    wish: Wish | None = None,
    prices: tuple[float, float] = (0.3, 0.0),
    say: Callable[[str], None] = lambda text: None,
) -> Plan:
    """tokens: trained on, None = the recipe's. wish: what the largest size is looked for, None = nothing.

    Raises ConfigError for a model that cannot be planned.
    """
    tracer = Tracer()
    fit = Ladder(tracer, machine, locked, say).fit(config)
    tokens = tokens or config.train.steps * config.train.batch_size * config.train.context_len
    found = cost(fit.config, machine, fit.needs.away, tokens, *prices)
    best = largest(wish, tracer, machine, locked, say) if wish is not None else None
    return Plan(config, machine, fit, found, tracer.num_params(config.model), best, wish is not None)


def lines(plan: Plan) -> list[str]:
    """The plan as people read it."""
    config, machine, fit = plan.config, plan.machine, plan.fit
    every, own = (units.short(count) for count in plan.num_params)
    where = f"{machine.name[0].upper()}{machine.name[1:]}, {machine.precision.name} ({machine.precision.why})"
    return [
        f"{config.recipe}: {every} parameters ({own} without embeddings), rows of {config.train.context_len:,} tokens, "
        f"a vocabulary of {config.model.vocab_size:,}",
        where,
        "",
        *_verdict(plan),
        "",
        *_table("Settings", settings_rows(fit)),
        "",
        *_table("Peak memory of a step", [(name, units.size(size)) for name, size in parts_of(fit) if size]),
        "",
        *_cost_lines(plan.cost),
        *_largest_lines(plan),
        f"Assumed: {'; '.join((*machine.assumed, *plan.cost.assumed))}.",
    ]


def _verdict(plan: Plan) -> list[str]:
    fit, machine = plan.fit, plan.machine
    total, memory = units.size(fit.needs.total), units.size(machine.memory)
    if fit.fits:
        return [f"It fits: {total} of {memory}; the peak is in {fit.needs.when}."]
    mends = []
    if plan.largest is not None:
        mends.append(f"the largest size that fits here is --params {units.short(plan.largest[0])}")
    if machine.kind == "cuda" and (larger := gpus.holding(fit.needs.total)) is not None:
        mends.append(f"a {larger.name} ({units.size(larger.memory)}) would hold it")
    return [
        f"It does not fit: with every setting below a step of one row takes {total} of {memory}, most of it in "
        f"{fit.needs.when}{''.join(f'; {mend}' for mend in mends)}."
    ]


def settings_rows(fit: Fit) -> list[tuple[str, str]]:
    """Every setting that decides memory, and what those that the plan chose cost."""
    config = fit.config
    train, optimizer = config.train, config.optimizer
    costs = {key: rung.cost for rung in fit.rungs for key in rung.settings}
    rows = min(train.micro_batch_size or train.batch_size, train.batch_size)

    def row(name: str, key: str, value: Any) -> tuple[str, str]:
        chosen = key in fit.settings and key in costs
        return name, f"{value}{f'   {costs[key]}' if chosen else ''}"

    batch = f"of a batch of {train.batch_size:,}"
    return [
        ("micro-batch", f"{units.counted(rows, 'row')} of {train.context_len:,} tokens, {batch}"),
        row("activation checkpointing", "train.activation_checkpointing", train.activation_checkpointing),
        row("loss chunk", "train.loss_chunk", train.loss_chunk or "as suits the device"),
        row("moments", "optimizer.state_dtype", optimizer.state_dtype),
        row("weights", "optimizer.weight_dtype", optimizer.weight_dtype),
        row("update in backward pass", "optimizer.in_backward", _yes(optimizer.in_backward)),
        row("moments in main memory", "optimizer.offload", _yes(optimizer.offload)),
        row("tables in main memory", "model.tables.on_cpu", _yes(config.model.tables.on_cpu)),
    ]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def parts_of(fit: Fit) -> list[tuple[str, int]]:
    """Bytes by part: those at the peak, what the allocator adds, and what is taken before any tensor."""
    needs = fit.needs
    labels = {"tables": "lookup tables", "moments": "optimizer states", "working": "working memory"}
    gaps = (needs.reserved or needs.peak) - needs.peak
    return [
        *((labels.get(name, name), needs.parts.get(name, 0)) for name in PARTS),
        ("allocator's rounding and gaps", gaps),
        ("context (assumed)", needs.allowance),
        ("together", needs.total),
        ("in main memory besides", needs.away),
    ]


def _table(title: str, rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [title, *(f"  {name:<{width}}  {value}" for name, value in rows)]


def _cost_lines(found: Cost) -> list[str]:
    tokens = units.short(found.tokens)
    if found.tokens_per_second is None or found.seconds is None:
        return [f"Time for {tokens} tokens: {found.assumed[0]}."]
    return [
        f"About {units.short(found.tokens_per_second)} tokens/s: {tokens} tokens take {units.duration(found.seconds)}, "
        f"{found.kilowatt_hours:.3g} kWh, a price of {found.price:.2f}."
    ]


def _largest_lines(plan: Plan) -> list[str]:
    if not plan.looked:
        return []
    if plan.largest is None:
        return [f"No size of recipe {plan.config.recipe} fits, even with every means."]
    params, fit = plan.largest
    return [
        f"The largest {plan.config.recipe} that fits with every means and one row at a time: --params "
        f"{units.short(params)}, {units.size(fit.needs.total)}."
    ]


def as_json(plan: Plan) -> dict[str, Any]:
    """For a program to read."""
    fit, found = plan.fit, plan.cost
    return {
        "recipe": plan.config.recipe,
        "params": plan.num_params[0],
        "params_without_embeddings": plan.num_params[1],
        "machine": plan.machine.name,
        "memory_bytes": plan.machine.memory,
        "precision": plan.machine.precision.name,
        "fits": fit.fits,
        "peak_memory_bytes": fit.needs.total,
        "allocated_bytes": fit.needs.peak,
        "peak_in": fit.needs.when,
        "parts": dict(parts_of(fit)),
        "settings": fit.settings,
        "micro_batch_size": fit.config.train.micro_batch_size or fit.config.train.batch_size,
        "costs": [rung.cost for rung in fit.rungs],
        "tokens": found.tokens,
        "tokens_per_second": found.tokens_per_second,
        "seconds": found.seconds,
        "kilowatt_hours": found.kilowatt_hours,
        "price": found.price,
        "assumed": [*plan.machine.assumed, *found.assumed],
        "largest_params": plan.largest[0] if plan.largest is not None else None,
    }
