"""Sampling: the prompt is read once (prefill), then one token a step is drawn for every row from the cached state.

Rows of different length share a batch. Every row draws from a generator of its own, so that its text does not depend
on the rows beside it.

B batch, T time, V vocabulary.
"""

import codecs
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from wren import checkpoint
from wren import config as configs
from wren.errors import CheckpointError, ConfigError, DivergedError
from wren.model import LM, ModelConfig
from wren.precision import Precision
from wren.run import Run
from wren.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """temperature: 0 = always the likeliest token. top_k, top_p: keep the k likeliest, or the likeliest that together
    hold probability p (1904.09751). seed: row i draws from generator (seed, i)."""

    max_tokens: int = 200
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens is {self.max_tokens}; it must be at least 1.")
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature is {self.temperature}; it must be 0 (always the likeliest) or above.")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k is {self.top_k}; it must be at least 1.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; it must lie in (0, 1].")


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
    checkpoint.load_weights(model, saved.model, found)
    return Loaded(model.to(device).eval(), tokenizer, saved.step)


@torch.no_grad()
def generate(
    model: LM,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    precision: Precision,
    *,
    stop_ids: frozenset[int] = frozenset(),
    vocab_size: int | None = None,
) -> Iterator[Tensor]:
    """Yields the next token of every row (B,), int64 on the CPU, -1 for rows that have ended, until all have.

    prompts: token ids, at least one a row. stop_ids: tokens that end a row (they are not yielded). vocab_size: ids
    from there on are never drawn (a padded vocabulary). Raises ConfigError when it does not fit the model's positions.
    """
    if not prompts or not all(prompts):
        raise ConfigError("A prompt is empty; every row needs at least one token.")
    model.eval()
    longest = max(len(prompt) for prompt in prompts)
    device = precision.device
    with precision.context():
        state = model.new_state(len(prompts), longest + sampling.max_tokens, device=device)
        tokens_BT = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            tokens_BT[row, : len(prompt)] = torch.tensor(prompt)
        valid_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
        hidden_BTD = model.hidden(tokens_BT.to(device), valid_B=valid_B, state=state)
        last_BD = hidden_BTD[torch.arange(len(prompts), device=device), valid_B - 1]
    generators = [torch.Generator().manual_seed(_row_seed(sampling.seed, row)) for row in range(len(prompts))]
    alive_B = torch.ones(len(prompts), dtype=torch.bool)
    for step in range(sampling.max_tokens):
        with precision.context():
            logits_BV = model.logits(last_BD)
        next_B = draw(logits_BV.float().cpu(), sampling, generators, vocab_size)
        if stop_ids:
            alive_B &= ~torch.isin(next_B, torch.tensor(sorted(stop_ids)))
        next_B = torch.where(alive_B, next_B, -1)
        if not alive_B.any():
            return
        yield next_B
        if step + 1 < sampling.max_tokens:
            with precision.context():
                last_BD = model.hidden(next_B.clamp(min=0).to(device)[:, None], state=state)[:, -1]


def draw(
    logits_BV: Tensor, sampling: Sampling, generators: Sequence[torch.Generator], vocab_size: int | None = None
) -> Tensor:
    """One token a row (B,) by inverting the cumulated probabilities at the row's own uniform number."""
    logits_BV = logits_BV[:, :vocab_size]
    if bool(logits_BV.isnan().any()):
        raise DivergedError(
            "The model's output is not a number: its training diverged; take an earlier checkpoint, or lower the "
            "learning rate."
        )
    if sampling.temperature == 0:
        return logits_BV.argmax(dim=-1)
    logits_BV = logits_BV.double() - logits_BV.amax(dim=-1, keepdim=True).double()  # no temperature makes inf - inf
    probs_BV = truncate((logits_BV / sampling.temperature).softmax(dim=-1), sampling.top_k, sampling.top_p)
    uniform_B = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in generators])
    cumulated_BV = probs_BV.cumsum(dim=-1)
    found_B1 = torch.searchsorted(cumulated_BV, uniform_B[:, None] * cumulated_BV[:, -1:], right=True)
    return found_B1[:, 0].clamp(max=logits_BV.shape[-1] - 1)


def truncate(probs_BV: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Zeroes all but the top_k likeliest, then all but the fewest likeliest that hold top_p; not renormalised."""
    if top_k is None and top_p is None:
        return probs_BV
    sorted_BV, order_BV = probs_BV.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        sorted_BV[:, top_k:] = 0
    if top_p is not None:
        before_BV = sorted_BV.cumsum(dim=-1) - sorted_BV  # probability of all likelier tokens
        sorted_BV = sorted_BV.masked_fill(before_BV >= top_p * sorted_BV.sum(dim=-1, keepdim=True), 0)
    return torch.zeros_like(probs_BV).scatter(-1, order_BV, sorted_BV)


def stream_text(
    loaded: Loaded,
    prompt: str,
    sampling: Sampling,
    precision: Precision,
    *,
    stop: Sequence[str] = (),
    row: int = 0,
) -> Iterator[str]:
    """Yields the continuation of `prompt` in pieces of whole characters; ends at a document's end or a stop string.

    row: number of the sample, so that samples of one seed differ. A stop string is not part of the text.
    """
    tokenizer = loaded.tokenizer
    tokens = [tokenizer.document_id, *tokenizer.encode(prompt)]
    seeded = replace(sampling, seed=_row_seed(sampling.seed, row))
    stop_ids = frozenset(tokenizer.special.values())
    steps = generate(loaded.model, [tokens], seeded, precision, stop_ids=stop_ids, vocab_size=tokenizer.vocab_size)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    yield from until_stop((decoder.decode(tokenizer.decode_bytes([int(step[0])])) for step in steps), stop)


def sample_texts(loaded: Loaded, prompts: Sequence[str], precision: Precision, sampling: Sampling) -> list[str]:
    """One text for each prompt, prompt included; shorter where learned positions end."""
    texts, positions = [], loaded.model.config.learned_positions
    for row, prompt in enumerate(prompts):
        room = sampling.max_tokens
        if positions is not None:  # the document's start takes one of them
            room = min(room, positions - 1 - len(loaded.tokenizer.encode(prompt)))
        if room > 0:
            prompt += "".join(stream_text(loaded, prompt, replace(sampling, max_tokens=room), precision, row=row))
        texts.append(prompt)
    return texts


def until_stop(pieces: Iterator[str], stop: Sequence[str]) -> Iterator[str]:
    """The pieces up to the stop string that is complete first; what may be the beginning of one is held back."""
    held = ""
    for piece in pieces:
        held += piece
        found = [(held.find(text) + len(text), held.find(text)) for text in stop if text and text in held]
        if found:
            _, start = min(found)
            if start:
                yield held[:start]
            return
        keep = max((n for text in stop for n in range(1, len(text)) if held.endswith(text[:n])), default=0)
        if len(held) > keep:
            yield held[: len(held) - keep]
            held = held[len(held) - keep :]
    if held:
        yield held


def _row_seed(seed: int, row: int) -> int:
    """A seed for row `row`; row 0 keeps the seed itself."""
    return (seed + row * 0x9E3779B97F4A7C15) % 2**63
