"""`wren import`: a pretrained model, from a folder or from the hub, as a run directory that every verb takes."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wren import checkpoint
from wren import config as configs
from wren.errors import CheckpointError, ConfigError, NetworkError, TokenizerError
from wren.export.folder import check_new, new_folder
from wren.export.hf import TEMPLATE_FILE
from wren.export.reading import Read, chat_template_of, read_folder, token_of
from wren.files import write_json, write_text
from wren.model import ModelConfig
from wren.optim.optimizer import OptimizerConfig
from wren.optim.schedule import ScheduleConfig
from wren.recipes import RunConfig
from wren.run import environment
from wren.tokenizer import Tokenizer, foreign, hf
from wren.train import TrainConfig

MAX_CONTEXT = 2048
# never pickles (*.bin, *.pt), and of code nothing
FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "chat_template.jinja"]
Download = Callable[[str, str | None], Path]


def import_model(
    source: str,
    run: Path,
    *,
    context_len: int | None = None,
    turns: bool = True,
    revision: str | None = None,
    say: Callable[[str], None] = lambda text: None,
    download: Download | None = None,
) -> dict[str, Any]:
    """Writes the run directory; returns {"run", "family", "parameters", "vocab_size", "context_len", "step"}.

    context_len: of rows for evaluation and tuning, None = the model's, at most 2,048. turns: tokens for turns of a
    conversation join a vocabulary that has none; their rows begin as the mean of all. download: gets (name, revision)
    of a model on the hub and gives a folder. Raises ConfigError, CheckpointError, TokenizerError, NetworkError,
    DiskError; nothing half-written stays.
    """
    check_new(run)
    folder = _folder(source, revision, download or snapshot)
    read = read_folder(folder)
    tokenizer = _tokenizer(folder, turns=turns)
    model, tensors = _with_rows(read, tokenizer, say)
    length = _length(read, context_len)
    config = _run_config(read, model, length)
    with torch.device("meta"):  # for names and shapes: no second copy of the weights
        built = model.build()
    checkpoint.load_weights(built, tensors, folder)
    with new_folder(run) as temporary:
        write_json(temporary / "env.json", {**environment(), "imported": source, "revision": revision})
        tokenizer.save(temporary / "tokenizer.json")
        template = chat_template_of(folder)
        if template is not None:
            write_text(temporary / TEMPLATE_FILE, template)
        checkpoint.save(temporary / "checkpoints", 0, tensors, {}, {"imported": source})
        write_json(temporary / "config.json", configs.to_json(config))
    return {
        "run": str(run),
        "family": read.family,
        "parameters": built.num_params(),
        "vocab_size": tokenizer.vocab_size,
        "context_len": length,
        "step": 0,
    }


def _folder(source: str, revision: str | None, download: Download) -> Path:
    if Path(source).is_dir():
        return Path(source)
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise ConfigError(f"{source} is no folder, and no name on the hub such as Qwen/Qwen3-0.6B; check it.")
    return download(source, revision)


def snapshot(name: str, revision: str | None, *, endpoint: str | None = None, cache: Path | None = None) -> Path:
    """A model on the hub, in huggingface_hub's cache, where what is there already is not fetched again.

    endpoint, cache: None = huggingface_hub's own. Raises NetworkError or ConfigError.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import httpx

    mend = "copy its folder here by hand and name that, or try again later"
    try:
        found = snapshot_download(name, revision=revision, allow_patterns=FILES, endpoint=endpoint, cache_dir=cache)
        return Path(found)
    except GatedRepoError as error:
        raise ConfigError(
            f"{name} is gated: accept its terms on its page and log in (hf auth login), or {mend}."
        ) from error
    except RevisionNotFoundError as error:
        raise ConfigError(f"{name} has no revision '{revision}'; check --revision.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ConfigError(f"There is no model {name} on the hub, or it is private; check the name.") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, httpx.HTTPError) as error:
        short = " ".join(str(error).split())[:160]
        raise NetworkError(f"{name} could not be downloaded ({short}); {mend}.") from error


def _tokenizer(folder: Path, *, turns: bool) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise TokenizerError(f"{folder} has no tokenizer.json; save the model's fast tokenizer there.")
    value = hf.content(path)
    own = None
    with contextlib.suppress(TokenizerError):
        own = Tokenizer.load(path)
    if own is not None and (not turns or own.special.keys() >= {"assistant", "end"}):
        return own  # one that Wren wrote before
    text = foreign.adopt(value, path, first=token_of(folder, "bos_token") or token_of(folder, "eos_token"), turns=turns)
    return Tokenizer.adopted(foreign.Vocabulary(text, path))


def _with_rows(read: Read, tokenizer: Tokenizer, say: Callable[[str], None]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The model with a row for every token: rows that are missing join as the mean of all, so that they stay quiet."""
    missing = tokenizer.vocab_size - read.model.vocab_size
    if missing <= 0:
        return read.model, read.tensors
    if missing > len(tokenizer.special) or read.family == "wren":
        raise CheckpointError(
            f"The tokenizer has {tokenizer.vocab_size:,} tokens and the model rows for {read.model.vocab_size:,}; "
            "use the tokenizer that came with it."
        )
    tensors = dict(read.tensors)
    for name in ("embedding.weight", "head.weight"):
        if name in tensors:
            mean = tensors[name].mean(0, keepdim=True)
            tensors[name] = torch.cat((tensors[name], mean.expand(missing, -1)))
    say(f"{missing} rows join the vocabulary for the turns of a conversation (--no-turns leaves them out).")
    return replace(read.model, vocab_size=tokenizer.vocab_size), tensors


def _length(read: Read, wanted: int | None) -> int:
    if wanted is None:
        return min(read.context_len, MAX_CONTEXT)
    limit = read.model.learned_positions
    if wanted < 2 or (limit is not None and wanted > limit):
        raise ConfigError(f"--context-len is {wanted}; it must be at least 2 and fit the model's positions.")
    return wanted


def _run_config(read: Read, model: ModelConfig, length: int) -> RunConfig:
    """Training settings are those of a gentle start; `wren tune` brings its own."""
    return RunConfig(
        recipe=read.family,
        model=model,
        optimizer=OptimizerConfig(kind="adamw", lr=1e-5),
        schedule=ScheduleConfig(kind="cosine", warmup_steps=10, final=0.1),
        train=TrainConfig(steps=1, batch_size=8, context_len=length),
    )
