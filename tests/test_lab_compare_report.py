"""The report of a made-up comparison says what is true of it, no more than its seeds show, and survives gaps."""

import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lab_examples
import numpy as np
import pytest

from wren import config as configs
from wren import units
from wren.errors import DiskError
from wren.files import read_json
from wren.lab import compare_laws, compare_numbers, compare_text
from wren.lab.compare_report import write
from wren.lab.schema import Comparison, Point
from wren.page import escape_markdown


def words(comparison: Comparison) -> list[str]:
    return [sentence for _, said in compare_text.findings(comparison) for sentence in said]


def with_cell(comparison: Comparison, arm: str, **changes: Any) -> Comparison:
    cells = [dataclasses.replace(cell, **changes) if cell.arm == arm else cell for cell in comparison.cells]
    return dataclasses.replace(comparison, cells=tuple(cells))


def with_runs(comparison: Comparison, arm: str, seeds: set[int], **changes: Any) -> Comparison:
    (cell,) = [cell for cell in comparison.cells if cell.arm == arm]
    final = [dataclasses.replace(run, **changes) if run.seed in seeds else run for run in cell.final]
    return with_cell(comparison, arm, final=tuple(final))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Path, dict[str, Any]]:
    """Three sizes, two context lengths; everything is drawn once."""
    made = lab_examples.comparison(sizes=("small", "medium", "large"), contexts=(128, 512))
    out = tmp_path_factory.mktemp("report")
    return made, out, write(made, out)


def test_what_is_true_is_said():
    b, c = words(lab_examples.comparison())
    assert re.search(r"^B is 0\.0[23]\d ± 0\.00\d bits per byte below A \(5 seeds\)", b)
    assert "Claimed" in b
    assert "times faster to A's final held-back loss" in b
    assert c.startswith("C and A: no difference")
    assert "laimed" not in c


def test_three_seeds_see_and_do_not_claim():
    b = words(lab_examples.comparison(seeds=3))[0]
    assert "Seen, not claimed: 3 of 5 seeds." in b


def test_two_seeds_are_too_few_and_one_claims_nothing():
    assert "too few to see" in words(lab_examples.comparison(seeds=2, noise=1e-5))[0]
    for sentence in words(lab_examples.comparison(seeds=1)):
        assert "shows no difference by itself" in sentence
        assert not re.search(r"\b[BC] is |laimed|faster|better|Seen", sentence), sentence


def test_an_optimum_at_the_edge_or_a_lost_seed_forbids_the_claim():
    assert (
        "Seen, not claimed: the best learning rate of A lies at the edge"
        in words(lab_examples.comparison(edge=("A",)))[0]
    )
    lost = words(with_runs(lab_examples.comparison(), "B", {1}, tuned=None))
    assert "1 seed is left out" in lost[0]
    assert "Seen, not claimed" in lost[0]
    assert "B diverged in 1 of 5 final runs." in lost


def test_a_difference_that_another_text_could_turn_round_counts_as_none():
    """All seeds agree exactly, but the gain comes from one stretch of text in forty."""
    made = lab_examples.comparison(noise=0.0)
    (a,) = [cell for cell in made.cells if cell.arm == "A"]
    final = []
    for run in a.final:
        assert run.detail is not None
        first, *rest = run.detail.blocks
        blocks = (dataclasses.replace(first, nats=first.nats * 0.1), *rest)
        whole = dataclasses.replace(run.detail.whole, nats=run.detail.whole.nats * 0.99 + run.seed)
        final.append(dataclasses.replace(run, detail=dataclasses.replace(run.detail, whole=whole, blocks=blocks)))
    setting = compare_numbers.settings(with_cell(made, "C", final=tuple(final)))[0]
    found = compare_numbers.difference(setting, "C", "A", np.random.default_rng(0))
    assert found.seeds is not None
    assert not found.seeds.holds_zero
    assert (found.verdict, found.wider) == ("no difference", "text")
    assert "Another text could turn it round" in compare_text.difference(found)


def test_the_interval_over_texts_holds_the_truth():
    """The blocks of B lie 0.03 below those of A but for a wobble: its interval holds that, and is not wide."""
    setting = compare_numbers.settings(lab_examples.comparison(noise=0.0))[0]
    found = compare_numbers.difference(setting, "B", "A", np.random.default_rng(0))
    assert found.text is not None
    assert found.text[0] < -0.03 < found.text[1]
    assert found.text[1] - found.text[0] < 0.005


def test_time_to_equal_loss_is_found_again():
    """Same curve by step, 1.5 times the speed: 1.5 times faster to the loss, the same FLOPs."""
    made = lab_examples.comparison(gaps={"A": 0.0, "B": 0.0}, noise=0.0, speed={"B": 1.5})
    setting = compare_numbers.settings(made)[0]
    for axis, factor in (("seconds", 1.5), ("flops", 1.0), ("tokens", 1.0)):
        race = compare_numbers.race(setting, "B", "A", axis)
        assert race is not None
        assert race.factor == pytest.approx(factor)
        assert (race.reached, race.count) == (5, 5)
    slow = compare_numbers.race(setting, "A", "B", "seconds")
    assert slow is not None
    assert "1.50 (1.50 to 1.50) times slower" in compare_text.race(slow)


def test_who_never_arrives_gets_no_factor_and_the_other_way_round_is_told():
    made = lab_examples.comparison(gaps={"A": 0.0, "B": 0.05}, noise=0.0)
    race = compare_numbers.race(compare_numbers.settings(made)[0], "B", "A", "seconds")
    assert race is not None
    assert (race.factor, race.mine, race.reached) == (None, None, 0)
    sentence = words(made)[0]
    assert "B never reaches A's final held-back loss" in sentence
    assert "times faster to B's final held-back loss" in sentence


def test_a_diverged_run_arrives_nowhere_however_low_it_came():
    made = lab_examples.comparison(noise=0.0)
    cells = [
        dataclasses.replace(c, final=(dataclasses.replace(c.final[0], tuned=None, detail=None), *c.final[1:]))
        if c.arm == "B" else c
        for c in made.cells
    ]  # fmt: skip
    race = compare_numbers.race(
        compare_numbers.settings(dataclasses.replace(made, cells=tuple(cells)))[0], "B", "A", "seconds"
    )
    assert race is not None
    assert (race.factor, race.reached, race.count) == (None, 4, 5)


def test_reaching_a_loss_is_interpolated():
    curve = [Point(step=i, tokens=i, seconds=10.0 * i, flops=i, bits_per_byte=3.0 - i) for i in range(3)]
    assert compare_numbers.first_reach(curve, 1.5, "seconds") == pytest.approx(15.0)
    assert compare_numbers.first_reach(curve, 3.5, "seconds") == 0.0
    assert compare_numbers.first_reach(curve, 0.5, "seconds") is None
    assert compare_numbers.first_reach([], 0.5, "seconds") is None


def test_the_front_holds_what_nothing_beats():
    assert compare_numbers.front([(1, 3), (2, 2), (3, 2.5), (4, 1), (4.01, 1.2)]) == {0, 1, 3}
    assert compare_numbers.front([(300.0, 1.0), (299.0, 1.1)]) == {0}  # a step's worth of time is no saving
    assert compare_numbers.front([]) == set()


def test_savings_over_sizes_are_found_again(written: tuple[Comparison, Path, dict[str, Any]]):
    """B lies 0.03 below: on the baseline's law that is a known factor of parameters."""
    sizes = ("small", "medium", "large", "huge")
    made = lab_examples.comparison(sizes=sizes, noise=0.0, seeds=1)  # more seeds: many fits with a floor
    fits = {(fit.arm, fit.axis): fit for fit in compare_laws.fits(made)}
    largest = lab_examples.SHAPES["huge"]
    true = largest / ((30 * largest**-0.3 + 0.03) / 30) ** (-1 / 0.3)
    found = fits["B", "parameters"].saving
    assert found is not None
    assert found.factor == pytest.approx(true, rel=0.1)
    same = fits["C", "parameters"].saving
    assert same is not None
    assert same.factor == pytest.approx(1.0, abs=0.01)
    assert "times fewer parameters" in (written[1] / "report.md").read_text(encoding="utf-8")


def test_a_budget_equal_for_all_sizes_shows_no_law_over_it():
    made = lab_examples.comparison(sizes=("small", "medium", "large"), seeds=2)
    cells = []
    for cell in made.cells:
        final = [dataclasses.replace(run, seconds=300.0 + run.seed) for run in cell.final]
        cells.append(dataclasses.replace(cell, final=tuple(final)))
    fits = compare_laws.fits(dataclasses.replace(made, cells=tuple(cells)))
    timed = [fit for fit in fits if fit.axis == "seconds"]
    assert len(timed) == 3
    assert all(fit.law is None and "about the same seconds" in fit.why for fit in timed)


def test_flat_laws_give_a_reason_instead_of_a_saving():
    made = lab_examples.comparison(sizes=("small", "medium", "large"), seeds=3)
    level = {cell.size: cell for cell in made.cells}["small"].final
    cells = [dataclasses.replace(cell, final=level) for cell in made.cells]
    for fit in compare_laws.fits(dataclasses.replace(made, cells=tuple(cells))):
        assert fit.saving is None


SHOWN: dict[str, Callable[[Any], str]] = {
    "bits_per_byte": "{:.4f}".format, "half": "{:.4f}".format, "loss": "{:.4f}".format, "seeds": str,
    "steps": "{:,.0f}".format,
    "tokens": units.short, "seconds": units.duration, "lr": "{:g}".format, "weight_decay": "{:g}".format,
    "tokens_per_second": "{:,.0f}".format, "decode_tokens_per_second": "{:,.0f}".format, "context_len": "{:,}".format,
    "peak_memory_bytes": units.size, "state_bytes": units.size, "state_bytes_32k": units.size, "params": units.short,
    "table_params": units.short, "core_params": units.short, "flops_per_token": units.short,
}  # fmt: skip


def test_every_figure_of_the_json_is_on_both_pages(written: tuple[Comparison, Path, dict[str, Any]]):
    _, out, summary = written
    html, markdown = ((out / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    assert len(summary["rows"]) == 18
    assert len(summary["differences"]) == 12
    for row in summary["rows"]:
        assert set(row) - set(SHOWN) == {"name", "arm", "size", "edge", "diverged"}
        for key, show in SHOWN.items():
            assert show(row[key]) in html, (row["name"], key)
            assert show(row[key]) in markdown, (row["name"], key)
    for row in summary["differences"]:
        signed = compare_text.signed(compare_numbers.Interval(mean=row["bits_per_byte"], half=row["half"], count=5))
        factor = "–" if row["times_faster"] is None else f"{row['times_faster']:.2f} ({row['times_faster_low']:.2f} to"
        for shown in (signed, factor, f"{row['text_low']:+.4f}".replace("-", "−"), row["words"].replace("'", "&#x27;")):
            assert shown in html, (row["name"], shown)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_the_page_is_whole_and_the_markdown_says_the_same(written: tuple[Comparison, Path, dict[str, Any]]):
    made, out, _ = written
    html, markdown = ((out / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    assert "http" not in html
    assert "<script" not in html
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", markdown)
    assert pictures == ["curves.png", "places_in_row.png", "repeats.png", "pareto.png", "scaling.png"]
    assert html.count("data:image/png;base64,") == len(pictures)
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    for heading in re.findall(r"<h[23]>([^<]*)</h[23]>", html):
        assert f"# {heading}" in markdown
    assert configs.from_json(Comparison, read_json(out / "compare.json")) == made
    assert not [path for path in out.iterdir() if path.suffix == ".tmp"]


def test_places_are_those_in_the_row(written: tuple[Comparison, Path, dict[str, Any]]):
    """A row may hold several documents, so its places are no lengths of context; words and keys say so."""
    _, out, _ = written
    for name in ("report.html", "report.md"):
        page = (out / name).read_text(encoding="utf-8")
        assert "By place in the row, and on repeats" in page
        assert "place in the context" not in page
        assert "A row can hold several documents, so a late place can have a short context." in page
    detail = read_json(out / "compare.json")["cells"][0]["final"][0]["detail"]
    assert [part["name"] for part in detail["places_in_row"][:2]] == ["0-15", "16-31"]
    assert "positions" not in detail


def test_the_page_says_what_scores_and_times_rest_on(written: tuple[Comparison, Path, dict[str, Any]]):
    text = (written[1] / "report.md").read_text(encoding="utf-8")
    assert "- mqar: 25.0 by any value of the row." in text
    assert "one seed, which also chose the learning rate" in text
    assert "at the best of its learning rates, in fp32." in text
    assert "2 CPU cores, 24 GB; everything was measured and trained on it" in text
    assert "Not over yet" not in text


def test_a_rule_not_kept_stands_out(written: tuple[Comparison, Path, dict[str, Any]]):
    html = (written[1] / "report.html").read_text(encoding="utf-8")
    alarm = re.search(r'<p class="alarm">([^<]*)</p>', html)
    assert alarm is not None
    assert "at least 4 learning rates x 2 weight decays" in alarm[1]
    assert re.findall(r'<tr class="marked"><td>([^<]*)</td>', html) == ["at least 4 learning rates x 2 weight decays"]


def test_names_are_shown_and_not_run(tmp_path: Path):
    nasty = '<img src=x onerror="alert(1)">|`$\\frac` [x](y)'
    made = lab_examples.comparison(gaps={"A": 0.0, nasty: -0.03}, seeds=2)
    made = dataclasses.replace(made, command="wren compare '</pre><script>alert(1)</script>'", source="<b>")
    write(made, tmp_path)
    html, markdown = ((tmp_path / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    assert "<img src=x" not in html + markdown
    assert "<script" not in html
    assert "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;|`$\\frac` [x](y)" in html
    assert escape_markdown(nasty) in markdown
    tables = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) > 2 for line in tables)


def test_markdown_text_stays_text():
    assert escape_markdown("a|b *c* [d](e) <f>\n# g") == r"a\|b \*c\* \[d\](e) &lt;f&gt; \# g"


def bare(made: Comparison) -> Comparison:
    """Nothing measured that may be missing."""
    cells = []
    for cell in made.cells:
        measured = dataclasses.replace(
            cell.measured, state_bytes={}, tokens_per_second=None, peak_memory_bytes=None,
            decode_tokens_per_second=None, load=None,
        )  # fmt: skip
        final = tuple(dataclasses.replace(run, curve=(), detail=None) for run in cell.final)
        cells.append(dataclasses.replace(cell, measured=measured, tuning=(), final=final))
    return dataclasses.replace(made, cells=tuple(cells), rules=(), probes=())


def nan_run(made: Comparison) -> Comparison:
    """B's second seed blew up: figures that are no numbers."""
    (b,) = [cell for cell in made.cells if cell.arm == "B"]
    broken = [dataclasses.replace(point, bits_per_byte=math.nan) for point in b.final[1].curve[3:]]
    return with_runs(made, "B", {1}, tuned=math.inf, curve=(*b.final[1].curve[:3], *broken))


DEGENERATE: dict[str, tuple[Callable[[], Comparison], str]] = {
    "one arm": (lambda: lab_examples.comparison(gaps={"A": 0.0}), "it is the only arm, so nothing is compared"),
    "one arm one seed": (lambda: lab_examples.comparison(gaps={"A": 0.0}, seeds=1), "(one seed) bits per byte"),
    "nothing": (lambda: dataclasses.replace(lab_examples.comparison(), cells=()), "Nothing has been measured yet."),
    "bare": (lambda: bare(lab_examples.comparison()), "have no finished seed in common"),
    "no blocks": (lambda: lab_examples.comparison(blocks=0), "below A"),
    "not a number": (lambda: nan_run(lab_examples.comparison()), "B diverged in 1 of 5 final runs"),
    "all diverged": (
        lambda: with_runs(lab_examples.comparison(), "B", set(range(5)), tuned=None, detail=None, curve=()),
        "B diverged in 5 of 5 final runs",
    ),
    "baseline diverged": (
        lambda: with_runs(lab_examples.comparison(), "A", set(range(5)), tuned=None, detail=None),
        "A diverged in 5 of 5 final runs",
    ),
    "no final run": (lambda: with_cell(lab_examples.comparison(), "B", final=()), "no final run"),
    "one point": (
        lambda: with_runs(
            lab_examples.comparison(seeds=2), "B", {0, 1}, curve=lab_examples.comparison().cells[0].final[0].curve[:1]
        ),
        "B never reaches",
    ),
    "baseline missing": (
        lambda: dataclasses.replace(lab_examples.comparison(), cells=lab_examples.comparison().cells[1:]),
        "A, the baseline, was not trained here",
    ),
    "vocabularies": (lambda: lab_examples.comparison(vocab={"B": 8192}), "compared in bits per byte alone"),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_gaps_read_well(case: str, tmp_path: Path):
    make, said = DEGENERATE[case]
    summary = write(make(), tmp_path)
    html, markdown = ((tmp_path / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    assert said in markdown
    for ugly in ("nan", "None", "inf ", "Traceback"):
        assert not re.search(rf"\b{ugly}\b", re.sub(r'base64,[^"]*', "", html)), ugly
    json.dumps(summary, allow_nan=False)
    json.dumps(read_json(tmp_path / "compare.json"), allow_nan=False)
    configs.from_json(Comparison, read_json(tmp_path / "compare.json"))
    if case == "vocabularies":
        assert "nats per token" not in markdown


def test_the_same_measurements_give_the_same_page(tmp_path: Path):
    made = lab_examples.comparison(seeds=2)
    pages = []
    for name in ("one", "two"):
        write(made, tmp_path / name)
        pages.append((tmp_path / name / "report.html").read_bytes())
    assert pages[0] == pages[1]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DiskError, match="choose another path"):
        write(lab_examples.comparison(seeds=1), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "x"
