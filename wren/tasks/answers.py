"""Whether an answer says the same as the gold one: numbers as numbers, texts without case and full stop."""

import re
from fractions import Fraction

from wren import arithmetic

MAX_CHARACTERS = 20_000  # a longer answer is wrong: no verifier is to spend minutes on a model's babble
_NUMBER = re.compile(
    r"(?<![\w.,])[-+\u2212]?[$\u20ac\u00a3]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?(?:/[0-9]+)?%?(?!\w)"
)
_MONEY = re.compile(r"[$\u20ac\u00a3]\s?|\s?%$")
_ENDS = " \t\r\n.!\"'"


def number(text: str) -> Fraction | None:
    """The number that a text is, such as "42", "$1,234.50", "-3/4", "25%" (as 25) or "6e3"; None for another text."""
    bare = _MONEY.sub("", text.strip().rstrip(".")).replace("\u2212", "-")
    if (
        not re.fullmatch(r"[-+]?[0-9.,]+(?:[eE][-+]?[0-9]{1,3}|/[0-9]+)?", bare)
        or len(bare) > arithmetic.MAX_CHARACTERS
    ):
        return None
    try:
        return arithmetic.value(bare)
    except arithmetic.ExpressionError:
        return None


def last_number(text: str) -> Fraction | None:
    """The last number in a text, None where there is none."""
    found = [read for match in _NUMBER.finditer(text[-MAX_CHARACTERS:]) if (read := number(match[0])) is not None]
    return found[-1] if found else None


def plain(text: str) -> str:
    """The text without case, full stop, quotation marks at its ends, and differences of white space."""
    return " ".join(text.casefold().split()).strip(_ENDS)


def same(gold: str, said: str) -> bool:
    """Whether `said` is the gold answer, or, where that is a number, ends its words with that number."""
    if len(said) > MAX_CHARACTERS:
        return False
    if plain(gold) == plain(said):
        return True
    wanted = number(gold)
    if wanted is None:
        return False
    read = number(said)
    return wanted == (last_number(said) if read is None else read)
