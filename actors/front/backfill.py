"""Bars that neither memory nor ClickHouse holds: the keeper fetches them from the exchange, then they are read again.

Only a range whose start a request names is filled: the newest bars are the feeds' matter, and who pages through all
that is held does not want all that there ever was. While the keeper is away, or the exchange, the answer is what there
is, and its metadata says so.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from ...codecs.klines import INTERVALS, bar_start, bar_stop
from ..catalog import Source
from ..keeper.errors import KeeperError
from ..keeper.protocol import Fill, Filled, ask
from .bars import PARTIAL, Bars, Wanted, bars_of, first_start
from .state import FrontState

MS = 1_000_000
BACKFILL_METADATA: dict[str, Any] = {
    "data_source": {
        "enum": ["memory", "database", "rest_api", "mixed"],
        "description": "rest_api: fetched from the exchange for this answer",
    },
    "backfill": {
        "enum": ["complete", "partial", "pending", "unavailable"],
        "description": "where bars were missing: fetched as far as the exchange has them; so many of them as are "
        "fetched for one request, ask again or follow `next_cursor`; still being fetched, ask again; or not possible "
        "now, see `note`",
    },
}  # fmt: skip


def missing_range(bars: Bars, wanted: Wanted) -> tuple[int, int] | None:
    """The stretch ``[start, stop)``, UNIX ms, of the request in which bars are missing; None for none."""
    start, stop = wanted.start_ms, min(wanted.end_ms, bar_start(wanted.interval, time.time_ns() // MS))
    whole = int(((bars.rows["flags"] & PARTIAL) == 0).sum())
    if start is None or whole >= bars.expected:
        return None
    span = wanted.limit * INTERVALS[wanted.interval]
    start, stop = (start, min(stop, start + span)) if wanted.oldest_first else (max(start, stop - span), stop)
    if bars.more and len(bars.rows):  # what lies beyond is no matter of this answer
        if wanted.oldest_first:
            stop = min(stop, int(bars.rows["close_ts"][-1]) + 1)
        else:
            start = max(start, int(bars.rows["open_ts"][0]))
    return (start, stop) if start < stop else None


async def filled_bars(state: FrontState, source: Source, base: str, wanted: Wanted) -> Bars:
    """Closed bars of a range; what is missing is fetched first, for as long as the configuration has patience."""
    bars = await bars_of(state, source, base, wanted)
    patience_s = state.config.backfill_wait_s
    stretch = missing_range(bars, wanted)
    if stretch is None or not bars.answered or not state.history.configured or not patience_s:
        return bars
    # of a bar that is made of others the parts before the range are of no use
    begin = bar_start if base == wanted.interval else first_start
    start = max(0, begin(wanted.interval, stretch[0]))
    stop = bar_stop(wanted.interval, bar_start(wanted.interval, stretch[1] - 1))
    key = dict(source.key.attributes)
    request = Fill(key=key, start_ms=start, stop_ms=stop, oldest_first=wanted.oldest_first, wait_s=patience_s)
    told = await _ask(state, request)
    if told.stored:
        before = set(bars.rows["open_ts"].tolist())
        bars = await bars_of(state, source, base, wanted)
        if bars.answered and len(bars.rows):
            fresh = before.isdisjoint(bars.rows["open_ts"].tolist())
            bars = replace(bars, data_source="rest_api" if fresh else "mixed")
    more = bars.more or (told.state in ("partial", "pending") and _goes_on(bars.rows, start, stop, wanted))
    return replace(bars, backfill=told.state, note=_note(told), more=more)


def _goes_on(rows: np.ndarray, start_ms: int, stop_ms: int, wanted: Wanted) -> bool:
    """Whether a range has something beyond the bars that are answered, or lacks a part of the last of them."""
    if not len(rows):
        return True
    if wanted.oldest_first:
        return bool(rows["flags"][-1] & PARTIAL) or int(rows["close_ts"][-1]) + 1 < stop_ms
    return bool(rows["flags"][0] & PARTIAL) or int(rows["open_ts"][0]) > start_ms


def _note(told: Filled) -> str:
    match told.state:
        case "unavailable":
            return f"bars are missing and are not fetched now: {told.reason}"
        case "partial":
            return "more bars are missing than are fetched for one request: ask again for the others"
    return ""


async def _ask(state: FrontState, request: Fill) -> Filled:
    name, text = "tickring_front_backfill_total", "Ranges that the keeper was asked for, by outcome"
    try:
        told = await ask(state.ctx.folder, request)
        assert isinstance(told, Filled), f"the answer to a Fill is {told!r}"
    except KeeperError as error:
        told = Filled(state="unavailable", reason=str(error))
    state.ctx.page.counter(name, text, outcome=told.state).inc()
    return told
