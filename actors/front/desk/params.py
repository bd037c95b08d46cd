"""Parameters of the desk's endpoints."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ....codecs.desk.canonical import DEFAULT_ACCOUNT
from ..endpoints import Arguments
from ..errors import InvalidTimeRange
from ..paging import OFFSET_MAX, empty_range
from ..params import Param, choice, integer, moment, text
from ..stamps import NS, rfc3339

HOUR_NS = 3600 * NS
DAY_NS = 24 * HOUR_NS
EVERYTHING = ("*", "all", "ALL")

ACCOUNT = text("account_id", "Account; `*` for all.", "an account", default=DEFAULT_ACCOUNT)
ANY_ACCOUNT = text("account_id", "Account; all by default.", "an account")
ANY_STRATEGY = text("strategy_id", "Strategy; all by default.", "a strategy")
SYMBOL = text("symbol", "As in the fills (`SOLUSDT`); `SOL-USDT` and `SOL/USDT` mean the same.", "a symbol")
SYMBOLS = text("symbols", "Several of them, with commas.", "symbols with commas")
SYMBOL_PATH = text("symbol", "As in the fills.", "a symbol", where="path", required=True, example="SOLUSDT")
SIDE = choice("side", ("BUY", "SELL"), "Of the order.")
ORDER_ID = text("order_id", "The order.", "an order's id")
START = moment("start_time", "Start of the range, inclusive.", ("startTime",))
END = moment("end_time", "End of the range, exclusive; now by default.", ("endTime",))
PAGE = integer("page", 1, 1, OFFSET_MAX, "Page, from 1; the first holds the newest.")
PAGE_SIZE = integer("page_size", 100, 1, 1000, "Items of a page.", aliases=("size", "limit"))
NUMBERS = choice("decimals", ("string", "number"), "Amounts as strings or as numbers.", "number")
STRINGS = choice("decimals", ("string", "number"), "Amounts as strings or as numbers.", "string")
TIME = choice("time", ("rfc3339", "ms"), "Times as RFC 3339 or as epoch ms.", "rfc3339")


def chosen(value: str | None) -> str | None:
    """An account or strategy to filter by; None for all."""
    return None if value is None or value in EVERYTHING else value


@lru_cache(maxsize=8192)
def plain_symbol(symbol: str) -> str:
    """The form in which symbols are compared: producers write SOLUSDT, SOL-USDT, SOL/USDT or SOL_USDT.

    A perpetual's SWAP and PERPETUAL mean PERP.
    """
    plain = symbol.upper().translate(_SEPARATORS)
    for suffix in ("SWAP", "PERPETUAL"):
        if plain.endswith(suffix):
            return plain.removesuffix(suffix) + "PERP"
    return plain


_SEPARATORS = {ord(char): None for char in "-/_"}
# the same in ClickHouse
PLAIN_SYMBOL = "replaceRegexpOne(upper(replaceRegexpAll(symbol, '[-/_]', '')), '(SWAP|PERPETUAL)$', 'PERP')"


def symbols_of(arguments: Arguments) -> frozenset[str]:
    """Symbols to filter by, plain; empty for all."""
    given = [arguments.get("symbol"), *(arguments.get("symbols") or "").split(",")]
    return frozenset(plain_symbol(one.strip()) for one in given if one and one.strip())


def bounds(arguments: Arguments, span_ns: int, longest_ns: int) -> tuple[int, int]:
    """`(start, end)` of the range, UNIX ns.

    Args:
        span_ns: its length where no start is given.
        longest_ns: its greatest length.

    Raises:
        InvalidTimeRange
    """
    end = arguments["end_time"]
    end = time.time_ns() if end is None else end
    start = arguments["start_time"]
    start = max(0, end - span_ns) if start is None else start
    if start >= end:
        raise empty_range(start, end)
    if end - start > longest_ns:
        raise InvalidTimeRange(
            f"a range of {(end - start) / DAY_NS:.1f} days: at most {longest_ns // DAY_NS} are answered at once",
            code="TIME_RANGE_TOO_LARGE",
            details={"field": "start_time", "start_time": rfc3339(start), "end_time": rfc3339(end),
                     "days_max": longest_ns // DAY_NS},
        )  # fmt: skip
    return start, end


def query_params(arguments: Arguments, params: Sequence[Param], **settled: Any) -> dict[str, Any]:
    """What was asked for, with the defaults that were taken: the `query_params` of an answer."""
    asked = {param.name: arguments[param.name] for param in params if arguments.get(param.name) is not None}
    for name in ("start_time", "end_time"):
        if name in asked:
            asked[name] = rfc3339(asked[name])
    if "cursor" in asked:
        asked["cursor"] = asked["cursor"].text
        asked.pop("page", None)
    return {**asked, **settled}
