"""Small runs to export, as training would have left them, and what exported folders are loaded by."""

import importlib.util
import logging
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from wren import checkpoint
from wren import config as configs
from wren.mixers import attention
from wren.mlps import swiglu
from wren.model import LM, ModelConfig
from wren.optim.optimizer import OptimizerConfig
from wren.optim.schedule import ScheduleConfig
from wren.recipes import RunConfig, build
from wren.run import Run
from wren.tokenizer import Tokenizer
from wren.train import TrainConfig

TEXT = "hello world, the wren sings 123 times and then it's gone; naïve Über-birds don't sing. 4567 songs!\n\n"
TOKENIZER = Tokenizer.train([TEXT] * 3, 320)
VOCAB = 328  # padded: eight rows stand for no token
CONTEXT = 64
NASTY = [
    "",
    " ",
    "hello world",
    "  two  spaces \t\ttabs \n\n\n lines \r\n",
    "1 12 123 1234567890 ½ ٣٤ Ⅻ",
    "don't DON'T they'll I'VE 'tis",
    "naïve nai\u0308ve Zürich हिन्दी 日本語テキスト עברית",
    "😀👩‍👩‍👧‍👦🏳️‍🌈 emoji",
    "\x00\x01\x7f\u0085\u00a0\u2028\ufeff\ufffd",
    "a" * 300 + " " * 200 + "!" * 50,
    "def f(x):\n    return x**2  # comment\n",
    "<|wren:document|> spelled <|wren:end|><|endoftext|>",
]


def lasting_settings(model: ModelConfig, recipe: str = "mine") -> RunConfig:
    return RunConfig(
        recipe=recipe,
        model=model,
        optimizer=OptimizerConfig(kind="adamw", lr=1e-3),
        schedule=ScheduleConfig(kind="wsd"),
        train=TrainConfig(steps=7, batch_size=2, context_len=CONTEXT),
    )


def of_recipe(name: str, *settings: str) -> RunConfig:
    return build(name, vocab_size=VOCAB, settings=settings)


def small(*mixers: Any, **options: Any) -> RunConfig:
    """A model of two layers of these mixers, in Llama's style unless told otherwise."""
    fields = {"norm_eps": 1e-6, "mlp": swiglu.Config(hidden=48), "tie_embeddings": False, **options}
    chosen = mixers or (attention.Config(num_heads=4),)
    return lasting_settings(ModelConfig(vocab_size=VOCAB, dim=32, depth=2, mixers=chosen, **fields))


def make_run(path: Path, config: RunConfig, tokenizer: Tokenizer = TOKENIZER, seed: int = 0) -> LM:
    """A run directory of a model whose every weight is far from its even start; gives the model."""
    torch.manual_seed(seed)
    model = config.model.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    run = Run(path)
    run.create(configs.to_json(config))
    tokenizer.save(run.tokenizer_path)
    checkpoint.save(run.checkpoints_path, 7, checkpoint.weights(model), {}, {})
    return model.eval()


def tokens(rows: int = 3, length: int = 40, seed: int = 1) -> Tensor:
    return torch.randint(300, (rows, length), generator=torch.Generator().manual_seed(seed))


def load_theirs(folder: Path) -> Any:
    """The exported model by transformers; its own modelling file is loaded from the folder, not through a cache."""
    import transformers

    logging.getLogger("transformers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of their library, about itself
        if (folder / "modeling_wren.py").exists():
            module = modelling_module(folder)
            return module.WrenForCausalLM.from_pretrained(folder, dtype="auto").eval()
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


def modelling_module(folder: Path) -> ModuleType:
    name = f"exported_{folder.name}_{abs(hash(folder))}"
    spec = importlib.util.spec_from_file_location(name, folder / "modeling_wren.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def greedy(model: LM, row_BT: Tensor, count: int) -> Tensor:
    """The row and its likeliest continuation, without a cache."""
    for _ in range(count):
        row_BT = torch.cat((row_BT, model(row_BT)[:, -1:].argmax(-1)), dim=1)
    return row_BT
