"""Bits per byte of real text: each baseline trained for S seconds, then recipe wren for parts of S, all at one size.

Every training has its own schedule laid out for its own length, and its loss is read once, when it ends, on the first
tokens of the validation split. The last 5 % of the training split, on which `wren compare` tunes, are trained on by
none. "Time to the baseline's final loss" is the shortest of wren's trainings that reaches it; nothing is interpolated.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from measures.paces import Paces
from measures.training import NO_PACES, Say, build, pace, trained
from wren import dial, units
from wren.data.loader import TokenLoader
from wren.errors import ConfigError, DivergedError
from wren.evals.bits_per_byte import bits_per_byte
from wren.lab.arms import read_arms
from wren.lab.compare_data import Text
from wren.lab.statistics import Interval, interval, paired
from wren.precision import DTypeName, choose_precision
from wren.recipes import RunConfig

OURS = "wren"
FRACTIONS = (1 / 8, 1 / 4, 1 / 3, 1 / 2, 1 / 1.3, 1.0)
NOT_TUNED = "not tuned at this size: a first guess"
TUNED = "the best at 4 x 128 and 2M tokens (docs/LOG.md, 2026-11-23) of {}"


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """settings: as for `wren train --set`. lr, matrix_lr (of what Muon trains): at `width`, carried to others as its
    root; None = the recipe's own choice. batch_tokens: None = the recipe's own choice. tuned: where the learning rate
    comes from."""

    name: str
    recipe: str
    settings: tuple[str, ...] = ()
    lr: float | None = None
    matrix_lr: float | None = None
    width: int = 128
    batch_tokens: int | None = 4096
    tuned: str = NOT_TUNED

    def config(
        self, terms: "Terms", vocab_size: int, *, seed: int, tokens: int | None = None, own_size: Sequence[str] = ()
    ) -> RunConfig:
        """Raises ConfigError for settings that the recipe lacks."""
        settings = [f"context_len={terms.context_len}", f"train.dtype={terms.dtype}", f"seed={seed}", *own_size]
        for key, rate in (("lr", self.lr), ("optimizer.matrix_lr", self.matrix_lr)):
            if rate is not None:
                settings.append(f"{key}={rate * math.sqrt(self.width / terms.dim):.6g}")
        if self.batch_tokens is not None:
            settings.append(f"batch_size={max(1, self.batch_tokens // terms.context_len)}")
        settings += [f"train.compile={str(terms.compile).lower()}", *self.settings]
        if tokens is not None and dial.follows_horizon(self.recipe, settings):
            settings.append(f"tokens={tokens}")
        try:
            return build(self.recipe, vocab_size, terms.depth, terms.dim, settings)
        except ConfigError as error:
            raise ConfigError(f"Arm '{self.name}': {error}") from error


# At 4 x 128, context 256. A learning rate belongs here when it is the best of a grid of equal effort, judged on the
# held-back end of the training split (wren compare --sizes ... --lrs 4 --budget S); `tuned` then names the search. What
# says NOT_TUNED has not been searched. Either is printed below the losses.
CONTESTANTS = (
    Contestant(
        name="gpt2, AdamW",
        recipe="gpt2",
        lr=2e-3,
        settings=("schedule.warmup_steps=50",),
        tuned=TUNED.format("5e-4, 1e-3, 2e-3, 4e-3, 8e-3; 8 and 16 rows"),
    ),
    Contestant(
        name="llama, AdamW",
        recipe="llama",
        lr=3e-3,
        settings=("schedule.warmup_steps=50",),
        tuned=TUNED.format("2e-3, 3e-3, 4e-3, 8e-3; 8 and 16 rows"),
    ),
    Contestant(
        name="llama, Muon",
        recipe="llama",
        lr=2e-2,
        matrix_lr=5e-3,
        settings=(
            "optimizer.kind=muon",
            "optimizer.weight_decay=0",
            "schedule.kind=wsd",
            "schedule.decay=0.65",
            "schedule.final=0",
            "schedule.warmup_steps=20",
        ),
        tuned=TUNED.format("matrices 2.5e-3, 5e-3, 1e-2, the rest four times that; schedule of wren"),
    ),
    Contestant(name=OURS, recipe="wren", batch_tokens=None, tuned="the recipe's own choice"),
)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """seconds: S. fractions: of S, what wren is trained for. eval_tokens: of the validation split, None = all."""

    depth: int
    dim: int
    context_len: int
    seconds: float
    seeds: tuple[int, ...]
    fractions: tuple[float, ...] = FRACTIONS
    eval_tokens: int | None = 500_000
    dtype: DTypeName = "auto"
    compile: bool = False


def read_contestants(text: str, vocab_size: int) -> tuple[Contestant, ...]:
    """--arms as `wren compare --recipes` takes them; raises ConfigError, also where there is no arm 'wren'."""
    found = []
    for arm in read_arms(text, vocab_size):
        if arm.vocab_size != vocab_size:
            raise ConfigError(f"Arm '{arm.name}' sets vocab_size; all share one here: use --vocab-size.")
        own = dial.follows_horizon(arm.recipe, arm.settings)
        found.append(
            Contestant(
                name=arm.name, recipe=arm.recipe, settings=arm.settings, batch_tokens=None if own else 4096,
                tuned="given with --arms",
            )
        )  # fmt: skip
    check(found)
    return tuple(found)


def check(contestants: Sequence[Contestant]) -> None:
    names = [each.name for each in contestants]
    if OURS not in names or len(names) < 2:
        raise ConfigError(f"The arms are {', '.join(names)}; one must be named {OURS}, and there must be another.")


def race(
    contestants: Sequence[Contestant],
    text: Text,
    terms: Terms,
    device: torch.device,
    *,
    say: Say,
    keep: Callable[[dict[str, Any]], None] = lambda result: None,
    begin: Callable[[float, str], None] = lambda seconds, what: None,
    paces: Paces = NO_PACES,
    done: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Every training, then the verdicts. keep: gets what there is after each one. begin: is asked before each one
    with its seconds and its name, and may raise. done: rows of before, which are not done again."""
    check(contestants)
    for each in contestants:  # what cannot be built is said before minutes are spent
        each.config(terms, text.manifest.vocab_size, seed=terms.seeds[0])
    mine = next(each for each in contestants if each.name == OURS)
    turns = [(each, 1.0) for each in contestants if each is not mine]
    turns += [(mine, fraction) for fraction in sorted(terms.fractions)]
    rows = list(done)
    known = {(row["name"], row["fraction"], row["seed"]) for row in done}
    for seed in terms.seeds:
        for contestant, fraction in turns:
            if (contestant.name, fraction, seed) in known:
                continue
            budget = terms.seconds * fraction
            begin(budget, f"{contestant.name} for {budget:.3g} s")
            say(f"{contestant.name}, {budget:.3g} s, seed {seed}")
            rows.append({"fraction": fraction, **_one(contestant, text, terms, device, budget, seed, say, paces)})
            keep(_result(rows, text, terms))
    return _result(rows, text, terms)


def _result(rows: Sequence[dict[str, Any]], text: Text, terms: Terms) -> dict[str, Any]:
    return {
        "terms": asdict(terms),
        "validation": text.manifest.splits["val"].name,
        "rows": list(rows),
        "groups": grouped(rows),
        "verdicts": verdicts(rows),
    }


def _one(
    contestant: Contestant,
    text: Text,
    terms: Terms,
    device: torch.device,
    seconds: float,
    seed: int,
    say: Say,
    paces: Paces,
) -> dict[str, Any]:
    tokens = None
    vocab_size = text.manifest.vocab_size
    config = contestant.config(terms, vocab_size, seed=seed)
    if config.horizon is not None:  # batch and learning rate follow from how many tokens fit
        tokens = _tokens_in(seconds, config, text, device, paces)
        config = contestant.config(terms, vocab_size, seed=seed, tokens=tokens)
    loader = _loader(config, text)
    shared = {"name": contestant.name, "tuned": contestant.tuned, "settings": list(contestant.settings)}
    try:
        model, row = trained(config, loader, device, say, seconds=seconds, paces=paces)
    except DivergedError as error:
        say(f"  {contestant.name} diverged: {error}")
        return {**shared, "seed": seed, "budget": seconds, "bits_per_byte": None, "lr": config.optimizer.lr}
    length, precision = terms.context_len, choose_precision(device, terms.dtype)
    batches = text.val(length).batches_in_order(max(1, 4096 // length), terms.eval_tokens)
    found = bits_per_byte(model, batches, text.tokenizer.token_bytes(), precision)["bits_per_byte"]
    say(f"  {contestant.name}: {found:.4f} bits per byte after {row['seconds']:.1f} s")
    return {**shared, **row, "epochs": loader.epoch, "bits_per_byte": found if math.isfinite(found) else None}


def _loader(config: RunConfig, text: Text) -> TokenLoader:
    stream = text.train(config.train.context_len)
    return TokenLoader(stream, batch_size=config.train.batch_size, seed=config.seed)


def _tokens_in(seconds: float, config: RunConfig, text: Text, device: torch.device, paces: Paces) -> int:
    precision = choose_precision(device, config.train.dtype)

    def measure() -> tuple[float, float]:
        torch.manual_seed(config.seed)
        model = config.model.build().to(device)
        return pace(model, config.optimizer.build(model), _loader(config, text), config, precision)

    step, compiling = paces.of(config, precision, measure)
    batch = config.train.batch_size * config.train.context_len
    return max(batch, round((seconds - compiling) / step * batch))


def grouped(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The seeds of one arm and length together; bits_per_byte is None where one of them diverged."""
    found = []
    for key in dict.fromkeys((row["name"], row["fraction"]) for row in rows):
        same = [row for row in rows if (row["name"], row["fraction"]) == key]
        losses = [row["bits_per_byte"] for row in same]
        whole = None not in losses
        names = ("params", "table_params", "lr", "tuned", "batch_size", "steps", "tokens", "dtype")
        found.append(
            {
                "name": key[0],
                "fraction": key[1],
                **{name: same[0].get(name) for name in names},
                "bits_per_byte": asdict(interval(losses)) if whole else None,
                "seconds": asdict(interval([row["seconds"] for row in same])) if whole else None,
            }
        )
    return found


def verdicts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For every baseline the shortest of wren's trainings that reaches its loss, over paired seeds.

    budget: where the mean difference is 0 or below; sure_budget: where its whole 95 % interval is below 0 (never with
    one seed). difference: after equal seconds, wren - baseline, None where that was not run. ratio: of the seconds
    really taken.
    """
    found = []
    for name in dict.fromkeys(row["name"] for row in rows if row["name"] != OURS):
        theirs = {row["seed"]: row for row in rows if row["name"] == name}
        verdict = dict.fromkeys(("budget", "seconds", "ratio", "sure_budget", "sure_ratio", "difference"))
        for fraction in sorted({row["fraction"] for row in rows if row["name"] == OURS}):
            mine = {row["seed"]: row for row in rows if row["name"] == OURS and row["fraction"] == fraction}
            difference = _difference(mine, theirs)
            if difference is None:
                continue
            took = sum(mine[seed]["seconds"] for seed in theirs) / len(theirs)
            ratio = sum(row["seconds"] for row in theirs.values()) / len(theirs) / took
            if difference.mean <= 0 and verdict["budget"] is None:
                verdict |= {"budget": mine[min(mine)]["budget"], "seconds": took, "ratio": ratio}
            if difference.high is not None and difference.high < 0 and verdict["sure_budget"] is None:
                verdict |= {"sure_budget": mine[min(mine)]["budget"], "sure_ratio": ratio}
            if fraction == 1.0:
                verdict["difference"] = asdict(difference)
        found.append({"baseline": name, **verdict})
    return found


def _difference(mine: dict[int, dict[str, Any]], theirs: dict[int, dict[str, Any]]) -> Interval | None:
    """wren - baseline in bits per byte; None where a training is missing or diverged."""
    pairs = [(mine.get(seed, {}).get("bits_per_byte"), row["bits_per_byte"]) for seed, row in theirs.items()]
    whole = [(a, b) for a, b in pairs if a is not None and b is not None]
    return paired(*zip(*whole, strict=True)) if whole and len(whole) == len(pairs) else None


def show(result: dict[str, Any], console: Console) -> None:
    terms = result["terms"]
    title = f"{terms['depth']} layers, width {terms['dim']}, context {terms['context_len']}, on {result['validation']}"
    headings = ("arm", "params", "tables", "lr", "steps", "tokens", "seconds", "bits/byte")
    table = Table(*headings, title=title, box=box.SIMPLE)
    for group in result["groups"]:
        if group["bits_per_byte"] is None:
            table.add_row(group["name"], *[""] * (len(headings) - 2), "diverged")
            continue
        found = Interval(**group["bits_per_byte"])
        table.add_row(
            group["name"], units.short(group["params"]), units.short(group["table_params"]), f"{group['lr']:.2g}",
            f"{group['steps']:,}", units.short(group["tokens"]),
            f"{group['seconds']['mean']:.1f}", f"{found.mean:.4f}" if found.half is None else found.text(4),
        )  # fmt: skip
    console.print(table)
    for name, tuned in {group["name"]: group["tuned"] for group in result["groups"]}.items():
        console.print(f"learning rate of {name}: {tuned}", highlight=False)
    for verdict in result["verdicts"]:
        console.print(_in_words(verdict, terms["seconds"]), highlight=False)


def _in_words(verdict: dict[str, Any], seconds: float) -> str:
    name = verdict["baseline"]
    if verdict["budget"] is None:
        text = f"{name}: wren did not reach its final loss within {seconds:g} s"
    else:
        text = f"{name}: wren reaches its final loss in {verdict['seconds']:.1f} s, {verdict['ratio']:.2f}x sooner"
    if verdict["sure_ratio"] is not None:
        text += f" (surely below it, 95 %: {verdict['sure_ratio']:.2f}x)"
    if verdict["difference"] is not None:
        text += f"; after equal seconds {Interval(**verdict['difference']).text(4)} bits per byte"
    return text
