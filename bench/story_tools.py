"""Questions that want a tool: the data to tune on, and how well a tuned model answers with tools and without.

    python bench/story_tools.py make --out DIR [--train 20000] [--test 500] [--seed 0]
    wren tune --run RUN --data DIR/train.jsonl --val DIR/val.jsonl --out TUNED --context 704
    python bench/story_tools.py score --run TUNED [--test 500] [--seed 0]

Half are sums over numbers that a story tells, for the calculator; half are questions about one of four stories in a
folder, for the search. Every training problem is there twice: with its call and the tool's answer, and without tools,
so that one model is asked both ways. Test problems are of another seed; their pairs of numbers, and of a question's
parts, never stood in training. `make` also writes the folders of the first searches, for `wren chat --tools search`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from wren.chat.agent import Loop
from wren.chat.conversation import raw_calls
from wren.chat.story_tasks import KINDS, Problem, problems
from wren.errors import WrenError
from wren.exits import exit_code
from wren.files import atomic_writer, write_json
from wren.generate import Sampling, load_run
from wren.intervals import accuracy
from wren.model import LM
from wren.precision import Precision, choose_device, choose_precision
from wren.tokenizer.chat import Chat, Message
from wren.tune.answer import answers

OUT = Path(__file__).parent / "out" / "story_tools.json"
_TRAIN_SEED, _VAL_SEED, _TEST_SEED = 4_000_037, 5_000_011, 6_000_011  # other bench's and quickstart's stories differ
_ANSWER_TOKENS, _MAX_CALLS, _FOLDERS = 120, 4, 3


@dataclass
class Played:
    """A problem as a model plays it. failed: calls that a tool could not answer."""

    problem: Problem
    messages: list[Message]
    loop: Loop | None
    calls: int = 0
    failed: int = 0

    @property
    def right(self) -> bool:
        return self.messages[-1] == Message("assistant", self.problem.answer)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["make", "score"])
    parser.add_argument("--out", type=Path, help="make: the folder of the data")
    parser.add_argument("--run", type=Path, help="score: the tuned run")
    parser.add_argument("--train", type=int, default=20_000, help="problems, each with tools and without")
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, default=OUT)
    given = parser.parse_args(arguments)
    if given.verb == "make":
        make(given)
    else:
        score(given)
    return 0


def make(given: argparse.Namespace) -> None:
    if given.out is None:
        raise WrenError("Name the folder of the data with --out.")
    parts = (("train", _TRAIN_SEED, given.train), ("val", _VAL_SEED, 200))
    for name, seed, count in parts:
        rows = 0
        with atomic_writer(given.out / f"{name}.jsonl", "w") as file:
            for problem in problems(seed + given.seed, count, "train"):
                for tools in (True, False):
                    file.write(json.dumps(problem.as_conversation(tools=tools)) + "\n")
                    rows += 1
        print(f"{given.out / name}.jsonl: {rows:,} conversations about {count:,} problems")
    _write_folders(given.out, _test(given))


def _test(given: argparse.Namespace) -> list[Problem]:
    return list(problems(_TEST_SEED + given.seed, given.test, "test"))


def _write_folders(out: Path, test: Sequence[Problem]) -> None:
    """The first folders that are searched, as files, with what is asked about them."""
    folders = list(dict.fromkeys(problem.folder for problem in test if problem.folder))[:_FOLDERS]
    for number, passages in enumerate(folders, 1):
        folder = out / f"folder-{number}"
        for source in dict.fromkeys(passage.source for passage in passages):
            with atomic_writer(folder / source, "w") as file:
                file.write("\n\n".join(each.text for each in passages if each.source == source) + "\n")
        for problem in test:
            if problem.folder == passages:
                print(f"{folder}: {problem.asked}  ({problem.answer})")


def score(given: argparse.Namespace) -> None:
    if given.run is None:
        raise WrenError("Name the tuned run with --run.")
    precision = choose_precision(choose_device(given.device))
    loaded = load_run(given.run, precision.device)
    result = scored(loaded.model, Chat(loaded.tokenizer), _test(given), precision)
    Console().print(table(result["ways"]))
    for one in result["wrong"][:5]:
        print(f"\n{one['asked']}\n  right: {one['answer']}  said: {one['said']}")
    write_json(given.json, {"run": str(given.run), "step": loaded.step, **result})


def table(ways: Sequence[dict[str, Any]]) -> Table:
    shown = Table("", "right", "95 % interval", "of", "calls", "failed")
    for row in ways:
        interval = f"{row['low']:.1%} to {row['high']:.1%}"
        numbers = (f"{row['count']:,}", f"{row['calls']:,}", f"{row['failed']:,}")
        shown.add_row(row["name"], f"{row['accuracy']:.1%}", interval, *numbers)
    return shown


def scored(model: LM, chat: Chat, test: Sequence[Problem], precision: Precision) -> dict[str, Any]:
    """The share of exactly right answers with tools and without, of each kind and of all, with intervals."""
    ways, wrong = [], []
    for tools in (True, False):
        games = play(model, chat, test, precision, tools=tools)
        for kind in (*KINDS, "all"):
            chosen = [game for game in games if kind in (game.problem.kind, "all")]
            if chosen:
                counts = {"calls": sum(g.calls for g in chosen), "failed": sum(g.failed for g in chosen)}
                name = f"{kind}, {'with tools' if tools else 'without'}"
                ways.append({"name": name, **accuracy([g.right for g in chosen]), **counts})
        if tools:
            wrong = [_shown(game) for game in games if not game.right]
    total = next(row for row in ways if row["name"] == "all, with tools")
    return {"accuracy": total["accuracy"], "problems": len(test), "ways": ways, "wrong": wrong[:20]}


def _shown(game: Played) -> dict[str, Any]:
    said = [message.as_dict() for message in game.messages[1:]]
    return {"asked": game.problem.asked, "answer": game.problem.answer, "said": said}


def play(model: LM, chat: Chat, test: Sequence[Problem], precision: Precision, *, tools: bool) -> list[Played]:
    """All problems at once, a round of answers and then a round of tools, until nobody calls any more."""
    games = [
        Played(problem, [Message("user", problem.asked)], Loop(problem.toolbox, _MAX_CALLS) if tools else None)
        for problem in test
    ]
    going = games
    while going:
        prompts = [chat.prompt(g.messages, g.problem.toolbox.schemas() if tools else None) for g in going]
        replies = answers(model, chat, prompts, Sampling(max_tokens=_ANSWER_TOKENS, temperature=0), precision)
        going = [game for game, reply in zip(going, replies, strict=True) if _goes_on(game, chat, reply)]
    return games


def _goes_on(game: Played, chat: Chat, reply: Sequence[int]) -> bool:
    """Adds a reply and what tools answered; whether the model is to speak again."""
    game.messages.append(chat.reply(reply))
    results = game.loop.follow(raw_calls(chat, reply)) if game.loop is not None else []
    game.messages += [Message("tool", result.text) for result in results]
    game.calls += len(results)
    game.failed += sum(result.failed for result in results)
    return bool(results)


if __name__ == "__main__":
    sys.exit(exit_code("story_tools.py", main))
