"""`wren chat`: a run, its engine, the tools that are asked for, and a conversation over them."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wren.chat.agent import MAX_CALLS, Loop
from wren.chat.calculator import CALCULATOR
from wren.chat.conversation import Conversation, Learning
from wren.chat.search import Folder, search_tool
from wren.chat.terminal import Left, Screen, Terminal, saved, standard_lines, standard_screen
from wren.chat.tools import Tool, Toolbox
from wren.errors import ConfigError
from wren.files import read_json
from wren.generate import Bits, Engine, Loaded, Sampling, load_run
from wren.precision import Precision, choose_device, choose_precision
from wren.run import Run
from wren.tokenizer.chat import Chat

ToolName = Literal["calculator", "search"]
DEFAULT_CONTEXT = 1024  # where the run does not say on how many tokens it was trained
_CHUNK = 64  # tokens that are read between two looks at the keyboard, times 32


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a user asks of a chat. context: tokens, None = as many as the run was trained on. ask: one question, after
    whose answer it ends; "-" reads it from standard input."""

    system: str = ""
    tools: Sequence[ToolName] = ()
    folder: Path | None = None
    max_calls: int = MAX_CALLS
    context: int | None = None
    ask: str | None = None
    sampling: Sampling = field(default_factory=Sampling)


def chat(
    run: Path,
    wish: Wish,
    *,
    bits: Bits | None = None,
    device: str = "auto",
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    say: Callable[[str], None] = print,
    screen: Screen | None = None,
    lines: Callable[[str], str | None] | None = None,
    learning: Callable[[Loaded, Precision, Conversation], Learning] | None = None,
) -> tuple[int, dict[str, Any]]:
    """Talks until the user leaves; the exit code, and the conversation. Raises a WrenError for what is wrong.

    learning: makes what learns the conversation before every answer.
    """
    toolbox = Toolbox(tools_named(wish.tools, wish.folder))
    Loop(toolbox, wish.max_calls)  # a wrong number is said before the model is read
    precision = choose_precision(choose_device(device), dtype)
    loaded = load_run(run, precision.device, say)
    talk = conversation(loaded, precision, bits=bits, context_len=wish.context or trained_context(run, loaded))
    talk.reset(system=wish.system, tools=toolbox.schemas())
    if learning is not None:
        talk.learning = learning(loaded, precision, talk)
    screen = screen or standard_screen()
    terminal = Terminal(talk, screen, lines or standard_lines(screen), wish.sampling, toolbox, max_calls=wish.max_calls)
    if not was_tuned(run):
        say(f"{run} was not tuned on conversations, so its answers will make little sense; see `wren tune`.")
    if wish.ask is not None:
        text = sys.stdin.buffer.read().decode("utf-8", errors="replace") if wish.ask == "-" else wish.ask
        code = _one(terminal, text)
    else:
        if screen.talks:
            screen.note(f"{run}, step {loaded.step:,}, a context of {talk.context_len:,} tokens. /help lists commands.")
        code = terminal.run()
    result = saved(talk)
    return code, {**result, "step": loaded.step, "tokens_read": talk.num_read}


def conversation(
    loaded: Loaded, precision: Precision, *, context_len: int, bits: Bits | None = None, **options: Any
) -> Conversation:
    """A conversation with an engine of its own; raises TokenizerError for a vocabulary without tokens for turns."""
    chat = Chat(loaded.tokenizer)
    engine = Engine(loaded.model, precision, vocab_size=loaded.tokenizer.vocab_size, chunk=_CHUNK, bits=bits)
    return Conversation(engine, chat, context_len=context_len, **options)


def tools_named(names: Sequence[ToolName], folder: Path | None) -> list[Tool]:
    """Raises ConfigError where a folder is missing or not asked for."""
    if folder is not None and "search" not in names:
        raise ConfigError("--folder is what the tool searches; add --tools search.")
    found: list[Tool] = []
    for name in dict.fromkeys(names):
        if name == "calculator":
            found.append(CALCULATOR)
        elif folder is None:
            raise ConfigError("--tools search needs a folder to search in; add --folder DIR.")
        else:
            found.append(search_tool(Folder(folder)))
    return found


def trained_context(run: Path, loaded: Loaded) -> int:
    """Tokens of the rows that a run was trained on, no more than its positions."""
    raw = Run(run).config()
    train = raw.get("train") if isinstance(raw, dict) else None
    length = train.get("context_len") if isinstance(train, dict) else None
    limit = loaded.model.config.learned_positions
    known = length if isinstance(length, int) and length >= 2 else DEFAULT_CONTEXT
    return known if limit is None else min(known, limit)


def was_tuned(run: Path) -> bool:
    """Whether a run is what `wren tune` made, or was imported, of which nobody knows."""
    raw, environment = Run(run).config(), run / "env.json"
    imported = environment.is_file() and "imported" in read_json(environment)
    return imported or (isinstance(raw, dict) and "objective" in raw)


def _one(terminal: Terminal, text: str) -> int:
    if not text.strip():
        raise ConfigError("The question is empty; write one behind --ask, or on standard input.")
    try:
        terminal.ask(text.strip("\n"))
    except Left as left:
        return left.code
    return 0
