"""`wren import`: models of transformers give the same logits here, and go out again as they came in."""

import http.server
import json
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import export_parts as parts
import pytest
import torch
from train_faults import file_size_limit

from wren import config as configs
from wren.cli import main
from wren.errors import CheckpointError, ConfigError, DiskError, NetworkError, TokenizerError, WrenError
from wren.export.hf import export_hf
from wren.export.importing import import_model, snapshot
from wren.export.reading import read_folder
from wren.generate import Loaded, load_run
from wren.mixers import attention
from wren.ops.rope import Llama3Scaling, rotation
from wren.recipes import RunConfig
from wren.run import Run
from wren.tokenizer.chat import CHAT_TEMPLATE, Chat, Message

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", reason="transformers makes the models that are read here")

SIZE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
GPT2 = {"vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 0}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", {**GPT2, "eos_token_id": 0}),
    "gpt2, exact gelu, narrow": ("GPT2", {**GPT2, "eos_token_id": 0, "activation_function": "gelu", "n_inner": 48}),
    "llama": ("Llama", SIZE),
    "llama 3": ("Llama", {**SIZE, "rope_theta": 5e5, "rope_scaling": SCALING}),
    "llama, tied, biases": ("Llama", {**SIZE, "attention_bias": True, "head_dim": 16, "tie_word_embeddings": True}),
    "mistral": ("Mistral", {**SIZE, "sliding_window": 6}),
    "qwen2": ("Qwen2", {**SIZE, "rope_theta": 1e6, "tie_word_embeddings": True}),
    "qwen2, windows": ("Qwen2", {**SIZE, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {**SIZE, "head_dim": 16, "rope_theta": 1e6, "tie_word_embeddings": True}),
    "smollm3": ("SmolLM3", {**SIZE, "num_hidden_layers": 4}),
}


def make_folder(path: Path, kind: str, settings: dict[str, Any], **options: Any) -> Any:
    """A random model of transformers, saved with a tokenizer; gives the model."""
    config = getattr(transformers, f"{kind}Config")(**settings)
    name = f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of their library, about itself
        torch.manual_seed(0)
        model = getattr(transformers, name)(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        model.save_pretrained(path, **options)
    foreign_tokenizer().save(str(path / "tokenizer.json"))
    return model


def foreign_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    settings = {"initial_alphabet": alphabet, "special_tokens": ["<|endoftext|>"], "show_progress": False}
    made.train_from_iterator([parts.TEXT] * 4, trainers.BpeTrainer(vocab_size=300, **settings))
    return made


def load(path: Path) -> Loaded:
    return load_run(path, torch.device("cpu"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama") / "model"
    make_folder(path, "Llama", SIZE)
    return path


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_logits_are_equal_in_and_out(name: str, tmp_path: Path):
    model = make_folder(tmp_path / "model", *CASES[name])
    result = import_model(str(tmp_path / "model"), tmp_path / "run")
    loaded = load(tmp_path / "run")
    row_BT = parts.tokens(length=50)
    expected = model(row_BT).logits
    assert expected.abs().max() > 0.3
    torch.testing.assert_close(loaded.model(row_BT)[..., :320], expected, atol=1e-4, rtol=1e-4)
    assert result["context_len"] == 64
    assert loaded.step == 0
    export_hf(tmp_path / "run", tmp_path / "out")
    torch.testing.assert_close(parts.load_theirs(tmp_path / "out")(row_BT).logits, loaded.model(row_BT))
    import_model(str(tmp_path / "out"), tmp_path / "back")
    back = load(tmp_path / "back")
    assert back.model.config == loaded.model.config
    assert back.tokenizer.fingerprint() == loaded.tokenizer.fingerprint()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(back.model.state_dict()[name], tensor), name


@pytest.mark.parametrize("recipe", ["tiny", "wren"])
@torch.no_grad()
def test_our_own_folders_come_back(recipe: str, tmp_path: Path):
    settings = ("depth=4", "dim=64") if recipe == "wren" else ()
    model = parts.make_run(tmp_path / "run", parts.of_recipe(recipe, *settings))
    export_hf(tmp_path / "run", tmp_path / "hf")
    import_model(str(tmp_path / "hf"), tmp_path / "back")
    back = load(tmp_path / "back")
    assert back.model.config == model.config
    assert torch.equal(back.model(parts.tokens()), model(parts.tokens()))
    assert back.tokenizer.fingerprint() == parts.TOKENIZER.fingerprint()


def test_the_run_is_one_that_the_verbs_take(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    assert main(["import", "--from", str(llama), "--run", str(run), "--json", str(tmp_path / "r.json")]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["family"] == "llama"
    assert {e.name for e in run.iterdir()} == {"config.json", "env.json", "tokenizer.json", "checkpoints"}
    configs.from_json(RunConfig, Run(run).config())
    assert main(["sample", "--run", str(run), "--prompt", "hello", "--max-tokens", "4"]) == 0
    (tmp_path / "text.txt").write_text(parts.TEXT * 4)
    assert main(["eval", "--run", str(run), "--text", str(tmp_path / "text.txt")]) == 0
    assert "bits per byte" in capsys.readouterr().out
    assert main(["import", str(llama), "--out", str(tmp_path / "again"), "--context-len", "32"]) == 0
    assert Run(tmp_path / "again").config()["train"]["context_len"] == 32


def test_tokens_for_turns_join_the_vocabulary(llama: Path, tmp_path: Path):
    said: list[str] = []
    import_model(str(llama), tmp_path / "run", say=said.append)
    loaded = load(tmp_path / "run")
    chat = Chat(loaded.tokenizer)
    tokens = chat.encode([Message("user", "hello"), Message("assistant", "world")]).tokens
    assert max(tokens) < loaded.model.config.vocab_size == 320  # rows to spare: none was added
    assert not said
    small = json.loads((llama / "config.json").read_text())["vocab_size"]
    assert small == 320
    import_model(str(llama), tmp_path / "plain", turns=False)
    assert load(tmp_path / "plain").tokenizer.special == {"document": 0, "pad": 0}


@torch.no_grad()
def test_rows_are_added_where_there_are_none_to_spare(tmp_path: Path):
    size = foreign_tokenizer().get_vocab_size()
    model = make_folder(tmp_path / "model", "Llama", {**SIZE, "vocab_size": size})
    said: list[str] = []
    import_model(str(tmp_path / "model"), tmp_path / "run", say=said.append)
    loaded = load(tmp_path / "run")
    assert loaded.model.config.vocab_size == size + 7
    assert "7 rows join" in said[0]
    row_BT = parts.tokens() % size
    logits = loaded.model(row_BT)
    torch.testing.assert_close(logits[..., :size], model(row_BT).logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits[..., size], logits[..., :size].mean(-1), atol=1e-4, rtol=1e-4)


def test_a_chat_template_comes_along(llama: Path, tmp_path: Path):
    copy(llama, tmp_path / "model")
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    import_model(str(tmp_path / "model"), tmp_path / "run")
    export_hf(tmp_path / "run", tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
    import_model(str(llama), tmp_path / "other")
    export_hf(tmp_path / "other", tmp_path / "ours")
    template = (tmp_path / "ours" / "chat_template.jinja").read_text()
    assert template == CHAT_TEMPLATE.replace("<|wren:document|>", "<|endoftext|>")


def copy(source: Path, target: Path, **changes: Any) -> Path:
    """A model's folder with other values in its config.json."""
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    raw = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**raw, **changes}))
    return target


ROPE = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}
REFUSED: dict[str, tuple[dict[str, Any], type[WrenError], str]] = {
    "another type": ({"model_type": "mamba"}, ConfigError, "reads gpt2, llama"),
    "no type": ({"model_type": None}, ConfigError, "type None"),
    "activation": ({"hidden_act": "relu"}, ConfigError, "the activation relu"),
    "MLP bias": ({"mlp_bias": True}, ConfigError, "mlp_bias"),
    "partial positions": ({"partial_rotary_factor": 0.5}, ConfigError, "partial_rotary_factor"),
    "yarn": ({"rope_parameters": ROPE}, ConfigError, "'yarn'"),
    "half a scaling": ({"rope_parameters": {"rope_type": "llama3"}}, ConfigError, "lacks 'factor'"),
    "a text for a number": ({"hidden_size": "32"}, ConfigError, "hidden_size is '32'"),
    "layers that are missing": ({"num_hidden_layers": 4}, CheckpointError, "lacks 'blocks.3"),
    "another width": ({"intermediate_size": 64}, CheckpointError, "mlp"),
    "a head that is missing": ({"tie_word_embeddings": True, "vocab_size": 400}, CheckpointError, "embedding"),
    "qk eps": ({"model_type": "qwen3", "rms_norm_eps": 1e-5}, ConfigError, "QK-norm of eps 1e-05"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_wren_cannot_compute_is_refused_by_name(case: str, llama: Path, tmp_path: Path):
    changes, kind, sentence = REFUSED[case]
    folder = copy(llama, tmp_path / "model", **changes)
    with pytest.raises(kind) as caught:
        import_model(str(folder), tmp_path / "run")
    assert sentence in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_files_that_are_missing_damaged_or_pickled(llama: Path, tmp_path: Path):
    folder = copy(llama, tmp_path / "model")
    weights, index = (folder / "model.safetensors").read_bytes(), folder / "model.safetensors.index.json"
    cases: list[tuple[Callable[[], object], type[WrenError], str]] = [
        (lambda: (folder / "tokenizer.json").unlink(), TokenizerError, "no tokenizer.json"),
        (lambda: (folder / "model.safetensors").write_bytes(weights[:900]), CheckpointError, "is damaged"),
        (lambda: (folder / "model.safetensors").unlink(), CheckpointError, "has no model.safetensors"),
        (lambda: (folder / "pytorch_model.bin").write_bytes(b"x"), CheckpointError, "pickle, which could run any code"),
        (lambda: index.write_text('{"weight_map": {"a": "../b"}}'), CheckpointError, "own folder"),
        (lambda: (folder / "config.json").write_text("{"), WrenError, "not valid JSON"),
        (lambda: (folder / "config.json").unlink(), WrenError, "does not exist"),
    ]  # fmt: skip
    for spoil, kind, sentence in cases:
        spoil()
        with pytest.raises(kind) as caught:
            import_model(str(folder), tmp_path / "run")
        assert sentence in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_older_files(llama: Path, tmp_path: Path):
    """rope_theta at the top and inverse frequencies among the tensors, as transformers 4 wrote them."""
    from safetensors.torch import load_file, save_file

    folder = copy(llama, tmp_path / "model")
    raw = json.loads((folder / "config.json").read_text())
    raw.pop("rope_parameters")
    (folder / "config.json").write_text(json.dumps({**raw, "rope_theta": 123.0, "rope_scaling": None}))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, folder / "model.safetensors")
    mixer = read_folder(folder).model.mixers[0]
    assert isinstance(mixer, attention.Config)
    assert (mixer.rope_base, mixer.rope_scaling) == (123.0, None)


def test_shards_are_read(llama: Path, tmp_path: Path):
    make_folder(tmp_path / "model", "Llama", SIZE, max_shard_size="60KB")
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 1
    whole, parted = read_folder(llama), read_folder(tmp_path / "model")
    assert all(torch.equal(parted.tensors[name], tensor) for name, tensor in whole.tensors.items())


def test_places_that_are_taken_or_full(llama: Path, tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        import_model(str(llama), tmp_path / "run")
    with file_size_limit(50_000), pytest.raises(DiskError):
        import_model(str(llama), tmp_path / "other")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["run"]


def test_wrong_commands(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = str(tmp_path / "run")
    wrong = {
        "a folder or a name on the hub, and a new run": ["import", "--run", run],
        "and a new run": ["import", str(llama)],
        "is no folder, and no name": ["import", "./nothing/here", "--run", run],
        "at least 2 and fit": ["import", str(llama), "--run", run, "--context-len", "1"],
    }
    for sentence, arguments in wrong.items():
        assert main(arguments) == 2
        assert sentence in capsys.readouterr().err


def test_scaled_angles_by_hand():
    scaling = Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context_len=64)
    frequencies = torch.tensor([1.0, 0.3, 0.15, 0.05])  # 10.2, 3.06, 1.53 and 0.51 turns in 64 tokens
    found = scaling.slowed(frequencies)
    assert found[0] == 1.0
    assert found[3] == pytest.approx(0.05 / 8)
    share = (64 * 0.3 / (2 * torch.pi) - 1) / 3
    assert found[1] == pytest.approx(share * 0.3 + (1 - share) * 0.3 / 8)
    positions = torch.arange(5)[None]
    plain, same = (rotation(positions, 8, 100.0, torch.float32, s) for s in (None, None))
    assert torch.equal(plain.cos_BTK, same.cos_BTK)
    with pytest.raises(ConfigError, match="high_freq_factor"):
        Llama3Scaling(low_freq_factor=4.0, high_freq_factor=4.0)
    with pytest.raises(ConfigError, match=r"factor is 0"):
        Llama3Scaling(factor=0.0)


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers what huggingface_hub asks about one model: its files at one commit."""

    files: dict[str, bytes] = {}  # noqa: RUF012
    asked: list[str] = []  # noqa: RUF012
    commit = "0123456789abcdef0123456789abcdef01234567"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        type(self).asked.append(path)
        name = path.rpartition(f"/resolve/{self.commit}/")[2]
        if path.startswith("/api/models/wren/small/"):
            siblings = [{"rfilename": file} for file in self.files]
            tree = [{"type": "file", "path": f, "size": len(d), "oid": "0" * 40} for f, d in self.files.items()]
            value: Any = tree if "/tree/" in path else {"id": "wren/small", "sha": self.commit, "siblings": siblings}
            self.send(200, json.dumps(value).encode())
        elif path.startswith("/wren/small/") and name in self.files:
            self.send(200, self.files[name])
        else:
            self.send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        found = {"Content-Length": str(len(body)), "Content-Type": "application/json", **(headers or {})}
        for key, value in {**found, "ETag": f'"{hash(body)}"', "X-Repo-Commit": self.commit}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(llama: Path):
    Hub.files = {file.name: file.read_bytes() for file in llama.iterdir()} | {"pytorch_model.bin": b"x", "run.py": b""}
    Hub.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_model_from_the_hub(hub: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")

    def download(name: str, revision: str | None) -> Path:
        return snapshot(name, revision, endpoint=hub, cache=tmp_path / "cache")

    result = import_model("wren/small", tmp_path / "run", download=download)
    assert result["family"] == "llama"
    import_model(str(llama), tmp_path / "local")
    theirs, ours = load(tmp_path / "run").model.state_dict(), load(tmp_path / "local").model.state_dict()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())
    assert not any(path.endswith((".bin", ".py")) for path in Hub.asked)
    with pytest.raises(ConfigError, match="no model wren/none"):
        import_model("wren/none", tmp_path / "none", download=download)


def test_a_hub_that_is_not_there(tmp_path: Path):
    with pytest.raises(NetworkError, match="could not be downloaded"):
        snapshot("wren/small", None, endpoint="http://127.0.0.1:9", cache=tmp_path / "cache")
