"""How much sooner Wren's recipe reaches a loss than what people train: characters of Shakespeare on a CPU.

    python bench/efficiency.py --text tinyshakespeare.txt [--seconds 15,60,119,300] [--seed 0] [--json FILE]

The first 90 % of the text are trained on, the rest is the validation split, as in nanoGPT's shakespeare_char. The
`gpt2` recipe with the settings of nanoGPT's CPU example (4 layers, 4 heads, width 128, context 64, batch 12, 2,000
steps, no dropout, fp32) stands in for it; published: 1.88. Then `wren` is trained anew for each number of seconds, its
schedule laid out for them. Losses are over the whole validation split in windows of each model's context, all places
counted, read once at the end. The seconds are those of all training steps; measuring how many steps fit into them
beforehand is not counted, as it is not part of a training of given length.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from wren import config as configs
from wren.batch import Batch
from wren.errors import DataError
from wren.exits import exit_code
from wren.files import write_json
from wren.interrupt import Interrupted
from wren.loss import cross_entropy
from wren.precision import choose_precision
from wren.recipes import RunConfig, gpt2, wren
from wren.resume import Progress
from wren.run import Run
from wren.train import measure_step_seconds, train

NANOGPT = {"depth": 4, "dim": 128, "num_heads": 4, "context_len": 64, "batch_size": 12, "steps": 2000, "lr": 1e-3}
PUBLISHED = 1.88  # nanoGPT's README; 1.8857 measured
OUT = Path(__file__).parent / "out" / "efficiency.json"
CPU = torch.device("cpu")
_LEAST = 20_000  # characters: the smallest split is still some windows long


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
            raise DataError(
                f"{path} does not exist; nanoGPT's data/shakespeare_char/prepare.py says where tinyshakespeare is."
            ) from error
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
def val_loss(model: Any, ids: torch.Tensor, context_len: int, precision: Any) -> float:
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


def trained(config: RunConfig, text: Text, dtype: Any, seconds: float | None, say: Any) -> dict[str, Any]:
    """A training of the config's steps, or of about as many as fit into the seconds."""
    precision = choose_precision(CPU, dtype)
    torch.manual_seed(config.seed)
    model = config.model.build()
    optimizer = config.optimizer.build(model)
    batches = Characters(text.train, config.train.context_len, config.train.batch_size, config.seed)
    if seconds is not None:
        step = measure_step_seconds(model, optimizer, batches, cross_entropy, config.train, precision, steps=20)
        config = replace(config, train=replace(config.train, steps=max(1, int(seconds / step))))
    shown = time.monotonic()

    def watch(progress: Progress, row: dict[str, Any]) -> None:
        nonlocal shown
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            say(f"  {config.recipe}: step {progress.step} of {config.train.steps}, loss {row['loss']:.3f}")

    with tempfile.TemporaryDirectory() as folder, _nothing_kept():
        run = Run(Path(folder) / "run")
        run.create(configs.to_json(config))
        options: dict[str, Any] = {"watch": watch, "say": say}
        train_config = replace(config.train, eval_every=0, save_every=0)
        progress = train(
            model, optimizer, batches, cross_entropy, run, train_config, config.schedule, precision, **options
        )
    return {
        "recipe": config.recipe,
        "dtype": dtype,
        "params": model.num_params(),
        "steps": progress.step,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "loss": val_loss(model, text.val, config.train.context_len, precision),
    }


@contextlib.contextmanager
def _nothing_kept() -> Iterator[None]:
    """train() says that the same command goes on; here the folder is gone by then, and it begins anew."""
    try:
        yield
    except Interrupted as stop:
        raise KeyboardInterrupt from stop


def nanogpt(vocab_size: int, seed: int) -> RunConfig:
    config = gpt2.recipe(vocab_size=vocab_size, **NANOGPT)  # type: ignore[arg-type]
    optimizer = replace(config.optimizer, betas=(0.9, 0.99))
    return replace(config, optimizer=optimizer, schedule=replace(config.schedule, warmup_steps=100), seed=seed)


def ours(vocab_size: int, seed: int) -> RunConfig:
    config = wren.recipe(
        vocab_size=vocab_size, depth=4, dim=128, context_len=256, batch_size=6, bigrams=4096, trigrams=32_768
    )
    return replace(config, seed=seed)


def _seconds(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [0.0]
    if not all(0 < value < 86_400 for value in values):
        raise argparse.ArgumentTypeError(f"{text}: write for example 15,60, each above 0 and below a day")
    return values


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--seconds", type=_seconds, default="15,60,119,300")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-baseline", action="store_true", help="do not train gpt2")
    parser.add_argument("--tune", action="store_true", help="validate on the last 5 %% of the training split instead")
    parser.add_argument("--json", type=Path, default=OUT)
    args = parser.parse_args()
    console = Console()
    text = Text.read(args.text, tune=args.tune)
    rows = []
    if not args.no_baseline:
        rows.append(trained(nanogpt(text.vocab_size, args.seed), text, "fp32", None, console.print))
    for seconds in args.seconds:
        rows.append(trained(ours(text.vocab_size, args.seed), text, "bf16", seconds, console.print))
    table = Table("recipe", "format", "parameters", "steps", "characters", "seconds", "nats a character")
    for row in rows:
        table.add_row(
            row["recipe"], row["dtype"], f"{row['params']:,}", f"{row['steps']:,}", f"{row['tokens']:,}",
            f"{row['seconds']:.1f}", f"{row['loss']:.4f}",
        )  # fmt: skip
    console.print(table)
    write_json(args.json, {"rows": rows, "tune": args.tune, "seed": args.seed, "threads": torch.get_num_threads()})
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("efficiency.py", main))
