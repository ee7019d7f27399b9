"""How fast text becomes shards: `python bench/data.py --source corpus.jsonl.zst` prints a table and writes JSON.

Every row is a run of `prepare` in a process of its own with a tokenizer that is given, from the source's files to a
finished folder. MB/s counts the UTF-8 bytes of the text; peak memory is the largest sum of the resident memory of that
process and its children, sampled 50 times a second.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from wren.data.prepare import prepare
from wren.data.sources import open_sources
from wren.exits import exit_code
from wren.tokenizer.bpe import Tokenizer, num_cores

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    corpus = ROOT.parent / "shared" / "corpus" / "english.train.jsonl.zst"
    parser.add_argument("--source", default=str(corpus), help="file, folder or glob")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json; without it one is trained first, untimed")
    parser.add_argument("--vocab-size", type=int, default=32_768, help="of the tokenizer to train")
    parser.add_argument("--copies", type=int, default=1, help="read the source so often, to see that memory stays")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, num_cores()], help="threads that encode")
    parser.add_argument("--all", action="store_true", help="also time the removal of duplicates and of evaluation text")
    parser.add_argument("--json", type=Path, default=ROOT / "bench" / "out" / "data.json")
    parser.add_argument("--run", help=argparse.SUPPRESS)  # what the measured process is told
    args = parser.parse_args()
    if args.run:
        _measured(json.loads(args.run))
        return
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = args.tokenizer or _train(args.source, args.vocab_size, Path(folder))
        rows = [
            _row(row, source=args.source, copies=args.copies, tokenizer=str(tokenizer), out=folder)
            for row in _rows(args.workers, args.all, Path(folder))
        ]
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps({"cores": num_cores(), "source": Path(args.source).name, "rows": rows}, indent=2))
    print(f"{'name':28s} {'workers':>7s} {'MB':>7s} {'seconds':>8s} {'MB/s':>7s} {'Mtok/s':>7s} {'peak MiB':>9s}")
    for row in rows:
        rate = f"{row['megabytes_per_second']:7.1f} {row['tokens_per_second'] / 1e6:7.2f}"
        peak = row["peak_memory_bytes"] / 2**20
        print(f"{row['name']:28s} {row['workers']:7d} {row['megabytes']:7.0f} {row['seconds']:8.2f} {rate} {peak:9.0f}")


def _rows(workers: list[int], everything: bool, folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"name": f"workers={count}", "workers": count} for count in dict.fromkeys(workers)]
    if everything:
        evaluation = folder / "evaluation.txt"
        evaluation.write_text("\n".join(f"a line of evaluation text with the number {i} in it" for i in range(1000)))
        most = max(workers)
        rows.append({"name": "dedup=exact", "workers": most, "dedup": "exact"})
        rows.append({"name": "dedup=near", "workers": most, "dedup": "near"})
        rows.append({"name": "decontaminate", "workers": most, "decontaminate": [str(evaluation)]})
    return rows


def _train(source: str, vocab_size: int, folder: Path) -> Path:
    texts = (text for one in open_sources([source]) for part in one.parts() for text in part.documents())
    path = folder / "tokenizer.json"
    Tokenizer.train(texts, vocab_size, max_bytes=128 << 20).save(path)
    return path


def _row(row: dict[str, Any], **common: Any) -> dict[str, Any]:
    """Runs one row in a process of its own while watching its memory."""
    with tempfile.TemporaryDirectory(dir=common["out"]) as out:
        order = json.dumps({**common, **row, "out": out})
        command = [sys.executable, str(Path(__file__).resolve()), "--run", order]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            peak = _watch(process)
            answer, _ = process.communicate()
    if process.returncode:
        sys.exit(f"The run '{row['name']}' failed.")
    return {**row, **json.loads(answer), "peak_memory_bytes": peak}


def _watch(process: subprocess.Popen[str]) -> int:
    peak = 0
    while process.poll() is None:
        try:
            root = psutil.Process(process.pid)
            peak = max(peak, sum(one.memory_info().rss for one in [root, *root.children(recursive=True)]))
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.02)
    return peak


def _measured(order: dict[str, Any]) -> None:
    sources = open_sources([order["source"]] * order["copies"])
    tokenizer = Tokenizer.load(order["tokenizer"])
    begun, cpu = time.perf_counter(), os.times()
    manifest = prepare(
        sources,
        Path(order["out"]),
        tokenizer=tokenizer,
        workers=order["workers"],
        dedup=order.get("dedup", "none"),
        decontaminate=order.get("decontaminate", ()),
    )
    seconds = time.perf_counter() - begun
    now = os.times()
    megabytes = sum(split.bytes for split in manifest.splits.values()) / 1e6
    tokens = sum(split.tokens for split in manifest.splits.values())
    answer = {
        "seconds": seconds,
        "cpu_seconds": now.user + now.system - cpu.user - cpu.system,
        "megabytes": megabytes,
        "tokens": tokens,
        "megabytes_per_second": megabytes / seconds,
        "tokens_per_second": tokens / seconds,
        "removed": manifest.removed,
        "imported_torch": "torch" in sys.modules,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    sys.exit(exit_code("data.py", main))
