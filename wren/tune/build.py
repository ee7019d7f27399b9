"""What a tuning is made of: the data, the model as it was before, the adapter on it, and how held-out turns score."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from wren import checkpoint
from wren import config as configs
from wren.adapters.adapter import Adapter, fingerprint
from wren.adapters.bits import to_four_bits
from wren.adapters.files import BASE, keep_base, load_base
from wren.adapters.rows import Adapters
from wren.batch import Batch
from wren.errors import ConfigError
from wren.evals.bits_per_byte import bits_per_byte
from wren.generate import load_run
from wren.memory.activations import checkpoint_activations
from wren.model import LM
from wren.optim.optimizer import Optimizer
from wren.optim.weights import narrow_weights
from wren.precision import Precision
from wren.pretrain import first_difference
from wren.run import Run
from wren.tokenizer import Tokenizer
from wren.tokenizer.chat import Chat
from wren.tune.examples import Examples, better_answers, encode, split
from wren.tune.formats import Conversation, read_conversations
from wren.tune.loader import ExampleLoader, batches_in_order
from wren.tune.preference import preference_accuracy, with_reference
from wren.tune.settings import Asked, TuneConfig, plan
from wren.tune.spin import own_answers

_SPIN_ANSWERS = "own_answers.json"


class OnBase(nn.Module):
    """What the loop trains in the place of an LM: an adapter's tensors are all that it sees, clips and saves."""

    def __init__(self, adapter: Adapter, base: LM):
        super().__init__()
        self.adapter = adapter
        self._base = (base,)  # not a child: its weights are frozen, and stay out of the checkpoints

    @property
    def base(self) -> LM:
        return self._base[0]

    def train(self, mode: bool = True) -> "OnBase":
        self.base.train(mode)
        return super().train(mode)


@dataclass(frozen=True)
class Data:
    """What is learned and what is held out, as conversations and as examples."""

    held: list[Conversation]
    train: Examples
    val: Examples
    val_name: str


@dataclass(frozen=True)
class Parts:
    """What a tuning is made of once it is built. trained: the model itself, or an adapter on it. num_params: the
    model's, without the adapter."""

    config: TuneConfig
    model: LM
    trained: LM | OnBase
    num_params: int
    optimizer: Optimizer
    chat: Chat
    precision: Precision
    data: Data


def prepared(asked: Asked, run: Run, say: Callable[[str], None]) -> tuple[TuneConfig, Chat, Data]:
    """What can be known, and wrong, without the model."""
    if not run.exists():
        run.check_free()
    Run(asked.run).config()  # a folder that is no run is told as such
    tokenizer = Tokenizer.load(Run(asked.run).tokenizer_path)
    chat = Chat(tokenizer)
    config = plan(asked, tokenizer)
    data = _data(config, chat, say)
    digest = hashlib.sha256(f"{data.train.fingerprint()} {data.val.fingerprint()}".encode()).hexdigest()
    return dataclasses.replace(config, data_hash=digest), chat, data


def _data(config: TuneConfig, chat: Chat, say: Callable[[str], None]) -> Data:
    pairs = config.objective == "dpo"
    found = read_conversations(config.data, preference=pairs, skip_bad=config.skip_bad)
    for line in found.summary():
        say(line)
    if config.val:
        held = read_conversations(config.val, preference=pairs, skip_bad=config.skip_bad).conversations
        learned, name = found.conversations, " ".join(config.val)
    else:
        learned, held = split(found.conversations)
        name = f"{len(held):,} conversations held out of {' '.join(config.data)}"
    encoded = []
    for part in (learned, held):
        examples, long = encode(part, chat, config.train.context_len, config.on_long)
        sentence = long.sentence(config.train.context_len)
        if sentence is not None:
            say(sentence)
        encoded.append(examples)
    share = encoded[0].num_learned() / len(encoded[0].tokens_N)
    say(
        f"{len(encoded[0]):,} {'pairs' if pairs else 'conversations'} of {len(encoded[0].tokens_N):,} tokens, of which "
        f"{share:.0%} are learned; {len(encoded[1]):,} more are held out."
    )
    return Data(held, encoded[0], encoded[1], name)


def loader(config: TuneConfig, examples: Examples, chat: Chat) -> ExampleLoader:
    return ExampleLoader(
        examples,
        context_len=config.train.context_len,
        batch_size=config.train.batch_size,
        seed=config.seed,
        pad_id=chat.tokenizer.pad_id,
        packed=config.packed,
    )


def with_steps(config: TuneConfig, data: Data, chat: Chat) -> TuneConfig:
    """The config with epochs turned into steps."""
    if config.epochs is None:
        return config
    steps = loader(config, data.train, chat).num_batches(config.epochs)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps))


def stored_config(run: Run, wanted: TuneConfig) -> TuneConfig | None:
    """The config of a tuning that was begun; raises ConfigError when it is not the wanted one."""
    if not run.exists():
        return None
    try:
        stored = configs.from_json(TuneConfig, run.config())
    except ConfigError as error:
        raise ConfigError(f"{run.path} holds another run, not a tuning ({error}); choose another --out.") from error
    asked, kept = configs.to_json(wanted), configs.to_json(stored)
    for key in ("base", "base_step", "base_fingerprint", "base_sha256", "data", "val"):
        asked[key] = kept[key]  # paths may have changed; the content is compared by hash
    if stored.epochs is not None and stored.epochs == wanted.epochs:
        asked["train"]["steps"] = stored.train.steps
    difference = first_difference(kept, asked)
    if difference is not None:
        key, old, new = difference
        what = "other data" if key == "data_hash" else f"{key} = {old}, and now it is {new}"
        raise ConfigError(
            f"{run.path} was begun with {what}; repeat the first command to resume, or choose another --out."
        )
    return stored


def model_before(config: TuneConfig, run: Run, tokenizer: Tokenizer, *, begun: bool) -> tuple[LM, TuneConfig]:
    """The model as it was before tuning, and the config with what identifies it."""
    torch.manual_seed(config.seed)
    if begun and (run.path / BASE).is_file():
        model = config.model.build()
        load_base(model, run.path, {"base_sha256": config.base_sha256})
        return model, config
    if begun and checkpoint.steps(run.checkpoints_path):
        return config.model.build(), config  # the loop restores all of its weights
    loaded = load_run(config.base, torch.device("cpu"))
    if loaded.tokenizer.fingerprint() != tokenizer.fingerprint():
        raise ConfigError(f"{config.base} changed while it was read; start again.")
    model = config.model.build()
    checkpoint.load_weights(model, checkpoint.weights(loaded.model), config.base)
    digest = fingerprint(model)
    if begun and digest != config.base_fingerprint:
        raise ConfigError(f"{config.base} was trained on since {run.path} was begun; choose another --out.")
    if not begun:
        run.check_free()
    sha256 = "" if _is_plain(config) else keep_base(model, _source(config), run.path)
    return model, dataclasses.replace(
        config, base_step=loaded.step, base_fingerprint=digest, base_sha256=sha256 or config.base_sha256
    )


def _is_plain(config: TuneConfig) -> bool:
    """Whether the model that tuning began with is not needed once there is a checkpoint."""
    return config.adapter is None and config.objective == "answers"


def _source(config: TuneConfig) -> Path | None:
    """The file of the base's weights, where it holds them as they are."""
    base = Run(config.base)
    raw = base.config()
    found, _ = checkpoint.newest_good(base.checkpoints_path)
    return found / "model.safetensors" if found is not None and not raw.get("adapter") else None


def build(
    config: TuneConfig,
    model: LM,
    chat: Chat,
    precision: Precision,
    data: Data,
    run: Run,
    say: Callable[[str], None],
) -> Parts:
    """Puts the model on its device, an adapter or four bits where they are asked for, and an optimizer beside it."""
    model.to(precision.device)
    num_params = model.num_params()  # before four bits hide some of them
    if config.optimizer.weight_dtype == "bf16":
        narrow_weights(model)
    if config.bits is not None:
        to_four_bits(model)
    data = _with_pairs(config, model, chat, precision, data, run, say)
    trained: LM | OnBase = model
    if config.adapter is not None:
        model.requires_grad_(False)
        adapter = Adapter(model, config.adapter, torch.Generator().manual_seed(config.seed))
        Adapters(model).add(adapter)
        checkpoint_activations(model, config.train.activation_checkpointing)
        trained = OnBase(adapter, model)
    torch.manual_seed(config.seed)
    return Parts(config, model, trained, num_params, config.optimizer.build(trained), chat, precision, data)


def _with_pairs(
    config: TuneConfig,
    model: LM,
    chat: Chat,
    precision: Precision,
    data: Data,
    run: Run,
    say: Callable[[str], None],
) -> Data:
    """Where answers are compared: the data with the model's own answers, and what the frozen start makes of both."""
    if config.objective == "answers":
        return data
    length, pad_id = config.train.context_len, chat.tokenizer.pad_id
    learned = data.train
    if config.objective == "spin":
        say("The model answers every conversation itself, to learn what sets its answers apart.")
        learned = own_answers(model, chat, learned, length, config.seed, precision, run.path / _SPIN_ANSWERS)
    say("Reading all pairs once with the frozen start.")
    learned = with_reference(model, learned, length, pad_id, precision)
    held = data.val if data.val.documents == 1 else with_reference(model, data.val, length, pad_id, precision)
    return dataclasses.replace(data, train=learned, val=held)


def _in_order(parts: Parts, examples: Examples, *, everything: bool) -> Iterator[Batch]:
    length = parts.config.train.context_len
    limit = None if everything else parts.config.train.eval_tokens
    sizes = {"context_len": length, "batch_size": max(1, 4096 // length)}
    return batches_in_order(examples, **sizes, pad_id=parts.chat.tokenizer.pad_id, max_tokens=limit)


def validate(parts: Parts, *, everything: bool = False) -> dict[str, float]:
    """bits_per_byte and loss of the held-out assistant turns; of pairs also their preference_accuracy."""
    val, precision = parts.data.val, parts.precision
    batches = _in_order(parts, better_answers(val), everything=everything)
    found = bits_per_byte(parts.model, batches, parts.chat.tokenizer.token_bytes(), precision)
    row = {"bits_per_byte": found["bits_per_byte"], "loss": found["loss"]}
    if val.documents == 2:
        pairs = _in_order(parts, val, everything=everything)
        row |= preference_accuracy(parts.model, pairs, precision, parts.config.beta)
    return row


def validation_row(parts: Parts, *, everything: bool = False) -> dict[str, float]:
    return {f"val_{name}": value for name, value in validate(parts, everything=everything).items()}
