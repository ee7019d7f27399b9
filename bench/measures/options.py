"""What the command lines of the benches read."""

import argparse


def seconds(text: str) -> list[float]:
    """ "15,60" -> [15.0, 60.0]."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [0.0]
    if not all(0 < value < 86_400 for value in values):
        raise argparse.ArgumentTypeError(f"{text}: write for example 15,60, each above 0 and below a day")
    return values


def positive(text: str) -> float:
    values = seconds(text)
    if len(values) != 1:
        raise argparse.ArgumentTypeError(f"{text}: write one number, above 0 and below a day")
    return values[0]


def whole(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) < 1 << 31:
        raise argparse.ArgumentTypeError(f"{text}: write a whole number of at least 1")
    return int(text)


def wholes(text: str) -> list[int]:
    return [whole(part.strip()) for part in text.split(",")]


def seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 31:
        raise argparse.ArgumentTypeError(f"{text}: write a whole number of at least 0")
    return int(text)


def size(text: str) -> tuple[int, int]:
    """ "4x128" -> (4, 128)."""
    depth, x, dim = text.partition("x")
    if not x:
        raise argparse.ArgumentTypeError(f"{text}: write depth x width, such as 4x128")
    return whole(depth), whole(dim)
