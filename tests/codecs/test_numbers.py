"""Decimals keep their value and their digits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickring.codecs.captures import read_capture
from tickring.codecs.numbers import decimal_formatter, decimal_text, decimals_of, precision_of_step

PLAIN = re.compile(r"-?[0-9]+(\.[0-9]+)?")


@pytest.mark.parametrize(
    ("value", "precision", "text"),
    [
        (61837.63, 2, "61837.63"),
        (61837.63, 8, "61837.63000000"),
        (61837.63, 1, "61837.63"),
        (5.0, 0, "5"),
        (5.0, 3, "5.000"),
        (0.0, 0, "0"),
        (0.0, 2, "0.00"),
        (-0.0, 2, "0.00"),
        (-1.5, 2, "-1.50"),
        (0.0001, 4, "0.0001"),
        (0.00001234, 8, "0.00001234"),
        (0.00001234, 2, "0.00001234"),
        (0.00000001, 8, "0.00000001"),
        (5e-324, 2, format(Decimal("5e-324"), "f")),
        (1e16, 2, "10000000000000000.00"),
        (1.5e22, 0, "15000000000000000000000"),
        (123456789012345.6, 1, "123456789012345.6"),
        (7, 2, "7.00"),
    ],
)
def test_decimal_text_pads_and_never_cuts(value: float, precision: int, text: str) -> None:
    assert decimal_text(value, precision) == text
    assert decimal_formatter(precision)(value) == text


@given(
    digits=st.integers(0, 10**15 - 1),
    decimals=st.integers(0, 15),
    precision=st.integers(0, 18),
)
def test_any_decimal_of_15_digits_survives(digits: int, decimals: int, precision: int) -> None:
    written = Decimal(digits).scaleb(-decimals)
    text = decimal_text(float(format(written, "f")), precision)
    assert PLAIN.fullmatch(text)
    assert Decimal(text) == written
    assert decimals_of(text) >= precision


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 18))
def test_any_float_reads_back_as_itself(value: float, precision: int) -> None:
    text = decimal_text(value, precision)
    assert PLAIN.fullmatch(text)
    assert float(text) == value


@pytest.mark.parametrize(
    ("step", "precision"),
    [("0.01000000", 2), ("1.00000000", 0), ("10", 0), ("0.1", 1), ("1e-6", 6), ("0", 0), ("0.00000001", 8), ("5", 0)],
)
def test_precision_of_step_counts_needed_decimals(step: str, precision: int) -> None:
    assert precision_of_step(step) == precision


def binance_decimals(captures: Path) -> Iterator[tuple[str, set[bytes]]]:
    for path in sorted(captures.glob("binance-*/*")):
        found: set[bytes] = set()
        for entry in read_capture(path):
            found.update(re.findall(rb'"([0-9]+(?:\.[0-9]+)?)"', entry.payload))
        yield f"{path.parent.name}/{path.name}", found


def test_every_decimal_in_every_binance_capture_survives(captures: Path) -> None:
    total = 0
    for name, texts in binance_decimals(captures):
        for text in map(bytes.decode, texts):
            significant = len(text.replace(".", "").strip("0"))
            if significant > 15:
                continue  # volumes of a day: never a price or quantity of a record
            precision = decimals_of(text)
            again = decimal_text(float(text), precision)
            assert again == (text.lstrip("0") if text[0] == "0" and text[1:2] not in ("", ".") else text), (name, text)
            assert Decimal(decimal_text(float(text), 0)) == Decimal(text), (name, text)
        total += len(texts)
    assert total > 100_000
