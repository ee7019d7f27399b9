"""A calculator: arithmetic in exact fractions (wren/arithmetic.py), and its value as people write it."""

from collections.abc import Mapping
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

from wren import arithmetic
from wren.arithmetic import ExpressionError
from wren.chat.tools import Tool, ToolError

_DIGITS = 12  # that are shown where a result has no end


def calculate(expression: str) -> str:
    """The value as text: exact where it is whole or has at most 12 decimals, else rounded to 12 digits.

    Raises ToolError.
    """
    try:
        return _written(arithmetic.value(expression))
    except ExpressionError as error:
        raise ToolError(str(error)) from error


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
