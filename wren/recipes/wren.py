"""Wren's own: three cheap layers to every global one, short mixing before all of them, lookup tables, and Muon.

Counted from the last layer down, which is global: attention without positions over the whole context, few key-value
heads and a gate; below it `state`, a recurrent layer or a local one; then two local ones of a window. A model of four
layers is local, local, state, global; from eight on, every second global layer keeps no values beside its keys.
docs/architecture.md says what each part buys.
"""

import math
from dataclasses import replace

from wren import shapes
from wren.block import NearConfig
from wren.errors import ConfigError, unknown_key
from wren.mixer import MixerConfig
from wren.mixers import attention, delta_product, gated_delta_net, kda, short_conv
from wren.mlps import relu2
from wren.model import ModelConfig
from wren.optim.optimizer import OptimizerConfig
from wren.optim.schedule import ScheduleConfig
from wren.recipes import RunConfig
from wren.skips import SkipsConfig
from wren.tables import TablesConfig
from wren.train import TrainConfig

# Rates were measured at widths of 64 and 128 and vocabularies of 65 and 2,048 (docs/LOG.md, "Screening the parts"); how
# they and the batch go on to other sizes is assumed.
TOKENS_PER_PARAM = 20
BATCH_TOKENS, BATCH_EXPONENT = 4096, 0.5  # for a million tokens; the power of the tokens trained on
BATCH_LEAST = 2048  # below it a step costs nearly as much
LR, LR_WIDTH, LR_EXPONENT = 5e-3, 128, 0.5  # of the matrices at that width; falls as the width to that power
VOCAB_OF_ONE, MOST_RATIO = 128, 4.0  # tables and head learn as fast there; sqrt(2) times at twice the entries, at most
NGRAM_LR = 3.0  # times that of tables and head: rows move only when they are read
MOST_BIGRAMS = 65_536
PATTERN, DEEP_PATTERN = "LLDG", "LLDSLLDG"  # the second from twice four layers on


def recipe(
    *,
    vocab_size: int,
    depth: int = 4,
    dim: int | None = None,
    head_dim: int | None = None,
    kv_share: int = 4,
    pattern: str | None = None,
    window: int = 128,
    bigrams: int | None = None,
    trigrams: int = 0,
    context_len: int = 256,
    tokens: int | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
    lr: float | None = None,
) -> RunConfig:
    """depth: the dial; all that is None follows from it and from how long is trained.

    dim: None = 64 a layer. head_dim: None = 64, or 32 where 64 does not divide the width. tokens: how many will be
    trained on, None = 20 for every parameter of blocks and head; batch_size, steps and lr follow from it. lr: of
    tables and head; the matrices' is as high where the vocabulary is small, down to a quarter of it. kv_share:
    query heads of a global layer to one key-value head, at most. bigrams: rows of the table, None = one for every pair
    of tokens, but 65,536 at most.

    pattern: the mixers of the last layers, one letter each, repeated downwards; None = LLDG, from eight layers on
    LLDSLLDG, which caches a quarter less. G global attention, S the same with keys for values, R global attention with
    rotary positions and all heads, L local attention, D gated delta net of half the heads, P delta product of two
    steps, K Kimi delta attention, C short convolution.
    """
    _check(
        depth=depth,
        dim=dim,
        head_dim=head_dim,
        kv_share=kv_share,
        context_len=context_len,
        tokens=tokens,
        batch_size=batch_size,
        steps=steps,
    )
    width = dim or shapes.ASPECT * depth
    head = head_dim or shapes.head_dim(width)
    if width % head:
        raise ConfigError(f"dim is {width}, which heads of {head} do not divide; choose another dim or head_dim.")
    pattern = pattern if pattern is not None else PATTERN if depth < 2 * len(PATTERN) else DEEP_PATTERN
    horizon = tokens or TOKENS_PER_PARAM * shapes.size(depth, width, vocab_size)
    rows = batch_size or _rows(horizon, steps, context_len)
    pairs = min(vocab_size**2, MOST_BIGRAMS) if bigrams is None else bigrams
    ratio = min(MOST_RATIO, max(1.0, math.sqrt(vocab_size / VOCAB_OF_ONE)))
    rate = ratio * LR * (LR_WIDTH / width) ** LR_EXPONENT if lr is None else lr
    return RunConfig(
        recipe="wren",
        model=ModelConfig(
            vocab_size=vocab_size,
            dim=width,
            depth=depth,
            mixers=_mixers(depth, pattern, width // head, head, kv_share, window),
            mlp=relu2.Config(),
            zero_outputs=True,
            tie_embeddings=False,
            norm_gain=False,
            near=NearConfig(token_shift=True),
            skips=SkipsConfig(x0=True),
            tables=TablesConfig(values="alternate", bigrams=pairs, trigrams=trigrams),
        ),
        optimizer=OptimizerConfig(
            kind="muon",
            lr=rate,
            matrix_lr=rate / ratio,
            ngram_lr=NGRAM_LR * rate,
            weight_decay=0.0,
            normalise=True,
        ),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=20, decay=0.65),
        train=TrainConfig(
            steps=steps or max(1, round(horizon / (rows * context_len))), batch_size=rows, context_len=context_len
        ),
        horizon=horizon if steps is None else steps * rows * context_len,
    )


def _check(**dials: int | None) -> None:
    for name, value in dials.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1.")


def _rows(horizon: int, steps: int | None, context_len: int) -> int:
    """Rows of a batch for so many tokens, a power of two; with the steps given, for as many as they then make."""
    tokens = BATCH_TOKENS * (horizon / 1e6) ** BATCH_EXPONENT
    if steps is not None:  # tokens = B (steps tokens / 1e6)^e, solved for the tokens of a batch
        tokens = (BATCH_TOKENS * (steps / 1e6) ** BATCH_EXPONENT) ** (1 / (1 - BATCH_EXPONENT))
    return max(1, 2 ** round(math.log2(max(tokens, BATCH_LEAST) / context_len)))


def _mixers(depth: int, pattern: str, heads: int, head_dim: int, kv_share: int, window: int) -> tuple[MixerConfig, ...]:
    """One for each layer, the pattern laid so that it ends with the last one."""
    shared = next(n for n in range(min(kv_share, heads), 0, -1) if heads % n == 0)
    everywhere = attention.Config(
        num_heads=heads, num_kv_heads=heads // shared, head_dim=head_dim, positions="none", qk_norm=True, gate="head"
    )
    kinds: dict[str, MixerConfig] = {
        "G": everywhere,
        "S": replace(everywhere, values="keys"),
        "R": attention.Config(num_heads=heads, head_dim=head_dim, qk_norm=True),
        "L": attention.Config(num_heads=heads, head_dim=head_dim, qk_norm=True, window=window),
        "D": gated_delta_net.Config(num_heads=max(1, heads // 2), head_dim=head_dim, negative_eigenvalues=True),
        "P": delta_product.Config(num_heads=heads, negative_eigenvalues=True),
        "K": kda.Config(num_heads=heads, negative_eigenvalues=True),
        "C": short_conv.Config(),
    }
    for letter in pattern:
        if letter not in kinds:
            raise ConfigError(unknown_key("Letter of pattern", letter, list(kinds)))
    if not pattern:
        raise ConfigError("pattern is empty; write one letter a layer, such as LLDG.")
    return tuple(kinds[pattern[-1 - (depth - 1 - layer) % len(pattern)]] for layer in range(depth))
