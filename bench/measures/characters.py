"""Characters of Shakespeare: the `gpt2` recipe as nanoGPT's CPU example sets it, and `wren` for several budgets.

The first 90 % of the text are trained on, the rest is the validation split, as in nanoGPT's shakespeare_char. The
`gpt2` recipe with the settings of nanoGPT's CPU example (4 layers, 4 heads, width 128, context 64, batch 12, 2,000
steps, no dropout, fp32) stands in for it. Then `wren` is trained anew for each number of seconds, its schedule laid out
for them; where that is several passes over the text, with dropout, longer rows and no trigrams. Losses are over the
whole validation split in windows of each model's context, all places counted, read once at the end.

B batch, T time.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from measures.paces import Paces
from measures.training import NO_PACES, Say, trained
from wren import recipes, units
from wren.batch import Batch
from wren.errors import ConfigError, DataError
from wren.lab.statistics import Interval, interval
from wren.loss import cross_entropy
from wren.model import LM
from wren.precision import Precision, choose_precision
from wren.recipes import RunConfig, gpt2

NANOGPT = {"depth": 4, "dim": 128, "num_heads": 4, "context_len": 64, "batch_size": 12, "steps": 2000, "lr": 1e-3}
OURS = ("depth=4", "dim=128", "context_len=256", "batch_size=6", "bigrams=4096", "trigrams=32768")
LONG = ("trigrams=0", "model.dropout=0.1", "context_len=512", "batch_size=3")  # chosen on the end of the training split
LONG_SECONDS = 200.0  # of two cores; about three passes, from where OURS overfits
LANDS = 1.886, 0.03  # where nanoGPT's example ends (1.88 in its README), and how near the stand-in must come
WHERE = "nanoGPT's data/shakespeare_char/prepare.py says where tinyshakespeare is"
CPU = torch.device("cpu")
_LEAST = 20_000  # characters: the smallest split is still some windows long


@dataclass(frozen=True)
class Target:
    """A loss that somebody's training ends at. seconds: that it took on two cores, None = measured here, or unknown."""

    loss: float
    whose: str
    seconds: float | None = None


# 119 s: both were run once on one machine of two cores; nanochat is not part of this bench
TARGETS = (
    Target(1.886, "nanoGPT's CPU example"),
    Target(1.551, "nanochat's model and optimizer, fp32, 119 s on 2 cores (recorded, not run here)", 119.0),
    Target(1.47, "nanoGPT's 10.65M parameters, minutes of an A100"),
)


@dataclass
class Characters:
    """Windows of a text at random places: the batches of train()."""

    ids: torch.Tensor
    context_len: int
    batch_size: int
    seed: int
    row: int = 0

    def next_batch(self) -> Batch:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.row)
        start_B = torch.randint(len(self.ids) - self.context_len, (self.batch_size,), generator=generator)
        self.row += 1
        tokens_BT = self.ids[start_B[:, None] + torch.arange(self.context_len + 1)]
        return Batch(tokens_BT[:, :-1].contiguous(), tokens_BT[:, 1:].contiguous())

    def state(self) -> dict[str, Any]:
        return {"row": self.row}

    def load_state(self, state: dict[str, Any]) -> None:
        self.row = state["row"]


@dataclass(frozen=True)
class Text:
    vocab_size: int
    train: torch.Tensor
    val: torch.Tensor

    @classmethod
    def read(cls, path: Path, *, tune: bool) -> "Text":
        """tune: the last 5 % of the training split stand for the validation split, which is not looked at."""
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise DataError(f"{path} does not exist; {WHERE}.") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text ({error.reason}); give another --text.") from error
        if len(text) < _LEAST:
            raise DataError(f"{path} has {len(text):,} characters; at least {_LEAST:,} are needed.")
        place = {character: i for i, character in enumerate(sorted(set(text)))}
        ids = torch.tensor([place[character] for character in text])
        cut = int(0.9 * len(ids))
        inner = int(0.95 * cut)
        return cls(len(place), ids[:inner], ids[inner:cut]) if tune else cls(len(place), ids[:cut], ids[cut:])


@torch.no_grad()
def val_loss(model: LM, ids: torch.Tensor, context_len: int, precision: Precision) -> float:
    """Nats a character over windows laid end to end; the last, shorter one too."""
    model.eval()
    total = 0.0
    for start in range(0, len(ids) - 1, 32 * context_len):
        piece = ids[start : start + 32 * context_len + 1]
        whole = (len(piece) - 1) // context_len * context_len
        rows = [(piece[:whole].view(-1, context_len), piece[1 : whole + 1].view(-1, context_len))] if whole else []
        if whole < len(piece) - 1:
            rows.append((piece[None, whole:-1], piece[None, whole + 1 :]))
        for tokens_BT, targets_BT in rows:
            with precision.context():
                total += float(cross_entropy(model, Batch(tokens_BT, targets_BT)))
    return total / (len(ids) - 1)


def nanogpt(vocab_size: int, seed: int, **changes: int) -> RunConfig:
    """changes: of NANOGPT, for a trial."""
    config = gpt2.recipe(vocab_size=vocab_size, **{**NANOGPT, **changes})  # type: ignore[arg-type]
    return replace(
        config,
        optimizer=replace(config.optimizer, betas=(0.9, 0.99)),
        schedule=replace(config.schedule, warmup_steps=100),
        train=replace(config.train, dtype="fp32"),
        seed=seed,
    )


def ours(vocab_size: int, seed: int, seconds: float, settings: Sequence[str] = ()) -> RunConfig:
    """For a training of so many seconds; settings come last."""
    chosen = [*OURS, *(LONG if seconds >= LONG_SECONDS else ()), *settings, f"seed={seed}"]
    return recipes.build("wren", vocab_size=vocab_size, settings=chosen)


def measure(
    text: Text,
    *,
    seeds: Sequence[int],
    seconds: Sequence[float],
    settings: Sequence[str],
    baseline: dict[str, int] | None,
    say: Say,
    keep: Callable[[dict[str, Any]], None] = lambda result: None,
    paces: Paces = NO_PACES,
    done: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Every training with every seed, and what they say of TARGETS. settings: of wren. baseline: changes to NANOGPT,
    None = it is not trained. keep: gets what there is after each training. done: rows of before, not done again."""
    rows = list(done)
    known = {(row["name"], row["budget"], row["seed"]): row for row in done}
    for seed in seeds:
        runs: list[tuple[str, float | None, RunConfig]] = []
        if baseline is not None:
            runs.append(("gpt2", None, nanogpt(text.vocab_size, seed, **baseline)))
        runs += [("wren", each, ours(text.vocab_size, seed, each, settings)) for each in seconds]
        for name, budget, config in runs:
            if (row := known.get((name, budget, seed))) is not None:
                _check_same(row, config)
                continue
            rows.append({"name": name, **_one(config, text, budget, say, paces)})
            keep(_result(rows))
    return _result(rows)


def _check_same(row: dict[str, Any], config: RunConfig) -> None:
    """Raises ConfigError for a training of before whose batches were others than they are now."""
    before, now = ((each["batch_size"], each["context_len"]) for each in (row, asdict(config.train)))
    if before != now:
        raise ConfigError(
            f"--done holds {row['name']} (budget {row['budget']}) with {before[0]} rows of {before[1]} characters, "
            f"and now they are {now[0]} of {now[1]}; leave that file out."
        )


def _result(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    groups = grouped(rows)
    return {"rows": list(rows), "groups": groups, "targets": targets(groups)}


def _one(config: RunConfig, text: Text, seconds: float | None, say: Say, paces: Paces) -> dict[str, Any]:
    batches = Characters(text.train, config.train.context_len, config.train.batch_size, config.seed)
    model, row = trained(config, batches, CPU, say, seconds=seconds, paces=paces)
    precision = choose_precision(CPU, config.train.dtype)
    return {**row, "loss": val_loss(model, text.val, config.train.context_len, precision)}


def grouped(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The seeds of one recipe and budget together: loss and seconds as intervals."""
    found = []
    for key in dict.fromkeys((row["name"], row["budget"]) for row in rows):
        same = [row for row in rows if (row["name"], row["budget"]) == key]
        shared = {name: same[0][name] for name in ("name", "budget", "dtype", "params", "table_params")}
        intervals = {name: asdict(interval([row[name] for row in same])) for name in ("loss", "seconds")}
        tokens = {name: sum(row[name] for row in same) / len(same) for name in ("steps", "tokens")}
        found.append({**shared, **tokens, **intervals})
    return found


def targets(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For every target the shortest training of wren whose mean loss reaches it, and the ratio of the times.

    No curve is read in between: each budget is a training of its own, so a ratio is at least what is given.
    """
    baseline = next((group for group in groups if group["name"] == "gpt2"), None)
    found = []
    for number, target in enumerate(TARGETS):
        theirs = target.seconds
        if number == 0 and baseline is not None:
            theirs = baseline["seconds"]["mean"]
        reached = [g for g in groups if g["name"] == "wren" and g["loss"]["mean"] <= target.loss]
        best = min(reached, key=lambda g: g["seconds"]["mean"], default=None)
        found.append(
            {
                **asdict(target),
                "their_seconds": theirs,
                "budget": best and best["budget"],
                "seconds": best and best["seconds"]["mean"],
                "reached_loss": best and best["loss"]["mean"],
                "ratio": theirs / best["seconds"]["mean"] if best and theirs else None,
            }
        )
    return found


def _number(loss: dict[str, Any]) -> str:
    found = Interval(**loss)
    return f"{found.mean:.4f}" if found.half is None else found.text(4)


def show(result: dict[str, Any], console: Console) -> None:
    headings = ("recipe", "", "params", "tables", "steps", "read", "seconds", "nats a character")
    table = Table(*headings, title="Characters of Shakespeare", box=box.SIMPLE)
    for group in result["groups"]:
        table.add_row(
            group["name"], group["dtype"], units.short(group["params"]), units.short(group["table_params"]),
            f"{group['steps']:,.0f}", units.short(group["tokens"]), f"{group['seconds']['mean']:.1f}",
            _number(group["loss"]),
        )  # fmt: skip
    console.print(table)
    for row in result["targets"]:
        where = f"{row['loss']} ({row['whose']}): "
        if row["budget"] is None:
            console.print(f"{where}not reached by wren in these budgets", highlight=False)
            continue
        what = f"wren in {row['seconds']:.1f} s (budget {row['budget']:g} s, loss {row['reached_loss']:.4f})"
        if row["ratio"] is not None:
            what += f", {row['their_seconds']:.1f} s / {row['seconds']:.1f} s = {row['ratio']:.1f}x sooner"
        console.print(where + what, highlight=False)
    for group in result["groups"]:
        loss, near = LANDS
        if group["name"] == "gpt2":
            lands = "lands" if abs(group["loss"]["mean"] - loss) <= near else "does NOT land"
            console.print(f"the stand-in for nanoGPT {lands} on {loss} +- {near}", highlight=False)
