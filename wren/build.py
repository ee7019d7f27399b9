"""Everything that training needs, built from a config and a data folder."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from wren.data.loader import TokenLoader, TokenStream
from wren.data.shards import Manifest, open_shards
from wren.distributed.ranks import ALONE, Ranks
from wren.errors import ConfigError, DataError, TokenizerError
from wren.model import LM
from wren.optim.optimizer import Optimizer
from wren.optim.weights import narrow_weights
from wren.precision import Precision, choose_device, choose_precision
from wren.recipes import RunConfig
from wren.tokenizer import Tokenizer


@dataclass(frozen=True)
class Parts:
    """What a run is made of once it is built."""

    config: RunConfig
    model: LM
    optimizer: Optimizer
    loader: TokenLoader
    val: TokenStream
    tokenizer: Tokenizer
    precision: Precision
    ranks: Ranks = ALONE


def build(config: RunConfig, data: Path, manifest: Manifest, device: str, ranks: Ranks = ALONE) -> Parts:
    """Model, optimizer and loader, all from config.seed."""
    ranks.check(config.train.batch_size, compile=config.train.compile)
    precision = choose_precision(choose_device(device), config.train.dtype)
    config.train.check(config.optimizer, precision, ranks.size)
    tokenizer = Tokenizer.load(data / "tokenizer.json")
    if tokenizer.fingerprint() != manifest.tokenizer:
        raise TokenizerError(f"{data / 'tokenizer.json'} is not the tokenizer of the shards beside it; restore it.")
    length = config.train.context_len
    train_stream = TokenStream(open_shards(data, "train", check=True), manifest.document_id, length)
    val_stream = TokenStream(open_shards(data, "val", check=True), manifest.document_id, length)
    rows = {"rank": ranks.rank, "num_ranks": ranks.size}
    loader = TokenLoader(train_stream, batch_size=config.train.batch_size, seed=config.seed, **rows)
    if val_stream.num_windows == 0:
        raise DataError(f"The validation split of {data} is empty; prepare the data with --val FILE or more text.")
    torch.manual_seed(config.seed)
    model = config.model.build()
    if config.optimizer.weight_dtype == "bf16":
        narrow_weights(model)
    ranks.place(model, precision)
    optimizer = config.optimizer.build(model)
    ranks.attach(optimizer)
    ranks.seed(config.seed)
    return Parts(config, model, optimizer, loader, val_stream, tokenizer, precision, ranks)


def check_vocab(config: RunConfig, manifest: Manifest, data: Path) -> None:
    if config.model.vocab_size < manifest.vocab_size:
        raise ConfigError(
            f"The model's vocabulary of {config.model.vocab_size:,} is smaller than the {manifest.vocab_size:,} of the "
            f"shards in {data}; set model.vocab_size={manifest.vocab_size} or prepare the data anew."
        )


def content_hash(manifest: Manifest) -> str:
    """What identifies the tokens of a data folder, wherever it lies."""
    digest = hashlib.sha256(manifest.tokenizer.encode())
    for name, split in sorted(manifest.splits.items()):
        digest.update("".join([name, *(shard.sha256 for shard in split.shards)]).encode())
    return digest.hexdigest()
