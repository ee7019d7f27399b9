"""The page about a run: complete, self-contained, and safe against what a model writes."""

from pathlib import Path

import pytest

from wren import config as configs
from wren import recipes
from wren.report import write_report
from wren.run import Run

RESULT = {
    "run": "r", "recipe": "tiny", "split": "a <named> split", "bits_per_byte": 1.23456, "loss": 2.0, "steps": 20,
    "tokens": 12_345_678, "seconds": 61.0, "tokens_per_second": 16_000.0, "skipped_steps": 0, "params": 853_376,
    "state_bytes": 65_536, "peak_memory_bytes": 10**9, "precision": "bf16", "device": "cpu",
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run(tmp_path / "run")
    made.create(configs.to_json(recipes.build("tiny", vocab_size=300)))
    made.log_metrics({"step": 20, "kind": "eval", "val_bits_per_byte": 1.5, "val_loss": 2.0})
    made.write_sample(20, ["A <script>alert(1)</script> tale", "Second & last"])
    return made


def test_the_page_holds_figures_and_samples_and_loads_nothing_from_elsewhere(run: Run):
    page = write_report(run, RESULT, {"corpus": "little <stories>"}).read_text(encoding="utf-8")
    for text in ("1.2346", "853k", "12.3M", "1m01s", "16,000", "1 GB", "Second &amp; last", "little &lt;stories&gt;"):
        assert text in page, text
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "a &lt;named&gt; split" in page


def test_the_curve_is_embedded(run: Run):
    (run.path / "loss.png").write_bytes(b"\x89PNG")
    assert "data:image/png;base64,iVBORw==" in write_report(run, RESULT).read_text(encoding="utf-8")


def test_a_run_without_samples_says_so(tmp_path: Path):
    run = Run(tmp_path / "bare")
    run.create(configs.to_json(recipes.build("tiny", vocab_size=300)))
    assert "No samples were written" in write_report(run, RESULT).read_text(encoding="utf-8")
