"""Exports to Hugging Face: equal logits, equal text with a cache, equal tokens, a card, and sentences for mistakes."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import export_parts as parts
import pytest
import torch
from safetensors.torch import load_file
from train_faults import file_size_limit

from wren.block import NearConfig
from wren.cli import main
from wren.errors import ConfigError, DiskError
from wren.export.hf import export_hf
from wren.mixers import attention, gated_delta_net, short_conv
from wren.mlps import moe
from wren.ops.rope import Llama3Scaling
from wren.recipes import RunConfig
from wren.run import Run
from wren.skips import SkipsConfig
from wren.tokenizer.chat import CHAT_TEMPLATE, Chat, Message

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", reason="transformers is what these folders are for")

ATTENTION = attention.Config
GPT2_SIZE = ("depth=2", "dim=32", "num_heads=4", "context_len=64")
CASES: dict[str, tuple[RunConfig, str]] = {
    "gpt2": (parts.of_recipe("gpt2", *GPT2_SIZE), "GPT2LMHeadModel"),
    "gpt2, biases, tanh": (
        parts.of_recipe("gpt2", *GPT2_SIZE, "bias=true", "model.mlp.approximate=tanh"),
        "GPT2LMHeadModel",
    ),
    "gpt2, untied, no gains": (
        parts.of_recipe("gpt2", *GPT2_SIZE, "model.tie_embeddings=false", "model.norm_gain=false"),
        "GPT2LMHeadModel",
    ),
    "llama": (parts.of_recipe("llama", "depth=2", "dim=32", "num_heads=4", "num_kv_heads=2"), "LlamaForCausalLM"),
    "llama, tied, scaled, biases": (
        parts.small(
            ATTENTION(num_heads=4, bias=True, head_dim=16, rope_scaling=Llama3Scaling(original_context_len=16)),
            tie_embeddings=True,
            norm_gain=False,
        ),
        "LlamaForCausalLM",
    ),
    "qwen2": (parts.small(ATTENTION(num_heads=4, bias=True, out_bias=False, rope_base=5e5)), "Qwen2ForCausalLM"),
    "qwen3, windows": (
        parts.small(ATTENTION(num_heads=4, qk_norm=True, window=5), ATTENTION(num_heads=4, qk_norm=True)),
        "Qwen3ForCausalLM",
    ),
    "mistral": (parts.small(ATTENTION(num_heads=4, num_kv_heads=1, window=6)), "MistralForCausalLM"),
    "smollm3": (parts.small(ATTENTION(num_heads=4), ATTENTION(num_heads=4, positions="none")), "SmolLM3ForCausalLM"),
    "lfm2": (
        parts.small(short_conv.Config(), ATTENTION(num_heads=4, num_kv_heads=2, qk_norm=True), tie_embeddings=True),
        "Lfm2ForCausalLM",
    ),
    "qwen3-next": (
        parts.small(
            gated_delta_net.Config(num_heads=2, num_value_heads=4, head_dim=8, value_head_dim=6),
            ATTENTION(num_heads=4, num_kv_heads=2, head_dim=16, qk_norm=True, gate="channel"),
        ),
        "Qwen3NextForCausalLM",
    ),
    "tiny": (parts.of_recipe("tiny"), "WrenForCausalLM"),
    "small": (parts.of_recipe("small", "dim=64"), "WrenForCausalLM"),
    "wren": (parts.of_recipe("wren", "depth=4", "dim=64", "context_len=64", "window=16"), "WrenForCausalLM"),
    "wren, every part": (
        parts.small(
            ATTENTION(num_heads=2, positions="none", qk_norm=True, values="keys"),
            short_conv.Config(),
            mlp=moe.Config(num_experts=4, active=2, shared=16),
            near=NearConfig(token_shift=True, canon=("A", "C")),
            skips=SkipsConfig(x0=True, unet=True),
            loops=2,
            norm_gate=4,
            logit_softcap=20.0,
            learned_positions=64,
        ),
        "WrenForCausalLM",
    ),
}
FEW = ("gpt2", "llama", "tiny", "wren")


def exported(tmp_path: Path, config: RunConfig, **options: object) -> tuple[torch.nn.Module, Path, dict]:
    model = parts.make_run(tmp_path / "run", config)
    result = export_hf(tmp_path / "run", tmp_path / "hf", **options)  # type: ignore[arg-type]
    return model, tmp_path / "hf", result


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_logits_are_equal(name: str, tmp_path: Path):
    config, architecture = CASES[name]
    model, folder, result = exported(tmp_path, config)
    theirs = parts.load_theirs(folder)
    assert type(theirs).__name__ == result["architecture"] == architecture
    row_BT = parts.tokens()
    expected = model(row_BT)
    assert expected.abs().max() > 0.3
    torch.testing.assert_close(theirs(row_BT).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [*FEW, "lfm2", "wren, every part"])
@torch.no_grad()
def test_generate_writes_the_same_with_and_without_a_cache(name: str, tmp_path: Path):
    model, folder, _ = exported(tmp_path, CASES[name][0])
    theirs = parts.load_theirs(folder)
    theirs.generation_config.suppress_tokens = None
    row_BT = parts.tokens(length=12)
    expected = parts.greedy(model, row_BT, 24)  # type: ignore[arg-type]
    settings = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None}
    mask_BT = torch.ones_like(row_BT)
    for cached in (True, False):
        found = theirs.generate(row_BT, attention_mask=mask_BT, use_cache=cached, **settings)
        assert found.tolist() == expected.tolist()
    assert len(expected[:, 12:].unique()) > 5


@pytest.mark.parametrize("name", ["tiny", "wren"])
@torch.no_grad()
def test_rows_padded_at_either_side_are_as_alone(name: str, tmp_path: Path):
    _, folder, _ = exported(tmp_path, CASES[name][0])
    theirs = parts.load_theirs(folder)
    row_BT = parts.tokens(rows=1, length=9)
    alone = theirs(row_BT).logits
    pad_BT = torch.full((1, 4), parts.TOKENIZER.pad_id)
    for padded, real in ((torch.cat((pad_BT, row_BT), 1), slice(4, 13)), (torch.cat((row_BT, pad_BT), 1), slice(0, 9))):
        mask_BT = torch.zeros_like(padded)
        mask_BT[:, real] = 1
        torch.testing.assert_close(theirs(padded, attention_mask=mask_BT).logits[:, real], alone)
    both = torch.cat((torch.cat((pad_BT, row_BT), 1), parts.tokens(rows=1, length=13, seed=5)))
    mask_BT = torch.ones_like(both)
    mask_BT[0, :4] = 0
    settings = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None}
    found = theirs.generate(both, attention_mask=mask_BT, **settings)[0, 4:]
    assert found.tolist() == theirs.generate(row_BT, attention_mask=torch.ones_like(row_BT), **settings)[0].tolist()
    with pytest.raises(ValueError, match="hole"):
        theirs(row_BT, attention_mask=torch.tensor([[1, 1, 0, 1, 1, 1, 1, 1, 1]]))


@torch.no_grad()
def test_beams_forks_and_labels(tmp_path: Path):
    model, folder, _ = exported(tmp_path, CASES["tiny"][0])
    theirs = parts.load_theirs(folder)
    row_BT = parts.tokens(rows=2, length=8)
    settings = {"max_new_tokens": 8, "num_beams": 3, "do_sample": False, "eos_token_id": None}
    mask_BT = torch.ones_like(row_BT)
    cached = theirs.generate(row_BT, attention_mask=mask_BT, use_cache=True, **settings)
    assert cached.tolist() == theirs.generate(row_BT, attention_mask=mask_BT, use_cache=False, **settings).tolist()
    logits = model(row_BT)
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), row_BT[:, 1:].flatten())
    torch.testing.assert_close(theirs(row_BT, labels=row_BT).loss, expected)
    torch.testing.assert_close(theirs(row_BT, logits_to_keep=2).logits, logits[:, -2:])


@pytest.mark.parametrize("name", ["gpt2", "wren"])
def test_tokens_are_equal(name: str, tmp_path: Path):
    _, folder, _ = exported(tmp_path, CASES[name][0])
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    for text in parts.NASTY:
        ours = parts.TOKENIZER.encode(text)
        assert theirs.encode(text, add_special_tokens=False, split_special_tokens=True) == ours, text
        assert theirs.decode(ours) == text
    begun = theirs("hello").input_ids
    assert begun == [parts.TOKENIZER.document_id, *parts.TOKENIZER.encode("hello")]
    special = parts.TOKENIZER.special
    assert (theirs.bos_token_id, theirs.pad_token_id) == (special["document"], special["pad"])
    assert theirs.eos_token_id == special["end"]


def test_the_chat_template_gives_our_tokens(tmp_path: Path):
    _, folder, _ = exported(tmp_path, CASES["llama"][0])
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    turns = [Message("system", "Be brief."), Message("user", "2 + 2?")]
    found = theirs.apply_chat_template(
        [turn.as_dict() for turn in turns], add_generation_prompt=True, return_dict=False
    )
    assert found == Chat(parts.TOKENIZER).prompt(turns)
    assert (folder / "chat_template.jinja").read_text() == CHAT_TEMPLATE


def test_a_runs_own_template_goes_before_wrens(tmp_path: Path):
    parts.make_run(tmp_path / "run", CASES["llama"][0])
    (tmp_path / "run" / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    export_hf(tmp_path / "run", tmp_path / "hf")
    assert (tmp_path / "hf" / "chat_template.jinja").read_text() == "{{ messages[0]['content'] }}"


def test_the_card_tells_what_the_run_holds(tmp_path: Path):
    parts.make_run(tmp_path / "run", CASES["tiny"][0])
    run = Run(tmp_path / "run")
    run.log_metrics({"step": 5, "kind": "eval", "val_bits_per_byte": 2.3456})
    export_hf(run.path, tmp_path / "one")
    card = (tmp_path / "one" / "README.md").read_text()
    for part in (
        "| Recipe | tiny |",
        "| Steps | 7 |",
        "2.3456 on a part",
        "trust_remote_code=True",
        '"context_len": 32',
    ):
        assert part in card
    assert card.startswith("---\nlibrary_name: transformers\n")
    (run.path / "result.json").write_text(json.dumps({"bits_per_byte": 1.25, "split": "val"}))
    export_hf(run.path, tmp_path / "two")
    assert "| Bits per byte | 1.2500 on val, all of it |" in (tmp_path / "two" / "README.md").read_text()


def test_the_card_of_a_tuned_run_names_what_it_was_tuned_from(tmp_path: Path):
    parts.make_run(tmp_path / "run", CASES["tiny"][0])
    path = tmp_path / "run" / "config.json"
    changes = {"base": "runs/before", "data": ["chat/a.jsonl", "b.jsonl"], "data_hash": "0123456789abcdef"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    export_hf(tmp_path / "run", tmp_path / "hf")
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "| Data | a.jsonl, b.jsonl (sha256 0123456789ab) |" in card
    assert "| Tuned from | before |" in card


def test_heads_further_ahead_stay_behind(tmp_path: Path):
    config = parts.of_recipe("tiny", "model.ahead.tokens=2")
    model, folder, _ = exported(tmp_path, config)
    assert not any("ahead" in name for name in load_file(folder / "model.safetensors"))
    assert "further ahead" in (folder / "README.md").read_text()
    with torch.no_grad():
        torch.testing.assert_close(parts.load_theirs(folder)(parts.tokens()).logits, model(parts.tokens()))


def test_rows_that_stand_for_no_token_are_never_written(tmp_path: Path):
    _, folder, _ = exported(tmp_path, CASES["llama"][0])
    settings = json.loads((folder / "generation_config.json").read_text())
    assert settings["suppress_tokens"] == list(range(320, 328))
    assert settings["eos_token_id"] == sorted(parts.TOKENIZER.special[name] for name in ("document", "end"))


@pytest.mark.parametrize(("dtype", "kind"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_other_number_formats(dtype: str, kind: torch.dtype, tmp_path: Path):
    model, folder, result = exported(tmp_path, CASES["wren"][0], dtype=dtype)
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {kind}
    theirs = parts.load_theirs(folder)
    assert theirs.dtype == kind
    with torch.no_grad():
        found, expected = theirs(parts.tokens()).logits.float(), model(parts.tokens())
    assert (found - expected).abs().max() < 0.5
    assert result["dtype"] == dtype


def test_our_own_code_where_it_is_asked_for(tmp_path: Path):
    _, folder, result = exported(tmp_path, CASES["llama"][0], own_code=True)
    assert result["architecture"] == "WrenForCausalLM"
    assert (folder / "modeling_wren.py").is_file()


def test_large_weights_are_split_with_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("wren.export.hf._MAX_SHARD", 50_000)
    model, folder, _ = exported(tmp_path, CASES["llama"][0])
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    with torch.no_grad():
        torch.testing.assert_close(parts.load_theirs(folder)(parts.tokens()).logits, model(parts.tokens()))


def test_an_existing_folder_is_left_as_it_is(tmp_path: Path):
    parts.make_run(tmp_path / "run", CASES["tiny"][0])
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        export_hf(tmp_path / "run", tmp_path / "hf")
    assert [entry.name for entry in (tmp_path / "hf").iterdir()] == ["mine.txt"]
    (tmp_path / "hf" / "mine.txt").unlink()
    export_hf(tmp_path / "run", tmp_path / "hf")  # an empty folder is as good as none
    assert (tmp_path / "hf" / "config.json").is_file()


@pytest.mark.parametrize("size", [2_000, 60_000])
def test_a_full_disk_leaves_nothing(size: int, tmp_path: Path):
    parts.make_run(tmp_path / "run", CASES["llama"][0])
    with file_size_limit(size), pytest.raises(DiskError, match=r"hf"):
        export_hf(tmp_path / "run", tmp_path / "hf")
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_mistakes_end_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    parts.make_run(tmp_path / "run", CASES["tiny"][0])
    run = ["export", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    wrong = {
        "q8_0 is of the gguf format": [*run, "--dtype", "q8_0"],
        "has no config.json": ["export", "--run", str(tmp_path / "none"), "--out", str(tmp_path / "out")],
        "no home": [*run, "--format", "gguf"],
        "is of the hf format": [*run, "--format", "gguf", "--own-code"],
        "is not written as gguf": [*run, "--format", "gguf", "--dtype", "bf16"],
    }
    for sentence, arguments in wrong.items():
        assert main(arguments) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*run, "--json", str(tmp_path / "r.json")]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["architecture"] == "WrenForCausalLM"


@pytest.mark.slow
def test_auto_classes_load_the_folder_in_a_process_without_wren(tmp_path: Path):
    model, folder, _ = exported(tmp_path, CASES["wren"][0])
    code = (
        "import sys; sys.modules['wren'] = None\n"
        "import torch\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(folder)!r}, trust_remote_code=True)\n"
        f"tokenizer = AutoTokenizer.from_pretrained({str(folder)!r}, trust_remote_code=True)\n"
        "model.generation_config.suppress_tokens = None\n"  # parts.greedy draws padding too
        "ids = tokenizer('hello world', return_tensors='pt')\n"
        "print('TOKENS', model.generate(**ids, max_new_tokens=8, do_sample=False, eos_token_id=None)[0].tolist())\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    row = torch.tensor([[parts.TOKENIZER.document_id, *parts.TOKENIZER.encode("hello world")]])
    with torch.no_grad():
        expected = parts.greedy(model, row, 8)  # type: ignore[arg-type]
    assert f"TOKENS {expected[0].tolist()}" in done.stdout
