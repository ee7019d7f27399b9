"""All rows of a batch step by step, as one tensor a step.

B batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from wren.generate.engine import Engine
from wren.generate.settings import Request, Sampling, row_seed
from wren.model import LM
from wren.precision import Precision


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
    from there on are never drawn (a padded vocabulary). Row i has the seed row_seed(sampling.seed, i). Raises
    ConfigError when it does not fit the model's positions.
    """
    engine = Engine(model, precision, vocab_size=vocab_size, max_rows=max(1, len(prompts)))
    handles = []
    for row, prompt in enumerate(prompts):
        own = replace(sampling, seed=row_seed(sampling.seed, row))
        handles.append(engine.submit(Request(prompt=prompt, sampling=own, stop_ids=stop_ids)))
    completions = [handle.completions[0] for handle in handles]
    for place in range(sampling.max_tokens):
        while engine.busy and any(each.finish is None and len(each.drawn) <= place for each in completions):
            engine.step()
        for each in completions:
            if each.error is not None:
                raise each.error
        if all(len(each.drawn) <= place for each in completions):
            return
        yield torch.tensor([each.drawn[place].token if len(each.drawn) > place else -1 for each in completions])
