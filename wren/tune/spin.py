"""SPIN: the worse answer of a pair is what the model itself would have said before tuning (2401.01335)."""

from pathlib import Path

import numpy as np

from wren.errors import DataError
from wren.files import read_json, write_json
from wren.generate import Sampling
from wren.model import LM
from wren.precision import Precision
from wren.tokenizer.chat import Chat
from wren.tune.answer import answers
from wren.tune.examples import Examples


def own_answers(
    model: LM, chat: Chat, examples: Examples, context_len: int, seed: int, precision: Precision, kept: Path
) -> Examples:
    """Pairs of each conversation's last answer and the model's own at temperature 1.

    kept: a file that holds the answers once they are made, so that a resumed run learns from the same. Raises
    DataError where no pair fits the context.
    """
    prompts, endings = _parted(examples)
    key = examples.fingerprint()
    if kept.exists() and (read := read_json(kept)).get("examples") == key:
        replies = read["replies"]
    else:
        longest = max(map(len, endings))
        sampling = Sampling(max_tokens=min(2 * longest, max(1, context_len // 2)), temperature=1.0, seed=seed)
        replies = answers(model, chat, prompts, sampling, precision)
        write_json(kept, {"examples": key, "replies": replies})
    tokens, learned, lengths = [], [], []
    for prompt, ending, reply in zip(prompts, endings, replies, strict=True):
        sides = [(prompt + answer)[: context_len // 2 + 1] for answer in (ending, reply)]
        if ending == reply or not reply or min(map(len, sides)) <= len(prompt):
            continue
        for side in sides:
            tokens += side
            learned += [False] * len(prompt) + [True] * (len(side) - len(prompt))
            lengths.append(len(side))
    if not lengths:
        raise DataError(f"No pair of answers fits a context of {context_len} tokens; use a longer --context.")
    starts = np.cumsum([0, *lengths])
    return Examples(np.array(tokens, np.uint32), np.array(learned), starts, documents=2)


def _parted(examples: Examples) -> tuple[list[list[int]], list[list[int]]]:
    """Each document up to its last answer, and that answer."""
    prompts, endings = [], []
    for start, stop in zip(examples.starts[:-1], examples.starts[1:], strict=True):
        learned = examples.learned_N[start:stop]
        other = np.flatnonzero(~learned)
        cut = int(start) + int(other[-1]) + 1
        prompts.append(examples.tokens_N[start:cut].tolist())
        endings.append(examples.tokens_N[cut:stop].tolist())
    return prompts, endings
