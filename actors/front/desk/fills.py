"""Fills: what was executed, newest first."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import Raw

from ....codecs.desk.canonical import Fill
from ..endpoints import Answer, Answerer, Arguments, Endpoint
from ..envelope import encode, members
from ..errors import NotFound
from ..params import Param, choice, text
from ..shapes import COMPLETENESS
from ..stamps import NS
from ..state import FrontState
from .cursors import Place, cursor_param, place_of
from .desk import fill_identity
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
    PLAIN_SYMBOL,
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
from .rates import rates_of
from .rendered import by_form
from .running import Span, Sum
from .seam import Seam
from .shelf import ALL
from .stored import Older, Table
from .streams import EXECUTIONS
from .sums import (
    CHARGED_BY,
    CURRENCIES,
    SUMMARY,
    SUMS,
    VOLUME,
    Sums,
    currencies,
    money,
    summary,
    volume_buckets,
    whole_of,
)

LONGEST_NS = 30 * DAY_NS
IDENTITY = ("account_id", "venue", "fill_id")
INTERVALS = {"5m": 300, "15m": 900, "1h": 3600, "1d": 86_400}
FILL_ID = text("fill_id", "The fill.", "a fill's id", where="path", required=True, example="f-31")
INTERVAL = choice("interval", tuple(INTERVALS), "Length of the buckets.", "1h")
RANGE = (START, END)
CURSOR = cursor_param(len(IDENTITY))

LEGACY_FILL: dict[str, Any] = objects(
    fill_id=TEXT, trade_id=MAYBE_TEXT, order_id=MAYBE_TEXT, symbol=TEXT, side={"enum": ["BUY", "SELL"]},
    quantity=AMOUNT_SCHEMA, price=AMOUNT_SCHEMA, commission=AMOUNT_SCHEMA, commission_asset=TEXT, timestamp=MOMENT,
)  # fmt: skip
FILL: dict[str, Any] = objects(
    **LEGACY_FILL["properties"], strategy_id=TEXT, account_id=TEXT, venue=TEXT, realized_pnl=MAYBE_AMOUNT,
    slippage_bps=MAYBE_NUMBER,
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


class Fills:
    """Fills of one worker: memory first, ClickHouse for what memory no longer holds."""

    def __init__(self, state: FrontState) -> None:
        self.state = state
        self.table: Table[Fill] = Table(state, Fill, "fills", IDENTITY, EXECUTIONS)

    def page(self, wanted: Filter, arguments: Arguments, place: Place) -> Page[Fill] | Awaitable[Page[Fill]]:
        """A page of a range, newest first. Raises InvalidTimeRange."""
        desk, older = self.state.desk, self.table.older(wanted.columns())
        return page_of(desk.fills(), self._span(wanted, arguments), place, older, desk, fill_identity)

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

        async def older(seam: Seam, start: int, end: int) -> dict[int, Sums] | None:
            assert table is not None
            return await self._older_sums(table, seam, start, end, length_ns)

        def add(found: dict[int, Sums], fill: Fill) -> dict[int, Sums]:
            bucket = fill.timestamp // length_ns * length_ns if length_ns else 0
            sums = found.get(bucket)
            if sums is None:
                sums = found[bucket] = Sums()
            sums.add(fill)
            return found

        def less(found: dict[int, Sums], gone: dict[int, Sums]) -> dict[int, Sums] | None:
            if not gone:
                return found
            rest = found[0].without(gone[0]) if found else None
            return None if rest is None else {0: rest} if rest.fills else {}

        alone = table is None or bool(since and span.start_ns >= since)
        # of an interval the extreme prices are told: what is left of one must be looked at
        what = Sum[dict[int, Sums]](
            ("sums", length_ns), dict, add, None if alone else older, None if length_ns else less
        )
        found, _ = await desk.totals.of(what, span, shelf)
        return found, span.start_ns, span.end_ns

    async def _older_sums(
        self, older: Older[Fill], seam: Seam, start: int, end: int, length_ns: int
    ) -> dict[int, Sums] | None:
        bucket = "toUnixTimestamp64Nano(ts_event_ns)"
        bucket = f"intDiv({bucket}, {length_ns}) * {length_ns}" if length_ns else "0"
        rows = await older.grouped(f"{bucket} AS bucket, {SUMS}", seam, start, end, f"GROUP BY bucket, {CHARGED_BY}")
        if rows is None:
            return None
        found: dict[int, Sums] = {}
        for of_bucket, *row in rows:
            found.setdefault(int(of_bucket), Sums()).merge(Sums.of(row))
        return found

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


PAGE_SCHEMA: dict[str, Any] = {
    "page": INTEGER, "page_size": INTEGER, "total_count": {"type": ["integer", "null"]},
    "total_pages": {"type": ["integer", "null"]}, "has_next": {"type": "boolean"}, "has_prev": {"type": "boolean"},
}  # fmt: skip


def fill_endpoints(state: FrontState) -> list[Endpoint]:
    """Canonical paths, and those of DipMaster's API."""
    return [*_canonical(state), *_legacy(state)]


_LISTED: tuple[Param, ...] = (
    ACCOUNT, ANY_STRATEGY, *RANGE, SYMBOL, SYMBOLS, SIDE, ORDER_ID, PAGE, PAGE_SIZE, CURSOR, STRINGS,
    TIME,
)  # fmt: skip
_SUMMED: tuple[Param, ...] = (ACCOUNT, ANY_STRATEGY, *RANGE, SYMBOL, SYMBOLS, SIDE, STRINGS, TIME)


def _canonical(state: FrontState) -> list[Endpoint]:
    fills, rendered, rate_now = Fills(state), by_form(whole_fill), rates_of(state)

    def listed(arguments: Arguments) -> Answerer:
        wanted, form = Filter.of(arguments), form_of(arguments["decimals"], arguments["time"])
        place = place_of(arguments)
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
                pagination=found.pagination(place), query_params=asked,
            )  # fmt: skip

        async def waiting(found: Awaitable[Page[Fill]]) -> Answer:
            return told(await found)

        def answer() -> Answer | Awaitable[Answer]:
            found = fills.page(wanted, arguments, place)
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
                whole = whole_of(sums)
                told = money(whole, rate_now)
                return members(encode({**make(sums, whole, told, form), **currencies(told, form)}), metadata=metadata)

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
            "/api/v1/fills/summary", summed(lambda _, whole, told, form: summary(whole, told, form)),
            "Sums over fills", _SUMMED, data=objects(**SUMMARY["properties"], **CURRENCIES), metadata=moments, **common,
        ),
        Endpoint(
            "/api/v1/fills/analysis/volume", summed(volume_buckets),
            "Volume by interval", (*_SUMMED, INTERVAL), data=objects(**VOLUME["properties"], **CURRENCIES),
            metadata=moments, **common,
        ),
        Endpoint(
            "/api/v1/fills/{fill_id}", one, "One fill", (FILL_ID, ANY_ACCOUNT, STRINGS, TIME), data=FILL, **common
        ),
    ]  # fmt: skip


def _legacy(state: FrontState) -> list[Endpoint]:
    fills, rendered, rate_now = Fills(state), by_form(legacy_fill), rates_of(state)
    some = (START, END, SYMBOL, SIDE)
    paged = (*some, ORDER_ID, PAGE, PAGE_SIZE)

    async def listed(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        place = place_of(arguments)
        found = fills.page(Filter.of(arguments), arguments, place)
        shown = await found if inspect.isawaitable(found) else found
        sums, _, _ = await fills.sums(Filter.of(arguments), arguments)
        told = {name: value for name, value in shown.pagination(place).items() if name in PAGE_SCHEMA}
        whole = whole_of(sums)
        return {
            "fills": Raw(rendered[form].array(shown.items)), "summary": summary(whole, money(whole, rate_now), form),
            "pagination": told,
        }  # fmt: skip

    async def summarised(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        sums, _, _ = await fills.sums(Filter.of(arguments), arguments)
        whole = whole_of(sums)
        return summary(whole, money(whole, rate_now), form)

    async def one(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        fill = await fills.one(arguments["fill_id"], None)
        more = {"strategy_id": fill.strategy_id, "account_id": fill.account_id, "venue": fill.venue}
        return {**legacy_fill(fill, form), **more}

    async def volume(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        sums, _, end = await fills.sums(Filter.of(arguments), arguments, INTERVALS[arguments["interval"]] * NS)
        whole = whole_of(sums)
        told = volume_buckets(sums, whole, money(whole, rate_now), form)
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
