"""Which files of a dataset on the hub are meant, and at which commit: looked up once, then pinned in `hub.json`.

A config is found by the dataset card (`configs:` with their `data_files`), else as a folder; a split by the card, else
by the names of files; a glob overrules both. The first parquet file's footer, read by range, shows the columns.
"""

import io
import re
import struct
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wren.data.hub_client import HubClient
from wren.data.hub_files import RemoteFile
from wren.data.readers import FORMATS
from wren.errors import ConfigError, DataError, unknown_key
from wren.files import read_json, write_json

RECORD = "hub.json"
KINDS = ", ".join((*FORMATS, ".json lines")) + ", plain, .gz or .zst"
_KIND = re.compile(r".*(\.txt|\.jsonl|\.json|\.parquet)(\.gz|\.zst)?", re.IGNORECASE | re.DOTALL)
FINEWEB_EDU = "HuggingFaceFW/fineweb-edu"
# bytes of text in a byte of file, where a footer does not tell; FineWeb-Edu's parquet has about 1.6
_TEXT_PER_BYTE = {".parquet": 1.6, ".gz": 2.5, ".zst": 2.5}
_SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A dataset as the user names it; None takes the dataset's own default."""

    repo: str = FINEWEB_EDU
    config: str | None = None
    split: str = "train"
    column: str = "text"
    revision: str | None = None
    path_glob: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.repo) or ".." in self.repo:
            raise ConfigError(f"'{self.repo}' is no name of a dataset; write owner/name, as in {FINEWEB_EDU}.")


@dataclass(frozen=True)
class Located:
    """A dataset's files at one commit, in the order they are read."""

    wanted: Wanted
    config: str | None
    revision: str  # the commit
    files: tuple[RemoteFile, ...]
    text_per_byte: float  # bytes of text in a byte of file, for estimates

    def num_files(self, text_bytes: float) -> int:
        """How many of the first files hold about that many bytes of text."""
        held = 0.0
        for number, file in enumerate(self.files, start=1):
            held += file.size * self.text_per_byte
            if held >= text_bytes:
                return number
        return len(self.files)


def pinned(wanted: Wanted, out: Path) -> Located | None:
    """What an earlier run pinned in `out/hub.json`, if any; asks nobody.

    Raises ConfigError when `out` belongs to another dataset, DataError when the record is damaged.
    """
    record = out / RECORD
    if not record.exists():
        return None
    located = _load(record)
    there = located.wanted
    if there.config is None and wanted.config == located.config:
        wanted = replace(wanted, config=None)
    if there.revision is None and wanted.revision == located.revision:
        wanted = replace(wanted, revision=None)
    if there != wanted:
        raise ConfigError(
            f"{out} holds {_differences(there, wanted)}; choose another --out or begin anew with --fresh."
        )
    return located


def pin(located: Located, out: Path) -> None:
    """Writes `out/hub.json`, so that every later run reads the same files even when main has moved."""
    write_json(out / RECORD, {**asdict(located), "files": [file._asdict() for file in located.files]})


def look_up(client: HubClient, wanted: Wanted) -> Located:
    """Asks the hub for the commit, the card and the files; writes nothing.

    Raises DataError for a dataset, revision, config, split or column that does not exist, with what exists.
    """
    revision, card = client.commit(wanted.repo, wanted.revision)
    everything = [file for file in client.tree(wanted.repo, revision) if _readable(file.path)]
    if not everything:
        raise DataError(f"Dataset '{wanted.repo}' holds no file of text; Wren reads {KINDS}.")
    config, files = choose_files(everything, card, wanted)
    first = files[0]
    ratio = next((r for suffix, r in _TEXT_PER_BYTE.items() if first.path.endswith(suffix)), 1.0)
    if first.path.endswith(".parquet"):
        ratio = _look_into_parquet(client, wanted, revision, first) or ratio
    return Located(wanted, config, revision, tuple(files), ratio)


def choose_files(files: list[RemoteFile], card: dict[str, Any], wanted: Wanted) -> tuple[str | None, list[RemoteFile]]:
    """The name of the config and its files, by the first of these that applies: the glob, the card, the folders."""
    files = sorted(files)
    if wanted.path_glob is not None:
        chosen = _matching(files, [wanted.path_glob])
        if not chosen:
            some = ", ".join(file.path for file in files[:5])
            raise DataError(f"No file of '{wanted.repo}' matches '{wanted.path_glob}'; it has {some}, ...")
        return wanted.config, chosen
    configs = {str(c.get("config_name", "default")): c for c in card.get("configs") or [] if c.get("data_files")}
    name = wanted.config or _default_config(wanted.repo, card, configs)
    if name in configs:
        return name, _card_files(files, configs[name], name, wanted)
    if name is not None:
        within = [file for file in files if file.path.startswith(f"{name.strip('/')}/")]
        if not within:
            folders = {file.path.rpartition("/")[0] for file in files} - {""}
            sentence = unknown_key(f"Config of '{wanted.repo}'", name, set(configs) | folders)
            raise DataError(
                sentence if configs or folders else f"Dataset '{wanted.repo}' has no configs; leave it out."
            )
        return name, _split_files(within, wanted)
    return None, _split_files(files, wanted)


def _default_config(repo: str, card: dict[str, Any], configs: dict[str, Any]) -> str | None:
    if repo == FINEWEB_EDU:
        return "sample-10BT"  # the whole has 1.3 trillion tokens
    if not configs:
        return None
    marked = [str(c["config_name"]) for c in card["configs"] if c.get("default") and c.get("config_name") in configs]
    if marked or "default" in configs or len(configs) == 1:
        return (marked or [name for name in configs if name == "default"] or list(configs))[0]
    raise DataError(f"Dataset '{repo}' has several configs; choose one with --config: {', '.join(sorted(configs))}.")


def _card_files(files: list[RemoteFile], config: dict[str, Any], name: str, wanted: Wanted) -> list[RemoteFile]:
    """The files that the card's `data_files` of a config names for the wanted split."""
    folder = str(config.get("data_dir") or "")
    data = config["data_files"]
    if isinstance(data, dict):
        data = [{"split": split, "path": path} for split, path in data.items()]
    patterns: dict[str, list[str]] = {}
    for entry in [data] if isinstance(data, str) else data:
        split, path = ("train", entry) if isinstance(entry, str) else (entry.get("split", "train"), entry["path"])
        paths = [path] if isinstance(path, str) else path
        patterns.setdefault(str(split), []).extend(f"{folder}/{p}".lstrip("/") for p in paths)
    if wanted.split not in patterns:
        raise DataError(unknown_key(f"Split of '{wanted.repo}' ({name})", wanted.split, patterns))
    chosen = _matching(files, patterns[wanted.split])
    if not chosen:
        raise DataError(
            f"Config '{name}' of '{wanted.repo}' names no file that Wren reads ({KINDS}); "
            "choose files with --path-glob."
        )
    return chosen


def _split_files(files: list[RemoteFile], wanted: Wanted) -> list[RemoteFile]:
    """The files whose path names the split, as `train-00000.parquet` does; all for train where no path names one."""
    found: dict[str, list[RemoteFile]] = {}
    # beside data of another kind, .json files describe it
    data = [file for file in files if not re.search(r"\.json(\.gz|\.zst)?$", file.path)]
    for file in data or files:
        words = set(re.split(r"[^a-z]+", file.path.lower()))
        split = next((s for s, names in _SPLIT_WORDS.items() if words & set(names)), None)
        found.setdefault(split or "", []).append(file)
    if set(found) == {""}:
        found = {"train": found[""]}
    if wanted.split not in found:
        raise DataError(unknown_key(f"Split of '{wanted.repo}'", wanted.split, set(found) - {""}))
    return found[wanted.split]


def _matching(files: list[RemoteFile], patterns: list[str]) -> list[RemoteFile]:
    expressions = [_glob(pattern) for pattern in patterns]
    return [file for file in files if any(expression.fullmatch(file.path) for expression in expressions)]


def _glob(pattern: str) -> re.Pattern[str]:
    """`*` and `?` stay within a folder, `**` crosses folders, and a folder's name means all that is in it."""
    translated = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", pattern.removeprefix("./").rstrip("/"))
    return re.compile("".join(translated.get(piece, re.escape(piece)) for piece in pieces) + "(?:/.*)?")


def _readable(path: str) -> bool:
    return _KIND.fullmatch(path) is not None and not any(piece.startswith((".", "_")) for piece in path.split("/"))


def _look_into_parquet(client: HubClient, wanted: Wanted, revision: str, file: RemoteFile) -> float | None:
    """Bytes of text per byte of file from its footer (two small range requests); None where ranges are not served."""
    tail = client.read_range(wanted.repo, revision, file.path, max(0, file.size - 8), min(8, file.size))
    if tail is None:
        return None
    length = struct.unpack("<I", tail[:4])[0] + 8 if tail.endswith(b"PAR1") else 0
    if not 8 < length <= file.size:
        raise DataError(f"{file.path} of '{wanted.repo}' is not a parquet file; choose others with --path-glob.")
    footer = client.read_range(wanted.repo, revision, file.path, file.size - length, length)
    if footer is None:
        return None
    try:
        metadata = pq.read_metadata(io.BytesIO(b"PAR1" + footer))
        names = metadata.schema.to_arrow_schema().names
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file.path} of '{wanted.repo}' has a broken footer ({error}).") from error
    if wanted.column not in names:
        raise DataError(unknown_key(f"Column of '{wanted.repo}'", wanted.column, names))
    groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
    columns = (group.column(index) for group in groups for index in range(group.num_columns))
    text = sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] == wanted.column)
    return max(text, 1) / file.size


def _load(record: Path) -> Located:
    value = read_json(record)
    try:
        files = tuple(RemoteFile(**file) for file in value["files"])
        wanted = Wanted(**value["wanted"])
        return Located(wanted, value["config"], value["revision"], files, float(value["text_per_byte"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{record} is not a record of a dataset; delete it to look the dataset up again.") from error


def _differences(there: Wanted, asked: Wanted) -> str:
    old, new = asdict(there), asdict(asked)
    return f"'{there.repo}' with " + ", ".join(f"{k}={old[k]} (not {new[k]})" for k in old if old[k] != new[k])
