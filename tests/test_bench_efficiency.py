"""bench/efficiency.py: what it concludes from its numbers, and all of its parts in a tiny form."""

import argparse
import json
import os
import signal
from pathlib import Path
from typing import Any

import bench_parts  # noqa: F401
import efficiency
import pytest
import torch
from lab_compare_parts import opened, prepared
from measures import characters, inference, options, race, training
from measures.paces import Paces

from wren import stories
from wren.batch import Batch
from wren.errors import ConfigError, DataError
from wren.exits import exit_code
from wren.loss import cross_entropy
from wren.mixers import attention
from wren.precision import choose_precision
from wren.recipes import tiny

CPU = torch.device("cpu")
FP32 = choose_precision(CPU, "fp32")
__all__ = ["prepared"]  # a fixture
SMALL = ["depth=1", "dim=32", "context_len=16", "batch_size=2", "bigrams=64", "trigrams=0"]
BASE = {"steps": 2, "depth": 1, "dim": 16, "num_heads": 1, "batch_size": 2, "context_len": 16}


def quiet(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(stories.texts(0, 30_000)), encoding="utf-8")
    return path


def group(name: str, budget: float | None, seconds: float, loss: float) -> dict[str, Any]:
    return {"name": name, "budget": budget, "loss": {"mean": loss}, "seconds": {"mean": seconds}}


def test_a_target_is_reached_by_the_shortest_training_whose_loss_is_there():
    groups = [group("gpt2", None, 56.0, 1.89)]
    groups += [group("wren", b, b + 1, loss) for b, loss in ((7, 1.9), (15, 1.7), (60, 1.55), (119, 1.56))]
    nanogpt, nanochat, large = characters.targets(groups)
    assert (nanogpt["budget"], nanogpt["ratio"]) == (15, 56.0 / 16)
    assert (nanochat["budget"], nanochat["ratio"]) == (60, 119.0 / 61)  # recorded, not measured here
    assert (large["budget"], large["ratio"]) == (None, None)


def test_without_the_baseline_there_is_no_ratio_to_it():
    nanogpt, nanochat, _ = characters.targets([group("wren", 15, 15.0, 1.4)])
    assert (nanogpt["budget"], nanogpt["ratio"]) == (15, None)
    assert nanochat["ratio"] == 119.0 / 15


def test_the_stand_in_has_nanogpt_s_settings():
    config = characters.nanogpt(65, 3)
    train, model = config.train, config.model
    assert (train.steps, train.batch_size, train.context_len, train.dtype) == (2000, 12, 64, "fp32")
    assert (model.depth, model.dim, model.dropout, config.optimizer.lr, config.seed) == (4, 128, 0.0, 1e-3, 3)
    assert config.optimizer.betas == (0.9, 0.99)


def test_the_splits_are_nanogpt_s_and_tuning_does_not_see_the_validation_split(story: Path):
    whole, tuned = (characters.Text.read(story, tune=tune) for tune in (False, True))
    count = len(whole.train) + len(whole.val)
    assert len(whole.train) == int(0.9 * count)
    assert torch.equal(torch.cat((tuned.train, tuned.val)), whole.train)


def test_the_loss_is_the_mean_over_every_character_but_the_first(story: Path):
    text = characters.Text.read(story, tune=False)
    model = characters.nanogpt(text.vocab_size, 0, **BASE).model.build().eval()
    ids = text.val[: 2 * 16 + 6]
    rows = [(ids[0:16], ids[1:17]), (ids[16:32], ids[17:33]), (ids[32:37], ids[33:38])]
    with torch.no_grad():
        nats = sum(float(cross_entropy(model, Batch(a[None], b[None]))) for a, b in rows)
    assert characters.val_loss(model, ids, 16, FP32) == pytest.approx(nats / 37, rel=1e-5)


def test_every_seed_and_budget_is_trained_and_kept(story: Path):
    kept: list[int] = []
    result = characters.measure(
        characters.Text.read(story, tune=False), seeds=[0, 1], seconds=[0.05, 0.1], settings=SMALL, baseline=BASE,
        say=quiet, keep=lambda found: kept.append(len(found["rows"])),
    )  # fmt: skip
    assert [(row["name"], row["budget"], row["seed"]) for row in result["rows"]] == [
        (name, budget, seed) for seed in (0, 1) for name, budget in (("gpt2", None), ("wren", 0.05), ("wren", 0.1))
    ]
    assert kept == [1, 2, 3, 4, 5, 6]
    assert result["rows"][0]["steps"] == 2
    assert all(row["wall_seconds"] >= row["seconds"] > 0 and row["loss"] < 10 for row in result["rows"])
    assert [(found["name"], found["loss"]["count"]) for found in result["groups"]] == [
        ("gpt2", 2), ("wren", 2), ("wren", 2),
    ]  # fmt: skip


def test_kept_paces_make_the_seconds_and_trainings_of_before_are_not_done_again(story: Path, tmp_path: Path):
    text, path = characters.Text.read(story, tune=False), tmp_path / "paces.json"

    def go(seeds: list[int], budget: float = 100.0, **more: Any) -> list[dict[str, Any]]:
        return characters.measure(
            text, seeds=seeds, seconds=[budget], settings=SMALL, baseline=None, say=quiet, paces=Paces(path), **more
        )["rows"]

    seconds = [each["seconds"] for each in go([0], 0.5)]
    (known,) = json.loads(path.read_text()).values()
    assert seconds == [pytest.approx(known["step"] * int(0.5 / known["step"]))]
    path.write_text(json.dumps({key: {"step": 40.0, "compiling": 1.0} for key in json.loads(path.read_text())}))
    (row,) = go([1])
    assert (row["steps"], row["seconds"], row["compile_seconds"]) == (2, 81.0, 1.0)
    assert row["wall_seconds"] < 80
    assert go([1, 2], done=[row])[0] is row
    assert [each["seed"] for each in go([1, 2], done=[row])] == [1, 2]
    with pytest.raises(ConfigError, match=r"^--done holds wren .* with 9 rows of 16 .* they are 2 of 16"):
        go([1], done=[{**row, "batch_size": 9}])


def test_measuring_how_long_a_step_takes_leaves_the_training_as_it_is(story: Path):
    text = characters.Text.read(story, tune=False)
    config = characters.nanogpt(text.vocab_size, 0, **BASE)
    batches = characters.Characters(text.train, 16, 2, 0)
    torch.manual_seed(0)
    model = config.model.build()
    optimizer = config.optimizer.build(model)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    step, compiling = training.pace(model, optimizer, batches, config, FP32)
    assert step > 0
    assert (compiling, batches.row) == (0.0, 0)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_ctrl_c_while_training_is_a_sentence(story: Path, capsys: pytest.CaptureFixture[str]):
    text = characters.Text.read(story, tune=False)

    class Interrupting(characters.Characters):
        calls = 0

        def next_batch(self) -> Batch:
            self.calls += 1
            if self.calls == training.WARMUP + training.STEPS + 2:  # the second step of the training itself
                os.kill(os.getpid(), signal.SIGINT)
            return super().next_batch()

    config = characters.nanogpt(text.vocab_size, 0, **BASE)
    batches = Interrupting(text.train, 16, 2, 0)
    assert exit_code("efficiency.py", lambda: bool(training.trained(config, batches, CPU, quiet))) == 130
    assert capsys.readouterr().err.startswith("efficiency.py: Interrupted")


def test_state_is_the_formula_s_and_the_counters_and_llama_has_wren_s_kv_heads():
    configs = inference.contestants(4, 256, 64, ["bigrams=0"])
    assert list(configs) == ["wren", "llama, 1 KV", "llama, 4 KV"]
    models = {name: config.model.build() for name, config in configs.items()}
    rows = inference.state_rows(models, (32, 1024), CPU)
    for row in rows:
        assert 0 < row["state_bytes"] - row["formula"] < 200  # int64 counters alone
    found = {(row["name"], row["length"]): row for row in rows}
    assert found["llama, 1 KV", 1024]["formula"] == 4 * 2 * 2 * 64 * 1024
    assert found["llama, 4 KV", 1024]["formula"] == 4 * found["llama, 1 KV", 1024]["formula"]
    assert found["wren", 1024]["ratio"] == 1.0


def test_without_global_layers_llama_is_compared_with_all_its_heads():
    configs = inference.contestants(2, 64, 64, ["pattern=L", "bigrams=0"])
    assert list(configs) == ["wren", "llama, 2 KV"]
    assert isinstance(configs["wren"].model.mixers[0], attention.Config)


def test_decoding_is_measured_for_every_model_and_prompt():
    configs = inference.contestants(2, 64, 64, ["bigrams=0"])
    result = inference.measure(configs, FP32, lengths=(16,), contexts=(8, 24), decoded=3, repeats=3, say=quiet)
    assert [(row["name"], row["context"]) for row in result["decode"]] == [(n, c) for c in (8, 24) for n in configs]
    for row in result["decode"]:
        low, high = row["decode_range"]
        assert 0 < low <= row["decode_tokens_per_second"] <= high
        assert len(row["seconds"]) == 3
        assert row["name"] != "wren" or (row["ratio"], row["prefill_ratio"]) == (1.0, 1.0)


def test_decoding_reads_the_whole_prompt_and_then_one_token_at_a_time():
    model = tiny.recipe(vocab_size=30).model.build().eval()
    read: list[int] = []
    model.blocks[0].register_forward_pre_hook(lambda module, given: read.append(given[0].shape[1]))
    inference.decode(model, torch.zeros(1, 9, dtype=torch.long), 4, FP32)
    assert read == [9, 1, 1, 1, 1]


def tiny_arguments(out: Path) -> list[str]:
    words = "--infer-size 1x32 --infer-contexts 4,8 --state-lengths 64 --repeats 2 --vocab-size 300"
    words += f" --seconds 0.05 --baseline-steps 1 --text-seconds 0.1 --size 1x32 --context 16 --json {out}"
    return [*words.split(), *(f"--set={setting}" for setting in SMALL)]


def test_the_whole_bench_in_a_tiny_form(story: Path, prepared: Path, tmp_path: Path, capsys: Any):
    out, data = tmp_path / "out" / "found.json", opened(prepared, 300)[300].folder
    given = ["--text", str(story), "--corpus", str(data), "--eval-tokens", "300", "--arms", "tiny,wren=small"]
    assert efficiency.main([*tiny_arguments(out), *given]) == 0
    found = json.loads(out.read_text())
    assert list(found["parts"]) == ["characters", "text", "inference"]
    assert found["threads"] == torch.get_num_threads()
    assert found["machine"]["cores"] > 0
    assert [row["name"] for row in found["parts"]["text"]["rows"]] == ["tiny", *["wren"] * len(race.FRACTIONS)]
    printed = capsys.readouterr().out
    for said in ("does NOT land on 1.886", "bits per byte", "least to most", "written to"):
        assert said in printed


def test_a_text_file_is_prepared_and_its_validation_split_lies_beside_it(prepared: Path, tmp_path: Path):
    lines = (prepared / "text.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "a.train.jsonl").write_text("".join(lines[10:]))
    (tmp_path / "a.val.jsonl").write_text("".join(lines[:10]))
    args = argparse.Namespace(corpus=tmp_path / "a.train.jsonl", corpus_val=None, vocab_size=280)
    text = efficiency._corpus(args, tmp_path / "made", efficiency.Console(quiet=True))
    assert text.manifest.splits["val"].documents == 10
    assert text.manifest.splits["val"].name.endswith("a.val.jsonl")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--parts", "speed"], "Part 'speed' is unknown"),
        (["--parts", ","], "--parts is empty"),
        (["--parts", "text"], "Part text needs --corpus FILE"),
        (["--parts", "characters"], "Part characters needs --text FILE"),
        (["--text", "nowhere.txt"], "nowhere.txt does not exist; nanoGPT's"),
        (["--corpus", "nowhere.jsonl"], "nowhere.jsonl does not exist; check the path"),
        (["--json", "."], ". is a folder; name a file"),
    ],
)
def test_wrong_input_is_a_sentence(arguments: list[str], said: str, tmp_path: Path, monkeypatch: Any):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, DataError)) as caught:
        efficiency.main(arguments)
    assert str(caught.value).startswith(said)


def test_a_folder_without_a_manifest_and_a_split_too_many_are_refused(prepared: Path, tmp_path: Path):
    for corpus, val in ((tmp_path, None), (opened(prepared, 300)[300].folder, tmp_path / "val.jsonl")):
        args = argparse.Namespace(corpus=corpus, corpus_val=val, vocab_size=300)
        with pytest.raises((ConfigError, DataError), match=r"holds no manifest|of its own; leave --corpus-val out"):
            efficiency._corpus(args, tmp_path / "made", efficiency.Console(quiet=True))


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "1,0", "nan", "86400"])
def test_seconds_that_make_no_sense_are_refused(text: str):
    with pytest.raises(argparse.ArgumentTypeError):
        options.seconds(text)


def test_sizes_and_counts_are_read():
    assert options.size("4x128") == (4, 128)
    assert options.wholes("512, 8192") == [512, 8192]
    assert (options.seed("0"), options.positive("1.5"), options.seconds("1,2")) == (0, 1.5, [1.0, 2.0])
    for text in ("4", "4x", "x4", "0x4"):
        with pytest.raises(argparse.ArgumentTypeError):
            options.size(text)


def test_several_passes_over_the_text_are_with_dropout_and_what_is_asked_for_comes_last():
    short, long = (characters.ours(65, 0, seconds) for seconds in (119.0, 300.0))
    assert (short.model.dropout, short.train.context_len, short.model.tables.trigrams) == (0.0, 256, 32768)
    assert (long.model.dropout, long.train.context_len, long.model.tables.trigrams) == (0.1, 512, 0)
    assert short.train.batch_size * 256 == long.train.batch_size * 512
    assert characters.ours(65, 0, 300.0, ["model.dropout=0.3"]).model.dropout == 0.3
