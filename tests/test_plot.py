"""loss.png from metrics.jsonl."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from wren.errors import DataError
from wren.plot import RunningMean, loss_plot
from wren.run import Run


def test_the_plot_is_a_picture_of_both_curves(tmp_path: Path) -> None:
    from matplotlib.image import imread

    run = Run(tmp_path)
    for step in range(1, 41):
        run.log_metrics({"step": step, "kind": "train", "loss": math.nan if step == 7 else 4 / step})
        if step % 10 == 0:
            run.log_metrics({"step": step, "kind": "eval", "val_bits_per_byte": 2 - step / 40})
    path = loss_plot(run)
    assert path == tmp_path / "loss.png"
    picture = imread(path)
    assert picture.shape == (540, 960, 4)
    red, green, blue = (picture[..., channel] for channel in range(3))
    assert ((blue - red) > 0.3).sum() > 100  # the training curve
    assert ((red - blue) > 0.5).sum() > 50  # the validation curve
    with_both = path.read_bytes()
    run.rewind_metrics(9)
    assert loss_plot(run).read_bytes() != with_both
    assert green.max() == 1.0


def test_a_run_without_steps_has_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no training step yet"):
        loss_plot(Run(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_matplotlib_is_imported_only_for_drawing() -> None:
    code = "import sys, wren.plot; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_running_mean_is_unbiased_from_the_first_value_on() -> None:
    mean = RunningMean(0.9)
    assert math.isnan(mean.value)
    assert [mean.add(3.0) for _ in range(3)] == pytest.approx([3.0] * 3)
    assert mean.add(5.0) == pytest.approx((0.9 * 3 * (1 - 0.9**3) + 0.1 * 5) / (1 - 0.9**4))
