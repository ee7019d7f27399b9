"""What a model answers in conversations: many at once, each as far as it goes."""

from collections.abc import Sequence
from dataclasses import replace

from wren.generate import Sampling, generate
from wren.model import LM
from wren.precision import Precision
from wren.tokenizer.chat import Chat, Message
from wren.tune.formats import Conversation

_ROWS = 32  # answered at once


def answers(
    model: LM, chat: Chat, prompts: Sequence[Sequence[int]], sampling: Sampling, precision: Precision
) -> list[list[int]]:
    """The tokens that follow each prompt, the one that ends the turn with them where it was reached.

    Prompts of like length go together; a learned position table cuts answers short.
    """
    found: list[list[int]] = [[] for _ in prompts]
    positions = model.config.learned_positions
    fitting = [number for number, prompt in enumerate(prompts) if positions is None or len(prompt) < positions]
    order = sorted(fitting, key=lambda number: len(prompts[number]))
    for first in range(0, len(order), _ROWS):
        chosen = order[first : first + _ROWS]
        replies = _together(model, chat, [prompts[number] for number in chosen], sampling, precision)
        for number, tokens in zip(chosen, replies, strict=True):
            found[number] = tokens
    return found


def _together(
    model: LM, chat: Chat, prompts: Sequence[Sequence[int]], sampling: Sampling, precision: Precision
) -> list[list[int]]:
    room = sampling.max_tokens
    if model.config.learned_positions is not None:
        room = min(room, model.config.learned_positions - max(map(len, prompts)))
    rows: list[list[int]] = [[] for _ in prompts]
    stops = frozenset(chat.tokenizer.special.values()) - {chat.call_id}
    steps = generate(
        model,
        prompts,
        replace(sampling, max_tokens=room),
        precision,
        stop_ids=stops,
        vocab_size=chat.tokenizer.vocab_size,
    )
    for step in steps:
        for row, token in zip(rows, step.tolist(), strict=True):
            if token >= 0:
                row.append(token)
    return [row if len(row) == room else [*row, chat.end_id] for row in rows]


def conversations(
    model: LM,
    chat: Chat,
    asked: Sequence[Conversation],
    sampling: Sampling,
    precision: Precision,
    *,
    turns: int = 3,
    context_len: int = 1024,
) -> list[str]:
    """Talks as text: the users' first turns of `asked`, each answered by the model, which reads its own answers."""
    talks = [[m for m in one.messages[:1] if m.role == "system"] for one in asked]
    said = [[m for m in one.messages if m.role == "user"][:turns] for one in asked]
    for turn in range(turns):
        going = [i for i, users in enumerate(said) if turn < len(users)]
        for i in going:
            talks[i].append(said[i][turn])
        prompts = {i: chat.prompt(talks[i], asked[i].tools) for i in going}
        fitting = [i for i in going if len(prompts[i]) + sampling.max_tokens <= context_len]
        if not fitting:
            break
        replies = answers(model, chat, [prompts[i] for i in fitting], sampling, precision)
        for i, reply in zip(fitting, replies, strict=True):
            message = chat.reply(reply)
            talks[i].append(message if message.content or message.calls else message._replace(content="..."))
        for i in set(going) - set(fitting):
            talks[i].pop()
            said[i] = said[i][:turn]
    return ["\n".join(f"{message.role}: {written(message)}" for message in talk) for talk in talks]


def written(message: Message) -> str:
    """A turn for a reader."""
    return message.content + "".join(f" [calls {call}]" for call in message.calls)
