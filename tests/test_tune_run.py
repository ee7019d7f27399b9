"""`wren tune`: every kind of tuning gives a run that loads; it resumes to the last bit; wrong input is a sentence."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import train_child as child
from rich.console import Console
from train_faults import stop_at
from tune_parts import CONTEXT, FP32, asked, base_run, chat, pair, talk, tokenizer, write_lines

from wren import checkpoint, cli
from wren.adapters import files
from wren.adapters.rows import Adapters
from wren.errors import CheckpointError, ConfigError, DataError, TokenizerError, WrenError
from wren.evals.bits_per_byte import bits_per_byte
from wren.generate import load_run
from wren.progress import TrainingProgress
from wren.run import Run
from wren.tokenizer import Tokenizer
from wren.train import Interrupted
from wren.tune import run as tuning
from wren.tune.examples import encode, split
from wren.tune.formats import read_conversations
from wren.tune.loader import batches_in_order
from wren.tune.settings import Asked


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_run(tmp_path_factory.mktemp("base") / "run")


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("data") / "talks.jsonl", [talk(i) for i in range(30)])


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("data") / "pairs.jsonl", [pair(i) for i in range(30)])


@pytest.fixture(autouse=True)
def _few_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The curve takes longer to draw than these runs to train: it is drawn in one test alone."""
    if "command_line" not in request.node.name:
        monkeypatch.setattr(tuning, "loss_plot", lambda run: run.path)


def go(given: Asked, said: list[str] | None = None) -> dict[str, Any]:
    said = [] if said is None else said
    return tuning.tune(given, device="cpu", say=said.append, console=Console(file=StringIO()))


KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"lora": 2, "merge": True},
    "bits": {"lora": 2, "bits": 4, "merge": True},
    "dpo": {"objective": "dpo", "context": 2 * CONTEXT},
    "dpo-lora": {"objective": "dpo", "lora": 2, "context": 2 * CONTEXT},
    "spin": {"objective": "spin", "context": 3 * CONTEXT},
    "8bit": {"settings": ("optimizer.state_dtype=8bit", "train.save_every=2", "train.eval_every=3")},
    "checkpointed": {"lora": 2, "settings": ("train.activation_checkpointing=full", "train.save_every=2")},
}


def data_of(kind: str, talks: Path, pairs: Path) -> Path:
    return pairs if kind.startswith("dpo") else talks


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="trains in one process; start it without torchrun"):
        go(asked(tmp_path, tmp_path / "talks.jsonl", tmp_path / "out"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_tuning_gives_a_run_that_loads_and_resumes_exactly(
    kind: str, base: Path, talks: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, data = KINDS[kind], data_of(kind, talks, pairs)
    before = {n: x.clone() for n, x in load_run(base, torch.device("cpu")).model.state_dict().items()}
    result = go(asked(base, data, tmp_path / "whole", **options))
    assert result["steps"] == 6
    assert result["bits_per_byte"] > 0
    assert ("accuracy" in result) == kind.startswith("dpo")
    for stop in (1, 4) if kind in ("full", "lora") else (3,):
        with monkeypatch.context() as patch:
            watch = stop_at(stop, signal.SIGINT)
            patch.setattr(TrainingProgress, "watch", lambda self, progress, row, watch=watch: watch(progress, row))
            with pytest.raises(Interrupted, match=f"saved at step {stop}"):
                go(asked(base, data, tmp_path / "parts", **options))
    assert go(asked(base, data, tmp_path / "parts", **options))["bits_per_byte"] == result["bits_per_byte"]
    child.assert_same_run(tmp_path / "whole", tmp_path / "parts")
    after = load_run(base, torch.device("cpu")).model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    loaded = load_run(tmp_path / "whole", torch.device("cpu"))
    assert loaded.step == 6
    assert any(not torch.equal(before[name], x) for name, x in loaded.model.state_dict().items())
    if "merge" in options:
        merged = load_run(tmp_path / "whole" / tuning.MERGED, torch.device("cpu")).model.state_dict()
        assert all(torch.equal(x, merged[name]) for name, x in loaded.model.state_dict().items())
    for name in ("report.html", "result.json", "tokenizer.json", "samples"):
        assert (tmp_path / "whole" / name).exists()


@pytest.mark.parametrize("kind", ["full", "lora", "bits"])
def test_the_loaded_run_scores_what_was_reported(kind: str, base: Path, talks: Path, tmp_path: Path) -> None:
    result = go(asked(base, talks, tmp_path / "out", **KINDS[kind]))
    _, held = split(read_conversations([str(talks)]).conversations)
    examples, _ = encode(held, chat(), CONTEXT)
    batches = batches_in_order(examples, context_len=CONTEXT, batch_size=4, pad_id=0)
    model = load_run(tmp_path / "out", torch.device("cpu")).model
    found = bits_per_byte(model, batches, tokenizer().token_bytes(), FP32)
    assert found["bits_per_byte"] == pytest.approx(result["bits_per_byte"], rel=1e-5)


def test_tuning_learns_and_the_adapter_is_a_small_file_of_its_own(base: Path, talks: Path, tmp_path: Path) -> None:
    result = go(asked(base, talks, tmp_path / "full", steps=60, lr=2e-2, settings=()))
    assert result["bits_per_byte"] < 0.3 * result["before"]
    samples = next((tmp_path / "full" / "samples").iterdir()).read_text()
    assert samples.startswith("user: ")
    assert "\nassistant: It is" in samples
    other = [{"question": talk(i)["messages"][0]["content"], "answer": "I see no colours."} for i in range(30)]
    data = write_lines(tmp_path / "other.jsonl", other)
    result = go(asked(tmp_path / "full", data, tmp_path / "out", lora=4, steps=40, lr=1e-2, settings=()))
    assert result["bits_per_byte"] < 0.5 * result["before"]
    loaded = load_run(tmp_path / "full", torch.device("cpu"))
    made = files.load(tmp_path / "out" / "adapter", loaded.model)
    adapters = Adapters(loaded.model)
    tokens_BT = torch.tensor([chat().prompt(read_conversations([str(talks)]).conversations[0].messages[:1])])
    tuned = load_run(tmp_path / "out", torch.device("cpu")).model
    with torch.no_grad(), adapters.rows(adapters.add(made)):
        torch.testing.assert_close(loaded.model(tokens_BT), tuned(tokens_BT), atol=1e-4, rtol=1e-4)
    with pytest.raises(CheckpointError, match="another model"):
        files.load(tmp_path / "out" / "adapter", load_run(base, torch.device("cpu")).model)


def test_a_tuned_run_is_tuned_again(base: Path, talks: Path, pairs: Path, tmp_path: Path) -> None:
    go(asked(base, talks, tmp_path / "one", lora=2))
    two = go(asked(tmp_path / "one", pairs, tmp_path / "two", objective="dpo", lora=2, context=96))
    assert two["base"] == str(tmp_path / "one")
    assert load_run(tmp_path / "two", torch.device("cpu")).step == 6
    (tmp_path / "two" / files.BASE).unlink()
    with pytest.raises(CheckpointError, match=r"base/model.safetensors is missing or damaged"):
        load_run(tmp_path / "two", torch.device("cpu"))


def test_a_finished_tuning_does_nothing_again(base: Path, talks: Path, tmp_path: Path) -> None:
    first = go(asked(base, talks, tmp_path / "out"))
    before = child.curve(tmp_path / "out")
    said: list[str] = []
    again = go(asked(base, talks, tmp_path / "out"), said)
    assert again["bits_per_byte"] == first["bits_per_byte"]
    assert child.curve(tmp_path / "out") == before
    assert any("complete already" in line for line in said)


def test_epochs_become_steps_and_what_was_left_out_is_said(base: Path, talks: Path, tmp_path: Path) -> None:
    rows = [*(talk(i) for i in range(9)), {"messages": []}, {"messages": [{"role": "user", "content": "what " * 90},
            {"role": "assistant", "content": "x"}]}]  # fmt: skip
    data, said = write_lines(tmp_path / "a.jsonl", rows), []
    result = go(asked(base, data, tmp_path / "out", val=(str(talks),), steps=None, epochs=2, skip_bad=True), said)
    assert result["steps"] == Run(tmp_path / "out").config()["train"]["steps"] > 2
    text = "\n".join(said)
    for sentence in ("talks.jsonl", "Passed over 1 rows", "1 were left out since nothing", "30 more are held out"):
        assert sentence in text or sentence in result["split"]


def test_the_sample_is_shown_before_the_first_step(base: Path, talks: Path, tmp_path: Path) -> None:
    console = Console(file=StringIO(), color_system=None, width=300)
    tuning.tune(asked(base, talks, tmp_path / "out"), device="cpu", say=lambda text: None, console=console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "between « and »" in shown
    assert "<|wren:assistant|>«" in shown


def test_dry_run_writes_nothing(base: Path, talks: Path, tmp_path: Path) -> None:
    said = tuning.describe(
        asked(base, talks, tmp_path / "out", lora=2, steps=None), device="cpu", console=Console(file=StringIO())
    )
    assert "Would tune an adapter of rank 2" in said
    assert not (tmp_path / "out").exists()


def test_the_command_line(base: Path, pairs: Path, talks: Path, tmp_path: Path, capsys: Any) -> None:
    out, result = tmp_path / "out", tmp_path / "result.json"
    common = ["--run", str(base), "--out", str(out), "--steps", "2", "--device", "cpu"]
    dpo = ["tune", *common, "--data", str(pairs), "--dpo", "--beta", "0.2", "--context", "96", "--lora", "2"]
    assert cli.main([*dpo, "--json", str(result), "--set", "train.keep=1"]) == 0
    assert {"bits_per_byte", "loss", "accuracy", "tokens_per_second"} <= json.loads(result.read_text()).keys()
    assert Run(out).config()["beta"] == 0.2
    assert (out / "loss.png").exists()
    assert "bits per byte of the assistant's words" in capsys.readouterr().out
    assert cli.main(["tune", *common, "--data", str(talks), "--dry-run", "--lora", "2"]) == 0
    for wrong in (["--dpo", "--spin"], ["--set", "model.dim=3"], ["--lora", "0"]):
        assert cli.main(["tune", *common, "--data", str(talks), *wrong]) == 2
        error = capsys.readouterr().err
        assert error.startswith("wren: ")
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"bits": 4}, ConfigError, "add --lora"),
        ({"lora": 2, "bits": 3}, ConfigError, "bits is 3"),
        ({"merge": True}, ConfigError, "--merge folds an adapter"),
        ({"epochs": 1}, ConfigError, "exclude each other"),
        ({"epochs": 0, "steps": None}, ConfigError, "--epochs is 0"),
        ({"data": ()}, ConfigError, "no data"),
        ({"context": 1}, ConfigError, "--context is 1"),
        ({"context": 9}, DataError, "longer --context"),
        ({"beta": -1}, ConfigError, "--beta is -1"),
        ({"settings": ("model.dim=3",)}, ConfigError, "Setting 'model.dim' is unknown"),
        ({"settings": ("train.steps",)}, ConfigError, "Setting 'train.steps' is unknown"),
        ({"objective": "dpo"}, DataError, "leave out --dpo"),
        ({"val": ("none.jsonl",)}, DataError, "none.jsonl does not exist"),
        ({"seed": -1, "steps": None}, ConfigError, "seed is -1"),
        ({"lr": 0.0}, ConfigError, "optimizer.lr is 0"),
        ({"batch_size": 0}, ConfigError, "train.batch_size is 0"),
    ],
)
def test_wrong_input_is_a_sentence_and_nothing_is_written(
    changes: dict[str, Any], error: type[WrenError], sentence: str, base: Path, talks: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=sentence):
        go(Asked(**{"run": base, "data": (str(talks),), "out": tmp_path / "out", "steps": 2, **changes}))
    assert not (tmp_path / "out").exists()


def test_wrong_folders_are_sentences(base: Path, talks: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is the run that is tuned"):
        asked(base, talks, base)
    with pytest.raises(ConfigError, match="none is not a run directory"):
        go(asked(tmp_path / "none", talks, tmp_path / "out"))
    with pytest.raises(ConfigError, match="holds another run, not a tuning"):
        go(asked(base, talks, base_run(tmp_path / "other")))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match=r"holds 'letter.txt' and no run"):
        go(asked(base, talks, tmp_path / "full"))
    small = base_run(tmp_path / "small")
    Tokenizer([bytes([i]) for i in range(256)], 260).save(small / "tokenizer.json")
    with pytest.raises(TokenizerError, match="no tokens for conversations"):
        go(asked(small, talks, tmp_path / "out"))
    few = base_run(tmp_path / "few", learned_positions=40)
    with pytest.raises(ConfigError, match="longer than the 40 positions"):
        go(asked(few, talks, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lr": 0.5}, "optimizer.lr = "),
        ({"on_long": "drop"}, "on_long"),
        ({"steps": 7}, "train.steps"),
        ({}, "other data"),
    ],
)
def test_another_tuning_does_not_resume(
    changes: dict[str, Any], sentence: str, base: Path, talks: Path, tmp_path: Path
) -> None:
    go(asked(base, talks, tmp_path / "out", steps=2))
    data = talks if changes else write_lines(tmp_path / "a.jsonl", [talk(i) for i in range(5)])
    with pytest.raises(ConfigError, match=f"was begun with {sentence}"):
        go(asked(base, data, tmp_path / "out", **{"steps": 2, **changes}))


def test_a_base_that_trained_on_is_noticed_or_not_needed(talks: Path, tmp_path: Path) -> None:
    base = base_run(tmp_path / "base")
    for kind in ("full", "lora"):
        go(asked(base, talks, tmp_path / kind, **KINDS[kind]))
    model = load_run(base, torch.device("cpu")).model
    with torch.no_grad():
        model.head.weight += 1
    checkpoint.save(Run(base).checkpoints_path, 9, checkpoint.weights(model), {}, {})
    for kind in ("full", "lora"):
        assert go(asked(base, talks, tmp_path / kind, **KINDS[kind]))["steps"] == 6
    for path in (tmp_path / "full" / "checkpoints").iterdir():
        path.rename(tmp_path / path.name)
    with pytest.raises(ConfigError, match="was trained on since"):
        go(asked(base, talks, tmp_path / "full"))


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.slow
def test_killed_at_any_moment_it_ends_as_if_left_alone(base: Path, talks: Path, tmp_path: Path) -> None:
    def start(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(Path(__file__).with_name("tune_child.py")), str(base), str(talks), str(out)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    began = time.monotonic()
    assert start(tmp_path / "whole").wait() == 0
    whole, chance = time.monotonic() - began, random.Random(0)
    for _ in range(8):
        process = start(tmp_path / "parts")
        time.sleep(chance.uniform(0.3, 1.0) * whole)
        process.kill()
        process.wait()
    assert start(tmp_path / "parts").wait() == 0
    child.assert_same_run(tmp_path / "whole", tmp_path / "parts")
