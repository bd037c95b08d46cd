"""Execution reports: orders and fills.

What becomes a fill is decided here, for the live streams (`Executions.live`) as for the tables (`Executions.full`):
the first is the hot path and leaves out what no fill needs. It tries plain messages by a shorter way
(`plain_executions`), and leaves that alone for a while after each message that is not.

What a fill says is strict: account, symbol, side, quantity, price, commission, time, status. A report of which one of
these cannot be read is undecidable as a whole. Everything else that cannot be read is left out and counted: a fill is
not lost because of a total that the producer claims, nor for an order beside it.

An amount above zero that is rounded to 0 is told as every other that is rounded. A fill of such a quantity changes no
position and is left out; one at such a price is a fill at 0, so that its quantity is not lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import MalformedAmount, Undecidable
from .canonical import DEFAULT_SOURCE, DEFAULT_VERSION, VARIANTS, ExecReport, Fill, Order
from .execution_message import ApiFill, ApiOrder, ExecCore, ExecMessage, read_slowly
from .plain_executions import REFUSALS, FillRow, Live, Plain
from .reading import (
    DECODE_ERRORS,
    ITEMS_MAX,
    SIDES,
    Amounts,
    Defaults,
    Moment,
    Number,
    Text,
    above_zero,
    bad,
    each,
    event_id,
    json_text,
    lenient_ratio,
    maybe_count,
    maybe_ratio,
    maybe_text,
    missing,
    need_text,
    need_time,
    struct_decoder,
)
from .words import (
    API,
    DASHBOARD,
    EXEC_TYPES,
    EXECUTED,
    FLAT,
    MONITORING_FEES,
    ORDER_TYPES,
    RICH,
    STATUSES,
    VENUE,
)

PAUSE_MAX = 1023  # messages that are not tried as plain ones after failures
Made = TypeVar("Made")


def fill_of(row: FillRow) -> Fill:
    """A fill of its values."""
    return Fill(**dict(zip(Fill.__struct_fields__, row, strict=True)))


class Executions:
    """Decodes the execution reports of a topic."""

    def __init__(self, topic: str, defaults: Defaults) -> None:
        self._topic = topic
        self._account, self._strategy = defaults.account, defaults.strategy
        self._decode_core, self._decode = struct_decoder(ExecCore), struct_decoder(ExecMessage)
        self._amounts = Amounts()
        self._malformed = 0
        self._read_plain = Plain(self._amounts, defaults).read
        self._pause = self._untried = 0

    def live(self, value: bytes, partition: int, offset: int, broker_ms: int = 0) -> Live:
        """What live streams need: `(event_id, timestamp in ns, index of the variant, rounded amounts, fills)`.

        Only what is read here is counted as rounded.

        Raises:
            Undecidable: whenever `full` does.
        """
        if self._untried:
            self._untried -= 1
        else:
            try:
                read = self._read_plain(value)
            except REFUSALS:
                self._untried = self._pause = min(2 * self._pause + 1, PAUSE_MAX)
            else:
                self._pause = 0
                return read
        self._amounts.rounded = 0
        try:
            m = self._decode_core(value)
        except DECODE_ERRORS:
            m, _ = read_slowly(value)
        return self._read(m, partition, offset)

    def full(self, value: bytes, partition: int, offset: int, broker_ms: int = 0) -> ExecReport:
        """The whole report.

        Raises:
            Undecidable: it is no execution report, or what decides about it cannot be read.
        """
        self._amounts.rounded = self._malformed = 0
        try:
            m: ExecMessage = self._decode(value)
        except DECODE_ERRORS:
            m, self._malformed = read_slowly(value)
        identity, time, variant, _, rows = self._read(m, partition, offset)
        fills = [fill_of(row) for row in rows]
        if variant == API:
            report = self._api_report(m, identity, time, fills)
        else:
            self._amounts.rounded = 0  # all amounts are read once more
            if variant == DASHBOARD:
                report = self._dashboard_report(m, identity, time, fills)
            else:
                report = self._monitoring_report(m, variant, identity, time, fills)
        report.source = m.source or (DEFAULT_SOURCE if variant == RICH else None)
        report.version = maybe_text(m.version) or (DEFAULT_VERSION if variant in (DASHBOARD, RICH) else None)
        report.rounded, report.malformed = self._amounts.rounded, self._malformed
        return report

    def _read(self, m: ExecCore, partition: int, offset: int) -> Live:
        identity = m.event_id
        if type(identity) is not str or not identity:
            identity = event_id(identity, self._topic, partition, offset)
        time = need_time(m.timestamp, "timestamp")
        if type(m.topic) is str and type(m.key) is str:
            variant, fills = RICH, self._monitoring(m, RICH, identity, time)
        elif m.execution_id is not None or (m.schema_version is not None and m.producer_id is not None):
            variant, fills = FLAT, self._monitoring(m, FLAT, identity, time)
        elif m.exec_type is not None or m.order_status is not None:
            variant, fills = DASHBOARD, self._dashboard(m, identity, time)
        else:
            variant, fills = API, self._api(m, time)
        return identity, time, variant, self._amounts.rounded, fills

    def _amounts_of(self, m: ExecCore | ApiFill, size: str, at: str, fees: str) -> tuple[int, int, int]:
        """Quantity, price and commission, from the members of these names."""
        need, commission = self._amounts.need, getattr(m, fees)
        quantity, price = need(getattr(m, size), size), need(getattr(m, at), at)
        return quantity, price, 0 if commission is None else need(commission, fees)

    def _or_none(self, read: Callable[[Any, str], Made], value: Any) -> Made | None:
        """A member that decides nothing; None where it is absent, and where it cannot be read, which is counted."""
        if value is None:
            return None
        try:
            return read(value, "")
        except Undecidable:
            self._malformed += 1
            return None

    def _amount(self, value: Number, absent: int | None = None, least: int | None = None) -> int | None:
        """An amount that decides nothing."""
        if value is None:
            return absent
        if least is None:
            return self._or_none(self._amounts.need, value)
        return self._or_none(lambda value, name: self._amounts.over(least, value, name), value)

    def _time(self, value: Moment) -> int | None:
        return self._or_none(need_time, value)

    # -- dashboard: one order event -----------------------------------------------------------------------------

    def _dashboard(self, m: ExecCore, identity: str, time: int) -> list[FillRow]:
        symbol, account, order_id, exec_type = m.symbol, m.account_id, m.order_id, m.exec_type
        if not symbol or not account or type(order_id) is not str or not order_id:
            symbol, account = need_text(symbol, "symbol"), need_text(account, "account_id")
            order_id = need_text(order_id, "order_id")
        side = SIDES.get(m.side) or SIDES.need(m.side, "side")
        if STATUSES.get(m.order_status) is None:
            STATUSES.need(m.order_status, "order_status")
        if (EXEC_TYPES.get(exec_type) or EXEC_TYPES.need(exec_type, "exec_type")) != "TRADE":
            return []
        kept, size, at, fees = self._amounts.kept, m.last_qty, m.last_price, m.commission
        if size is None and (size := m.quantity) is None:
            missing("quantity")
        if at is None and (at := m.price) is None:
            missing("price")
        try:
            quantity, price, commission = kept[size], kept[at], 0 if fees is None else kept[fees]
        except KeyError:
            names = "quantity" if m.last_qty is None else "last_qty", "price" if m.last_price is None else "last_price"
            quantity, price, commission = self._amounts_of(m, *names, "commission")
        if m.trade_time is not None:
            time = need_time(m.trade_time, "trade_time")
        if quantity <= 0 or price <= 0:
            if not (above_zero(quantity, size) and above_zero(price, at)):
                bad("quantity and price of a fill", (size, at), "both above zero")
            if not quantity:
                return []
        exec_id, venue = m.exec_id, m.venue
        if type(exec_id) is not str or not exec_id:
            exec_id = maybe_text(exec_id) or identity
        realized_pnl = m.realized_pnl
        if realized_pnl is not None:
            try:
                realized_pnl = self._amounts[realized_pnl]
            except MalformedAmount:
                realized_pnl = None
        return [(
            exec_id, None, order_id, symbol, side, quantity, price, commission, m.commission_asset or "", time,
            m.strategy_id or self._strategy, account, VENUE if venue == VENUE or not venue else venue.lower(),
            realized_pnl, None, None, None,
        )]  # fmt: skip

    def _dashboard_report(self, m: ExecMessage, identity: str, time: int, fills: list[Fill]) -> ExecReport:
        amount = self._amount
        quantity, price, cum_qty = amount(m.quantity), amount(m.price), amount(m.cum_qty)
        order_time = self._time(m.order_time)
        names: dict[str, Any] = {
            "order_id": need_text(m.order_id, "order_id"), "client_order_id": maybe_text(m.client_order_id),
            "symbol": m.symbol or "", "side": SIDES.need(m.side, "side"),
            "strategy_id": m.strategy_id or self._strategy, "account_id": m.account_id or "",
            "venue": (m.venue or VENUE).lower(),
        }  # fmt: skip
        status, order_type = STATUSES.need(m.order_status, "order_status"), _order_type(m.order_type)
        orders: list[Order] = []
        if quantity is None or quantity < 0 or (price is not None and price < 0):
            self._malformed += 1  # no state of an order
        else:
            orders.append(Order(
                **names, type=order_type, quantity=quantity, price=price, status=status, filled_quantity=cum_qty,
                remaining_quantity=_remaining(quantity, cum_qty), create_time=order_time, update_time=time,
            ))  # fmt: skip
        return ExecReport(
            event_id=identity, timestamp=time, variant="dashboard", **names, orders=orders, fills=fills,
            order_type=order_type, order_status=status, exec_type=EXEC_TYPES.need(m.exec_type, "exec_type"),
            exec_id=maybe_text(m.exec_id), quantity=quantity, price=price, last_qty=amount(m.last_qty),
            last_price=amount(m.last_price), cum_qty=cum_qty, avg_price=amount(m.avg_price),
            commission=amount(m.commission), commission_asset=m.commission_asset or None,
            realized_pnl=amount(m.realized_pnl), unrealized_pnl=amount(m.unrealized_pnl),
            position_qty=amount(m.position_qty), position_side=m.position_side or None, order_time=order_time,
            trade_time=self._time(m.trade_time),
        )  # fmt: skip

    # -- monitoring: one execution ------------------------------------------------------------------------------

    def _monitoring(self, m: ExecCore, variant: int, identity: str, time: int) -> list[FillRow]:
        symbol, fill_id, venue = m.symbol, m.execution_id, m.venue
        if not symbol:
            missing("symbol")
        if type(fill_id) is not str or not fill_id:  # the typed producer may leave it empty
            fill_id = maybe_text(fill_id) or (identity if variant == RICH else missing("execution_id"))
        side = SIDES.get(m.side) or SIDES.need(m.side, "side")
        if (STATUSES.get(m.status) or _monitoring_status(m.status, variant)) not in EXECUTED:
            return []
        kept, size, at = self._amounts.kept, m.fill_qty, m.fill_price
        fees = m.commission if m.fees is None else m.fees
        if size is None and (size := m.quantity) is None:
            missing("quantity")
        if at is None and (at := m.price) is None:
            missing("price")
        try:
            quantity, price, commission = kept[size], kept[at], 0 if fees is None else kept[fees]
        except KeyError:
            names = "quantity" if m.fill_qty is None else "fill_qty", "price" if m.fill_price is None else "fill_price"
            quantity, price, commission = self._amounts_of(m, *names, "commission" if m.fees is None else "fees")
        if quantity <= 0 or price <= 0:
            if not (above_zero(quantity, size) and above_zero(price, at)):
                bad("quantity and price of a fill", (size, at), "both above zero")
            if not quantity:
                return []
        slippage, latency = m.slippage_bps, m.latency_ms
        if type(slippage) is not float:
            slippage = lenient_ratio(slippage)
        if type(latency) is not float:
            latency = lenient_ratio(latency)
        return [(
            fill_id, None, None, symbol, side, quantity, price, commission, m.commission_asset or MONITORING_FEES, time,
            m.strategy or self._strategy, self._account, VENUE if venue == VENUE or not venue else venue.lower(), None,
            slippage, latency, None,
        )]  # fmt: skip

    def _monitoring_report(
        self, m: ExecMessage, variant: int, identity: str, time: int, fills: list[Fill]
    ) -> ExecReport:
        amount, fees = self._amount, m.commission if m.fees is None else m.fees
        commission = amount(fees, 0 if variant == RICH else None)
        quality = m.execution_quality
        return ExecReport(
            event_id=identity, timestamp=time, variant=VARIANTS[variant], strategy_id=m.strategy or self._strategy,
            account_id=self._account, venue=(m.venue or VENUE).lower(), fills=fills, symbol=m.symbol,
            side=SIDES.need(m.side, "side"), order_status=_monitoring_status(m.status, variant),
            order_type=_order_type(m.order_type or ("MARKET" if variant == RICH else None)),
            exec_id=maybe_text(m.execution_id), quantity=amount(m.quantity), price=amount(m.price),
            last_qty=amount(m.fill_qty), last_price=amount(m.fill_price), commission=commission,
            commission_asset=m.commission_asset or (None if commission is None else MONITORING_FEES),
            signal_id=maybe_text(m.signal_id), slippage_bps=self._or_none(maybe_ratio, m.slippage_bps),
            latency_ms=self._or_none(maybe_ratio, m.latency_ms),
            venue_quality_score=self._or_none(maybe_ratio, quality and quality.venue_quality_score),
            session_id=maybe_text(m.session_id),
        )  # fmt: skip

    # -- api: orders, fills and totals --------------------------------------------------------------------------

    def _api(self, m: ExecCore, time: int) -> list[FillRow]:
        account, venue, items = m.account_id, m.venue, m.fills
        if not account:
            missing("account_id")
        if not items:
            return []
        strategy = m.strategy_id or self._strategy
        venue = VENUE if venue == VENUE or not venue else venue.lower()
        if len(items) == 1:
            try:
                row = self._api_fill(items[0], account, strategy, venue)
            except Undecidable:
                self._amounts.rounded = 0  # read once more, to say where it is
            else:
                return [] if row is None else [row]
        rows = each(items, "fills", lambda fill: self._api_fill(fill, account, strategy, venue))
        return [row for row in rows if row is not None]

    def _api_fill(self, fill: ApiFill, account: str, strategy: str, venue: str) -> FillRow | None:
        """The fill; None where its quantity is rounded to 0."""
        kept, fill_id, trade_id, order_id = self._amounts.kept, fill.fill_id, fill.trade_id, fill.order_id
        symbol, size, at, fees, moment = fill.symbol, fill.quantity, fill.price, fill.commission, fill.timestamp
        if type(fill_id) is not str or not fill_id:
            fill_id = need_text(fill_id, "fill_id")
        if not symbol:
            missing("symbol")
        if size is None or at is None or moment is None:
            missing("quantity" if size is None else "price" if at is None else "timestamp")
        try:
            quantity, price, commission = kept[size], kept[at], 0 if fees is None else kept[fees]
        except KeyError:
            quantity, price, commission = self._amounts_of(fill, "quantity", "price", "commission")
        time, side = need_time(moment, "timestamp"), SIDES.get(fill.side) or SIDES.need(fill.side, "side")
        if quantity <= 0 or price <= 0 or commission < 0:
            for name, units, value in (("quantity", quantity, size), ("price", price, at)):
                if not above_zero(units, value):
                    bad(name, value, "above zero")
            if commission < 0:
                bad("commission", fees, "not below zero")
            if not quantity:
                return None
        return (
            fill_id, trade_id if type(trade_id) is str and trade_id else maybe_text(trade_id),
            order_id if type(order_id) is str and order_id else maybe_text(order_id), symbol,
            side, quantity, price, commission, fill.commission_asset or "", time, strategy, account, venue,
            None, None, None, None,
        )  # fmt: skip

    def _api_report(self, m: ExecMessage, identity: str, time: int, fills: list[Fill]) -> ExecReport:
        names: dict[str, Any] = {
            "strategy_id": m.strategy_id or self._strategy, "account_id": m.account_id or "",
            "venue": (m.venue or VENUE).lower(),
        }  # fmt: skip
        amount, orders = self._amount, m.orders or []
        self._malformed += max(0, len(orders) - ITEMS_MAX)
        read = [self._or_none(lambda order, _: self._api_order(order, names), one) for one in orders[:ITEMS_MAX]]
        return ExecReport(
            event_id=identity, timestamp=time, variant="api", **names, fills=fills,
            orders=[order for order in read if order is not None],
            total_realized_pnl=amount(m.total_realized_pnl, 0), total_unrealized_pnl=amount(m.total_unrealized_pnl, 0),
            total_commission=amount(m.total_commission, 0), total_cost=amount(m.total_cost, 0),
            slippage=amount(m.slippage, 0), market_impact=amount(m.market_impact, 0),
            execution_time_ms=0 if m.execution_time_ms is None else self._or_none(maybe_count, m.execution_time_ms),
            metadata=self._or_none(lambda raw, _: json_text(raw) or "{}", m.metadata),
        )  # fmt: skip

    def _api_order(self, order: ApiOrder, names: dict[str, Any]) -> Order:
        """An order that names what it is; its prices and its past may be missing."""
        quantity = self._amounts.over(1, order.quantity, "quantity")
        filled = self._amount(order.filled_quantity, 0, least=0)
        return Order(
            **names,
            order_id=need_text(order.order_id, "order_id"),
            client_order_id=maybe_text(order.client_order_id),
            symbol=need_text(order.symbol, "symbol"),
            side=SIDES.need(order.side, "side"),
            type=_order_type(order.type),
            quantity=quantity,
            price=self._amount(order.price),
            stop_price=self._amount(order.stop_price),
            status=STATUSES.need(order.status, "status"),
            filled_quantity=filled,
            remaining_quantity=self._amount(order.remaining_quantity, _remaining(quantity, filled), least=0),
            create_time=self._time(order.create_time),
            update_time=need_time(order.update_time, "update_time"),
        )


def _remaining(quantity: int, filled: int | None) -> int | None:
    """What remains of an order that does not say it."""
    return quantity - filled if filled is not None and 0 <= filled <= quantity else None


def _order_type(value: Text) -> str | None:
    """Types that are not in the list are kept: they change no money."""
    return (ORDER_TYPES.get(value) or ORDER_TYPES.get(value.upper()) or value.upper()) if value else None


def _monitoring_status(value: Text, variant: int) -> str:
    if not value and variant == RICH:
        return "FILLED"
    return STATUSES.get(value) or STATUSES.need(value, "status")
