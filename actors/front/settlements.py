"""Funding rates of a range in the order of time: as they were told on the stream, and as they were paid.

Payments are the keeper's: ClickHouse alone has them, under an epoch of their own, so they are asked for beside the
stream's records and put between them. Both are cut to whole seconds to be compared, and of the same second the payment
is the older one: then a cursor, which knows its second, says of every payment on which side of it it lies.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ...codecs.records import FUNDING
from ...storage.backfill import BACKFILL_EPOCH
from ..catalog import Source
from .endpoints import Answer, Answerer, Arguments
from .envelope import joined_rows, members
from .merge import Merged, Seam, merge, times_of
from .paging import Window, pagination, window_of
from .params import flag
from .ranges import Form, shown_time
from .shapes import key_metadata, key_text, options_of
from .stamps import NS
from .state import FrontState

PAYMENTS_MAX = 10_000  # of one answer: a year of hourly ones
MS = 1_000_000
SETTLED = flag("settled", False, "Only the rates that were paid.")
_PAID = (
    f"exchange = {{exchange:String}} AND instrument = {{instrument:String}} AND epoch = {BACKFILL_EPOCH} "
    "AND nth >= {start:UInt64} AND nth < {stop:UInt64} ORDER BY nth DESC, ts_recv_ns DESC LIMIT 1 BY nth "
    f"LIMIT {PAYMENTS_MAX}"
)


async def payments(state: FrontState, source: Source, start_ns: int, end_ns: int) -> np.ndarray | None:
    """`(n,)` FUNDING, newest first: the rates that were paid in a range; None where ClickHouse did not answer."""
    if not state.history.configured:
        return np.empty(0, FUNDING.dtype)
    range_ms = {"start": -(-max(0, start_ns) // MS), "stop": -(-max(0, end_ns) // MS)}
    names = {"exchange": source.exchange, "instrument": source.instrument}
    found = await state.history.rows_where(FUNDING, _PAID, {**names, **range_ms})
    return None if found is None else found.rows


def rates_in_range(state: FrontState, form: Form, arguments: Arguments) -> Answerer:
    """Rates of a range, a page, or what follows a cursor."""
    source = state.source(FUNDING, arguments)
    window = window_of(arguments, form.span_ns)

    async def answer() -> Answer:
        return await _answer(state, form, source, arguments, window)

    return answer


async def _answer(state: FrontState, form: Form, source: Source, arguments: Arguments, window: Window) -> Answer:
    options, (start, end) = options_of(arguments), window.bounds()
    paged = window.page is not None
    wanted = window.offset + window.size + 1
    if arguments["settled"]:
        told = Merged(np.empty(0, FUNDING.dtype), "memory", 100.0, total=0)
    else:
        fetch = state.history.fetcher(FUNDING, source, hint=window.is_newest)
        count = state.history.counter(FUNDING, source, (window.start, window.end)) if paged else None
        told = await merge(source.reader, source.key_id, start, end, wanted, fetch, count, window.before)
    until = end if window.before is None else min(end, window.before.recv_ns + NS)
    paid = await payments(state, source, start, until)
    if paid is None:
        note = told.note or "without the rates that were paid: history did not answer"
        told = replace(told, note=note, completeness=0.0 if arguments["settled"] else told.completeness)
        paid = told.rows[:0]
    rows, of_stream = interleave(told.rows, paid)
    shown = slice(window.offset, window.offset + window.size)
    last = _last(source, rows[: shown.stop], of_stream[: shown.stop], told, window)
    total = None if told.total is None else told.total + len(paid)
    pages = pagination(
        window.size, page=window.page, total=total, has_next=len(rows) > shown.stop,
        has_prev=(window.page or 1) > 1 or window.before is not None, next_cursor=last,
    )  # fmt: skip
    texts, show = form.renderer(source, options).rows(rows[shown]), shown_time(options)
    origins = {told.data_source} if of_stream[shown].any() else set()
    origins |= {"database"} if len(texts) > of_stream[shown].sum() else set()
    metadata: dict[str, Any] = {
        **key_metadata(source, arguments["symbol"]), "count": len(texts), "start_time": show(start),
        "end_time": show(end), "data_source": "mixed" if len(origins) > 1 else next(iter(origins), "memory"),
        "completeness": told.completeness, **({"note": told.note} if told.note else {}),
    }  # fmt: skip
    data = joined_rows(key_text(source, arguments["symbol"]), texts)
    return members(data, metadata=metadata, count=total if paged else len(texts), pagination=pages)


def interleave(told: np.ndarray, paid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(rows, whether each is the stream's)`, newest first, of `(n,)` rows of each kind, newest first.

    The stream's rows stay in their own order: one with an earlier time than those after it counts as being of theirs.
    """
    rows = np.concatenate((told, paid))
    seconds = np.concatenate((_seconds(told), times_of(paid) // NS))
    of_stream = np.arange(len(rows)) < len(told)
    order = np.lexsort((np.arange(len(rows)), ~of_stream, -seconds))
    return rows[order], of_stream[order]


def _seconds(told: np.ndarray) -> np.ndarray:
    return np.minimum.accumulate(times_of(told) // NS)


def _last(source: Source, rows: np.ndarray, of_stream: np.ndarray, told: Merged, window: Window) -> Seam | None:
    """Where the next page goes on: behind the last of these rows."""
    if not len(rows):
        return None
    count = int(of_stream.sum())
    seam = window.before or Seam(source.epoch, source.reader.count(source.key_id))
    if count:
        seam = Seam(int(told.epochs[count - 1]), int(told.rows["nth"][count - 1]))
    second = int(_seconds(told.rows)[count - 1]) if of_stream[-1] else int(times_of(rows[-1:])[0]) // NS - 1
    return replace(seam, recv_ns=second * NS)
