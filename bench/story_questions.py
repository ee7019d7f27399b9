"""Questions about stories: the data to tune on, and how well a tuned model answers about stories it never saw.

    python bench/story_questions.py make --out DIR [--stories 20000] [--test 500] [--characters 800] [--seed 0]
    wren tune --run RUN --data DIR/train.jsonl --val DIR/val.jsonl --out TUNED
    python bench/story_questions.py score --run TUNED [--stories 20000] [--test 500] [--characters 800] [--seed 0]

Test stories are of another seed than those of training, and no two parts of a test question (its template, its name,
its thing) ever stood together in one of training. Beside the model: the same model without the story, a lookup of
training's answers, and the person or thing that the story names most often.
"""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from wren.errors import WrenError
from wren.exits import exit_code
from wren.files import atomic_writer, write_json
from wren.generate import load_run
from wren.precision import choose_device, choose_precision
from wren.stories.questions import Asked, asked
from wren.tokenizer.chat import Chat
from wren.tune.story_answers import accuracies

OUT = Path(__file__).parent / "out" / "story_questions.json"
_TRAIN_SEED, _VAL_SEED, _TEST_SEED = 1_000_003, 2_000_003, 3_000_017  # quickstart's stories are of small seeds


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["make", "score"])
    parser.add_argument("--out", type=Path, help="make: the folder of the data")
    parser.add_argument("--run", type=Path, help="score: the tuned run")
    parser.add_argument("--stories", type=int, default=20_000)
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--characters", type=int, default=800)
    parser.add_argument("--questions", type=int, default=8, help="make: of a story to learn from, at most; default 8")
    parser.add_argument(
        "--swapped", type=float, default=0.9, help="make: share of stories with swapped words; default 0.9"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, default=OUT)
    given = parser.parse_args(arguments)
    if given.verb == "make":
        make(given)
    else:
        score(given)
    return 0


def train_stories(given: argparse.Namespace) -> list[Asked]:
    options = {"max_characters": given.characters, "per_story": given.questions, "swapped": given.swapped}
    return list(asked(_TRAIN_SEED + given.seed, given.stories, "train", **options))


def test_stories(given: argparse.Namespace) -> list[Asked]:
    options = {"per_story": 1, "max_characters": given.characters}
    return list(asked(_TEST_SEED + given.seed, given.test, "test", **options))


def make(given: argparse.Namespace) -> None:
    if given.out is None:
        raise WrenError("Name the folder of the data with --out.")
    val = list(asked(_VAL_SEED + given.seed, 200, "train", max_characters=given.characters))
    for name, stories in (("train", train_stories(given)), ("val", val), ("test", test_stories(given))):
        with atomic_writer(given.out / f"{name}.jsonl", "w") as file:
            file.writelines(json.dumps(one.as_conversation()) + "\n" for one in stories)
        print(
            f"{given.out / name}.jsonl: {len(stories):,} stories, {sum(len(s.questions) for s in stories):,} questions"
        )


def score(given: argparse.Namespace) -> None:
    if given.run is None:
        raise WrenError("Name the tuned run with --run.")
    precision = choose_precision(choose_device(given.device))
    loaded = load_run(given.run, precision.device)
    result = accuracies(loaded.model, Chat(loaded.tokenizer), train_stories(given), test_stories(given), precision)
    table = Table("", f"right of {result['questions']}")
    for row in result["ways"]:
        table.add_row(row["name"], f"{row['accuracy']:.1%}")
    Console().print(table)
    for one in result["wrong"][:5]:
        print(f"\n{one['story']}\n  {one['question']}  right: {one['answer']}  said: {one['model']}")
    write_json(given.json, {"run": str(given.run), "step": loaded.step, **result})


if __name__ == "__main__":
    sys.exit(exit_code("story_questions.py", main))
