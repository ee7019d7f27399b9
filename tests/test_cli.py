"""The verbs as a user calls them: the whole path at the smallest size, and one sentence for every mistake."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wren import stories
from wren.cli import main


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "stories.jsonl"
    lines = [json.dumps({"text": text}) for text in stories.texts(5, 120_000)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(text: Path) -> Path:
    out = text.parent / "data"
    assert main(["data", "--source", str(text), "--out", str(out), "--vocab-size", "400", "--val-fraction", "0.1"]) == 0
    return out


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    path = data.parent / "run"
    assert main(train_arguments(data, path)) == 0
    return path


def train_arguments(data: Path, run: Path, *more: str) -> list[str]:
    return [
        "train",
        "--recipe",
        "tiny",
        "--data",
        str(data),
        "--run",
        str(run),
        "--steps",
        "20",
        "--dtype",
        "fp32",
        *more,
    ]


def test_a_trained_run_is_complete_and_self_contained(run: Path):
    names = {entry.name for entry in run.iterdir()}
    assert {
        "config.json",
        "env.json",
        "metrics.jsonl",
        "tokenizer.json",
        "loss.png",
        "report.html",
        "result.json",
    } <= names
    result = json.loads((run / "result.json").read_text())
    assert 0 < result["bits_per_byte"] < 8
    for key in ("loss", "tokens_per_second", "mfu", "peak_flops", "peak_memory_bytes", "state_bytes"):
        assert result[key] > 0, key
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 21))
    before, *_, after = (row["val_bits_per_byte"] for row in rows if row["kind"] == "eval")
    assert after < before


def test_the_same_command_on_a_complete_run_trains_nothing_more(data: Path, run: Path, capsys: pytest.CaptureFixture):
    before = (run / "metrics.jsonl").read_text()
    assert main(train_arguments(data, run)) == 0
    assert "complete already" in capsys.readouterr().out
    assert (run / "metrics.jsonl").read_text() == before


def test_a_changed_setting_on_an_old_run_is_refused(data: Path, run: Path, capsys: pytest.CaptureFixture):
    assert main(train_arguments(data, run, "--set", "optimizer.lr=1e-4")) == 2
    said = capsys.readouterr().err
    assert "optimizer.lr" in said
    assert "another --run" in said


def test_sample_is_repeatable_and_writes_json(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    arguments = ["sample", "--run", str(run), "--prompt", "Once", "-n", "2", "--max-tokens", "12", "--dtype", "fp32"]
    assert main([*arguments, "--json", str(tmp_path / "a.json")]) == 0
    assert main([*arguments, "--json", str(tmp_path / "b.json")]) == 0
    first, second = (json.loads((tmp_path / name).read_text())["samples"] for name in ("a.json", "b.json"))
    assert first == second
    assert first[0] != first[1]
    assert all(sample.startswith("Once") for sample in first)
    assert first[0] in capsys.readouterr().out


def test_sample_runs_from_the_run_directory_alone(run: Path, tmp_path: Path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(run, moved)
    assert main(["sample", "--run", str(moved), "--max-tokens", "3"]) == 0


def test_eval_agrees_with_the_validation_of_training(data: Path, run: Path, tmp_path: Path):
    from wren.data.shards import open_shards
    from wren.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(run / "tokenizer.json")
    tokens = [token for shard in open_shards(data, "val") for token in shard.tolist()]
    documents: list[list[int]] = []
    for token in tokens:
        if token == tokenizer.document_id:
            documents.append([])
        else:
            documents[-1].append(token)
    val = tmp_path / "val.jsonl"
    val.write_text("\n".join(json.dumps({"text": tokenizer.decode(d)}) for d in documents), encoding="utf-8")
    arguments = ["eval", "--run", str(run), "--text", str(val), "--dtype", "fp32", "--json", str(tmp_path / "e.json")]
    assert main(arguments) == 0
    measured = json.loads((tmp_path / "e.json").read_text())["bits_per_byte"]
    trained = json.loads((run / "result.json").read_text())["bits_per_byte"]
    assert measured == pytest.approx(trained, rel=1e-6)


def test_time_budget_becomes_recorded_steps(data: Path, tmp_path: Path):
    path = tmp_path / "timed"
    arguments = [
        "train",
        "--recipe",
        "tiny",
        "--data",
        str(data),
        "--run",
        str(path),
        "--time",
        "1s",
        "--dtype",
        "fp32",
    ]
    assert main(arguments) == 0
    config = json.loads((path / "config.json").read_text())
    assert config["time_budget"] == 1
    assert json.loads((path / "result.json").read_text())["steps"] == config["train"]["steps"] > 1
    assert main(arguments) == 0  # recognised as the same run although the steps were measured


def test_ctrl_c_saves_and_the_same_command_ends_with_the_same_numbers(data: Path, run: Path, tmp_path: Path):
    path = tmp_path / "interrupted"
    command = [sys.executable, "-m", "wren", *train_arguments(data, path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (path / "metrics.jsonl").exists() or '"step": 3,' not in (path / "metrics.jsonl").read_text():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    if process.returncode:  # else it was done before the signal came
        assert process.returncode == 130
        assert "The same command goes on" in said
        assert "Traceback" not in said
    assert main(train_arguments(data, path)) == 0
    ours, theirs = (json.loads((p / "result.json").read_text()) for p in (path, run))
    assert ours["bits_per_byte"] == pytest.approx(theirs["bits_per_byte"], rel=1e-6)


def test_wren_data_reads_standard_input(tmp_path: Path):
    text = "\n\n".join(stories.texts(9, 30_000))
    out = tmp_path / "piped"
    command = [sys.executable, "-m", "wren", "data", "--source", "-", "--out", str(out), "--vocab-size", "300"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (out / "manifest.json").exists()


def test_mix_and_source_exclude_each_other(text: Path, capsys: pytest.CaptureFixture):
    assert main(["data", "--source", str(text), "--mix", f"{text}:1", "--out", "nowhere"]) == 2
    assert main(["data", "--out", "nowhere"]) == 2
    assert capsys.readouterr().err.count("exactly one") == 2
    assert not Path("nowhere").exists()


def test_tokenizer_verbs(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "tokenizer.json"
    assert main(["tokenizer", "train", "--source", str(text), "--vocab-size", "300", "--out", str(out)]) == 0
    assert main(["tokenizer", "show", "--tokenizer", str(out), "--text", "a wren"]) == 0
    arguments = ["tokenizer", "compare", "--source", str(text), "--sizes", "300,400", "--dim", "64", "--depth", "2"]
    assert main([*arguments, "--json", str(tmp_path / "c.json"), "--plot", str(tmp_path / "c.png")]) == 0
    assert [row["vocab_size"] for row in json.loads((tmp_path / "c.json").read_text())["sizes"]] == [300, 400]
    assert (tmp_path / "c.png").stat().st_size > 1000
    assert "wren" in capsys.readouterr().out


def test_a_flipped_byte_in_a_shard_is_named_before_training(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    damaged = tmp_path / "data"
    shutil.copytree(data, damaged)
    shard = bytearray((damaged / "train_000000.bin").read_bytes())
    shard[1001] ^= 0x10
    (damaged / "train_000000.bin").write_bytes(shard)
    assert main(train_arguments(damaged, tmp_path / "never")) == 2
    said = capsys.readouterr().err
    assert "train_000000.bin is damaged" in said
    assert "to rebuild" in said
    assert not (tmp_path / "never").exists()


def test_a_context_shorter_than_a_sample_trains_to_its_end(data: Path, tmp_path: Path):
    shape = ["depth=1", "dim=16", "num_heads=2", "context_len=16", "batch_size=2"]
    command = ["train", "--recipe", "gpt2", "--data", str(data), "--run", str(tmp_path / "run"), "--steps", "2"]
    assert (
        main([*command, "--prompts", "The ", "a prompt of more tokens than there are positions", "--set", *shape]) == 0
    )
    assert (tmp_path / "run" / "report.html").exists()


def test_lost_parts_of_a_run_are_made_again_or_passed_over(data: Path, run: Path, tmp_path: Path):
    hurt = tmp_path / "hurt"
    shutil.copytree(run, hurt)
    (hurt / "tokenizer.json").unlink()  # as a kill between config.json and it leaves the run
    odd = ['{"step": "x", "kind": "train"}', '{"step": 3}', '{"step": 4, "kind": "eval", "val_bits_per_byte": null}']
    with open(hurt / "metrics.jsonl", "a") as file:
        file.write("\n".join([*odd, ""]))
    assert main(train_arguments(data, hurt)) == 0
    assert (hurt / "tokenizer.json").read_bytes() == (run / "tokenizer.json").read_bytes()


def test_a_damaged_newest_checkpoint_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    hurt = tmp_path / "hurt"
    shutil.copytree(run, hurt)
    newest = max((hurt / "checkpoints").iterdir())
    (newest / "model.safetensors").write_bytes(b"x")
    assert main(["sample", "--run", str(hurt), "--max-tokens", "2"]) == 0
    assert f"{newest} is damaged" in capsys.readouterr().err
    for path in (hurt / "checkpoints").iterdir():
        (path / "state.json").write_text("{}")
    assert main(["sample", "--run", str(hurt), "--max-tokens", "2"]) == 2
    assert "every one is damaged. Train it" in capsys.readouterr().err


def test_a_sink_that_is_not_installed_leaves_no_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not there
    assert main(train_arguments(data, tmp_path / "never", "--sinks", "wandb")) == 2
    assert "wandb is not installed" in capsys.readouterr().err
    assert not (tmp_path / "never").exists()


def test_dry_run_writes_nothing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(train_arguments(data, tmp_path / "never", "--dry-run")) == 0
    assert "Would train" in capsys.readouterr().out
    assert not (tmp_path / "never").exists()


MISTAKES = {
    "missing data": (["train", "--data", "{tmp}/none"], "does not exist"),
    "unknown recipe": (["train", "--data", "{data}", "--recipe", "gtp2"], "did you mean 'gpt2'"),
    "unknown setting": (["train", "--data", "{data}", "--recipe", "tiny", "--set", "deph=3"], "did you mean 'depth'"),
    "unknown key": (["train", "--data", "{data}", "--set", "optimizer.rl=1"], "did you mean 'lr'"),
    "setting without value": (["train", "--data", "{data}", "--set", "depth"], "KEY=VALUE"),
    "wrong type": (["train", "--data", "{data}", "--set", "depth=three"], "must be a number"),
    "vocabulary too small": (["train", "--data", "{data}", "--set", "model.vocab_size=100"], "smaller than"),
    "heads do not divide": (
        ["train", "--data", "{data}", "--recipe", "gpt2", "--set", "dim=70", "batch_size=2", "context_len=64"],
        "heads",
    ),
    "less than a batch": (
        ["train", "--data", "{data}", "--recipe", "tiny", "--set", "batch_size=999999", "--run", "{tmp}/r"],
        "less than one batch",
    ),
    "two budgets": (["train", "--data", "{data}", "--steps", "3", "--time", "1m"], "exclude each other"),
    "json into a folder": (["train", "--data", "{data}", "--json", "{tmp}"], "cannot be a file"),
    "no time": (["train", "--data", "{data}", "--time", "soon"], "is not a time"),
    "no steps": (["train", "--data", "{data}", "--steps", "0"], "train.steps is 0"),
    "endless tokens": (["train", "--data", "{data}", "--tokens", "1e400"], "is not a number of tokens"),
    "huge seed": (
        ["train", "--data", "{data}", "--recipe", "tiny", "--seed", "9" * 30, "--run", "{tmp}/r"],
        "The seed is",
    ),
    "no head width": (["train", "--data", "{data}", "--set", "head_dim=0"], "head_dim is 0"),
    "too wide a model": (["train", "--data", "{data}", "--set", "dim=32000000000"], "Out of memory"),
    "more tokens than memory": (["sample", "--run", "{run}", "--max-tokens", "100000000000"], "Out of memory"),
    "no temperature": (["sample", "--run", "{run}", "--temperature", "nan"], "temperature is nan"),
    "no workers": (["data", "--source", "{text}", "--out", "{tmp}/o", "--workers", "-1"], "workers is -1"),
    "no such device": (["sample", "--run", "{run}", "--device", "gpu"], "is unknown"),
    "not a run": (["sample", "--run", "{tmp}"], "not a run directory"),
    "negative temperature": (["sample", "--run", "{run}", "--temperature", "-1"], "temperature"),
    "no samples": (["sample", "--run", "{run}", "-n", "0"], "at least 1"),
    "eval without text": (["eval", "--run", "{run}", "--text", "{tmp}/none.txt"], "does not exist"),
    "empty file": (["data", "--source", "{tmp}/empty.txt", "--out", "{tmp}/o"], "empty"),
    "binary file": (["data", "--source", "{tmp}/binary.txt", "--out", "{tmp}/o"], "binary"),
    "missing key": (["data", "--source", "{tmp}/other.jsonl", "--out", "{tmp}/o"], "body"),
    "unknown kind": (["data", "--source", "{tmp}/book.pdf", "--out", "{tmp}/o"], "unknown kind"),
    "truncated": (["data", "--source", "{tmp}/cut.jsonl.gz", "--out", "{tmp}/o"], "cut"),
    "vocabulary out of range": (["data", "--source", "{text}", "--out", "{tmp}/o", "--vocab-size", "12"], "258"),
    "no tokenizer": (["data", "--source", "{text}", "--out", "{tmp}/o", "--tokenizer", "{tmp}/t.json"], "t.json"),
    "no corpus": (["quickstart", "--corpus", "{tmp}/none", "--run", "{tmp}/q"], "does not exist"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    name: str, data: Path, run: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    import gzip

    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "other.jsonl").write_text('{"body": "x"}\n')
    (tmp_path / "book.pdf").write_text("x")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "hello"}\n' * 5000)[:-20])
    arguments, expected = MISTAKES[name]
    places = {"tmp": str(tmp_path), "data": str(data), "run": str(run), "text": str(text)}
    assert main([part.format(**places) for part in arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert expected in said
    assert said.startswith("wren: ")
    assert "Traceback" not in said
    assert not (tmp_path / "o" / "manifest.json").exists()
    assert not (tmp_path / "r").exists()
    assert not (tmp_path / "q" / "config.json").exists()


@pytest.mark.skipif(os.name != "posix", reason="needs a pipe that closes")
def test_a_reader_that_goes_away_is_no_traceback(run: Path):
    command = f"{sys.executable} -m wren sample --run {run} -n 50 --max-tokens 20 | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr


def test_ctrl_c_while_the_program_is_still_read_is_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys):
    class Finder:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "wren.cli":
                raise KeyboardInterrupt

    import wren.__main__ as entry

    monkeypatch.delitem(sys.modules, "wren.cli")
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    assert entry.main() == 130
    assert capsys.readouterr().err == "wren: Interrupted before anything was begun.\n"


def test_other_data_is_said_without_its_hash(data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "other.txt").write_text("something else altogether, said many times. " * 2000)
    other = tmp_path / "other"
    assert main(["data", "--source", str(tmp_path / "other.txt"), "--out", str(other), "--vocab-size", "300"]) == 0
    capsys.readouterr()
    manifest = json.loads((other / "manifest.json").read_text())
    shutil.copytree(run, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["model"]["vocab_size"] = manifest["vocab_size"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert main(train_arguments(other, tmp_path / "run")) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"was begun with another data set than {other} holds now" in said


def test_a_file_in_the_place_of_shards_is_said(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(train_arguments(text, tmp_path / "run")) == 2
    assert "is a file, not a folder of shards" in " ".join(capsys.readouterr().err.split())


def test_a_model_that_ends_as_nan_is_no_success(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    command = ["train", "--recipe", "tiny", "--data", str(data), "--run", str(tmp_path / "run"), "--steps", "2"]
    assert main([*command, "--dtype", "fp32", "--set", "lr=1e9"]) == 2
    assert "its training diverged; take an earlier checkpoint" in " ".join(capsys.readouterr().err.split())
    shutil.rmtree(tmp_path / "run")
    assert main([*command, "--dtype", "fp32", "--prompts", "--set", "lr=1e9"]) == 2
    assert "loss is not finite after 2 steps; lower the learning rate" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_cut_curve_is_told(data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    (tmp_path / "run" / "result.json").unlink()
    assert main(train_arguments(data, tmp_path / "run")) == 0
    assert "the curve is incomplete, the training is not" in " ".join(capsys.readouterr().out.split())
