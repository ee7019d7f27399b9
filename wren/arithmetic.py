"""Arithmetic as a tree, and its value in exact fractions: a parser of its own, so that no text ever runs as code.

    sum      product (("+" | "-") product)*
    product  signed (("*" | "/" | "//" | "%") signed)*
    signed   ("+" | "-") signed | power
    power    atom (("**" | "^") signed)?
    atom     number | name | name "(" sum ")" | "(" sum ")"

// rounds down and % has the sign of what it is divided by, as in Python. Bounded: the length of the text, its depth,
and the size of every number on the way. Names and functions are read only where the caller lists them.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from wren.errors import DataError

MAX_CHARACTERS = 500
MAX_DEPTH = 40  # of parentheses and signs
MAX_BITS = 1024  # of numerator and denominator: about 308 digits
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?)"
    r"|(?P<name>[A-Za-z]+)|(?P<sign>\*\*|//|[-+*/%^()]))"
)
_SAME = str.maketrans({"\u00d7": "*", "\u22c5": "*", "\u00f7": "/", "\u2212": "-", "\u2013": "-"})


class ExpressionError(DataError):
    """A text that is not arithmetic, or whose value leaves the bounds."""


@dataclass(frozen=True, slots=True)
class Number:
    value: Fraction


@dataclass(frozen=True, slots=True)
class Name:
    name: str


@dataclass(frozen=True, slots=True)
class Operation:
    """sign: + - * / // % **, "negative" (of left alone), or a function's name (of left alone)."""

    sign: str
    left: "Expression"
    right: "Expression | None" = None


Expression = Number | Name | Operation


def parse(text: str, names: Collection[str] = (), functions: Collection[str] = ()) -> Expression:
    """The tree of an expression; raises ExpressionError, which names the place."""
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"The expression has {len(text):,} characters; it may have {MAX_CHARACTERS}.")
    return _Parser(text, names, functions).whole()


def evaluate(expression: Expression, values: Mapping[str, Fraction] | None = None) -> Fraction:
    """The exact value, with these values of its names; raises ExpressionError where it has none or is too large."""
    if isinstance(expression, Number):
        return expression.value
    if isinstance(expression, Name):
        if values is None or expression.name not in values:
            raise ExpressionError(f"'{expression.name}' has no value.")
        return values[expression.name]
    left = evaluate(expression.left, values)
    if expression.right is None:
        if expression.sign != "negative":
            raise ExpressionError(f"{expression.sign} has no exact value.")
        return -left
    return _bounded(_SIGNS[expression.sign](left, evaluate(expression.right, values)))


def value(text: str) -> Fraction:
    """The exact value of a text such as "(2 + 3) * 4"; raises ExpressionError."""
    return evaluate(parse(text))


def numbers(expression: Expression) -> Iterator[Fraction]:
    """Every number that is written in it, from left to right."""
    if isinstance(expression, Number):
        yield expression.value
    elif isinstance(expression, Operation):
        yield from numbers(expression.left)
        if expression.right is not None:
            yield from numbers(expression.right)


def signs(expression: Expression) -> Iterator[str]:
    """The sign of every operation in it."""
    if isinstance(expression, Operation):
        yield expression.sign
        yield from signs(expression.left)
        if expression.right is not None:
            yield from signs(expression.right)


class _Parser:
    def __init__(self, text: str, names: Collection[str], functions: Collection[str]):
        self._tokens = _tokens(text, {*names, *functions})
        self._names, self._functions = names, functions
        self._next = self._depth = 0

    def whole(self) -> Expression:
        if not self._tokens:
            raise ExpressionError("The expression is empty; write one such as (2 + 3) * 4.")
        found = self._sum()
        if self._next < len(self._tokens):
            raise ExpressionError(f"'{self._tokens[self._next]:.20}' was not expected after a whole expression.")
        return found

    def _take(self, *signs: str) -> str | None:
        """The next token if it is one of these."""
        if self._next < len(self._tokens) and self._tokens[self._next] in signs:
            self._next += 1
            return self._tokens[self._next - 1]
        return None

    def _sum(self) -> Expression:
        found = self._product()
        while sign := self._take("+", "-"):
            found = Operation(sign, found, self._product())
        return found

    def _product(self) -> Expression:
        found = self._signed()
        while sign := self._take("*", "/", "//", "%"):
            found = Operation(sign, found, self._signed())
        return found

    def _signed(self) -> Expression:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ExpressionError(f"The expression is nested more than {MAX_DEPTH} deep.")
        sign = self._take("+", "-")
        found = self._power() if sign is None else self._signed()
        self._depth -= 1
        return Operation("negative", found) if sign == "-" else found

    def _power(self) -> Expression:
        base = self._atom()
        return base if self._take("**", "^") is None else Operation("**", base, self._signed())

    def _atom(self) -> Expression:
        if self._take("("):
            return self._closed()
        if self._next == len(self._tokens):
            raise ExpressionError("The expression ends where a number was expected.")
        token = self._tokens[self._next]
        self._next += 1
        if token[0] in "0123456789.":
            return Number(_number(token))
        if token in self._functions and self._take("("):
            return Operation(token, self._closed())
        if token in self._names:
            return Name(token)
        raise ExpressionError(f"'{token:.20}' stands where a number was expected.")

    def _closed(self) -> Expression:
        found = self._sum()
        if not self._take(")"):
            raise ExpressionError("A closing parenthesis is missing.")
        return found


def _tokens(text: str, words: Collection[str]) -> list[str]:
    text = text.translate(_SAME).rstrip()
    found, start = [], 0
    while start < len(text):
        match = _TOKEN.match(text, start)
        if match is None or (match["name"] is not None and match["name"] not in words):
            rest = text[start:].lstrip()
            raise ExpressionError(f"'{rest:.20}' is not arithmetic; use numbers, + - * / // % ** and parentheses.")
        found.append(match["number"] or match["name"] or match["sign"])
        start = match.end()
    return found


def _number(token: str) -> Fraction:
    exponent = token.lower().partition("e")[2]
    if abs(int(exponent or 0)) > MAX_BITS:  # before a number of so many digits is made
        raise ExpressionError(f"The number {token:.20} is too large or too small; about 300 digits are possible.")
    return _bounded(Fraction(token.replace(",", "")))


def _divided(left: Fraction, right: Fraction) -> Fraction:
    return left / _nonzero(right)


def _divided_down(left: Fraction, right: Fraction) -> Fraction:
    return Fraction(left // _nonzero(right))


def _rest(left: Fraction, right: Fraction) -> Fraction:
    return left % _nonzero(right)


def _nonzero(number: Fraction) -> Fraction:
    if number == 0:
        raise ExpressionError("A number cannot be divided by 0.")
    return number


def _raised(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ExpressionError("An exponent must be a whole number.")
    power = int(exponent)
    if base == 0 and power < 0:
        raise ExpressionError("0 cannot be raised to a negative power.")
    if abs(base) == 1:
        return base if power % 2 else Fraction(1)
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if base != 0 and (bits - 1) * abs(power) > MAX_BITS:  # before the power is computed
        raise ExpressionError("The result is too large; at most about 300 digits are possible.")
    return base if base == 0 and power else base**power


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise ExpressionError("A number on the way is too large; at most about 300 digits are possible.")
    return value


_SIGNS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": _divided,
    "//": _divided_down,
    "%": _rest,
    "**": _raised,
}
