"""Temporary ranges: bars that are fetched from the exchange for a while. The keeper fetches and removes them."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from ..keeper.errors import KeeperError, KeeperRefused
from ..keeper.protocol import Create, Created, Delete, Deleted, ask
from .bars import source_of
from .candles import INTERVAL
from .endpoints import Answer, Answerer, Arguments, Endpoint, Enveloped
from .envelope import encode, members
from .errors import InvalidParameter, InvalidTimeRange, NotFound, ServiceUnavailable
from .paging import empty_range
from .params import integer, moment, text
from .resolve import EXCHANGE_QUERY, MARKET_TYPE, SYMBOL_QUERY
from .shapes import INTEGER, NAMES_SCHEMA, TEXT, names_of, schema_of
from .stamps import rfc3339
from .state import FrontState

MS = 1_000_000
TTL_MAX_MINUTES = 30 * 1440

SYMBOL = replace(SYMBOL_QUERY, where="body")
EXCHANGE = replace(EXCHANGE_QUERY, where="body")
BODY_MARKET_TYPE = replace(MARKET_TYPE, where="body")
BODY_INTERVAL = replace(INTERVAL, where="body", required=True, default=None, example="1m")
START = replace(
    moment("start_time", "Start of the range by `open_ts`, inclusive.", ("startTime",)), where="body", required=True
)
END = replace(
    moment("end_time", "End of the range by `open_ts`, exclusive; now at most.", ("endTime",)),
    where="body", required=True,
)  # fmt: skip
TTL = integer(
    "ttl_minutes", 60, 1, TTL_MAX_MINUTES, "How long the bars that it brings are kept.", where="body"
)  # fmt: skip
TEMP_ID = text("temp_id", "As the answer to its creation named it.", "a temp_id", where="path", required=True)

SCHEMA = schema_of({
    "temp_id": TEXT,
    "status": {
        "enum": ["ready", "pending"], "description": "ready: all its bars are there; pending: they are being fetched"
    },
    **NAMES_SCHEMA, "interval": TEXT, "start_time": TEXT, "end_time": TEXT, "ttl_minutes": INTEGER,
    "expires_at": TEXT, "bars": {**INTEGER, "description": "of the range, by the interval that is recorded"},
    "fetched": {**INTEGER, "description": "of them from the exchange so far; the others were there"},
})  # fmt: skip
DELETED_SCHEMA = schema_of({
    "temp_id": TEXT,
    "status": {"enum": ["deleted", "pending"], "description": "pending: its bars go as soon as ClickHouse answers"},
})  # fmt: skip


def temporary_endpoints(state: FrontState) -> list[Endpoint]:
    return [
        Endpoint(
            "/api/v1/temp-data/create", lambda arguments: create(state, arguments),
            "Fetch candles of a range and keep them for a while; `/api/v1/candles` shows them",
            (SYMBOL, EXCHANGE, BODY_MARKET_TYPE, BODY_INTERVAL, START, END, TTL), method="POST", success=201,
            data=SCHEMA, metadata={"note": TEXT}, errors=(400, 404, 413, 503),
        ),
        Endpoint(
            "/api/v1/temp-data/{temp_id}", lambda arguments: delete(state, arguments),
            "Remove a temporary range before its time", (TEMP_ID,), method="DELETE", data=DELETED_SCHEMA,
            errors=(400, 404, 413, 503),
        ),
    ]  # fmt: skip


def create(state: FrontState, arguments: Arguments) -> Answerer:
    start, end = arguments["start_time"], min(arguments["end_time"], time.time_ns())
    if start >= end:
        raise empty_range(start, end)
    source, base = source_of(state, arguments, arguments["interval"])
    request = Create(
        key={**source.key.attributes, "interval": base}, start_ms=-(-start // MS), stop_ms=-(-end // MS),
        ttl_minutes=arguments["ttl_minutes"], wait_s=state.config.backfill_wait_s,
    )  # fmt: skip

    async def answer() -> Answer:
        made = await _ask(state, request)
        assert isinstance(made, Created), f"the answer to a Create is {made!r}"
        data = {
            "temp_id": made.temp_id, "status": "ready" if made.state == "complete" else "pending",
            **names_of(source, arguments["symbol"]), "interval": arguments["interval"], "start_time": rfc3339(start),
            "end_time": rfc3339(end), "ttl_minutes": arguments["ttl_minutes"],
            "expires_at": rfc3339(made.expires_ms * MS), "bars": made.bars, "fetched": made.stored,
        }  # fmt: skip
        more = {"metadata": {"note": f"it is tried again: {made.reason}"}} if made.reason else {}
        return Enveloped(members(encode(data), **more), status=201)

    return answer


def delete(state: FrontState, arguments: Arguments) -> Answerer:
    temp_id: str = arguments["temp_id"]

    async def answer() -> Answer:
        gone = await _ask(state, Delete(temp_id=temp_id, wait_s=state.config.backfill_wait_s))
        assert isinstance(gone, Deleted), f"the answer to a Delete is {gone!r}"
        if not gone.found:
            raise NotFound(
                f"no temporary range {temp_id[:64]!r}: it has ended, or never was", details={"temp_id": temp_id[:64]}
            )
        status = "deleted" if gone.state == "complete" else "pending"
        return members(encode({"temp_id": temp_id, "status": status}))

    return answer


async def _ask(state: FrontState, request: Create | Delete) -> Any:
    try:
        return await ask(state.ctx.folder, request)
    except KeeperRefused as error:
        match error.code:
            case "too_large":
                raise InvalidTimeRange(str(error), code="TIME_RANGE_TOO_LARGE") from None
            case "bad_request":
                raise InvalidParameter.of("body", str(error)) from None
        raise ServiceUnavailable(str(error)) from None
    except KeeperError as error:
        raise ServiceUnavailable(str(error)) from None
