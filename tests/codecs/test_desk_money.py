"""Exact amounts, against `decimal.Decimal`."""

from __future__ import annotations

import decimal
from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tickring.codecs.desk.money import (
    AMOUNT_MAX,
    UNIT,
    amount_bytes,
    amount_of,
    amount_text,
    divide,
    parse_amount,
)
from tickring.codecs.desk.reading import KEPT_MAX, Amounts
from tickring.codecs.errors import MalformedAmount

CONTEXT = decimal.Context(prec=120, rounding=decimal.ROUND_HALF_EVEN, Emax=10_000, Emin=-10_000)
UNITS = st.integers(-AMOUNT_MAX, AMOUNT_MAX)


def by_decimal(text: str) -> tuple[int, bool]:
    """The oracle: units, and whether they are exact."""
    number = Decimal(text)
    rounded = number.quantize(Decimal("1e-8"), context=CONTEXT)
    return int(rounded.scaleb(8, CONTEXT)), rounded == number


@given(UNITS)
@settings(max_examples=300)
def test_amount_as_text_is_read_back(units: int) -> None:
    assert parse_amount(amount_text(units)) == (units, True)
    assert Decimal(amount_text(units)) == CONTEXT.scaleb(Decimal(units), -8)


@given(UNITS)
def test_amount_as_bytes_is_read_back(units: int) -> None:
    assert amount_of(amount_bytes(units)) == units
    assert len(amount_bytes(units)) == 16


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=Decimal("-1e29"), max_value=Decimal("1e29")))
@settings(max_examples=500)
@example(Decimal("0.000000005"))
@example(Decimal("0.000000015"))
@example(Decimal("-0.000000025"))
@example(Decimal("1E+29"))
@example(Decimal("-0"))
@example(Decimal("5E-9"))
@example(Decimal("1E-400"))
def test_text_with_any_decimals_and_exponent_is_rounded_half_even(number: Decimal) -> None:
    assert parse_amount(str(number)) == by_decimal(str(number))
    assert Amounts()[str(number)] == by_decimal(str(number))[0]


@given(st.floats(min_value=-1e29, max_value=1e29))
@settings(max_examples=1000)
@example(0.1 + 0.2)
@example(5e11)
@example(1e22)
@example(-0.0)
@example(5e-324)
@example(9_999_999.99999999)
@example(10_000_000.00000001)
@example(0.285)
@example(1.005)
@example(2**53 + 1.0)
def test_float_stands_for_its_shortest_text(number: float) -> None:
    assert parse_amount(number) == by_decimal(repr(number))


@given(st.integers(-(10**15), 10**15), st.integers(0, 8))
@settings(max_examples=500)
def test_float_of_a_short_decimal_is_exact(digits: int, places: int) -> None:
    text = f"{Decimal(digits).scaleb(-places):f}"
    assert parse_amount(float(text)) == (digits * 10 ** (8 - places), True)


@given(st.integers(-(10**30) + 1, 10**30 - 1))
def test_whole_number_is_exact(number: int) -> None:
    assert parse_amount(number) == (number * UNIT, True)


@pytest.mark.parametrize(
    "text",
    [
        "", "-", ".", "+", "1..2", "1.2.3", "1e", "e5", "nan", "inf", "-Infinity", "1_000", " 1", "1 ", "1\n", "0x10",
        "1,5", "١٢", "²", "1e31", "1" + "0" * 30, "9" * 400, "1e999999999", "--1", "1-", "-.", "$5",
    ],
)  # fmt: skip
def test_text_that_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(MalformedAmount):
        parse_amount(text)
    with pytest.raises(MalformedAmount):
        _ = Amounts()[text]


@pytest.mark.parametrize("text", ["1e30", "1000000000000000000000000000000", 1e30, 10**30])
def test_amount_of_more_than_38_digits_is_refused(text: str | float) -> None:
    with pytest.raises(MalformedAmount, match="digits"):
        parse_amount(text)


def test_largest_amount_is_taken_and_what_rounds_beyond_it_refused() -> None:
    assert parse_amount("9" * 30 + "." + "9" * 8) == (AMOUNT_MAX, True)
    with pytest.raises(MalformedAmount):
        parse_amount("9" * 30 + "." + "9" * 9)


def test_amounts_remembered_are_bounded_and_inexact_ones_counted_each_time() -> None:
    amounts = Amounts()
    for n in range(2 * KEPT_MAX):
        assert amounts[f"{n}.5"] == n * UNIT + UNIT // 2
        assert len(amounts.kept) <= KEPT_MAX
    for _ in range(3):
        assert amounts["0.123456789"] == 12_345_679
    assert amounts.rounded == 3


@pytest.mark.parametrize("number", [2**60, 2**53, 10**23, -(2**60), 2**53 - 1, 10**9])
def test_whole_number_and_the_float_that_equals_it_are_not_taken_for_each_other(number: int) -> None:
    for values in ((number, float(number)), (float(number), number)):
        amounts = Amounts()
        for value in values * 2:
            assert amounts[value] == by_decimal(repr(value))[0]


@given(UNITS, UNITS.filter(bool))
def test_quotient_is_rounded_half_even(a: int, b: int) -> None:
    exact = CONTEXT.divide(Decimal(a), Decimal(b))
    assert abs(exact - divide(a, b)) <= Decimal("0.5")
    assert divide(a * b, b) == a


def test_quotient_halfway_goes_to_the_even_side() -> None:
    assert [divide(n, 2) for n in (1, 3, 5, -1, -3)] == [0, 2, 2, 0, -2]
    assert [divide(n, -2) for n in (1, 3, -1)] == [0, -2, 0]
