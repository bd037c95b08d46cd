"""PnL of a range: what was added between its two ends.

What was there at a moment follows from the states of the equity curve: the newest sample of the days before, and of the
minutes of its day. So ends are to the minute, and what arrives late counts in the range in which it arrived.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ....codecs.desk.money import parse_amount
from ..endpoints import Arguments
from ..errors import ServiceUnavailable
from ..stamps import NS
from ..state import FrontState
from .curve import samples_until
from .params import bounds
from .portfolio import ALL

MINUTE_NS = 60 * NS
_AMOUNTS = ("realized_pnl", "fees", "total_pnl", "volume", "gross_profit", "gross_loss")
_COUNTS = ("fill_count", "winning_trips", "losing_trips", "holding_ns")
_ADDED = (*_AMOUNTS, *_COUNTS)


def current(state: FrontState, account: str | None, strategy: str | None, *symbols: str | None) -> Mapping[str, Any]:
    """PnL now, of an account or of all together; of the whole, or of symbols in all their spellings."""
    return state.desk.portfolio.whole(account, strategy or ALL, _spellings(state, symbols))


def _spellings(state: FrontState, symbols: Sequence[str | None]) -> tuple[str, ...]:
    spellings = state.desk.portfolio.spellings
    return tuple(one for symbol in symbols if symbol is not None for one in spellings(symbol)) or (ALL,)


def ranged(arguments: Arguments) -> bool:
    """Whether a request names a range."""
    return arguments["start_time"] is not None or arguments["end_time"] is not None


async def figures(
    state: FrontState, account: str | None, strategy: str | None, arguments: Arguments, span_ns: int, longest_ns: int
) -> Mapping[str, Any]:
    """PnL as `current` has it: since the beginning, or what was added in the range that a request names.

    In a range `unrealized_pnl` is that of its end, and `largest_win` and `largest_loss` are None, as nobody knows them.
    What is said of days (their starts, Sharpe ratio, drawdown) is that of now.

    Raises:
        ServiceUnavailable: ClickHouse cannot tell what was there.
        InvalidTimeRange
    """
    start_ns, end_ns = bounds(arguments, span_ns, longest_ns)
    now = current(state, account, strategy, arguments["symbol"])
    if not ranged(arguments):
        return now
    symbols = _spellings(state, (arguments["symbol"],))
    end = now
    if arguments["end_time"] is not None and end_ns < time.time_ns():
        end = await _standing(state, account, strategy or ALL, symbols, end_ns)
    start = await _standing(state, account, strategy or ALL, symbols, start_ns)
    added = {name: end[name] - start[name] for name in _ADDED}
    return {**now, **added, "unrealized_pnl": end["unrealized_pnl"], "largest_win": None, "largest_loss": None}


async def _standing(
    state: FrontState, account: str | None, strategy: str, symbols: tuple[str, ...], at_ns: int
) -> Mapping[str, int]:
    """What there was at a moment, since the beginning."""
    minute = at_ns // MINUTE_NS * MINUTE_NS

    async def ask() -> list[list[str | int]] | None:
        sums = ", ".join(f"toString(sum(s.{name}))" for name in ("unrealized_pnl", *_ADDED))
        samples, parameters = samples_until(state, account, strategy, symbols, "1m", at_ns, minute // NS)
        return await state.history.ask(
            f"SELECT {sums} FROM (SELECT argMaxMerge(last) AS s {samples} GROUP BY account_id, symbol)", parameters,
            patient=True,
        )  # fmt: skip

    found = None
    if state.history.configured:
        found, _ = await state.desk.cache.get(("standing", account, strategy, symbols, minute), ask)
    if not found:
        raise ServiceUnavailable("PnL of a range is told from ClickHouse, which does not answer here, or not now")
    unrealized, *rest = found[0]
    amounts = (parse_amount(text)[0] for text in (unrealized, *rest[: len(_AMOUNTS)]))
    counts = map(int, rest[len(_AMOUNTS) :])
    return dict(zip(("unrealized_pnl", *_ADDED), (*amounts, *counts), strict=True))
