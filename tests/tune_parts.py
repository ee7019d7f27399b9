"""What the tests of tuning share: a small tokenizer, conversations, examples, and a run to tune."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wren import checkpoint
from wren import config as configs
from wren.mixers import attention, gated_delta_net
from wren.mlps import relu2
from wren.model import ModelConfig
from wren.optim.optimizer import OptimizerConfig
from wren.optim.schedule import ScheduleConfig
from wren.precision import Precision
from wren.recipes import RunConfig
from wren.run import Run
from wren.tokenizer import Tokenizer
from wren.tokenizer.chat import Chat
from wren.train import TrainConfig
from wren.tune.examples import Examples
from wren.tune.settings import Asked

FP32 = Precision(device=torch.device("cpu"), autocast=None, why="tests")
CONTEXT = 48


@functools.cache
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["What is the colour of the sky? It is blue. The sun is red, the sea is green."] * 4, 300)


@functools.cache
def chat() -> Chat:
    return Chat(tokenizer())


def talk(number: int) -> dict[str, Any]:
    """A conversation of two turns that can be learned."""
    thing, colour = ("sky", "sun", "sea", "moon")[number % 4], ("blue", "red", "green", "grey")[number % 4]
    question, answer = f"{number}: What is the colour of the {thing}?", f"It is {colour}."
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def pair(number: int) -> dict[str, Any]:
    question = talk(number)["messages"][0]["content"]
    return {"prompt": question, "chosen": f"It is fine {number}.", "rejected": "No."}


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def examples(lengths: list[int], vocab_size: int, seed: int = 0, documents: int = 1) -> Examples:
    """Documents of random tokens, of which a random part is learned, the last one always."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(vocab_size, size=sum(lengths)).astype(np.uint32)
    starts = np.cumsum([0, *lengths])
    learned = rng.random(len(tokens)) < 0.5
    learned[starts[:-1]] = False
    learned[starts[1:] - 1] = True
    return Examples(tokens, learned, starts, documents)


def base_run(path: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A run directory as pretraining leaves it: a hybrid of two layers, untrained."""
    model = ModelConfig(
        vocab_size=tokenizer().vocab_size,
        dim=16,
        depth=2,
        mixers=(attention.Config(num_heads=2), gated_delta_net.Config(num_heads=2)),
        mlp=relu2.Config(hidden=24),
    )
    model = dataclasses.replace(model, **changes)
    train = TrainConfig(steps=3, batch_size=4, context_len=CONTEXT, dtype="fp32")
    config = RunConfig(
        recipe="tests", model=model, optimizer=OptimizerConfig(), schedule=ScheduleConfig(), train=train, seed=seed
    )
    run = Run(path)
    run.create(configs.to_json(config))
    tokenizer().save(run.tokenizer_path)
    torch.manual_seed(seed)
    checkpoint.save(run.checkpoints_path, 3, checkpoint.weights(model.build()), {}, {})
    return path


def asked(run: Path, data: Path, out: Path, **changes: Any) -> Asked:
    usual: dict[str, Any] = {"steps": 6, "batch_size": 3, "settings": ("train.save_every=2", "train.eval_every=3")}
    return Asked(run=run, data=(str(data),), out=out, **{**usual, **changes})
