"""Numbers as people write them: 300M tokens, 10m of time, 1.5 GB; and back."""

import re

from wren.errors import ConfigError

_COUNT = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def count(text: str, what: str = "number") -> int:
    """'300M' -> 300_000_000; also 1k, 2.5B, 65_536, 1e6. Raises ConfigError."""
    match = re.fullmatch(r"([0-9_,.]+(?:e[0-9]+)?)\s*([kmbgt]?)", text.strip().lower())
    try:
        if not match:
            raise ValueError(text)
        value = float(match[1].replace("_", "").replace(",", "")) * _COUNT[match[2]]
        whole = round(value)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"'{text}' is not a {what}; write for example 500k, 300M or 1B.") from error
    if value < 1:
        raise ConfigError(f"'{text}' is too small for a {what}; it must be at least 1.")
    return whole


def seconds(text: str) -> float:
    """'90s', '10m', '1h30m', '2d' in seconds. Raises ConfigError."""
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd])", text.strip().lower())
    if not parts or "".join(f"{number}{unit}" for number, unit in parts) != re.sub(r"\s", "", text.lower()):
        raise ConfigError(f"'{text}' is not a time; write for example 90s, 10m or 1h30m.")
    total = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if total <= 0:
        raise ConfigError(f"'{text}' is no time at all; write for example 90s, 10m or 1h30m.")
    return total


def counted(number: int, one: str) -> str:
    """ "1 row", "2,048 rows"."""
    return f"{number:,} {one}" if number == 1 else f"{number:,} {one}s"


def short(number: float) -> str:
    """1234567 -> '1.23M'."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def size(num_bytes: float) -> str:
    """Bytes as people read them: 1536 -> '1.54 kB'."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(num_bytes) >= factor:
            return f"{num_bytes / factor:.3g} {unit}"
    return f"{num_bytes:.0f} B"


def duration(num_seconds: float) -> str:
    """Seconds as people read them: 3725 -> '1h02m'."""
    whole = round(num_seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{num_seconds:.3g}s"
