"""The end of `wren quickstart`: the story model is tuned on questions about stories, and asked about one it never saw.

The questions are made with the stories (wren/stories/questions.py), so their answers are known: three are asked in a
conversation, and the share of right answers about stories held out is said beside what the model says without them.
"""

import io
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console

from wren import stories
from wren.chat.agent import respond
from wren.chat.command import conversation
from wren.files import atomic_writer
from wren.generate import Loaded, Sampling, load_run
from wren.intervals import share_interval
from wren.precision import Precision, choose_device, choose_precision
from wren.run import Run
from wren.stories.questions import Asked as Story
from wren.stories.questions import Question, questions
from wren.tokenizer import Tokenizer
from wren.tokenizer.chat import Chat, read_messages
from wren.tune.run import tune
from wren.tune.settings import Asked
from wren.tune.story_answers import accuracies

SECONDS = 40.0  # of tuning steps, at most
FOLDER = "chat"  # of the tuned run, inside the first one
_LR, _SETTINGS = 3e-3, ("schedule.warmup_steps=20",)  # for a short tuning of a little model
_STORIES, _STORIES_ELSEWHERE, _VAL_STORIES = {"cpu": 2000}, 10_000, 60  # an accelerator reads more
_EPOCHS = 3  # at most
_TEST, _QUESTIONS, _SHOWN = 100, 10, 3  # held-out ones; of a story to learn from, at most; of the one that is shown
_CHARACTERS = 800  # of a story: about 200 tokens
_SEEDS = {"train": 1_000_003, "val": 2_000_003, "test": 3_000_017, "shown": 3_500_017}  # far from the stories' own
_SHARE = 0.75  # of pretraining's speed that tuning keeps: documents that are packed must not read each other


def tune_and_ask(
    run: Run, result: dict[str, Any], *, seconds: float, seed: int, device: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """Tunes the run into its folder `chat` and asks; what was asked, answered and right.

    result: pretrain's; its speed tells how many steps fit. seconds: that pretraining had; tuning has a fifth, and no
    more than SECONDS. Going on with an interrupted one takes the steps that it began with.
    """
    count = _STORIES.get(choose_device(device).type, _STORIES_ELSEWHERE)
    told = {name: _stories(name, seed, n, _QUESTIONS) for name, n in (("train", count), ("val", _VAL_STORIES))}
    tuned = _tuned(run, told, result, min(SECONDS, seconds / 5), seed, device, say)
    precision = choose_precision(choose_device(device))
    loaded = load_run(run.path / FOLDER, precision.device, say)
    test = _stories("test", seed, _TEST, 1)
    scores = accuracies(loaded.model, Chat(loaded.tokenizer), told["train"], test, precision)
    kept = {name: scores[name] for name in ("accuracy", "questions", "ways")}
    sizes = {name: tuned[name] for name in ("run", "steps", "seconds")}
    return {**sizes, **kept, **_talk(loaded, precision, seed)}


def _tuned(
    run: Run,
    told: dict[str, list[Story]],
    result: dict[str, Any],
    seconds: float,
    seed: int,
    device: str,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Tunes on what is told, into the run's folder `chat`; what tune() returns."""
    files = {name: run.path / "data" / "questions" / f"{name}.jsonl" for name in told}
    for name, path in files.items():
        _write_once(path, told[name])
    context_len = _longest(Tokenizer.load(run.tokenizer_path), told["train"])
    most = max(1, _EPOCHS * len(told["train"]) // run.config()["train"]["batch_size"])
    wish = Asked(
        run=run.path,
        data=(str(files["train"]),),
        val=(str(files["val"]),),
        out=run.path / FOLDER,
        context=context_len,
        steps=min(most, _steps(run, result, seconds, context_len)),
        lr=_LR,
        seed=seed,
        settings=_SETTINGS,
    )
    return tune(wish, device=device, say=say, console=Console(file=io.StringIO()))


def _stories(name: str, seed: int, count: int, most: int) -> list[Story]:
    """Stories with up to `most` questions each, whatever they ask: several may be about one thing, so that a short
    tuning has much to learn from."""
    short = (told for told in stories.stories(_SEEDS[name] + seed) if len(told.text) <= _CHARACTERS)
    asked = ((told, questions(told)) for told in short)
    chosen = itertools.islice(((told, possible) for told, possible in asked if len(possible) >= _SHOWN), count)
    random = Random(f"{name} {seed}")
    return [Story(told.text, tuple(random.sample(found, min(most, len(found))))) for told, found in chosen]


def _write_once(path: Path, told: Iterable[Story]) -> None:
    if path.exists():
        return
    with atomic_writer(path, "w") as file:
        file.writelines(json.dumps(one.as_conversation()) + "\n" for one in told)


def _longest(tokenizer: Tokenizer, told: Sequence[Story]) -> int:
    """Tokens of the longest conversation: a row for each."""
    chat = Chat(tokenizer)
    rows = (read_messages(one.as_conversation()["messages"]) for one in told)
    return max(len(chat.encode(messages).tokens) for messages in rows)


def _steps(run: Run, result: dict[str, Any], seconds: float, context_len: int) -> int:
    """As many as fit the time at the speed of pretraining; those of a tuning that was begun."""
    begun = Run(run.path / FOLDER)
    if begun.exists():
        return int(begun.config()["train"]["steps"])
    tokens = run.config()["train"]["batch_size"] * context_len
    return max(1, int(_SHARE * seconds * result["tokens_per_second"] / tokens))


def _talk(loaded: Loaded, precision: Precision, seed: int) -> dict[str, Any]:
    """One conversation about a story that no training saw: three questions, answered in turn."""
    story, asked = next(found for found in map(_apart, _stories("shown", seed, 100, 100)) if len(found[1]) == _SHOWN)
    limit = loaded.model.config.learned_positions
    talk = conversation(loaded, precision, context_len=limit or 1 << 16)  # no turn is to be forgotten
    turns = []
    for number, question in enumerate(asked):
        text = question.text if number else f"{story}\n\n{question.text}"
        reply = respond(talk, text, Sampling(max_tokens=24, temperature=0))
        turns.append({"question": question.text, "answer": reply.message.content, "right": question.answer})
    return {"story": story, "turns": turns, "tokens_read": talk.num_read}


def _apart(told: Story) -> tuple[str, list[Question]]:
    """A story and the first questions about it that differ in thing and answer."""
    chosen: list[Question] = []
    for question in told.questions:
        if all(question.thing != other.thing and question.answer != other.answer for other in chosen):
            chosen.append(question)
    return told.story, chosen[:_SHOWN]


def show(found: dict[str, Any] | None, say: Callable[[str], None]) -> None:
    """The conversation and the share of right answers, as text; nothing where there was none."""
    if found is None:
        return
    say(f"--- a story it never saw ---\n{found['story']}\n")
    for turn in found["turns"]:
        mark = "" if turn["answer"] == turn["right"] else f"   (the story says: {turn['right']})"
        say(f"> {turn['question']}\n{turn['answer']}{mark}")
    say(f"\n{summary(found)}\n")


def summary(found: dict[str, Any]) -> str:
    """How many questions about held-out stories were answered right, beside what needs no model."""
    count = found["questions"]
    right = round(found["accuracy"] * count)
    low, high = share_interval(right, count)
    ways = {way["name"]: round(way["accuracy"] * count) for way in found["ways"]}
    return (
        f"Of {count} questions about as many other unseen stories it answers {right} right (95 %: {low:.0%} to "
        f"{high:.0%}), without the stories {ways['no story']}. What a story names most often, of the kind that is "
        f"asked for, would be right {ways['most named']} times. Longer tuning helps: bench/story_questions.py."
    )


def notes(found: dict[str, Any] | None) -> dict[str, str]:
    """Rows of the report; none where there was no conversation."""
    if found is None:
        return {}
    rows = {
        f"asked about an unseen story: {turn['question']}": f"{turn['answer']} (right: {turn['right']})"
        for turn in found["turns"]
    }
    return {"the chat model": f"{found['run']}, {found['steps']:,} steps", **rows, "its answers": summary(found)}
