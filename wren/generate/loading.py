"""Opens a run: the newest good checkpoint, ready to be sampled."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from wren import checkpoint
from wren import config as configs
from wren.adapters.files import load_tuned
from wren.errors import CheckpointError
from wren.model import LM, ModelConfig
from wren.run import Run
from wren.tokenizer import Tokenizer


class Loaded(NamedTuple):
    """A model ready to be sampled, its tokenizer, and the step it was saved at."""

    model: LM
    tokenizer: Tokenizer
    step: int


def load_run(path: Path | str, device: torch.device, say: Callable[[str], None] = lambda text: None) -> Loaded:
    """The newest good checkpoint of a run directory; raises ConfigError or CheckpointError.

    say: is told of newer checkpoints that are damaged.
    """
    run = Run(path)
    raw = run.config()
    config = configs.from_json(ModelConfig, raw.get("model") if isinstance(raw, dict) else raw, "model")
    found, warnings = checkpoint.newest_good(run.checkpoints_path)
    if found is None:
        why = "every one is damaged" if warnings else "it was stopped before its first one"
        raise CheckpointError(f"{run.path} has no usable checkpoint: {why}. Train it with `wren train`.")
    for warning in warnings:
        say(f"Warning: {warning}")
    saved = checkpoint.load(found)
    tokenizer = Tokenizer.load(run.tokenizer_path)
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{run.tokenizer_path} has {tokenizer.vocab_size:,} entries and the model {config.vocab_size:,}; "
            "restore the tokenizer the run was trained with."
        )
    with torch.random.fork_rng():
        model = config.build()
    load_tuned(model, run.path, raw, saved.model, found)
    return Loaded(model.to(device).eval(), tokenizer, saved.step)
