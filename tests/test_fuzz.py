"""Random damage: whatever bytes a file holds, it is read or refused in one sentence, and never anything else."""

import gzip
import json
import random
from pathlib import Path

import pytest
import zstandard

from wren import checkpoint, recipes, stories
from wren import config as configs
from wren.data.prepare import prepare
from wren.data.shards import Manifest
from wren.data.sources import open_sources, texts_of
from wren.errors import WrenError
from wren.recipes import RunConfig
from wren.run import Run
from wren.tokenizer import Tokenizer

pytestmark = pytest.mark.slow


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The data with a few bytes changed, a piece cut out, doubled, or the end missing."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place, length = rng.randrange(len(changed)), rng.randint(1, max(1, len(changed) // 8))
        match rng.randrange(5):
            case 0:
                changed[place] = rng.randrange(256)
            case 1:
                del changed[place : place + length]
            case 2:
                changed[place:place] = changed[place : place + length]
            case 3:
                del changed[place:]
            case 4:
                changed[place : place + 8] = rng.randbytes(8)
        changed = changed or bytearray(b"\0")
    return bytes(changed)


def lines() -> bytes:
    return "\n".join(json.dumps({"text": text}) for text in stories.texts(1, 20_000)).encode()


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".txt", ".parquet"])
def test_sources(kind: str, tmp_path: Path):
    rng = random.Random(kind)
    plain = lines()
    whole = {".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.compress}.get(kind, bytes)(plain)
    if kind == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"text": list(stories.texts(1, 20_000))}), tmp_path / "whole.parquet")
        whole = (tmp_path / "whole.parquet").read_bytes()
    outcomes = {"read": 0, "refused": 0}
    for _ in range(400):
        path = tmp_path / f"text{kind}"
        path.write_bytes(damaged(whole, rng))
        try:
            for text in texts_of(open_sources([str(path)])):
                text.encode("utf-8", "surrogatepass")
            outcomes["read"] += 1
        except WrenError:
            outcomes["refused"] += 1
    assert outcomes["read"] + outcomes["refused"] == 400
    assert outcomes["refused"] > (0 if kind == ".txt" else 20)


@pytest.mark.parametrize("name", ["tokenizer.json", "manifest.json"])
def test_data_folders(name: str, tmp_path: Path):
    rng = random.Random(name)
    (tmp_path / "text.jsonl").write_bytes(lines())
    prepare(open_sources([str(tmp_path / "text.jsonl")]), tmp_path / "data", vocab_size=300)
    path = tmp_path / "data" / name
    whole, refused = path.read_bytes(), 0
    for _ in range(400):
        path.write_bytes(damaged(whole, rng))
        try:
            Tokenizer.load(path) if name == "tokenizer.json" else Manifest.load(path.parent)
        except WrenError:
            refused += 1
    assert refused > 200


def test_run_configs(tmp_path: Path):
    rng = random.Random(0)
    run = Run(tmp_path / "run")
    run.create(configs.to_json(recipes.build("tiny", vocab_size=300)))
    whole, refused = run.config_path.read_bytes(), 0
    for _ in range(600):
        run.config_path.write_bytes(damaged(whole, rng))
        try:
            configs.from_json(RunConfig, run.config())
        except WrenError:
            refused += 1
    assert refused > 300


def test_checkpoints(tmp_path: Path):
    rng = random.Random(0)
    model = recipes.build("tiny", vocab_size=300).model.build()
    path = checkpoint.save(tmp_path, 1, checkpoint.weights(model), {}, {"note": "whole"})
    assert checkpoint.verify(path) is None
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        whole = (path / name).read_bytes()
        for _ in range(150):
            changed = damaged(whole, rng)
            (path / name).write_bytes(changed)
            if changed != whole and (name != "state.json" or not same_json(changed, whole)):
                assert checkpoint.verify(path) is not None, name
                assert checkpoint.newest_good(tmp_path)[0] is None
        (path / name).write_bytes(whole)
    assert checkpoint.verify(path) is None


def same_json(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


def test_text_through_a_tokenizer():
    rng = random.Random(0)
    tokenizer = Tokenizer.train(stories.texts(3, 200_000), 600)
    for _ in range(2000):
        text = "".join(
            chr(c) for c in (rng.randrange(0x110000) for _ in range(rng.randint(1, 60))) if not 0xD800 <= c < 0xE000
        )
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens) == text
        assert not set(tokens) & set(tokenizer.special.values())
        assert tokenizer.decode_bytes([rng.randrange(600) for _ in range(30)]) is not None
