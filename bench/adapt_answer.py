"""What learning a prompt before answering does to the answer: nats of the true continuation, with and without.

    python bench/adapt_answer.py --run runs/base --text prose.jsonl dialogues.jsonl

Each document is cut into a prompt and what follows it. The prompt is learned as `wren serve --max-adapt` does
(serve/adapting.py); then the continuation is scored behind the whole prompt: by the plain model, by the adapter where
the gate trusts it (what a client gets), and by the adapter always. Writes JSON, and prints a row for each file.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch

from wren.adapt.documents import LR, Asked, read_documents
from wren.adapt.lessons import Lessons, lesson_config
from wren.adapt.windows import Scorer, Windows, window
from wren.exits import exit_code
from wren.generate import load_run
from wren.intervals import ratio_interval
from wren.precision import choose_device, choose_precision
from wren.run import Run, context_len


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--text", nargs="+", required=True, help="one domain each")
    parser.add_argument("--prompt", type=int, default=192, help="tokens that are learned")
    parser.add_argument("--answer", type=int, default=64, help="tokens that are scored behind them")
    parser.add_argument("--limit", type=int, default=30, help="documents of each file")
    parser.add_argument("--lr", type=float, default=LR)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    precision = choose_precision(choose_device("cpu"), "fp32")
    loaded = load_run(asked.run, precision.device)
    length = context_len(Run(asked.run))
    lessons = Lessons(loaded.model, loaded.model, precision, lesson_config(length))
    rows = []
    for path in asked.text:
        documents = read_documents([path], loaded, Asked(texts=(path,), max_tokens=asked.prompt + asked.answer))
        whole = [each.tokens_N for each in documents if len(each.tokens_N) > asked.prompt + asked.answer]
        rows.append({"name": Path(path).name, **domain(lessons, whole[: asked.limit], asked.prompt, asked.lr)})
        print(line(rows[-1]), flush=True)
    if asked.json is not None:
        result = {"run": str(asked.run), "prompt": asked.prompt, "answer": asked.answer, "lr": asked.lr, "rows": rows}
        asked.json.write_text(json.dumps(result, indent=1))
    return 0


def domain(lessons: Lessons, documents: list[torch.Tensor], prompt: int, lr: float) -> dict[str, Any]:
    """Bits a token of the answers, and what was saved, with 95 % intervals over the documents."""
    plain, always, gated, trusted = [], [], [], []
    for tokens_N in documents:
        lesson = lessons.add(tokens_N[: prompt + 1].tolist(), lr)
        while lesson.learned is None:
            lessons.advance()
        assert lesson.learner is not None
        plain.append(bits(lessons, tokens_N, prompt, 0))
        always.append(bits(lessons, tokens_N, prompt, lesson.learner.number))
        gated.append(always[-1] if lesson.adapter else plain[-1])
        trusted.append(bool(lesson.adapter))
        lessons.drop(lesson)
    count = sum(len(tokens_N) - prompt - 1 for tokens_N in documents)
    found: dict[str, Any] = {"documents": len(documents), "trusted": sum(trusted), "plain": sum(plain) / count}
    for name, form in (("gated", gated), ("always", always)):
        low, high = ratio_interval([a - b for a, b in zip(plain, form, strict=True)], plain) or (None, None)
        found[name] = {"bits": sum(form) / count, "saved": 1 - sum(form) / sum(plain), "low": low, "high": high}
    return found


@torch.no_grad()
def bits(lessons: Lessons, tokens_N: torch.Tensor, prompt: int, adapter: int) -> float:
    """Of what follows the prompt, which stands before it."""
    windows = Windows(chunk=len(tokens_N) - prompt - 1, context=prompt)
    with lessons.adapters.rows(adapter):
        scorer = Scorer(lessons.adapters.model, windows, lessons.precision)
        scored = scorer(window([tokens_N], prompt + 1, windows, replay=False), anew=True)
    return float(scored.double().sum()) / math.log(2)


def line(row: dict[str, Any]) -> str:
    forms = []
    for name in ("gated", "always"):
        form = row[name]
        interval = "" if form["low"] is None else f" [{form['low']:.1%}, {form['high']:.1%}]"
        forms.append(f"{name} {form['saved']:6.1%}{interval}")
    about = f"{row['name']}: {row['documents']} answers, {row['plain']:.3f} bits a token, {row['trusted']} trusted"
    return f"{about}, saved {', '.join(forms)}"


if __name__ == "__main__":
    sys.exit(exit_code("adapt_answer.py", main))
