"""Numbers as people write them."""

import pytest

from wren import units
from wren.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1B", 10**9),
        ("300M", 3 * 10**8),
        ("1k", 1000),
        ("2.5m", 2_500_000),
        ("65_536", 65536),
        ("1,000", 1000),
        ("1e6", 10**6),
    ],
)
def test_counts(text: str, value: int):
    assert units.count(text) == value


@pytest.mark.parametrize("text", ["", "B", "-5", "1x", "ten", "0", "1.2.3", "0.1"])
def test_what_is_no_count_is_refused(text: str):
    with pytest.raises(ConfigError, match=r"write for example|at least 1"):
        units.count(text)


@pytest.mark.parametrize(
    ("text", "value"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("0.5h", 1800), ("2d", 172800)]
)
def test_times(text: str, value: float):
    assert units.seconds(text) == value


@pytest.mark.parametrize("text", ["", "10", "m", "5x", "0s", "1h 30", "-5m"])
def test_what_is_no_time_is_refused(text: str):
    with pytest.raises(ConfigError, match="90s"):
        units.seconds(text)


def test_what_people_read():
    assert [units.counted(n, "row") for n in (0, 1, 2048)] == ["0 rows", "1 row", "2,048 rows"]
    assert units.short(1_234_567) == "1.23M"
    assert units.size(1536) == "1.54 kB"
    assert units.duration(3725) == "1h02m"
    assert units.duration(125) == "2m05s"
    assert units.duration(1.5) == "1.5s"
