"""The README's tables: the largest model that a card of each size trains by the plan, its settings and peak by part.

    python bench/plans.py [--cards 6GB,16GB,24GB,80GB] [--recipes llama,wren] [--vocab-size 32768] [--context-len 1024]

Nothing is trained: every row is a step traced on fake tensors (wren/memory/trace.py). The markdown can be pasted.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wren import units
from wren.exits import exit_code
from wren.files import write_json
from wren.flags import listed
from wren.memory.trace import Tracer
from wren.planning.cost import cost
from wren.planning.ladder import Fit
from wren.planning.largest import Wish, largest
from wren.planning.machine import machine
from wren.planning.plan import parts_of

OUT = Path(__file__).parent / "out" / "plans.json"
HEADINGS = ("card", "recipe", "blocks and head", "all parameters", "settings", "rows", "tokens/s (assumed)")
PARTS = ("weights", "lookup tables", "gradients", "optimizer states", "activations", "logits", "working memory")
OTHERS = ("allocator's rounding and gaps", "context (assumed)", "together", "in main memory besides")
SHORT = {"activation_checkpointing": "checkpointing", "state_dtype": "moments", "weight_dtype": "weights"}


def settings(fit: Fit) -> str:
    """What was chosen, in few words."""
    words = []
    for key, value in fit.settings.items():
        name = key.rpartition(".")[2]
        if name in ("steps", "batch_size", "micro_batch_size"):
            continue
        words.append(name.replace("_", " ") if value is True else f"{SHORT.get(name, name.replace('_', ' '))} {value}")
    return ", ".join(words) or "as the recipe"


def row(card: str, wish: Wish) -> dict[str, Any]:
    target = machine(card, "auto", "auto")
    tracer = Tracer()
    found = largest(wish, tracer, target, frozenset())
    if found is None:
        return {"card": card, "recipe": wish.recipe, "params": None}
    params, fit = found
    speed = cost(fit.config, target, fit.needs.away, 10**9).tokens_per_second
    train = fit.config.train
    return {
        "card": card,
        "recipe": wish.recipe,
        "params": params,
        "all_params": tracer.num_params(fit.config.model)[0],
        "settings": settings(fit),
        "rows": train.micro_batch_size or train.batch_size,
        "tokens_per_second": speed,
        "parts": dict(parts_of(fit)),
        "peak_in": fit.needs.when,
    }


def markdown(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(headings), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def tables(rows: list[dict[str, Any]]) -> str:
    found = [row for row in rows if row["params"]]
    first = (
        (
            row["card"],
            row["recipe"],
            units.short(row["params"]),
            units.short(row["all_params"]),
            row["settings"],
            str(row["rows"]),
            units.short(row["tokens_per_second"]) if row["tokens_per_second"] else "",
        )
        for row in found
    )
    names = (*PARTS, *OTHERS)
    second = (
        (f"{row['card']} {row['recipe']}", *(units.size(row["parts"].get(name, 0)) for name in names)) for row in found
    )
    return f"{markdown(HEADINGS, first)}\n\n{markdown(('peak by part', *names), second)}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cards", default="6GB,16GB,24GB,80GB")
    parser.add_argument("--recipes", default="llama,wren")
    parser.add_argument("--vocab-size", type=int, default=32_768)
    parser.add_argument("--context-len", type=int, default=1024)
    parser.add_argument("--json", type=Path, default=OUT, help="write the numbers to this file")
    options = parser.parse_args(arguments)
    if min(options.vocab_size, options.context_len) < 1:
        parser.error("--vocab-size and --context-len must be at least 1")
    rows = []
    for card in listed(options.cards, "cards"):
        for recipe in listed(options.recipes, "recipes"):
            rows.append(row(card, Wish(recipe, options.vocab_size, (f"context_len={options.context_len}",))))
            print(f"{card} {recipe}: {units.short(rows[-1]['params'] or 0)}", file=sys.stderr, flush=True)
            case = {"vocab_size": options.vocab_size, "context_len": options.context_len}
            write_json(options.json, case | {"rows": rows})  # after every row: the large ones take minutes
    print(tables(rows))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("plans.py", main))
