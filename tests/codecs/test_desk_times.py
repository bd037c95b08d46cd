"""Times as producers write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tickring.codecs.desk.times import time_ns
from tickring.codecs.errors import MalformedTime

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOMENTS = st.datetimes(
    datetime(1971, 1, 2), datetime(2261, 12, 30), timezones=st.sampled_from(
        [UTC, *(timezone(timedelta(minutes=m)) for m in (-720, -210, -1, 330, 345, 840))]
    ),
)  # fmt: skip


def ns_of(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1) * 1000


@given(MOMENTS)
@settings(max_examples=300, deadline=None)
def test_iso_text_with_an_offset_is_read_exactly(moment: datetime) -> None:
    assert time_ns(moment.isoformat()) == ns_of(moment)
    assert time_ns(moment.isoformat(" ", "milliseconds")) == ns_of(moment) // 1_000_000 * 1_000_000


@given(MOMENTS)
@settings(max_examples=100, deadline=None)
def test_iso_text_without_an_offset_is_utc(moment: datetime) -> None:
    assert time_ns(moment.replace(tzinfo=None).isoformat()) == ns_of(moment.replace(tzinfo=UTC))


@given(st.integers(31_536_000, 9_183_110_399))
@example(9_183_110_399)
def test_number_below_1e11_counts_seconds(seconds: int) -> None:
    assert time_ns(seconds) == time_ns(float(seconds)) == time_ns(str(seconds)) == seconds * 10**9


@given(st.integers(10**11, 9_183_110_399_999))
def test_number_from_1e11_counts_milliseconds(ms: int) -> None:
    assert time_ns(ms) == time_ns(float(ms)) == time_ns(str(ms)) == ms * 10**6


@pytest.mark.parametrize(
    ("written", "ns"),
    [
        ("2025-03-04T09:15:27.412Z", 1_741_079_727_412_000_000),
        ("2025-03-04T09:17:10.000+00:00", 1_741_079_830_000_000_000),
        ("2025-03-04T09:20:00Z", 1_741_080_000_000_000_000),
        ("2025-03-04T09:20:00", 1_741_080_000_000_000_000),
        ("2025-03-04T09:20:00z", 1_741_080_000_000_000_000),
        ("2025-03-04 11:20:00,5+0200", 1_741_080_000_500_000_000),
        ("2025-03-04T11:20:00+02", 1_741_080_000_000_000_000),
        ("2025-03-04T09:20:00.1234567891Z", 1_741_080_000_123_456_789),
        ("2025-03-04t09:20:00.5z", 1_741_080_000_500_000_000),
        ("2025-03-04T09:20Z", 1_741_080_000_000_000_000),
        ("2025-03-04t09:20z", 1_741_080_000_000_000_000),
        ("2025-03-04T09:20", 1_741_080_000_000_000_000),
        ("2025-03-04 11:20+02:00", 1_741_080_000_000_000_000),
        ("2025-03-04T05:50-0330", 1_741_080_000_000_000_000),
        (1741080010.123, 1_741_080_010_123_000_000),
        ("1741080010.5", 1_741_080_010_500_000_000),
    ],
)
def test_time_in_each_form_is_read(written: str | float, ns: int) -> None:
    assert time_ns(written) == ns
    assert time_ns(written) == ns  # as remembered


@pytest.mark.parametrize(
    "written",
    [
        "", "now", "2025-03-04", "09:20:00", "2025-03-04T09:20:60Z", "2025-03-04T24:00:00Z",
        "2025-02-29T00:00:00Z", "2025-03-04T09:20:00+24:00", "2025-03-04T09:20:00.Z", "2025-03-04T09:20:00 Z",
        "20250304T092000Z", "1970-01-01T00:00:00Z", "2262-01-01T00:00:00Z", "٢٠٢٥-03-04T09:20:00Z", "20250304",
        "2025-03-04T09:20.5Z", "2025-03-04T09:20,5", "2025-03-04T09:20:Z", "2025-03-04T09:20:0Z", "2025-03-04T09Z",
        "2025-03-04T09:60Z", "2025-03-04T09:20+", "2025-03-04T09:20+2", "2025-03-04T09:20+24:00", "2025-03-04T09:20ZZ",
        "2025-03-04T09:20 Z", "2025-03-04x09:20:00Z",
        0, -1, 1, 1741080010123456, 1741080010123456789, 1e300, float("inf"), float("nan"),
    ],
)  # fmt: skip
def test_text_or_number_that_is_no_time_of_this_era_is_refused(written: str | float) -> None:
    with pytest.raises(MalformedTime, match="expected ISO 8601"):
        time_ns(written)


def test_more_texts_than_are_remembered_are_still_read() -> None:
    for n in range(40_000):
        moment = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(minutes=n, milliseconds=n)
        assert time_ns(moment.isoformat(timespec="milliseconds")) == ns_of(moment)
