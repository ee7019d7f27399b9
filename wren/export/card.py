"""The model card (README.md) of an export, written from what the run directory holds."""

import json
from pathlib import Path
from typing import Any

from wren import __version__
from wren.errors import DataError
from wren.files import read_json
from wren.generate import Loaded
from wren.run import Run

_USE_HF = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{folder}"{trust})
tokenizer = AutoTokenizer.from_pretrained("{folder}"{trust})
inputs = tokenizer("{prompt}", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=50)[0]))
```"""
_USE_GGUF = """```
llama-cli -m {folder}/{file} -p "{prompt}"
```"""


def model_card(run: Run, loaded: Loaded, library: str, use: str, remarks: list[str]) -> str:
    """Markdown with the metadata that the hub reads. library: the program it is for. use: how that loads the folder.
    remarks: what a user must know."""
    raw = run.config()
    rows = [(label, value) for label, value in _facts(run, raw, loaded) if value is not None]
    table = "\n".join(f"| {label} | {value} |" for label, value in rows)
    notes = "".join(f"- {remark}\n" for remark in remarks)
    settings = json.dumps(raw, indent=1, ensure_ascii=False)
    return (
        f"---\nlibrary_name: {library}\npipeline_tag: text-generation\ntags:\n- wren\n---\n\n"
        f"# {run.path.name}\n\nA language model, exported by Wren {__version__} from its run of this name.\n\n"
        f"| | |\n|---|---|\n{table}\n\n## Use\n\n{use}\n\n{notes}\n"
        f"## Settings\n\n<details><summary>config.json of the run</summary>\n\n```json\n{settings}\n```\n\n</details>\n"
    )


def use_hf(folder: str, *, own_code: bool) -> str:
    trust = ", trust_remote_code=True" if own_code else ""
    return _USE_HF.format(folder=folder, trust=trust, prompt="Once upon a time")


def use_gguf(folder: str, file: str) -> str:
    return _USE_GGUF.format(folder=folder, file=file, prompt="Once upon a time")


def _facts(run: Run, raw: Any, loaded: Loaded) -> list[tuple[str, str | None]]:
    """Label and value; None for what the run does not tell."""
    model = loaded.model
    raw = raw if isinstance(raw, dict) else {}
    train = raw.get("train") if isinstance(raw.get("train"), dict) else {}
    tokens = None
    if train.get("batch_size") and train.get("context_len"):
        tokens = f"{loaded.step * train['batch_size'] * train['context_len']:,}"
    return [
        ("Recipe", raw.get("recipe")),
        ("Parameters", f"{model.num_params():,} ({model.num_params(embeddings=False):,} without tables and head)"),
        ("Layers, width", f"{model.config.depth}, {model.config.dim}"),
        ("Vocabulary", f"{loaded.tokenizer.vocab_size:,} tokens"),
        ("Trained on rows of", f"{train['context_len']:,} tokens" if train.get("context_len") else None),
        ("Steps", f"{loaded.step:,}"),
        ("Tokens seen in training", tokens if loaded.step else None),
        ("Data", _data(raw)),
        ("Tuned from", Path(raw["base"]).name if raw.get("base") else None),
        ("Seed", str(raw["seed"]) if "seed" in raw else None),
        ("Bits per byte", _bits_per_byte(run)),
    ]


def _data(raw: dict[str, Any]) -> str | None:
    """The names of the data folder or files, and what identifies their content; None where nothing was learned."""
    given = raw.get("data") or ()
    names = [Path(each).name for each in ([given] if isinstance(given, str) else given)]
    return f"{', '.join(names)} (sha256 {str(raw.get('data_hash', ''))[:12]})" if names else None


def _bits_per_byte(run: Run) -> str | None:
    """That of the finished run, else the last one measured on the way."""
    try:
        result = read_json(run.path / "result.json")
    except DataError:
        result = None
    if isinstance(result, dict) and isinstance(result.get("bits_per_byte"), float):
        split = Path(
            str(result.get("split", "the validation split"))
        ).name  # a path of this machine is nobody's business
        return f"{result['bits_per_byte']:.4f} on {split}, all of it"
    rows = [row for row in run.metrics() if isinstance(row.get("val_bits_per_byte"), float)]
    if not rows:
        return None
    return f"{rows[-1]['val_bits_per_byte']:.4f} on a part of the validation split, at step {rows[-1]['step']:,}"
