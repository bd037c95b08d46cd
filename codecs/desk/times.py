"""Times as the desk's producers write them: ISO 8601 with or without an offset, epoch seconds, epoch milliseconds.

All become UNIX ns. A text without an offset is UTC. A number below 1e11 counts seconds, from there on milliseconds.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal

from ..errors import MalformedTime

SECONDS_BELOW = 10**11  # 1e11 s would be the year 5138, 1e11 ms is 1973
FIRST_YEAR, LAST_YEAR = 1971, 2261  # what zeros and other units than these would become is no time; 2262 leaves 64 bits
KEPT_MAX = 16_384  # texts kept with what they mean
KEPT_LENGTH = len(".000+00:00")  # there are too many different microseconds

TIME_MS_MAX = 2**63 // 10**6  # from there on a time in ms, which a producer may write as it likes, has no ns in 64 bits

_NS = 1_000_000_000
_FIRST_NS = int(datetime(FIRST_YEAR, 1, 1, tzinfo=UTC).timestamp()) * _NS
_END_NS = int(datetime(LAST_YEAR + 1, 1, 1, tzinfo=UTC).timestamp()) * _NS
_MINUTE = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d)", re.ASCII)
_REST = re.compile(r"(?:[.,](\d{1,18}))?(?:[Zz]|([+-])(\d\d):?(\d\d)?)?", re.ASCII)
_IN_UTC = frozenset({"", "Z", "z", "+00:00"})
_NO_SECONDS = frozenset({"", "Z", "z", "+", "-"})  # behind the minute: Java writes no seconds where they are 0
_NUMBER = re.compile(r"\d{8,13}(\.\d{1,9})?", re.ASCII)


# Plain dicts with a function behind them: a subclass with `__missing__` is looked into by a slower way.
_minutes: dict[str, int] = {}  # `2025-03-04T09:16` -> UNIX ns, as if it were UTC
_seconds: dict[str, int] = {}  # `2025-03-04T09:16:31`, the same
_rests: dict[str, int] = {}  # `.051+02:00` -> what to add, in ns: with milliseconds there are few thousand
_SECOND_OF, _REST_OF = slice(19), slice(19, None)  # of a text; made once
_second = {f":{n:02d}": n * _NS for n in range(60)}


def _keep(kept: dict[str, int], text: str, ns: int) -> int:
    if len(kept) >= KEPT_MAX:
        kept.clear()
    kept[text] = ns
    return ns


def _minute(text: str) -> int:
    match = _MINUTE.fullmatch(text)
    if match is None:
        raise ValueError
    year, month, day, hour, minute = map(int, match.groups())
    moment = datetime(year, month, day, hour, minute, tzinfo=UTC)
    if not FIRST_YEAR <= year <= LAST_YEAR:
        raise ValueError
    return _keep(_minutes, text, int(moment.timestamp()) * _NS)


def _rest(text: str) -> int:
    """The fraction of a second less the offset from UTC, in ns."""
    digits = text[1:7]
    if len(digits) == 6 and text[0] == "." and text[7:] in _IN_UTC and digits.isdigit() and digits.isascii():
        return int(digits) * 1000  # what Python writes; too many different ones to keep
    match = _REST.fullmatch(text)
    if match is None:
        raise ValueError
    fraction, sign, hours, minutes = match.groups()
    ns = int(fraction[:9].ljust(9, "0")) if fraction else 0
    if sign:
        h, m = int(hours), int(minutes or 0)
        if h > 23 or m > 59:
            raise ValueError
        ns -= (h * 3600 + m * 60) * (_NS if sign == "+" else -_NS)
    return _keep(_rests, text, ns) if len(text) <= KEPT_LENGTH else ns


def time_ns(value: str | int | float) -> int:
    """UNIX ns of a time as producers write it. Digits beyond the ninth of a fraction are cut off.

    Raises:
        MalformedTime: no time, or outside 1971 to 2261.
    """
    try:
        rest = _rests.get(text := value[_REST_OF])  # type: ignore[index]
        return _seconds[value[_SECOND_OF]] + (_rest(text) if rest is None else rest)  # type: ignore[index]
    except (TypeError, ValueError, KeyError):
        return _slowly(value)


def _slowly(value: str | int | float) -> int:
    try:
        text: str = value[:16]  # type: ignore[index]
        minute = _minutes.get(text)
        if minute is None:
            minute = _minute(text)
        if value[16:17] in _NO_SECONDS:  # type: ignore[index]
            return minute + _rest(value[16:])  # type: ignore[index]
        second = minute + _second[value[16:19]]  # type: ignore[index]
        return _keep(_seconds, value[:19], second) + _rest(value[19:])  # type: ignore[index]
    except (TypeError, ValueError, KeyError):
        return _epoch_ns(value)


def _epoch_ns(value: str | int | float) -> int:
    try:
        text = str(value)
        if not _NUMBER.fullmatch(text):
            raise ValueError
        number = Decimal(text)
        ns = int(number * (_NS if number < SECONDS_BELOW else _NS // 1000))
        if not _FIRST_NS <= ns < _END_NS:
            raise ValueError
    except ValueError:
        raise MalformedTime(
            f"time {str(value)[:60]!r}: expected ISO 8601 with date and time to the minute, epoch seconds or epoch"
            f" milliseconds, from {FIRST_YEAR} to {LAST_YEAR}"
        ) from None
    return ns
