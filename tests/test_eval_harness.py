"""The adapter for lm_eval: its three questions, and whole tasks from local files where lm_eval is installed."""

import importlib.util
import json
from pathlib import Path

import export_parts as parts
import pytest
import torch

from wren.errors import ConfigError
from wren.evals.harness import Scorer, register, scorer
from wren.generate import load_run
from wren.precision import choose_precision

TOKENIZER = parts.TOKENIZER
INSTALLED = importlib.util.find_spec("lm_eval") is not None


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("harness") / "run"
    parts.make_run(path, parts.of_recipe("llama", "depth=2", "dim=32", "num_heads=4", "context_len=32"))
    return path


@pytest.fixture(scope="module")
def asked(run: Path) -> Scorer:
    return scorer(str(run), "cpu", "fp32")


@torch.no_grad()
def logprobs(asked: Scorer, text: str) -> torch.Tensor:
    row = torch.tensor([[TOKENIZER.document_id, *TOKENIZER.encode(text)]])
    return asked.loaded.model(row[:, :-1]).log_softmax(-1)[0].gather(1, row[0, 1:, None])[:, 0]


def test_log_probabilities_of_continuations(asked: Scorer):
    given = len(TOKENIZER.encode("the wren"))
    ((found, greedy),) = asked.loglikelihood([("the wren", " sings")])
    assert found == pytest.approx(float(logprobs(asked, "the wren sings")[given:].sum()), abs=1e-4)
    assert greedy is False


def test_whole_texts_add_up_over_windows(asked: Scorer):
    short, long = "the wren sings", "hello world, the wren sings 123 times and then " * 4
    found = asked.rolling([short, "", long])
    assert found[0] == pytest.approx(float(logprobs(asked, short).sum()), abs=1e-4)
    assert found[1] == 0
    tokens = [TOKENIZER.document_id, *TOKENIZER.encode(long)]
    total = 0.0
    with torch.no_grad():
        for i in range(1, len(tokens), 32):
            piece = torch.tensor([tokens[i - 1 : i + 32]])
            scores = asked.loaded.model(piece[:, :-1]).log_softmax(-1)[0]
            total += float(scores.gather(1, piece[0, 1:, None]).sum())
    assert found[2] == pytest.approx(total, abs=1e-3)


@torch.no_grad()
def test_greedy_generation_and_where_it_stops(asked: Scorer):
    row = torch.tensor([[TOKENIZER.document_id, *TOKENIZER.encode("hello")]])
    ids = parts.greedy(asked.loaded.model, row, 12)[0, row.shape[1] :].tolist()
    ends = [i for i, token in enumerate(ids) if token in TOKENIZER.special.values()]
    expected = TOKENIZER.decode(ids[: ends[0]] if ends else ids)
    found = asked.generate("hello", {"max_gen_toks": 12})
    assert expected.startswith(found)  # bytes of a character that the end cuts off are not text
    assert len(found) > 3
    until = found[3]
    stopped = asked.generate("hello", {"max_gen_toks": 12, "until": [until]})
    assert stopped == found[: found.index(until)]
    assert asked.generate("hello", {"max_gen_toks": 12, "until": until}) == stopped
    sampled = {"max_gen_toks": 12, "temperature": 1.0, "do_sample": True, "seed": 3}
    assert asked.generate("hello", sampled) == asked.generate("hello", sampled)


def test_a_long_prompt_is_cut_at_its_start(asked: Scorer):
    prompt = "hello world, the wren sings " * 10
    assert isinstance(asked.generate(prompt, {"max_gen_toks": 8}), str)


@pytest.mark.skipif(INSTALLED, reason="lm_eval is installed")
def test_without_lm_eval_it_says_what_to_install():
    with pytest.raises(ConfigError, match=r"wren-llm\[eval\]"):
        register()


TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {output}
{rest}
"""
TASKS = {
    "wren_choice": (
        "multiple_choice",
        'doc_to_text: "{{context}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: "{{answer}}"\n'
        "metric_list: [{metric: acc}, {metric: acc_norm}]",
    ),
    "wren_rolling": (
        "loglikelihood_rolling",
        'doc_to_text: ""\ndoc_to_target: "{{context}}"\nmetric_list: [{metric: bits_per_byte}]',
    ),
    "wren_writing": (
        "generate_until",
        'doc_to_text: "{{context}}"\ndoc_to_target: "{{choices[0]}}"\n'
        'generation_kwargs: {until: ["."], max_gen_toks: 8}\nmetric_list: [{metric: exact_match}]',
    ),
}


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="lm_eval is not installed (extra eval)")
@pytest.mark.filterwarnings("ignore")
def test_local_tasks_run_in_process(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import lm_eval  # type: ignore[import-not-found]
    from lm_eval.tasks import TaskManager  # type: ignore[import-not-found]

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [
        {"context": "the wren", "choices": [" sings", " zzzq"], "answer": 0},
        {"context": "hello", "choices": [" qqq", " world"], "answer": 1},
        {"context": "times and", "choices": [" then", " songs"], "answer": 0},
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    for name, (output, rest) in TASKS.items():
        (tmp_path / f"{name}.yaml").write_text(TASK.format(name=name, data=data, output=output, rest=rest))
    kind = register()
    assert register() is kind  # twice is no error
    model = kind(run=str(run), device="cpu", dtype="fp32")
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = lm_eval.simple_evaluate(model, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0)["results"]
    asked = Scorer(load_run(run, torch.device("cpu")), choose_precision(torch.device("cpu"), "fp32"), 32)
    right = 0
    for row in rows:
        scores = [score for score, _ in asked.loglikelihood([(row["context"], choice) for choice in row["choices"]])]
        right += scores.index(max(scores)) == row["answer"]
    assert found["wren_choice"]["acc,none"] == pytest.approx(right / 3)
    bits = -sum(asked.rolling([row["context"] for row in rows])) / 0.6931471805599453
    size = sum(len(row["context"].encode()) for row in rows)
    assert found["wren_rolling"]["bits_per_byte,none"] == pytest.approx(bits / size, rel=1e-4)
    assert found["wren_writing"]["exact_match,none"] in (0.0, 1 / 3, 2 / 3, 1.0)
