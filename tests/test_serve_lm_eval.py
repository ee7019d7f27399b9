"""lm_eval over HTTP (its local-completions: token ids, echo, log-probabilities) scores as it does in this process."""

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import serve_parts as parts
import torch
import tune_parts
from serve_parts import Hosted
from test_eval_harness import TASK

from wren.evals.harness import Scorer
from wren.export.hf import write_tokenizer
from wren.generate import load_run
from wren.run import Run

NEEDED = ("lm_eval", "aiohttp", "tenacity", "requests")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
TASKS = {
    "served_choice": (
        "multiple_choice",
        'doc_to_text: "{{context}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: "{{answer}}"\n'
        "metric_list: [{metric: acc}, {metric: acc_norm}]",
    ),
    "served_rolling": (
        "loglikelihood_rolling",
        'doc_to_text: ""\ndoc_to_target: "{{context}}"\nmetric_list: [{metric: bits_per_byte}]',
    ),
}
ROWS = [
    {"context": "What is the colour", "choices": [" of the sky", " of the moon"], "answer": 0},
    {"context": "The sun is", "choices": [" blue", " red.", " a sea"], "answer": 1},
    {"context": "It", "choices": [" is", " sky"], "answer": 0},
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tune_parts.base_run(tmp_path_factory.mktemp("lm_eval") / "run")


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[Hosted]:
    with parts.hosted(load_run(run, torch.device("cpu"))) as running:
        yield running


Remote = Callable[[bool], Any]


@pytest.fixture(scope="module")
def remote(server: Hosted, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Remote:
    """lm_eval's client; start: whether it begins a context with the document token. Whole texts have it as their prefix
    token, and would have it twice."""
    from lm_eval.models.openai_completions import LocalCompletionsAPI  # type: ignore[import-not-found]

    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, parts.TOKENIZER, Run(run))
    return lambda start: LocalCompletionsAPI(
        base_url=f"{server.url}/v1/completions",
        model="tiny",
        tokenizer=str(folder),
        tokenizer_backend="huggingface",
        add_bos_token=start,
        custom_prefix_token_id=parts.TOKENIZER.document_id,
        max_length=parts.CONTEXT,
        batch_size=2,
    )


def test_the_same_log_probabilities(remote: Remote, run: Path):
    from lm_eval.api.instance import Instance  # type: ignore[import-not-found]

    pairs = [(row["context"], choice) for row in ROWS for choice in row["choices"]]
    found = remote(True).loglikelihood([Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)])
    here = Scorer(load_run(run, torch.device("cpu")), parts.FP32, parts.CONTEXT).loglikelihood(pairs)
    assert [score for score, _ in found] == pytest.approx([score for score, _ in here], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in here]


def test_the_same_results_of_tasks(remote: Remote, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import lm_eval  # type: ignore[import-not-found]
    from lm_eval.tasks import TaskManager  # type: ignore[import-not-found]

    from wren.evals.harness import register

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, ROWS)))
    for name, (output, rest) in TASKS.items():
        (tmp_path / f"{name}.yaml").write_text(TASK.format(name=name, data=data, output=output, rest=rest))
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    here = register()(run=str(run), device="cpu", dtype="fp32", max_len=parts.CONTEXT - 1)

    def results(model: Any, task: str) -> dict[str, float]:
        found = lm_eval.simple_evaluate(model, tasks=[task], task_manager=manager, bootstrap_iters=0)["results"][task]
        return {metric: value for metric, value in found.items() if isinstance(value, float)}

    for task, start, metrics in (
        ("served_choice", True, {"acc,none", "acc_norm,none"}),
        ("served_rolling", False, {"bits_per_byte,none"}),
    ):
        own = results(here, task)
        assert own == pytest.approx(results(remote(start), task), abs=1e-4)
        assert set(own) >= metrics
