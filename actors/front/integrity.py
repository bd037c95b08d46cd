"""Whether the data of an instrument is whole: what the exchange sent and we did not get, and what history lacks.

Two ledgers tell of holes. A feed's, in the exchange's own numbers, is about one instrument; of what has no numbers it
tells when nobody listened, to one stream or to all that the feed has. The writer's is about a ring, all its instruments
together: which of them a hole is of only shows where records of the instrument are held before and behind it, and there
`missing` of the record counts it. So a hole of a ring is told to each of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from ...codecs.book import BookState
from ...codecs.record import RecordType, Store
from ...codecs.records import BOOK_TOP, MARKET_RECORDS, TRADE
from ...storage.gaps import REASONS, Gap
from ...storage.gaps import read_gaps as storage_gaps
from ...storage.offsets import WRITER_FOLDER
from ..catalog import Source
from ..gaps import ALL, GAPS_FOLDER, OUTAGES_FOLDER, Outage, read_gaps, read_outages
from ..gaps import Gap as ExchangeGap
from .aggregates import AGGREGATE_METADATA, Aggregate, kept_answer
from .endpoints import Answerer, Arguments, Endpoint
from .envelope import encode
from .errors import NotFound
from .history import missing_of
from .merge import percent, recent, times_of, within
from .params import integer
from .resolve import EXCHANGE_QUERY, MARKET_TYPE, SYMBOL_PATH
from .shapes import INTEGER, TEXT, names_of, schema_of
from .stamps import NS, rfc3339
from .state import FrontState

HOURS = integer("hours", 24, 1, 168, "Length of the range, which ends now.")
GAPS_MAX = 200  # shown, the newest
OUTAGE = "outage"  # as `data_type`
WATCHED = tuple(record for record in MARKET_RECORDS if record.ring and record.store is Store.ALL)

GAP_SCHEMA = schema_of({
    "symbol": TEXT, "exchange": TEXT,
    "data_type": {
        **TEXT, "description": f"{OUTAGE}: no stream was subscribed, or only not `stream`; records without numbers of "
        "their own, as tickers and liquidations, were missed"
    }, "interval": {"type": ["string", "null"]},
    "origin": {"enum": ["exchange", "storage"], "description": "not received, or received and not stored"},
    "reason": {
        "type": ["string", "null"],
        "description": f"of storage: {', '.join(REASONS)}",
    },
    "gap_start": {"type": ["string", "null"]}, "gap_end": {"type": ["string", "null"]},
    "status": {"enum": ["pending", "filled", "failed"]}, "created_at": {"type": ["string", "null"]},
    "first_id": {**TEXT, "description": "the exchange's numbers; of storage sequences of the stream; of outages empty"},
    "last_id": TEXT,
    "missing": {"type": ["integer", "null"], "description": "null: some of `rows`, those of this instrument"},
    "rows": {"type": ["integer", "null"], "description": "of all the stream's instruments; null: not known"},
    "stream": {"type": ["string", "null"]},
})  # fmt: skip
RECORD_SCHEMA = schema_of({
    "count": {**INTEGER, "description": "records held, in memory and ClickHouse"}, "missing": INTEGER,
    "completeness": {"type": "number"}, "latest": {"type": ["string", "null"]},
    "lag_records": {"type": ["integer", "null"], "description": "in memory and not in ClickHouse yet"},
})  # fmt: skip
SCHEMA = schema_of({
    "symbol": TEXT, "instrument": TEXT, "exchange": TEXT, "market_type": TEXT, "time_range_hours": INTEGER,
    "status": {"enum": ["complete", "incomplete", "unknown"]}, "completeness": {"type": ["number", "null"]},
    "records": {"type": "object", "additionalProperties": RECORD_SCHEMA},
    "gaps": {"type": "array", "items": GAP_SCHEMA},
    "gap_count": INTEGER, "book_state": {"type": ["string", "null"]}, "checked_at": TEXT,
})  # fmt: skip


def integrity_endpoints(state: FrontState) -> list[Endpoint]:
    return [
        Endpoint(
            "/api/v1/health/data-integrity/{symbol}", lambda arguments: integrity(state, arguments),
            "Completeness and gaps of an instrument's data", (SYMBOL_PATH, EXCHANGE_QUERY, MARKET_TYPE, HOURS),
            data=SCHEMA, metadata=AGGREGATE_METADATA, errors=(400, 404), tag="operation",
        )
    ]  # fmt: skip


def integrity(state: FrontState, arguments: Arguments) -> Answerer:
    sources = _sources(state, arguments)
    first = sources[0][1]
    identity = ("integrity", first.exchange, first.instrument, arguments["symbol"], arguments["hours"])
    return kept_answer(state, identity, lambda: _examine(state, arguments, sources))


def _sources(state: FrontState, arguments: Arguments) -> list[tuple[RecordType, Source]]:
    """Every key of the instrument whose records are all stored; at least one. Raises NotFound."""
    failure: NotFound | None = None
    for known in MARKET_RECORDS:
        try:
            any_of_it = state.source(known, arguments)
        except NotFound as error:
            failure = failure or error
            continue
        found = [
            (record, source)
            for record in WATCHED
            for source in state.catalog.match(record.name, any_of_it.exchange, any_of_it.market_type)
            if source.instrument == any_of_it.instrument
        ]
        return found or [(known, any_of_it)]
    assert failure is not None
    raise failure


async def _examine(state: FrontState, arguments: Arguments, sources: list[tuple[RecordType, Source]]) -> Aggregate:
    end_ns = time.time_ns()
    start_ns = end_ns - arguments["hours"] * 3600 * NS
    first = sources[0][1]
    records: dict[str, dict[str, Any]] = {}
    answered = True
    for record, source in sources:
        told, asked = await _record(state, record, source, start_ns, end_ns)
        records[f"{record.name}.{source.interval}" if source.interval else record.name] = told
        answered &= asked
    gaps = [gap for gap in await asyncio.to_thread(gaps_of, state, first) if gap.to_ns >= start_ns]
    lost = sum(gap.last_id - gap.first_id + 1 for gap in gaps if gap.kind != "book")
    if (trades := records.get(TRADE.name)) is not None:
        trades["missing"] += lost
        trades["completeness"] = percent(trades["count"], trades["count"] + trades["missing"])
    missing = sum(one["missing"] for one in records.values())
    count = sum(one["count"] for one in records.values())
    outages = [one for one in await asyncio.to_thread(outages_of, state, first) if not 0 < one.to_ns < start_ns]
    unstored = [gap for gap in await asyncio.to_thread(unstored_gaps, state, first) if latest_ns(gap) >= start_ns]
    holes = sorted(
        [(gap.to_ns, _gap(gap, arguments["symbol"])) for gap in gaps]
        + [(one.to_ns or end_ns, _outage(one, arguments["symbol"])) for one in outages]
        + [(latest_ns(gap), _unstored(gap, first, arguments["symbol"])) for gap in unstored],
        key=lambda one: one[0],
    )
    whole = answered and not missing and not holes
    data = {
        **names_of(first, arguments["symbol"]), "time_range_hours": arguments["hours"],
        "status": "complete" if whole else "incomplete" if missing or holes else "unknown",
        "completeness": percent(count, count + missing) if answered else None, "records": records,
        "gaps": [gap for _, gap in holes[-GAPS_MAX:]], "gap_count": len(holes),
        "book_state": _book_state(state, first), "checked_at": rfc3339(end_ns),
    }  # fmt: skip
    metadata = {**names_of(first, arguments["symbol"]), "start_time": rfc3339(start_ns), "end_time": rfc3339(end_ns)}
    return Aggregate(encode(data), metadata, answered=answered)


async def _record(
    state: FrontState, record: RecordType, source: Source, start_ns: int, end_ns: int
) -> tuple[dict[str, Any], bool]:
    held = await recent(source.reader, source.key_id)
    memory = within(held.rows, start_ns, end_ns)
    count, missing, answered = len(memory), 0, True
    reaches = not held.seam.nth or (len(held.rows) > 0 and int(times_of(held.rows[:1])[0]) < start_ns)
    if not reaches:
        spans = await state.history.spans(record, source, held.seam, start_ns, end_ns)
        answered = spans is not None
        count += sum(span.rows for span in spans or ())
        missing = missing_of(spans or (), held.seam)
    latest = int(times_of(held.rows[-1:])[0]) if len(held.rows) else None
    lag = None
    if state.history.configured:
        lag = max(0, source.reader.published() - held.stored) if held.stored is not None else None
    told = {
        "count": count, "missing": missing, "completeness": percent(count, count + missing),
        "latest": None if latest is None else rfc3339(latest), "lag_records": lag,
    }  # fmt: skip
    return told, answered


def gaps_of(state: FrontState, source: Source) -> list[ExchangeGap]:
    """The instrument's gaps in all feeds' ledgers, oldest first."""
    found = [
        gap
        for path in (state.ctx.data / GAPS_FOLDER).glob("*.jsonl")
        for gap in read_gaps(path)
        if (gap.exchange, gap.instrument) == (source.exchange, source.instrument)
    ]
    return sorted(found, key=lambda gap: gap.to_ns)


def _gap(gap: ExchangeGap, symbol: str) -> dict[str, Any]:
    return {
        "symbol": symbol, "exchange": gap.exchange, "data_type": gap.kind, "interval": None, "origin": "exchange",
        "reason": None,
        "gap_start": rfc3339(gap.from_ns) if gap.from_ns else None,
        "gap_end": rfc3339(gap.to_ns) if gap.to_ns else None, "status": "pending",
        "created_at": rfc3339(gap.to_ns) if gap.to_ns else None,
        "first_id": str(gap.first_id), "last_id": str(gap.last_id), "missing": gap.last_id - gap.first_id + 1,
        "rows": gap.last_id - gap.first_id + 1, "stream": None,
    }  # fmt: skip


def _outage(outage: Outage, symbol: str) -> dict[str, Any]:
    return {
        "symbol": symbol, "exchange": outage.exchange, "data_type": OUTAGE, "interval": None, "origin": "exchange",
        "reason": None, "gap_start": rfc3339(outage.from_ns) if outage.from_ns else None,
        "gap_end": rfc3339(outage.to_ns) if outage.to_ns else None, "status": "failed" if outage.to_ns else "pending",
        "created_at": rfc3339(outage.from_ns or outage.to_ns), "first_id": "", "last_id": "", "missing": None,
        "rows": None, "stream": None if outage.stream == ALL else outage.stream,
    }  # fmt: skip


def outages_of(state: FrontState, source: Source) -> list[Outage]:
    """When nobody listened to what has no numbers."""
    concerns = _concerned(state, source)
    streams = (ALL, source.native.lower())
    found = []
    for path in (state.ctx.data / OUTAGES_FOLDER).glob("*.jsonl"):
        if concerns(path.stem):
            found += [one for one in read_outages(path) if one.stream.partition("@")[0] in streams]
    return [one for one in found if one.from_ns != one.to_ns]


def _concerned(state: FrontState, source: Source) -> Callable[[str], bool]:
    """Whether a producer carries the instrument or, of those that are no more, may have carried it."""
    producers = {
        one.reader.producer
        for record in MARKET_RECORDS
        for one in state.catalog.match(record.name, source.exchange, source.market_type)
        if one.instrument == source.instrument
    }
    families = {producer.rpartition("-")[0] for producer in producers}
    present = {reader.producer for reader in state.catalog.all_streams()}
    return lambda producer: (
        producer in producers or (producer not in present and producer.rpartition("-")[0] in families)
    )


def unstored_gaps(state: FrontState, source: Source) -> list[Gap]:
    """Holes of the streams that carry the instrument or may have carried it."""
    concerns = _concerned(state, source)

    # after a crash an extent may be entered a second time
    extents = {
        (gap.stream, gap.epoch, gap.kind, gap.first, gap.stop): gap
        for gap in storage_gaps(state.ctx.data / WRITER_FOLDER)
    }
    return [gap for gap in extents.values() if concerns(gap.stream.rpartition(".")[0])]


def latest_ns(gap: Gap) -> int:
    """When it was over, as far as that is known: UNIX ns."""
    return gap.before_ns or gap.noticed_ns


def _unstored(gap: Gap, source: Source, symbol: str) -> dict[str, Any]:
    rows = gap.rows if gap.rows is not None or gap.stop is None else gap.stop - gap.first
    return {
        "symbol": symbol, "exchange": source.exchange, "data_type": gap.stream.rpartition(".")[2], "interval": None,
        "origin": "storage", "reason": gap.reason, "gap_start": rfc3339(gap.after_ns) if gap.after_ns else None,
        "gap_end": rfc3339(gap.before_ns) if gap.before_ns else None, "status": "pending",
        "created_at": rfc3339(gap.noticed_ns), "first_id": str(gap.first),
        "last_id": "" if gap.stop is None else str(gap.stop - 1), "missing": None, "rows": rows, "stream": gap.stream,
    }  # fmt: skip


def _book_state(state: FrontState, source: Source) -> str | None:
    book = state.catalog.find_instrument(BOOK_TOP.name, source.exchange, source.instrument)
    row = None if book is None else book.reader.latest(book.key_id)
    return None if row is None else BookState(int(row["state"])).name.lower()
