"""What learning while reading is worth: bits per byte inside the domain of the training text and outside it.

    python bench/adapt.py --train FILE --inside FILE --shifted NAME=FILE ... [--time 4m] [--out bench/out/adapt]

Trains a small base on --train, chooses one learning rate on the first documents of every shifted domain, and measures
on the following ones: without adapter, with the gate, without it, with states that are carried on instead of context
that is read again, and longer contexts up to one that takes as long. A file is .txt or JSON lines of `text`, `messages`
or `question` and `answer`, .gz or .zst too; a document is cut from, or put together of, its records, about --size bytes
each. Writes OUT.json and OUT.png.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wren.adapt.documents import Asked, adapt_documents, choose_rate, read_documents
from wren.cli import main as wren
from wren.data.readers import read_lines
from wren.data.sources import format_of, open_sources, texts_of
from wren.errors import DataError
from wren.exits import exit_code
from wren.files import write_json
from wren.generate import load_run
from wren.plot import save_figure
from wren.precision import choose_device, choose_precision
from wren.run import Run

OUT = Path(__file__).parent / "out" / "adapt"


def records(path: Path) -> Iterator[str]:
    """The texts of a file's records."""
    kind, compression = format_of(path)
    if kind != ".jsonl":
        yield from (part for text in texts_of(open_sources([str(path)])) for part in text.split("\n\n"))
        return
    for line in read_lines(path, compression):
        if not line.strip():
            continue
        row: dict[str, Any] = json.loads(line)
        if "messages" in row:
            yield "\n".join(f"{turn['role']}: {turn['content']}" for turn in row["messages"])
        elif "question" in row:
            choices = "".join(f"\n- {choice}" for choice in row.get("choices", []))
            yield f"{row['question']}{choices}\nAnswer: {row['answer']}"
        else:
            yield row["text"]


def documents(path: Path, count: int, size: int) -> list[str]:
    """The first `count` documents of about `size` bytes, of records in their order; of a longer record its beginning.

    Raises DataError where the file holds fewer.
    """
    found, parts, length = [], [], 0
    for text in records(path):
        parts.append(text)
        length += len(text.encode()) + 2
        if length >= size:
            found.append("\n\n".join(parts).encode()[: size + size // 2].decode(errors="ignore"))
            parts, length = [], 0
        if len(found) == count:
            return found
    raise DataError(f"{path} holds {len(found)} documents of {size:,} bytes, fewer than {count}; ask for fewer.")


def write(path: Path, texts: list[str]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


def base(arguments: argparse.Namespace) -> Path:
    """The run that is adapted; trained where it is not there yet."""
    folder: Path = arguments.work
    data, run = folder / "data", folder / "base"
    if not (run / "result.json").exists():
        beginning = list(_first(records(arguments.train), arguments.train_bytes))
        source = write(folder / "train.jsonl", beginning)
        made = wren(["data", "--source", source, "--out", str(data), "--vocab-size", "4096"])
        sizes = ["--recipe", "wren", "--params", arguments.params, "--seed", str(arguments.seed)]
        if made or wren(["train", *sizes, "--data", str(data), "--run", str(run), "--time", arguments.time]):
            raise DataError(f"The base could not be trained on {arguments.train}; see above.")
    return run


def _first(texts: Iterator[str], size: int) -> Iterator[str]:
    for text in texts:
        if size <= 0:
            return
        size -= len(text.encode())
        yield text


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    precision = choose_precision(choose_device("auto"), "auto")
    run, folder = base(arguments), arguments.work
    domains = {"inside": arguments.inside, **dict(arguments.shifted)}
    texts: dict[str, str] = {}
    others: list[str] = []
    for name, path in domains.items():
        cut = documents(path, arguments.choose + arguments.count, arguments.size)
        texts[name] = write(folder / f"{name}.jsonl", cut[arguments.choose :])
        others += cut[: arguments.choose] if name != "inside" else []
    asked = Asked(texts=(write(folder / "choose.jsonl", others),), seed=arguments.seed)
    loaded = load_run(run, precision.device)
    chosen_on = read_documents(asked.texts, loaded, asked)
    chosen = choose_rate(loaded.model, chosen_on, asked.stream(Run(run)), precision, seed=arguments.seed, say=print)
    lr = min(chosen, key=lambda row: row["bits_per_byte"])["lr"]
    found = []
    for name, path in texts.items():
        print(f"--- {name} ---")
        asked = Asked(texts=(path,), lr=lr, seed=arguments.seed)
        row = adapt_documents(run, precision, asked, print)
        carried = Asked(texts=(path,), lr=lr, seed=arguments.seed, carry=True, gate=False, compare=False)
        stale = adapt_documents(run, precision, carried, print)
        for form, what in zip(stale["forms"], ("states carried", "states carried, without a gate"), strict=True):
            row["forms"].append({**form, "name": what})
        found.append({"name": name, **row})
    return {"lr": lr, "chosen": chosen, "domains": found, "seed": arguments.seed, "size": arguments.size}


def draw(result: dict[str, Any], path: Path) -> None:
    """Left: what adapting saves in every domain. Right: bits per byte against processor seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), dpi=120, layout="constrained")
    bars, points = figure.subplots(1, 2)
    domains = result["domains"]
    for shift, (place, label) in zip((-0.2, 0.2), ((1, "with the gate"), (2, "without a gate")), strict=True):
        rows = [domain["forms"][place] for domain in domains]
        saved = [100 * row["saved"] for row in rows]
        spread = [[100 * (row["saved"] - row["saved_low"]) for row in rows]]
        spread.append([100 * (row["saved_high"] - row["saved"]) for row in rows])
        bars.bar([i + shift for i in range(len(rows))], saved, 0.4, yerr=spread, label=label, capsize=2)
    bars.set_xticks(range(len(domains)), [domain["name"] for domain in domains], rotation=20)
    bars.set_ylabel("bits per byte saved, %")
    for domain in domains:
        forms = domain["forms"]
        wide = [form for form in forms if form["name"].startswith("context")]
        (line,) = points.plot([f["cpu_seconds"] for f in wide], [f["bits_per_byte"] for f in wide], "o-", markersize=3)
        points.plot(forms[1]["cpu_seconds"], forms[1]["bits_per_byte"], "*", markersize=11, color=line.get_color())
        points.annotate(domain["name"], (wide[0]["cpu_seconds"], wide[0]["bits_per_byte"]), fontsize=8)
    points.set(
        xscale="log",
        xlabel="seconds of the processor",
        ylabel="bits per byte",
        title="● longer context   ★ adapted, with the gate",
    )
    bars.legend()
    for panel in (bars, points):
        panel.grid(alpha=0.3)
    save_figure(figure, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--inside", type=Path, required=True, help="held-out text of the same domain")
    parser.add_argument("--shifted", type=_named, nargs="+", required=True, metavar="NAME=FILE")
    parser.add_argument("--time", default="4m", help="of training the base")
    parser.add_argument("--params", default="1M")
    parser.add_argument("--train-bytes", type=int, default=40_000_000)
    parser.add_argument("--choose", type=int, default=1, help="documents of each domain to choose the learning rate on")
    parser.add_argument("--count", type=int, default=5, help="documents of each domain to measure on")
    parser.add_argument("--size", type=int, default=16_000, help="bytes of a document")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=OUT.with_name("adapt-work"), help="folder of the base")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    result = measure(arguments)
    write_json(arguments.out.with_suffix(".json"), result)
    draw(result, arguments.out.with_suffix(".png"))
    for domain in result["domains"]:
        print(f"{domain['name']:12} saves {domain['saved']:6.1%}, without a gate {domain['forms'][2]['saved']:6.1%}")
    return 0


def _named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text} is not NAME=FILE")
    return name, Path(path)


if __name__ == "__main__":
    sys.exit(exit_code("adapt.py", main))
