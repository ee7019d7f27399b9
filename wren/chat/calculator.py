"""A calculator: arithmetic in exact fractions, by a parser of its own.

    sum      product (("+" | "-") product)*
    product  signed (("*" | "/" | "//" | "%") signed)*
    signed   ("+" | "-") signed | power
    power    atom (("**" | "^") signed)?
    atom     number | "(" sum ")"

// rounds down and % has the sign of what it is divided by, as in Python. Numbers may have commas between thousands,
decimals and an exponent. Bounded: the length of the text, its depth, and the size of every number on the way.
"""

import re
from collections.abc import Mapping
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

from wren.chat.tools import Tool, ToolError

MAX_CHARACTERS = 500
MAX_DEPTH = 40  # of parentheses and signs
MAX_BITS = 1024  # of numerator and denominator: about 308 digits
_DIGITS = 12  # that are shown where a result has no end
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?)"
    r"|(?P<sign>\*\*|//|[-+*/%^()]))"
)
_SAME = str.maketrans({"\u00d7": "*", "\u22c5": "*", "\u00f7": "/", "\u2212": "-", "\u2013": "-"})


def calculate(expression: str) -> str:
    """The value as text: exact where it is whole or has at most 12 decimals, else rounded to 12 digits.

    Raises ToolError.
    """
    if len(expression) > MAX_CHARACTERS:
        raise ToolError(f"The expression has {len(expression):,} characters; it may have {MAX_CHARACTERS}.")
    return _written(_Parser(expression).value())


class _Parser:
    def __init__(self, text: str):
        self._tokens = _tokens(text)
        self._next = 0
        self._depth = 0

    def value(self) -> Fraction:
        if not self._tokens:
            raise ToolError("The expression is empty; write one such as (2 + 3) * 4.")
        value = self._sum()
        if self._next < len(self._tokens):
            raise ToolError(f"'{self._tokens[self._next]}' was not expected after a whole expression.")
        return value

    def _take(self, *signs: str) -> str | None:
        """The next token if it is one of these."""
        if self._next < len(self._tokens) and self._tokens[self._next] in signs:
            self._next += 1
            return self._tokens[self._next - 1]
        return None

    def _sum(self) -> Fraction:
        value = self._product()
        while sign := self._take("+", "-"):
            other = self._product()
            value = _bounded(value + other if sign == "+" else value - other)
        return value

    def _product(self) -> Fraction:
        value = self._signed()
        while sign := self._take("*", "/", "//", "%"):
            other = self._signed()
            if sign != "*" and other == 0:
                raise ToolError("A number cannot be divided by 0.")
            if sign == "*":
                value *= other
            elif sign == "/":
                value /= other
            else:
                value = Fraction(value // other) if sign == "//" else value % other
            value = _bounded(value)
        return value

    def _signed(self) -> Fraction:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ToolError(f"The expression is nested more than {MAX_DEPTH} deep.")
        sign = self._take("+", "-")
        value = self._power() if sign is None else self._signed()
        self._depth -= 1
        return -value if sign == "-" else value

    def _power(self) -> Fraction:
        base = self._atom()
        return base if self._take("**", "^") is None else _raised(base, self._signed())

    def _atom(self) -> Fraction:
        if self._take("("):
            value = self._sum()
            if not self._take(")"):
                raise ToolError("A closing parenthesis is missing.")
            return value
        if self._next == len(self._tokens):
            raise ToolError("The expression ends where a number was expected.")
        token = self._tokens[self._next]
        if token[0] not in "0123456789.":
            raise ToolError(f"'{token}' stands where a number was expected.")
        self._next += 1
        return _number(token)


def _tokens(text: str) -> list[str]:
    text = text.translate(_SAME).rstrip()
    found, start = [], 0
    while start < len(text):
        match = _TOKEN.match(text, start)
        if match is None:
            rest = text[start:].lstrip()
            raise ToolError(f"'{rest[:20]}' is not arithmetic; use numbers, + - * / // % ** and parentheses.")
        found.append(match["number"] or match["sign"])
        start = match.end()
    return found


def _number(token: str) -> Fraction:
    exponent = token.lower().partition("e")[2]
    if abs(int(exponent or 0)) > MAX_BITS:  # before a number of so many digits is made
        raise ToolError(f"The number {token[:20]} is too large or too small; at most about 300 digits are possible.")
    return _bounded(Fraction(token.replace(",", "")))


def _raised(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ToolError("An exponent must be a whole number.")
    power = int(exponent)
    if base == 0 and power < 0:
        raise ToolError("0 cannot be raised to a negative power.")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(base) != 1 and base != 0 and (bits - 1) * abs(power) > MAX_BITS:
        raise ToolError("The result is too large; at most about 300 digits are possible.")
    if abs(base) == 1:
        return base if power % 2 else Fraction(1)
    return base if base == 0 and power else _bounded(base**power)


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise ToolError("A number on the way is too large; at most about 300 digits are possible.")
    return value


def _written(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    scaled = value * 10**_DIGITS
    if scaled.denominator == 1:
        sign, digits = "-" if scaled < 0 else "", str(abs(scaled.numerator)).rjust(_DIGITS + 1, "0")
        return f"{sign}{digits[:-_DIGITS]}.{digits[-_DIGITS:].rstrip('0')}"
    with localcontext() as context:
        context.prec = _DIGITS
        return str((Decimal(value.numerator) / Decimal(value.denominator)).normalize())


def _run(arguments: Mapping[str, Any]) -> str:
    return calculate(arguments["expression"])


CALCULATOR = Tool(
    name="calculator",
    description="Works out arithmetic.",
    parameters={
        "type": "object",
        "properties": {"expression": {"type": "string", "description": "such as (2 + 3) * 4"}},
        "required": ["expression"],
    },
    run=_run,
)
