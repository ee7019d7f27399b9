"""Manifest and shards: damage of every kind is named."""

import json

import numpy as np
import pytest
from data_helpers import BYTES, ListSource, contents, words

from wren.data.prepare import prepare
from wren.data.shards import Manifest, dtype_for, open_shards, verify
from wren.errors import DataError


@pytest.fixture
def folder(tmp_path):
    prepare([ListSource([[words(i, 20) for i in range(200)]])], tmp_path, tokenizer=BYTES, shard_tokens=5000)
    return tmp_path


def test_the_manifest_comes_back_the_same(folder):
    manifest = Manifest.load(folder)
    before = contents(folder)
    manifest.save(folder)
    assert contents(folder) == before
    assert manifest.splits["train"].tokens == sum(len(shard) for shard in open_shards(folder, "train"))


def test_dtype_fits_the_vocabulary():
    assert [dtype_for(size) for size in (258, 65_536, 65_537)] == [np.dtype(code) for code in ("<u2", "<u2", "<u4")]


def test_damage_is_named(folder):
    assert verify(folder) == []
    first, second, third = (folder / f"train_{i:06d}.bin" for i in range(3))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-2])
    flipped = bytearray(third.read_bytes())
    flipped[77] ^= 4
    third.write_bytes(flipped)
    assert verify(folder) == [first.name, second.name, third.name]
    with pytest.raises(DataError, match=r"train_000000\.bin.*train_000001\.bin are damaged.*wren data"):
        open_shards(folder, "train")
    with pytest.raises(DataError, match=r"train_000002\.bin"):
        open_shards(folder, "train", check=True)
    assert open_shards(folder, "val", check=True)


def test_a_folder_without_a_manifest_says_why(folder):
    with pytest.raises(DataError, match=r"no split 'test'; it has train, val"):
        open_shards(folder, "test")
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match="holds no manifest"):
        Manifest.load(folder)
    (folder / ".progress.json").touch()
    with pytest.raises(DataError, match="unfinished; run the same"):
        Manifest.load(folder)
    with pytest.raises(DataError, match="does not exist"):
        Manifest.load(folder / "none")


@pytest.mark.parametrize(
    "change", [{"format": 9}, {"splits": None}, {"splits": {"train": {"name": "x"}}}, {"dtype": None}]
)
def test_a_wrong_manifest_is_refused(folder, change):
    path = folder / "manifest.json"
    value = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({key: item for key, item in value.items() if item is not None}))
    with pytest.raises(DataError, match=r"manifest\.json is"):
        Manifest.load(folder)
    path.write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        Manifest.load(folder)
    path.write_text("[]")
    with pytest.raises(DataError, match="is damaged"):
        Manifest.load(folder)
