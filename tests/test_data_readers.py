"""Readers and sources: every format gives the same documents, and every bad input one sentence that names it."""

import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from data_helpers import write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from wren.data import readers
from wren.data.readers import MendedText, read_jsonl, read_parquet, read_text
from wren.data.sources import FilePart, StdinSource, find_files, open_sources, parse_mix
from wren.errors import ConfigError, DataError

TEXTS = ["first\nline", "zweite Zeile: äöü €", "第三 🐦", "with \0 a NUL", ""]


def _bytes_of(format: str, texts: list[str]) -> bytes:
    if format == ".jsonl":
        return "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts).encode()
    if format == ".txt":
        return "\n\n".join(texts).encode()
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": texts, "n": list(range(len(texts)))}), buffer, row_group_size=2)
    return buffer.getvalue()


def _packed(data: bytes, compression: str) -> bytes:
    half = len(data) // 2
    if compression == ".gz":
        return gzip.compress(data[:half]) + gzip.compress(data[half:])
    if compression == ".zst":  # several frames, one of them to be skipped
        compress = zstandard.ZstdCompressor().compress
        return compress(data[:half]) + b"\x50\x2a\x4d\x18\x04\0\0\0skip" + compress(data[half:])
    return data


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("format", [".txt", ".jsonl", ".parquet"])
def test_every_format_and_compression_gives_the_documents(tmp_path, format, compression):
    texts = TEXTS[:3] if format == ".txt" else TEXTS
    path = tmp_path / f"corpus{format}{compression}"
    path.write_bytes(_packed(_bytes_of(format, texts), compression))
    expected = ["\n\n".join(texts)] if format == ".txt" else texts
    assert list(FilePart(path).documents()) == expected
    assert list(FilePart(path).documents()) == expected, "a part can be read again"


@pytest.mark.parametrize(
    ("format", "compression"),
    [(format, compression) for format in (".txt", ".jsonl", ".parquet") for compression in (".gz", ".zst")]
    + [(".parquet", "")],
)
def test_a_truncated_file_is_named(tmp_path, format, compression):
    whole = _bytes_of(format, ["some words that fill a line or two " * 50] * 40)
    packed = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress, "": bytes}[compression](whole)
    path = tmp_path / f"cut{format}{compression}"
    for cut in {1, 5, len(packed) // 2, len(packed) - 1}:
        path.write_bytes(packed[:cut])
        with pytest.raises(DataError, match=f"cut{format}{compression} is damaged"):
            list(FilePart(path).documents())


def test_flipped_bits_in_compressed_files_are_found(tmp_path):
    whole = b"some words that fill a line or two\n" * 400
    for name, packed in {
        "a.txt.gz": gzip.compress(whole),
        "a.txt.zst": zstandard.ZstdCompressor().compress(whole),
    }.items():
        path = tmp_path / name
        path.write_bytes(b"\0\0\0\0" + packed[4:])
        with pytest.raises(DataError, match="damaged"):
            list(FilePart(path).documents())


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("ab \n\r é€🐦"), max_size=300), st.integers(8, 40))
def test_pieces_of_a_long_text_are_the_text(tmp_path_factory, text, piece):
    path = tmp_path_factory.mktemp("text") / "long.txt"
    path.write_bytes(text.encode())
    old = readers.PIECE
    readers.PIECE = piece
    try:
        pieces = list(read_text(path))
    finally:
        readers.PIECE = old
    assert "".join(pieces) == text
    assert all(len(piece_.encode()) <= piece for piece_ in pieces)
    assert not any(isinstance(piece_, MendedText) for piece_ in pieces)


def test_a_long_text_is_cut_at_blank_lines(tmp_path):
    path = tmp_path / "book.txt"
    paragraph = "word " * 300 + "end."
    text = "\n\n".join([paragraph] * 6000)
    path.write_text(text)
    pieces = list(read_text(path))
    assert len(pieces) == 3
    assert all(piece.endswith("end.\n\n") for piece in pieces[:-1])
    assert "".join(pieces) == text


def test_byte_order_mark_is_dropped(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "hello"}\r\n\r\n{"text": "again"}')
    assert list(read_text(tmp_path / "a.txt")) == ["hello"]
    assert list(read_jsonl(tmp_path / "a.jsonl", "text")) == ["hello", "again"]


def test_broken_utf8_is_replaced_and_counted_or_refused(tmp_path):
    text, lines, table = tmp_path / "a.txt", tmp_path / "a.jsonl", tmp_path / "a.parquet"
    text.write_bytes("a genuine \ufffd and ".encode() + b"\xff two \xc3( bad ones")
    lines.write_bytes(
        b'{"text": "fine"}\n{"text": "b\xe9d"}\n{"text": "half \\ud83d a pair, \\ud83d\\udc26 a whole"}\n'
    )
    column = pa.array([b"fine", b"b\xe9d"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": column}), table)
    [mended] = read_text(text)
    assert (mended, mended.replaced) == ("a genuine \ufffd and \ufffd two \ufffd( bad ones", 2)
    documents = list(read_jsonl(lines, "text"))
    assert documents == ["fine", "b\ufffdd", "half \ufffd a pair, 🐦 a whole"]
    assert [getattr(document, "replaced", 0) for document in documents] == [0, 1, 1]
    assert [getattr(document, "replaced", 0) for document in read_parquet(table, "text")] == [0, 1]
    with pytest.raises(DataError, match=r"a\.txt: byte 18 is not UTF-8.*--strict"):
        list(read_text(text, strict=True))
    with pytest.raises(DataError, match=r"a\.jsonl: line 2, byte 11 of it is not UTF-8"):
        list(read_jsonl(lines, "text", strict=True))
    with pytest.raises(DataError, match=r"a\.parquet: row 1, byte 1 of it"):
        list(read_parquet(table, "text", strict=True))
    lines.write_bytes(b'{"text": "half \\uD83D"}')
    with pytest.raises(DataError, match="surrogate"):
        list(read_jsonl(lines, "text", strict=True))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"body": "x", "id": 3}', r":2 has no key 'text'; it has 'body', 'id': choose one with --text-key"),
        (b"{}", "it has no keys"),
        (b'{"text": "cut', ":2 is not valid JSON"),
        (b"plain words", ":2 is not valid JSON"),
        (b"[1, 2]", ":2 holds a list, not an object"),
        (b'{"text": ["a"]}', ":2: 'text' is a list, not a string"),
        (b'{"text": null}', ":2: 'text' is a NoneType, not a string"),
        (b'{"text": ' + b"[" * 200_000 + b"}", ":2 is not valid JSON"),
        (b'{"text": "x", "n": ' + b"1" * 5000 + b"}", ":2 is not valid JSON"),
    ],
)
def test_a_bad_json_line_is_named_with_its_number(tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(DataError, match=message):
        list(read_jsonl(path, "text"))


def test_an_endless_line_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_LINE", 1 << 20)
    path = tmp_path / "one.jsonl"
    path.write_bytes(b'{"text": "' + b"x" * (3 << 20) + b'"}')
    with pytest.raises(DataError, match="line of more than 1 MiB"):
        list(read_jsonl(path, "text"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x7fELF\2\1\1\0\0\0" + bytes(range(256)), "binary file"),
        ("Text in two bytes a letter".encode("utf-16"), "UTF-16"),
        (("Привет мир " * 100).encode("cp1251"), "not in UTF-8"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_what_is_not_text_is_refused(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        list(FilePart(tmp_path / name).documents())


def test_parquet_columns_that_do_not_fit(tmp_path):
    path = tmp_path / "t.parquet"
    table = pa.table({"content": ["a", None], "n": [1, 2], "kind": pa.array(["x", "y"]).dictionary_encode()})
    pq.write_table(table, path)
    assert list(read_parquet(path, "content")) == ["a", ""]
    assert list(read_parquet(path, "kind")) == ["x", "y"]
    with pytest.raises(DataError, match=r"'text' is not one of its columns.*'content', 'kind'"):
        list(read_parquet(path, "text"))
    with pytest.raises(DataError, match="'n' is not a column of strings"):
        list(read_parquet(path, "n"))
    path.write_bytes(b"not parquet at all")
    with pytest.raises(DataError, match=r"t\.parquet is damaged or not parquet"):
        list(read_parquet(path, "text"))


def test_folders_and_globs_are_searched_in_sorted_order(tmp_path):
    for name in ["b.txt", "a.jsonl", "deep/er/c.jsonl.zst", "deep/d.md", ".hidden/e.txt", ".f.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    expected = [tmp_path / name for name in ["a.jsonl", "b.txt", "deep/er/c.jsonl.zst"]]
    assert find_files(str(tmp_path)) == expected
    assert find_files(str(tmp_path / "*.*")) == expected[:2]
    assert find_files(str(tmp_path / "**" / "*.zst")) == expected[2:]
    odd = tmp_path / "odd[1].txt"
    odd.write_text("x")
    assert find_files(str(odd)) == [odd]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.txt", "does not exist"),
        ("*.parquet", "No file matches"),
        ("empty.txt", r"empty\.txt is empty"),
        ("note.md", "unknown kind"),
        ("noname", "unknown kind"),
        ("x.gz", "unknown kind"),
        ("folder", "holds no text files"),
    ],
)
def test_a_path_that_cannot_be_read_is_named(tmp_path, name, message):
    for file in ["note.md", "noname", "x.gz"]:
        (tmp_path / file).write_text("x")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=message):
        open_sources([str(tmp_path / name)])


def test_mix_is_parsed():
    assert parse_mix("a.jsonl:0.7, C:/b.txt:3") == [("a.jsonl", 0.7), ("C:/b.txt", 3.0)]
    for wrong in ["a.jsonl", "a:x", ":1", "a:0", "a:-1", "a:inf", "a:nan", "a:1,"]:
        with pytest.raises(ConfigError, match=r"is not PATH:WEIGHT"):
            parse_mix(wrong)


@pytest.mark.parametrize("kind", ["text", "jsonl", "jsonl.gz", "txt.zst", "parquet"])
def test_standard_input_of_any_kind(tmp_path, kind):
    format = "." + kind.split(".")[0].replace("text", "txt")
    data = _packed(_bytes_of(format, TEXTS[:3]), "." + kind.split(".")[-1])
    source = StdinSource(io.BytesIO(data), tmp_path)
    expected = ["\n\n".join(TEXTS[:3])] if format == ".txt" else TEXTS[:3]
    assert [text for part in source.parts() for text in part.documents()] == expected
    # a later run may pipe nothing: the copy is there; the same bytes give the same fingerprint, others another
    again = StdinSource(io.BytesIO(b""), tmp_path)
    assert again.fingerprint() == StdinSource(io.BytesIO(data), tmp_path).fingerprint() == source.fingerprint()
    assert StdinSource(io.BytesIO(b"else"), tmp_path).fingerprint() != source.fingerprint()
    source.discard()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="Standard input is empty"):
        StdinSource(io.BytesIO(b""), tmp_path).fingerprint()
    assert list(tmp_path.iterdir()) == []


def test_standard_input_is_named_once(tmp_path):
    stdin = StdinSource(io.BytesIO(b"x"), tmp_path)
    write_jsonl(tmp_path / "a.jsonl", ["x"])
    assert open_sources(["-", str(tmp_path / "a.jsonl")], stdin=stdin)[0] is stdin
    with pytest.raises(DataError, match="twice"):
        open_sources(["-", "-"], stdin=stdin)
    with pytest.raises(DataError, match="cannot be read here"):
        open_sources(["-"])


def test_a_file_that_vanishes_is_named(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["x"])
    [source] = open_sources([str(path)])
    path.unlink()
    with pytest.raises(DataError, match=r"a\.jsonl"):
        source.fingerprint()
    with pytest.raises(DataError, match=r"a\.jsonl does not exist"):
        list(source.parts()[0].documents())
    assert isinstance(source.name, str)
    assert not Path(source.name).exists()
