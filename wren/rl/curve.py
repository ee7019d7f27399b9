"""reward.png of a reinforcement: what its samples earned, and what it solves of held-out problems."""

from pathlib import Path

from wren.errors import DataError
from wren.plot import RunningMean, save_figure, smoothing
from wren.run import Run


def reward_plot(run: Run) -> Path:
    """Draws metrics.jsonl and returns the picture's path; raises DataError before the first step.

    The faint line is every round's mean reward, the strong one its running mean; the dots are greedy answers to
    held-out problems, the crosses pass@k of samples.
    """
    rows = run.metrics()
    rounds = [(each["step"], each["reward"]) for each in rows if each.get("kind") == "rollout"]
    if not rounds:
        raise DataError(f"{run.metrics_path} holds no round of rollouts yet; play first.")
    from matplotlib.figure import Figure  # here: importing matplotlib takes a second

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    steps = [step for step, _ in rounds]
    axes.plot(steps, [reward for _, reward in rounds], color="tab:blue", alpha=0.25, linewidth=0.8)
    mean = RunningMean(smoothing(len(rounds)))
    smooth = [mean.add(reward) for _, reward in rounds]
    axes.plot(steps, smooth, color="tab:blue", label="reward of its samples (smoothed)")
    asked = [each for each in rows if each.get("kind") == "eval" and "val_accuracy" in each]
    marks = {"val_accuracy": ("o-", "held-out problems, likeliest answer")}
    names = sorted({name for each in asked for name in each if name.startswith("val_pass_")}, key=_k)
    marks |= {name: ("x--", f"held-out problems, pass@{_k(name)}") for name in names}
    for name, (style, label) in marks.items():
        points = [(each["step"], each[name]) for each in asked if name in each]
        if points:
            axes.plot(*zip(*points, strict=True), style, markersize=4, linewidth=1, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("share, reward")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
    axes.set_title(f"{run.path.name}, {steps[-1]:,} steps")
    return save_figure(figure, run.path / "reward.png")


def _k(name: str) -> int:
    return int(name.rsplit("_", 1)[1])
