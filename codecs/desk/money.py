"""Exact amounts of money and of what is traded: integers in units of 1e-8.

128 bits in shared memory and in ClickHouse (`Decimal(38, 8)` byte for byte), Python integers in arithmetic, decimal
strings in text. Never a float. What comes with more than 8 decimals is rounded half to even, and said so.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from ..errors import MalformedAmount

SCALE = 8
UNIT = 10**SCALE
BYTES = 16
AMOUNT_MAX = 10**38 - 1  # of Decimal(38, 8)

FLOAT_SHORT = 10.0 ** (15 - SCALE) - 1  # floats below it have at most 15 digits, 8 of them decimals
FACTORS = tuple(10 ** (SCALE - n) for n in range(SCALE + 1))  # by the number of decimals


def parse_amount(value: str | int | float) -> tuple[int, bool]:
    """An amount as producers write it: text, or a JSON number.

    A float stands for its shortest text: that is what the producer had.

    Returns:
        `(units, exact)`: units of 1e-8; exact is False when it had more than 8 decimals and was rounded.

    Raises:
        MalformedAmount: no decimal number, or beyond 38 digits.
    """
    if type(value) is float:
        # Up to 15 digits name different floats, so a float that they lead back to has no shorter text.
        units = round(value * UNIT) if -FLOAT_SHORT < value < FLOAT_SHORT else 0
        if units / UNIT == value:
            return units, True
    text = value if type(value) is str else repr(value)
    whole, _, fraction = text.partition(".")
    digits = whole + fraction
    n = len(fraction)
    plain = digits.isdigit() or (digits[:1] == "-" and digits[1:].isdigit())
    if plain and n <= SCALE and len(digits) < 30 and digits.isascii():
        return int(digits) * FACTORS[n], True
    return _parse_slowly(text)


def _parse_slowly(text: str) -> tuple[int, bool]:
    """Exponents, many digits, and everything that is wrong."""
    try:
        if not text.isascii() or "_" in text or text != text.strip():
            raise InvalidOperation
        number = Decimal(text)
        if not number.is_finite() or number.adjusted() > 37 - SCALE:
            raise InvalidOperation
        if number.adjusted() < -SCALE - 1:
            return 0, not number
        sign, digits, exponent = number.as_tuple()
        assert isinstance(exponent, int)
        shift = exponent + SCALE
        units = int("".join(map(str, digits)))
        if shift >= 0:
            units *= 10**shift
            exact = True
        else:
            units, rest = divmod(units, 10**-shift)
            half = 5 * 10 ** (-shift - 1)
            units += rest > half or (rest == half and units & 1)
            exact = rest == 0
    except (InvalidOperation, ValueError):
        raise MalformedAmount(
            f"amount {text[:60]!r}: expected a decimal number of at most {38 - SCALE} digits before the point"
        ) from None
    if units > AMOUNT_MAX:
        raise MalformedAmount(f"amount {text[:60]!r}: does not fit 38 digits with {SCALE} decimals")
    return (-units if sign else units), exact


def vanishes(value: str | int | float) -> bool:
    """Whether an amount is above zero, and so small that it is rounded to 0.

    Raises:
        MalformedAmount
    """
    units, exact = parse_amount(value)
    return not (units or exact) and not str(value).startswith("-")


def amount_text(units: int) -> str:
    """The shortest exact decimal: no exponent, no zeros at the end, no minus before zero."""
    sign, units = ("-", -units) if units < 0 else ("", units)
    whole, fraction = divmod(units, UNIT)
    if not fraction:
        return f"{sign}{whole}"
    return f"{sign}{whole}.{fraction:08d}".rstrip("0")


def amount_number(units: int) -> float:
    """The nearest float, for JSON that shows amounts as numbers."""
    return units / UNIT


def amount_bytes(units: int) -> bytes:
    """16 bytes, two's complement, little-endian: as in shared memory and in a Native block."""
    return units.to_bytes(BYTES, "little", signed=True)


def amount_of(data: bytes) -> int:
    """The reverse of `amount_bytes`."""
    return int.from_bytes(data, "little", signed=True)


def divide(numerator: int, denominator: int) -> int:
    """An integer quotient, rounded half to even."""
    if denominator < 0:
        numerator, denominator = -numerator, -denominator
    quotient, rest = divmod(numerator, denominator)
    twice = 2 * rest
    if twice > denominator or (twice == denominator and quotient & 1):
        quotient += 1
    return quotient
