"""What the tests of conversations share: models of every kind with a vocabulary for turns, and a screen to look at."""

import dataclasses
import io
from collections.abc import Callable, Iterable, Iterator

import model_cases
import torch
from tune_parts import FP32, chat

from wren.chat.conversation import Conversation
from wren.chat.terminal import Screen
from wren.generate import Engine
from wren.model import LM, ModelConfig

CONTEXT = 70  # the learned positions of some of these models
MODELS = {name: dataclasses.replace(config, vocab_size=300) for name, config in model_cases.CONFIGS.items()}


def model(config: ModelConfig, seed: int = 0) -> LM:
    """In float64, where what is read at once and what is read in parts gives the same draws."""
    torch.manual_seed(seed)
    built = config.build().double().eval()
    with torch.no_grad():
        for parameter in built.parameters():  # zero-initialised outputs would make every state alike
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return built


def conversation(built: LM, **options) -> Conversation:
    engine = Engine(built, FP32, vocab_size=300)
    return Conversation(engine, chat(), **{"context_len": CONTEXT, **options})


def screen(*, talks: bool = False, out: io.StringIO | None = None) -> Screen:
    return Screen(out or io.StringIO(), io.StringIO(), talks)


def script(lines: Iterable[str | type[BaseException]]) -> Callable[[str], str | None]:
    """Lines one after another, errors among them, then the end."""
    left: Iterator[str | type[BaseException]] = iter(lines)

    def following(prompt: str) -> str | None:
        line = next(left, None)
        if isinstance(line, type):
            raise line
        return line

    return following
