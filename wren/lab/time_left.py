"""How long work still takes, in words for a display."""

from wren import units


def about(seconds: float) -> str:
    """ "about 3m20s left"; where an estimate is used up and the work goes on, that, and not "about 0s left"."""
    if seconds <= 0:
        return "past its estimate"
    return f"about {units.duration(seconds)} left" if seconds >= 1 else "less than 1s left"
