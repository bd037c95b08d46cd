"""Positions now, and as they were."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Raw

from ....codecs.desk.money import UNIT, divide, parse_amount
from ....storage.client import quote_name
from ..endpoints import Answer, Answerer, Arguments, Endpoint, Enveloped
from ..envelope import encode, members
from ..errors import InvalidParameter, NotFound
from ..params import Param, flag, integer
from ..shapes import COMPLETENESS
from ..stamps import NS
from ..state import FrontState
from .cursors import Cursor, Identity, Place, cursor_param, place_of
from .form import (
    AMOUNT_SCHEMA,
    INTEGER,
    MAYBE_AMOUNT,
    MAYBE_TEXT,
    MOMENT,
    OBJECT,
    TEXT,
    Form,
    form_of,
    lists,
    naive,
    objects,
)
from .health import writer_behind
from .legacy import bare, modelled
from .params import (
    ACCOUNT,
    ANY_STRATEGY,
    DAY_NS,
    END,
    HOUR_NS,
    NUMBERS,
    PAGE,
    PAGE_SIZE,
    PLAIN_SYMBOL,
    START,
    SYMBOL,
    SYMBOL_PATH,
    TIME,
    bounds,
    chosen,
    plain_symbol,
    query_params,
)
from .portfolio import Latest, Once
from .rendered import by_form

LONGEST_NS = 90 * DAY_NS
SNAPSHOTS_MAX = 100
CURSOR = cursor_param(4)
LATEST = flag("latest", True, "The positions now; false with start_time and end_time: how they were.")
WITH_HISTORY = flag("include_history", False, "Also how it was.")
HISTORY_HOURS = integer("history_hours", 24, 1, 168, "How far back.")

ORIGIN = {"account_id": TEXT, "strategy_id": TEXT, "venue": TEXT}
POSITION: dict[str, Any] = objects(
    timestamp=MOMENT, symbol=TEXT, quantity=AMOUNT_SCHEMA, avg_price=AMOUNT_SCHEMA, market_price=MAYBE_AMOUNT,
    market_value=AMOUNT_SCHEMA, unrealized_pnl=AMOUNT_SCHEMA, position_side={"enum": ["LONG", "SHORT", "FLAT"]},
    realized_pnl=AMOUNT_SCHEMA, **ORIGIN,
)  # fmt: skip
LEGACY_POSITION: dict[str, Any] = objects(
    symbol=TEXT, quantity=AMOUNT_SCHEMA, avg_price=AMOUNT_SCHEMA, market_value=AMOUNT_SCHEMA,
    unrealized_pnl=AMOUNT_SCHEMA, realized_pnl=AMOUNT_SCHEMA, side={"enum": ["LONG", "SHORT", "FLAT"]},
)  # fmt: skip
SUMMARY: dict[str, Any] = objects(
    total_positions=INTEGER, total_exposure=AMOUNT_SCHEMA, total_market_value=AMOUNT_SCHEMA,
    largest_position_pct=AMOUNT_SCHEMA, concentration_risk={"enum": ["LOW", "MEDIUM", "HIGH"]},
)  # fmt: skip
EXPOSURE: dict[str, Any] = {
    "total_exposure": AMOUNT_SCHEMA, "long_exposure": AMOUNT_SCHEMA, "short_exposure": AMOUNT_SCHEMA,
    "net_exposure": AMOUNT_SCHEMA, "positions_count": INTEGER, "concentration": OBJECT,
}  # fmt: skip
SNAPSHOT: dict[str, Any] = objects(
    timestamp=MOMENT, symbol=TEXT, total_market_value=AMOUNT_SCHEMA, total_unrealized_pnl=AMOUNT_SCHEMA,
    positions_count=INTEGER,
)  # fmt: skip


def side_of(quantity: int) -> str:
    return "LONG" if quantity > 0 else "SHORT" if quantity < 0 else "FLAT"


def position(row: Latest, form: Form) -> dict[str, Any]:
    """As B has it, with where it is held."""
    return {
        "timestamp": form.moment(row.recv_ns), "symbol": row.symbol, "quantity": form.amount(row["quantity"]),
        "avg_price": form.amount(row["avg_price"]), "market_price": form.maybe(row["mark_price"] or None),
        "market_value": form.amount(row["market_value"]), "unrealized_pnl": form.amount(row["unrealized_pnl"]),
        "position_side": side_of(row["quantity"]), "realized_pnl": form.amount(row["realized_pnl"]),
        "account_id": row.account, "strategy_id": row.strategy, "venue": row.key["venue"],
    }  # fmt: skip


def by_symbol(rows: Sequence[Latest]) -> dict[str, Mapping[str, Any]]:
    """Positions of several strategies, venues and accounts as one for each symbol."""
    found: dict[str, list[Latest]] = {}
    for row in rows:
        of_symbol = found.get(row.symbol)
        if of_symbol is None:
            found[row.symbol] = [row]
        else:
            of_symbol.append(row)
    # those of one account and those of all have different lengths mostly
    return {symbol: _ONCE.of((symbol, same[0].account, len(same)), same) for symbol, same in found.items()}


def _as_one(rows: list[Latest]) -> Mapping[str, Any]:
    one: dict[str, Any] = {name: sum([row.values[name] for row in rows]) for name in _SUMMED}
    one["symbol"] = rows[0].symbol
    one["recv_ns"] = max(row.recv_ns for row in rows)
    if len(rows) == 1:  # of an inverse contract it is not what the quantity has cost
        one["avg_price"] = rows[0].values["avg_price"]
    else:
        one["avg_price"] = abs(divide(one["cost"] * UNIT, one["quantity"])) if one["quantity"] else 0
    return one


_SUMMED = ("quantity", "cost", "market_value", "unrealized_pnl", "realized_pnl")
_ONCE = Once(_as_one)


def legacy_position(one: Mapping[str, Any], form: Form) -> dict[str, Any]:
    """As DipMaster's API has it."""
    return {
        "symbol": one["symbol"], "quantity": form.amount(one["quantity"]), "avg_price": form.amount(one["avg_price"]),
        "market_value": form.amount(one["market_value"]), "unrealized_pnl": form.amount(one["unrealized_pnl"]),
        "realized_pnl": form.amount(one["realized_pnl"]), "side": side_of(one["quantity"]),
    }  # fmt: skip


def summary(symbols: Mapping[str, Mapping[str, Any]], form: Form) -> dict[str, Any]:
    """What positions `by_symbol` add up to. Risk is MEDIUM above 30 % in one symbol, HIGH above 50 %."""
    values = [one["market_value"] for one in symbols.values()]
    exposures = list(map(abs, values))
    exposure = sum(exposures)
    largest = 100 * max(exposures, default=0) / exposure if exposure else 0.0
    return {
        "total_positions": len(values), "total_exposure": form.amount(exposure),
        "total_market_value": form.amount(sum(values)),
        "largest_position_pct": form.amount(round(largest * UNIT)),
        "concentration_risk": "HIGH" if largest > 50 else "MEDIUM" if largest > 30 else "LOW",
    }  # fmt: skip


def exposure(rows: Sequence[Latest], form: Form) -> dict[str, Any]:
    """Exposure by direction and symbol."""
    symbols = by_symbol(rows)
    values = [one["market_value"] for one in symbols.values()]
    total = sum(map(abs, values))
    return {
        "total_exposure": form.amount(total), "long_exposure": form.amount(sum(v for v in values if v > 0)),
        "short_exposure": form.amount(-sum(v for v in values if v < 0)), "net_exposure": form.amount(sum(values)),
        "positions_count": len(values),
        "concentration": {
            symbol: {
                "exposure_amount": form.amount(abs(one["market_value"])),
                "exposure_percentage": form.amount(round(100 * UNIT * abs(one["market_value"]) / total)) if total else
                form.amount(0), "side": side_of(one["quantity"]),
            }
            for symbol, one in symbols.items()
        },
    }  # fmt: skip


def of_symbol(rows: Sequence[Latest], symbol: str | None) -> list[Latest]:
    """Those of a symbol, in any of its forms."""
    if symbol is None:
        return list(rows)
    plain = plain_symbol(symbol)
    return [row for row in rows if plain_symbol(row.symbol) == plain]


_KEY = ("account_id", "strategy_id", "venue", "symbol")


def page_of(every: Sequence[Latest], rows: Sequence[Latest], place: Place) -> tuple[Sequence[Latest], dict[str, Any]]:
    """A page of the positions now, and its pagination.

    They stay in the order in which they were first held, not the newest first: each price that comes moves one, so that
    pages would skip and repeat them.

    Args:
        every: `rows` and the flat ones, since the position that a cursor names may be flat by now.

    Raises:
        InvalidParameter: none is what the cursor names.
    """
    before, first = place.before, place.offset
    if before is not None:
        at = next((index for index, row in enumerate(every) if _identity(row) == before.identity), None)
        if at is None:
            raise InvalidParameter("cursor", before.text, "a `next_cursor` of an earlier answer of the same list")
        first = sum(bool(row["quantity"]) for row in every[: at + 1])
    shown = rows[first : first + place.size]
    last = Cursor(shown[-1].recv_ns, _identity(shown[-1])) if shown else None
    return shown, place.told(len(rows), len(rows) > first + place.size, last)


def _identity(row: Latest) -> Identity:
    return tuple(row.key[name] for name in _KEY)


async def past_positions(
    state: FrontState, filters: Mapping[str, str], start_ns: int, end_ns: int, place: Place
) -> tuple[list[list[Any]] | None, int | None, bool]:
    """`(rows, total, whether they were kept)`: rows of `positions`, newest first; None without an answer.

    Args:
        filters: column or expression -> value.
    """
    columns = (
        "toUnixTimestamp64Nano(ts_recv_ns), quantity, avg_price, mark_price, market_value, unrealized_pnl, "
        f"realized_pnl, {', '.join(_KEY)}"
    )
    table = f"{quote_name(state.history.database)}.positions"
    condition = "".join(f"{name} = {{is_{index}:String}} AND " for index, name in enumerate(filters))
    condition += (
        "ts_recv_ns >= fromUnixTimestamp64Nano({start:Int64}, 'UTC') AND "
        "ts_recv_ns < fromUnixTimestamp64Nano({end:Int64}, 'UTC')"
    )
    bound: dict[str, Any] = {"start": start_ns, "end": end_ns}
    bound |= {f"is_{index}": value for index, value in enumerate(filters.values())}
    before = place.before

    async def ask() -> list[list[Any]] | None:
        below, at = "", {}
        if before is not None:
            last = ", ".join(f"{{last_{name}:String}}" for name in _KEY)
            below = (
                " AND ts_recv_ns <= fromUnixTimestamp64Nano({at:Int64}, 'UTC') AND (ts_recv_ns < "
                f"fromUnixTimestamp64Nano({{at:Int64}}, 'UTC') OR ({', '.join(_KEY)}) < ({last}))"
            )
            at = {"at": before.at_ns}
            at |= {f"last_{name}": text for name, text in zip(_KEY, before.identity, strict=True)}
        order = ", ".join(f"{name} DESC" for name in ("ts_recv_ns", *_KEY))
        return await state.history.ask(
            f"SELECT {columns} FROM {table} WHERE {condition}{below} ORDER BY {order} "
            "LIMIT {limit:UInt64} OFFSET {offset:UInt64}",
            {**bound, **at, "limit": place.size + 1, "offset": place.offset}, patient=True,
        )  # fmt: skip

    async def count() -> list[list[Any]] | None:
        return await state.history.ask(f"SELECT count() FROM {table} WHERE {condition}", bound, patient=True)

    asked = tuple(filters.items()), start_ns, end_ns
    (rows, kept), (counted, _) = await asyncio.gather(
        state.desk.cache.get(("positions", *asked, place), ask),
        state.desk.cache.get(("positions counted", *asked), count),
    )
    return rows, int(counted[0][0]) if counted else None, kept


async def snapshots(state: FrontState, symbol: str | None, hours: int, form: Form) -> list[dict[str, Any]]:
    """How the positions were, by hour and symbol, newest first; at most 100."""
    rows = state.desk.portfolio.positions()
    if not state.history.configured:
        return []
    now = max((row.recv_ns for row in rows), default=0) // (60 * NS) * 60 * NS

    async def ask() -> list[list[Any]] | None:
        return await state.history.ask(
            "SELECT toUnixTimestamp(hour), symbol, toString(sum(value)), toString(sum(pnl)), count() FROM (SELECT "
            "toStartOfHour(ts_recv_ns) AS hour, account_id, strategy_id, venue, symbol, "
            f"argMax(market_value, ts_recv_ns) AS value, argMax(unrealized_pnl, ts_recv_ns) AS pnl "
            f"FROM {quote_name(state.history.database)}.positions "
            "WHERE ts_recv_ns >= fromUnixTimestamp64Nano({start:Int64}, 'UTC') GROUP BY ALL) "
            "GROUP BY hour, symbol ORDER BY hour DESC, symbol LIMIT {limit:UInt64}",
            {"start": max(0, now - hours * HOUR_NS), "limit": SNAPSHOTS_MAX if symbol is None else 10_000},
            patient=True,
        )  # fmt: skip

    found, _ = await state.desk.cache.get(("snapshots", symbol, hours, now), ask)
    plain = plain_symbol(symbol) if symbol else None
    return [
        {
            "timestamp": form.moment(int(seconds) * NS), "symbol": name,
            "total_market_value": form.amount(parse_amount(value)[0]),
            "total_unrealized_pnl": form.amount(parse_amount(pnl)[0]), "positions_count": int(count),
        }
        for seconds, name, value, pnl, count in found or []
        if plain is None or plain_symbol(name) == plain
    ][:SNAPSHOTS_MAX]  # fmt: skip


def position_endpoints(state: FrontState) -> list[Endpoint]:
    """Canonical paths, and those of DipMaster's API."""
    return [*_canonical(state), *_legacy(state)]


_LISTED: tuple[Param, ...] = (
    ACCOUNT, ANY_STRATEGY, SYMBOL, LATEST, START, END, PAGE, PAGE_SIZE, CURSOR, NUMBERS, TIME,
)  # fmt: skip
_NOW: tuple[Param, ...] = (ACCOUNT, ANY_STRATEGY, NUMBERS, TIME)


def _canonical(state: FrontState) -> list[Endpoint]:
    rendered = by_form(position)

    def held(arguments: Arguments, symbol: str | None = None) -> list[Latest]:
        account, strategy = chosen(arguments["account_id"]), chosen(arguments["strategy_id"])
        rows = state.desk.portfolio.positions(account, strategy, flat=symbol is not None)
        return of_symbol(rows, symbol)

    def listed(arguments: Arguments) -> Answerer:
        form = form_of(arguments["decimals"], arguments["time"])
        if not arguments["latest"]:
            for name in ("start_time", "end_time"):
                if arguments[name] is None:
                    raise InvalidParameter(name, None, "a time, because latest is false")
            bounds(arguments, DAY_NS, LONGEST_NS)
            return _past(state, arguments, form)

        texts, asked, place = rendered[form], query_params(arguments, _LISTED), place_of(arguments)
        account, strategy = chosen(arguments["account_id"]), chosen(arguments["strategy_id"])

        def answer() -> Answer:
            every = of_symbol(state.desk.portfolio.positions(account, strategy, flat=True), arguments["symbol"])
            rows = [row for row in every if row.values["quantity"]]
            shown, pagination = page_of(every, rows, place)
            metadata = {
                "count": len(shown), "account_id": account or "*", "summary": summary(by_symbol(rows), form),
                "data_source": "memory", "completeness": 100.0,
            }  # fmt: skip
            return members(
                texts.array(shown), metadata=metadata, count=len(rows), pagination=pagination, query_params=asked,
            )  # fmt: skip

        return answer

    def current(arguments: Arguments) -> Answerer:
        form = form_of(arguments["decimals"], arguments["time"])

        def answer() -> Answer:
            rows = of_symbol(held(arguments), arguments["symbol"])
            return members(rendered[form].array(rows), metadata={"count": len(rows)}, count=len(rows))

        return answer

    def exposed(arguments: Arguments) -> Answerer:
        form = form_of(arguments["decimals"], arguments["time"])
        return lambda: members(encode(exposure(held(arguments), form)))

    def one(arguments: Arguments) -> Answerer:
        form, symbol = form_of(arguments["decimals"], arguments["time"]), arguments["symbol"]

        def answer() -> Answer:
            rows = held(arguments, symbol)
            if not rows:
                raise NotFound(f"no position in {symbol[:50]!r}", details={"symbol": symbol[:50]})
            return members(rendered[form].array(rows), metadata={"count": len(rows)}, count=len(rows))

        return answer

    common: dict[str, Any] = {"tag": "desk"}
    many = lists(POSITION)
    return [
        Endpoint(
            "/api/v1/positions", listed, "Positions now, or as they were", _LISTED, data=many,
            metadata={"count": INTEGER, "account_id": TEXT, "summary": SUMMARY, "start_time": MOMENT,
                      "end_time": MOMENT, **COMPLETENESS}, **common,
        ),
        Endpoint(
            "/api/v1/positions/current", current, "Positions now", (SYMBOL, *_NOW), data=many,
            metadata={"count": INTEGER}, **common,
        ),
        Endpoint(
            "/api/v1/positions/exposure", exposed, "Exposure by direction and symbol", _NOW, data=objects(**EXPOSURE),
            **common,
        ),
        Endpoint(
            "/api/v1/positions/{symbol}", one, "Positions in a symbol", (SYMBOL_PATH, *_NOW), data=many,
            metadata={"count": INTEGER}, errors=(400, 404), **common,
        ),
    ]  # fmt: skip


def _past(state: FrontState, arguments: Arguments, form: Form) -> Answerer:
    place, account, symbol = place_of(arguments), chosen(arguments["account_id"]), arguments["symbol"]
    given = {
        "account_id": account, "strategy_id": chosen(arguments["strategy_id"]),
        PLAIN_SYMBOL: plain_symbol(symbol) if symbol else None,
    }  # fmt: skip
    filters = {name: value for name, value in given.items() if value is not None}

    async def answer() -> Answer:
        start, end = bounds(arguments, DAY_NS, LONGEST_NS)
        found, total, kept = await past_positions(state, filters, start, end, place)
        shown = (found or [])[: place.size]
        rows = [_row(row, form) for row in shown]
        metadata: dict[str, Any] = {
            "count": len(rows), "account_id": account or "*", "start_time": form.moment(start),
            "end_time": form.moment(end), "data_source": "database", "completeness": 0.0 if found is None else 100.0,
        }  # fmt: skip
        if found is None:
            metadata["note"] = "ClickHouse did not answer" if state.history.configured else "no history is configured"
        elif note := writer_behind(state):
            metadata |= {"completeness": 99.99, "note": note}
        last = Cursor(int(shown[-1][0]), tuple(shown[-1][-len(_KEY) :])) if shown else None
        body = members(
            encode(rows), metadata=metadata, count=total,
            pagination=place.told(total, len(found or []) > place.size, last),
            query_params=query_params(arguments, _LISTED),
        )  # fmt: skip
        return Enveloped(body, headers={"X-Cache": "HIT" if kept else "MISS"})

    return answer


def _row(row: Sequence[Any], form: Form) -> dict[str, Any]:
    """One of `past_positions`."""
    ns, *texts = row
    quantity, average, mark, value, unrealized, realized = (parse_amount(text)[0] for text in texts[:6])
    account, strategy, venue, symbol = texts[6:]
    return {
        "timestamp": form.moment(int(ns)), "symbol": symbol, "quantity": form.amount(quantity),
        "avg_price": form.amount(average), "market_price": form.maybe(mark or None),
        "market_value": form.amount(value), "unrealized_pnl": form.amount(unrealized),
        "realized_pnl": form.amount(realized), "position_side": side_of(quantity), "account_id": account,
        "strategy_id": strategy, "venue": venue,
    }  # fmt: skip


def _legacy(state: FrontState) -> list[Endpoint]:
    rendered = by_form(legacy_position)

    def held(symbol: str | None = None) -> list[Latest]:
        return of_symbol(state.desk.portfolio.positions(), symbol)

    async def listed(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        rows, hours = held(arguments["symbol"]), arguments["history_hours"]
        past = await snapshots(state, arguments["symbol"], hours, form) if arguments["include_history"] else []
        symbols = by_symbol(rows)
        return {
            "current_positions": Raw(rendered[form].array(list(symbols.values()))),
            "summary": summary(symbols, form), "historical_snapshots": past,
        }  # fmt: skip

    def current(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        positions = [
            {**legacy_position(one, form), "last_update": form.moment(one["recv_ns"])}
            for one in by_symbol(held(arguments["symbol"])).values()
        ]
        return {"positions": positions, "count": len(positions), "timestamp": _now()}

    def exposed(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        return {**exposure(held(), form), "timestamp": _now()}

    async def one(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        symbol = arguments["symbol"]
        found = [legacy_position(one, form) for one in by_symbol(held(symbol)).values()]
        past = await snapshots(state, symbol, 24, form) if arguments["include_history"] else []
        return {"symbol": symbol, "current_position": found[0] if found else None, "history": past,
                "timestamp": _now()}  # fmt: skip

    def _now() -> str:
        return naive(time.time_ns())

    maybe_position = {"oneOf": [LEGACY_POSITION, {"type": "null"}]}
    updated = objects(**LEGACY_POSITION["properties"], last_update=MAYBE_TEXT)
    return [
        modelled(
            "/api/positions", "Positions now", (SYMBOL, WITH_HISTORY, HISTORY_HOURS),
            {"current_positions": lists(LEGACY_POSITION), "summary": SUMMARY, "historical_snapshots": lists(SNAPSHOT)},
            listed,
        ),
        bare(
            "/api/positions/current", "Positions now", (SYMBOL,),
            {"positions": lists(updated), "count": INTEGER, "timestamp": TEXT}, current,
        ),
        bare("/api/positions/exposure", "Exposure", (), {**EXPOSURE, "timestamp": TEXT}, exposed),
        bare(
            "/api/positions/{symbol}", "The position in a symbol", (SYMBOL_PATH, WITH_HISTORY),
            {"symbol": TEXT, "current_position": maybe_position, "history": lists(SNAPSHOT), "timestamp": TEXT}, one,
        ),
    ]  # fmt: skip
