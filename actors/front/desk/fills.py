"""Fills: what was executed, newest first."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

from msgspec import Raw

from ....codecs.desk.canonical import Fill
from ....codecs.desk.money import SCALE, UNIT, divide, parse_amount
from ..endpoints import Answer, Answerer, Arguments, Endpoint
from ..envelope import encode, members
from ..errors import NotFound
from ..params import Param, choice, text
from ..shapes import COMPLETENESS
from ..stamps import NS
from ..state import FrontState
from .form import (
    AMOUNT_SCHEMA,
    INTEGER,
    MAYBE_AMOUNT,
    MAYBE_NUMBER,
    MAYBE_TEXT,
    MOMENT,
    OBJECT,
    TEXT,
    Form,
    form_of,
    lists,
    objects,
)
from .legacy import bare, modelled
from .params import (
    ACCOUNT,
    ANY_ACCOUNT,
    ANY_STRATEGY,
    DAY_NS,
    END,
    ORDER_ID,
    PAGE,
    PAGE_SIZE,
    SIDE,
    START,
    STRINGS,
    SYMBOL,
    SYMBOLS,
    TIME,
    bounds,
    chosen,
    plain_symbol,
    query_params,
    symbols_of,
)
from .ranged import Page, page_of
from .rendered import by_form
from .running import Span, Sum
from .shelf import ALL
from .stored import Older, Table

LONGEST_NS = 30 * DAY_NS
IDENTITY = ("account_id", "venue", "fill_id")
PLAIN_SYMBOL = "upper(replaceRegexpAll(symbol, '[-/_]', ''))"
INTERVALS = {"5m": 300, "15m": 900, "1h": 3600, "1d": 86_400}
FILL_ID = text("fill_id", "The fill.", "a fill's id", where="path", required=True, example="f-31")
INTERVAL = choice("interval", tuple(INTERVALS), "Length of the buckets.", "1h")
RANGE = (START, END)

LEGACY_FILL: dict[str, Any] = objects(
    fill_id=TEXT, trade_id=MAYBE_TEXT, order_id=MAYBE_TEXT, symbol=TEXT, side={"enum": ["BUY", "SELL"]},
    quantity=AMOUNT_SCHEMA, price=AMOUNT_SCHEMA, commission=AMOUNT_SCHEMA, commission_asset=TEXT, timestamp=MOMENT,
)  # fmt: skip
FILL: dict[str, Any] = objects(
    **LEGACY_FILL["properties"], strategy_id=TEXT, account_id=TEXT, venue=TEXT, realized_pnl=MAYBE_AMOUNT,
    slippage_bps=MAYBE_NUMBER,
)  # fmt: skip
SUMMARY: dict[str, Any] = objects(
    total_fills=INTEGER, total_volume=AMOUNT_SCHEMA, total_commission=AMOUNT_SCHEMA, avg_fill_size=AMOUNT_SCHEMA,
    avg_slippage=AMOUNT_SCHEMA,
)  # fmt: skip


def legacy_fill(fill: Fill, form: Form) -> dict[str, Any]:
    """As DipMaster's API has it."""
    return {
        "fill_id": fill.fill_id, "trade_id": fill.trade_id, "order_id": fill.order_id, "symbol": fill.symbol,
        "side": fill.side, "quantity": form.amount(fill.quantity), "price": form.amount(fill.price),
        "commission": form.amount(fill.commission), "commission_asset": fill.commission_asset,
        "timestamp": form.moment(fill.timestamp),
    }  # fmt: skip


def whole_fill(fill: Fill, form: Form) -> dict[str, Any]:
    """With everything that is known of it."""
    return {
        **legacy_fill(fill, form), "strategy_id": fill.strategy_id, "account_id": fill.account_id, "venue": fill.venue,
        "realized_pnl": form.maybe(fill.realized_pnl), "slippage_bps": fill.slippage_bps,
    }  # fmt: skip


@dataclass(frozen=True)
class Filter:
    """Which fills are meant."""

    account: str | None
    strategy: str | None
    symbols: frozenset[str]
    side: str | None
    order_id: str | None

    @classmethod
    def of(cls, arguments: Arguments) -> Filter:
        return cls(
            chosen(arguments.get("account_id")), chosen(arguments.get("strategy_id")), symbols_of(arguments),
            arguments.get("side"), arguments.get("order_id"),
        )  # fmt: skip

    @property
    def key(self) -> Hashable:
        """Of the shelf: what tells most apart."""
        if len(self.symbols) == 1:
            return (self.account or "*", *self.symbols)
        return (self.account,) if self.account else ALL

    @property
    def by_key_alone(self) -> bool:
        return not (self.strategy or self.side or self.order_id or len(self.symbols) > 1)

    def fits(self, fill: Fill) -> bool:
        """What the key does not tell apart."""
        return (
            (self.strategy is None or fill.strategy_id == self.strategy)
            and (self.side is None or fill.side == self.side)
            and (self.order_id is None or fill.order_id == self.order_id)
            and (len(self.symbols) < 2 or plain_symbol(fill.symbol) in self.symbols)
        )

    def columns(self) -> dict[str, Any]:
        """The same as conditions of the table."""
        given = {
            "account_id": self.account, "strategy_id": self.strategy, "side": self.side, "order_id": self.order_id,
            PLAIN_SYMBOL: tuple(sorted(self.symbols)) or None,
        }  # fmt: skip
        return {name: value for name, value in given.items() if value is not None}


# the columns of `Sums`, in its order
SUMS = (
    "count(), sum(toDecimal256(quantity, 8) * toDecimal256(price, 8)), sum(quantity), sum(commission), "
    "sum(ifNull(slippage_bps, 0)), count(slippage_bps), min(price), max(price)"
)


@dataclass
class Sums:
    """Sums over fills: exact."""

    fills: int = 0
    value: int = 0  # quantity times price, units of 1e-16
    quantity: int = 0
    commission: int = 0
    slippage: float = 0.0  # basis points
    slipped: int = 0  # fills that state one
    lowest: int = 0
    highest: int = 0

    @classmethod
    def of(cls, row: Sequence[Any]) -> Sums:
        """From a row of `SUMS`."""
        fills, value, quantity, commission, slippage, slipped, lowest, highest = row
        units = int(Decimal(value).scaleb(2 * SCALE, Context(prec=100)))
        return cls(
            int(fills), units, parse_amount(quantity)[0], parse_amount(commission)[0], float(slippage), int(slipped),
            parse_amount(lowest)[0], parse_amount(highest)[0],
        )  # fmt: skip

    @property
    def volume(self) -> int:
        """Quote currency."""
        return divide(self.value, UNIT)

    @property
    def average_size(self) -> int:
        return divide(self.quantity, self.fills) if self.fills else 0

    def add(self, fill: Fill) -> None:
        """One fill more."""
        price = fill.price
        if not self.fills or price < self.lowest:
            self.lowest = price
        if price > self.highest:
            self.highest = price
        self.fills += 1
        self.value += fill.quantity * price
        self.quantity += fill.quantity
        self.commission += fill.commission
        if fill.slippage_bps is not None:
            self.slippage += fill.slippage_bps
            self.slipped += 1

    def merge(self, other: Sums) -> None:
        """Those of other fills."""
        if other.fills:
            self.lowest = min(self.lowest, other.lowest) if self.fills else other.lowest
            self.highest = max(self.highest, other.highest)
        self.fills += other.fills
        self.value += other.value
        self.quantity += other.quantity
        self.commission += other.commission
        self.slippage += other.slippage
        self.slipped += other.slipped


class Fills:
    """Fills of one worker: memory first, ClickHouse for what memory no longer holds."""

    def __init__(self, state: FrontState) -> None:
        self.state = state
        self.table: Table[Fill] = Table(state, Fill, "fills", IDENTITY, state.desk.fills)

    def page(self, wanted: Filter, arguments: Arguments, page: int, size: int) -> Page[Fill] | Awaitable[Page[Fill]]:
        """A page of a range, newest first. Raises InvalidTimeRange."""
        desk, older = self.state.desk, self.table.older(wanted.columns())
        return page_of(desk.fills(), self._span(wanted, arguments), page, size, older, desk)

    def _span(self, wanted: Filter, arguments: Arguments) -> Span:
        start, end = bounds(arguments, DAY_NS, LONGEST_NS)
        name = ("fills", wanted, arguments["start_time"], arguments["end_time"])
        fits = None if wanted.by_key_alone else wanted.fits
        return Span(name, wanted.key, start, end, arguments["end_time"] is None, fits)

    async def sums(self, wanted: Filter, arguments: Arguments, length_ns: int = 0) -> tuple[dict[int, Sums], int, int]:
        """`(sums, start, end)`: sums over a range by the start of an interval, or all in one, under 0.

        They go on growing: read them at once.

        Raises:
            InvalidTimeRange
        """
        span, shelf, desk = self._span(wanted, arguments), self.state.desk.fills(), self.state.desk
        if shelf is not None:
            shelf.refresh()
        since = shelf.since_ns if shelf is not None else 0
        table = self.table.older(wanted.columns())

        async def older(before: int, start: int, end: int) -> dict[int, Sums] | None:
            assert table is not None
            return await self._older_sums(table, before, start, end, length_ns)

        def add(found: dict[int, Sums], fill: Fill) -> dict[int, Sums]:
            bucket = fill.timestamp // length_ns * length_ns if length_ns else 0
            sums = found.get(bucket)
            if sums is None:
                sums = found[bucket] = Sums()
            sums.add(fill)
            return found

        alone = table is None or bool(since and span.start_ns >= since)
        what = Sum[dict[int, Sums]](("sums", length_ns), dict, add, None if alone else older)
        found, _ = await desk.totals.of(what, span, shelf)
        return found, span.start_ns, span.end_ns

    async def _older_sums(
        self, older: Older[Fill], before: int, start: int, end: int, length_ns: int
    ) -> dict[int, Sums] | None:
        bucket = "toUnixTimestamp64Nano(ts_event_ns)"
        bucket = f"intDiv({bucket}, {length_ns}) * {length_ns}" if length_ns else "0"
        rows = await older.grouped(f"{bucket} AS bucket, {SUMS}", before, start, end, "GROUP BY bucket")
        if rows is None:
            return None
        return {int(row[0]): Sums.of(row[1:]) for row in rows if row[1]}

    async def one(self, fill_id: str, account: str | None) -> Fill:
        """Raises NotFound."""
        shelf = self.state.desk.fills()
        if shelf is not None:
            for item in shelf.newest_first((account,) if account else ALL, 0, 1 << 63):
                if item.value.fill_id == fill_id:
                    return item.value
        condition, parameters = "fill_id = {id:String}", {"id": fill_id}
        if account:
            condition, parameters = condition + " AND account_id = {account:String}", {**parameters, "account": account}
        rows = await self.table.rows(condition, parameters, "ORDER BY ts_event_ns DESC LIMIT 1")
        if not rows:
            note = "" if rows is not None else "; ClickHouse did not answer"
            raise NotFound(f"no fill {fill_id[:100]!r} is known{note}", details={"fill_id": fill_id[:100]})
        return rows[0]


def summary(sums: Sums, form: Form) -> dict[str, Any]:
    """FillSummary: volume in quote currency, average slippage in basis points of those that state one."""
    slippage = round(sums.slippage / sums.slipped * 1e8) if sums.slipped else 0
    return {
        "total_fills": sums.fills, "total_volume": form.amount(sums.volume),
        "total_commission": form.amount(sums.commission), "avg_fill_size": form.amount(sums.average_size),
        "avg_slippage": form.amount(slippage),
    }  # fmt: skip


def volume_buckets(buckets: Mapping[int, Sums], form: Form) -> dict[str, Any]:
    """Volume by interval, oldest first."""
    data = [
        {
            "timestamp": form.moment(start), "volume": form.amount(sums.quantity), "value": form.amount(sums.volume),
            "fill_count": sums.fills, "avg_price": form.amount(divide(sums.value, sums.quantity)),
            "min_price": form.amount(sums.lowest), "max_price": form.amount(sums.highest),
            "commission": form.amount(sums.commission),
        }
        for start, sums in sorted(buckets.items())
    ]  # fmt: skip
    whole = Sums()
    for sums in buckets.values():
        whole.merge(sums)
    return {
        "volume_data": data, "total_volume": form.amount(whole.quantity), "total_value": form.amount(whole.volume),
        "total_fills": whole.fills, "avg_fill_size": form.amount(whole.average_size),
    }  # fmt: skip


VOLUME: dict[str, Any] = objects(
    volume_data=lists(OBJECT), total_volume=AMOUNT_SCHEMA, total_value=AMOUNT_SCHEMA, total_fills=INTEGER,
    avg_fill_size=AMOUNT_SCHEMA,
)  # fmt: skip
PAGE_SCHEMA: dict[str, Any] = {
    "page": INTEGER, "page_size": INTEGER, "total_count": {"type": ["integer", "null"]},
    "total_pages": {"type": ["integer", "null"]}, "has_next": {"type": "boolean"}, "has_prev": {"type": "boolean"},
}  # fmt: skip


def fill_endpoints(state: FrontState) -> list[Endpoint]:
    """Canonical paths, and those of DipMaster's API."""
    return [*_canonical(state), *_legacy(state)]


_LISTED: tuple[Param, ...] = (
    ACCOUNT, ANY_STRATEGY, *RANGE, SYMBOL, SYMBOLS, SIDE, ORDER_ID, PAGE, PAGE_SIZE, STRINGS, TIME,
)  # fmt: skip
_SUMMED: tuple[Param, ...] = (ACCOUNT, ANY_STRATEGY, *RANGE, SYMBOL, SYMBOLS, SIDE, STRINGS, TIME)


def _canonical(state: FrontState) -> list[Endpoint]:
    fills, rendered = Fills(state), by_form(whole_fill)

    def listed(arguments: Arguments) -> Answerer:
        wanted, form = Filter.of(arguments), form_of(arguments["decimals"], arguments["time"])
        page, size = arguments["page"], arguments["page_size"]
        texts, asked = rendered[form], query_params(arguments, _LISTED)
        bounds(arguments, DAY_NS, LONGEST_NS)

        def told(found: Page[Fill]) -> Answer:
            start, end = bounds(arguments, DAY_NS, LONGEST_NS)
            metadata = {
                "count": len(found.items), "account_id": wanted.account or "*", "start_time": form.moment(start),
                "end_time": form.moment(end), **found.metadata(),
            }  # fmt: skip
            return members(
                texts.array(found.items), metadata=metadata, count=found.total,
                pagination=found.pagination(page, size), query_params=asked,
            )  # fmt: skip

        async def waiting(found: Awaitable[Page[Fill]]) -> Answer:
            return told(await found)

        def answer() -> Answer | Awaitable[Answer]:
            found = fills.page(wanted, arguments, page, size)
            return waiting(found) if inspect.isawaitable(found) else told(found)

        return answer

    def summed(make: Any) -> Any:
        def prepare(arguments: Arguments) -> Answerer:
            wanted, form = Filter.of(arguments), form_of(arguments["decimals"], arguments["time"])
            bounds(arguments, DAY_NS, LONGEST_NS)

            async def answer() -> Answer:
                length_ns = INTERVALS[arguments["interval"]] * NS if "interval" in arguments else 0
                sums, start, end = await fills.sums(wanted, arguments, length_ns)
                metadata = {"start_time": form.moment(start), "end_time": form.moment(end)}
                return members(encode(make(sums, form)), metadata=metadata)

            return answer

        return prepare

    def one(arguments: Arguments) -> Answerer:
        form = form_of(arguments["decimals"], arguments["time"])

        async def answer() -> Answer:
            found = await fills.one(arguments["fill_id"], chosen(arguments["account_id"]))
            return members(encode(whole_fill(found, form)))

        return answer

    common: dict[str, Any] = {"tag": "desk", "errors": (400, 404)}
    moments = {"start_time": MOMENT, "end_time": MOMENT}
    return [
        Endpoint(
            "/api/v1/fills", listed, "Fills of a range, newest first", _LISTED, data=lists(FILL),
            metadata={"count": INTEGER, "account_id": TEXT, **moments, **COMPLETENESS}, **common,
        ),
        Endpoint(
            "/api/v1/fills/summary", summed(lambda sums, form: summary(sums.get(0, Sums()), form)), "Sums over fills",
            _SUMMED, data=SUMMARY, metadata=moments, **common,
        ),
        Endpoint(
            "/api/v1/fills/analysis/volume", summed(volume_buckets), "Volume by interval", (*_SUMMED, INTERVAL),
            data=VOLUME, metadata=moments, **common,
        ),
        Endpoint(
            "/api/v1/fills/{fill_id}", one, "One fill", (FILL_ID, ANY_ACCOUNT, STRINGS, TIME), data=FILL, **common
        ),
    ]  # fmt: skip


def _legacy(state: FrontState) -> list[Endpoint]:
    fills, rendered = Fills(state), by_form(legacy_fill)
    some = (START, END, SYMBOL, SIDE)
    paged = (*some, ORDER_ID, PAGE, PAGE_SIZE)

    async def listed(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        page, size = arguments["page"], arguments["page_size"]
        found = fills.page(Filter.of(arguments), arguments, page, size)
        shown = await found if inspect.isawaitable(found) else found
        sums, _, _ = await fills.sums(Filter.of(arguments), arguments)
        told = {name: value for name, value in shown.pagination(page, size).items() if name in PAGE_SCHEMA}
        return {
            "fills": Raw(rendered[form].array(shown.items)), "summary": summary(sums.get(0, Sums()), form),
            "pagination": told,
        }  # fmt: skip

    async def summarised(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        sums, _, _ = await fills.sums(Filter.of(arguments), arguments)
        return summary(sums.get(0, Sums()), form)

    async def one(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        fill = await fills.one(arguments["fill_id"], None)
        more = {"strategy_id": fill.strategy_id, "account_id": fill.account_id, "venue": fill.venue}
        return {**legacy_fill(fill, form), **more}

    async def volume(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        sums, _, end = await fills.sums(Filter.of(arguments), arguments, INTERVALS[arguments["interval"]] * NS)
        told = volume_buckets(sums, form)
        return {**told, "query_params": query_params(arguments, (*some[:3], INTERVAL)), "timestamp": form.moment(end)}

    return [
        modelled(
            "/api/fills", "Fills of a range", paged,
            {"fills": lists(LEGACY_FILL), "summary": SUMMARY, "pagination": objects(**PAGE_SCHEMA)}, listed,
        ),
        bare("/api/fills/summary", "Sums over fills", some, SUMMARY["properties"], summarised, amounts="string"),
        bare(
            "/api/fills/analysis/volume", "Volume by interval", (*some[:3], INTERVAL),
            {**VOLUME["properties"], "query_params": OBJECT, "timestamp": TEXT}, volume,
        ),
        bare(
            "/api/fills/{fill_id}", "One fill", (FILL_ID,),
            {**LEGACY_FILL["properties"], "strategy_id": TEXT, "account_id": TEXT, "venue": TEXT}, one,
            errors=(404, 422),
        ),
    ]  # fmt: skip
