"""Execution reports: orders and fills.

What becomes a fill is decided here and nowhere else, for the live streams (`Executions.live`) as for the tables
(`Executions.full`): the first is the hot path and leaves out what no fill needs.

Everything that is money, and the times of fills, is strict: a report with a member of that kind that cannot be read is
undecidable as a whole, whether the member belongs to its fill or not.
"""

from __future__ import annotations

from typing import Any, NoReturn

from ..errors import MalformedAmount, MalformedTime
from .canonical import VARIANTS, ExecReport, Fill, Order
from .execution_message import ApiFill, ApiOrder, ExecMessage
from .reading import (
    DECODE_ERRORS,
    SIDES,
    Amounts,
    Defaults,
    Text,
    Words,
    bad,
    each,
    event_id,
    json_text,
    lenient_ratio,
    lenient_time,
    maybe_count,
    maybe_ratio,
    maybe_text,
    maybe_time,
    missing,
    need_text,
    need_time,
    struct_decoder,
    undecidable,
)
from .times import time_ns

API, DASHBOARD, RICH, FLAT = range(1, 5)  # indexes of `canonical.VARIANTS`
VENUE = "binance"
MONITORING_FEES = "USDT"  # what the typed producer's default is; the flat one names no asset

STATUSES = Words(
    "NEW", "PARTIALLY_FILLED", "FILLED", "CANCELED", "REJECTED", "EXPIRED",
    PARTIAL="PARTIALLY_FILLED", CANCELLED="CANCELED", FAILED="REJECTED",
)  # fmt: skip
ORDER_TYPES = Words(
    "MARKET", "LIMIT", "STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT",
    STOP="STOP_LOSS", STOP_LIMIT="STOP_LOSS_LIMIT",
)  # fmt: skip
EXEC_TYPES = Words("NEW", "PARTIAL_FILL", "FILL", "TRADE", "CANCELED", "REJECTED", "EXPIRED", CANCELLED="CANCELED")
EXECUTED = frozenset({"FILLED", "PARTIALLY_FILLED"})


_AMOUNTS = (
    "quantity", "price", "last_qty", "last_price", "cum_qty", "avg_price", "commission", "realized_pnl",
    "unrealized_pnl", "position_qty", "fill_qty", "fill_price", "fees",
)  # fmt: skip
_TIMES = ("timestamp", "trade_time")

Live = tuple[str, int, int, int, list[Fill]]


class Executions:
    """Decodes the execution reports of a topic."""

    def __init__(self, topic: str, defaults: Defaults) -> None:
        self._topic = topic
        self._account, self._strategy = defaults.account, defaults.strategy
        self._decode = struct_decoder(ExecMessage)
        self._amounts = Amounts()

    def live(self, value: bytes, partition: int, offset: int, broker_ms: int = 0) -> Live:
        """What live streams need: `(event_id, timestamp in ns, index of the variant, rounded amounts, fills)`.

        Raises:
            Undecidable: whenever `full` does.
        """
        m, variant, identity, time = self._begin(value, partition, offset)
        if variant == DASHBOARD:
            fills, _ = self._dashboard(m, identity, time)
        elif variant == API:
            fills = self._api(m, identity, time).fills
        else:
            fills, _ = self._monitoring(m, variant, identity, time)
        return identity, time, variant, self._amounts.rounded, fills

    def full(self, value: bytes, partition: int, offset: int, broker_ms: int = 0) -> ExecReport:
        """The whole report.

        Raises:
            Undecidable: it is no execution report, or a member of it cannot be read.
        """
        m, variant, identity, time = self._begin(value, partition, offset)
        if variant == DASHBOARD:
            report = self._dashboard_report(m, identity, time)
        elif variant == API:
            report = self._api(m, identity, time)
        else:
            report = self._monitoring_report(m, variant, identity, time)
        report.source, report.version = m.source or None, maybe_text(m.version)
        report.rounded = self._amounts.rounded
        return report

    def _begin(self, value: bytes, partition: int, offset: int) -> tuple[ExecMessage, int, str, int]:
        """The message, its variant, its identity and its time."""
        self._amounts.rounded = 0
        try:
            m = self._decode(value)
        except DECODE_ERRORS as error:
            raise undecidable(error) from None
        if type(m.topic) is str and type(m.key) is str:
            variant = RICH
        elif m.execution_id is not None or (m.schema_version is not None and m.producer_id is not None):
            variant = FLAT
        elif m.exec_type is not None or m.order_status is not None:
            variant = DASHBOARD
        else:
            variant = API
        identity = m.event_id
        if type(identity) is not str or not identity:
            identity = event_id(identity, self._topic, partition, offset)
        stamp = m.timestamp
        if stamp is None:
            missing("timestamp")
        try:
            return m, variant, identity, time_ns(stamp)
        except MalformedTime:
            self._name_the_malformed(m)

    def _name_the_malformed(self, m: ExecMessage) -> NoReturn:
        """Raise for the first member that cannot be read: looked for only once reading has failed."""
        for name in _AMOUNTS:
            self._amounts.maybe(getattr(m, name), name)
        for name in _TIMES:
            maybe_time(getattr(m, name), name)
        raise AssertionError(m)

    # -- dashboard: one order event -----------------------------------------------------------------------------

    def _dashboard(self, m: ExecMessage, identity: str, time: int) -> tuple[list[Fill], tuple[int | None, ...]]:
        """Its fill, if it is one, and all its amounts and times."""
        amounts = self._amounts
        try:
            numbers = (
                quantity := None if m.quantity is None else amounts[m.quantity],
                price := None if m.price is None else amounts[m.price],
                last_qty := None if m.last_qty is None else amounts[m.last_qty],
                last_price := None if m.last_price is None else amounts[m.last_price],
                None if m.cum_qty is None else amounts[m.cum_qty],
                None if m.avg_price is None else amounts[m.avg_price],
                commission := None if m.commission is None else amounts[m.commission],
                realized_pnl := None if m.realized_pnl is None else amounts[m.realized_pnl],
                None if m.unrealized_pnl is None else amounts[m.unrealized_pnl],
                None if m.position_qty is None else amounts[m.position_qty],
                trade_time := None if m.trade_time is None else time_ns(m.trade_time),
            )
        except (MalformedAmount, MalformedTime):
            self._name_the_malformed(m)
        symbol, account, order_id = m.symbol, m.account_id, m.order_id
        if not symbol or not account or type(order_id) is not str or not order_id:
            symbol, account = need_text(symbol, "symbol"), need_text(account, "account_id")
            order_id = need_text(order_id, "order_id")
        side = SIDES.get(m.side) or SIDES.need(m.side, "side")
        if m.order_status not in STATUSES:
            STATUSES.need(m.order_status, "order_status")
        if quantity is None or price is None:
            missing("quantity" if quantity is None else "price")
        if quantity < 0 or price < 0:
            bad("quantity and price", (m.quantity, m.price), "none below zero")
        if (EXEC_TYPES.get(m.exec_type) or EXEC_TYPES.need(m.exec_type, "exec_type")) != "TRADE":
            return [], numbers
        if last_qty is not None:
            quantity = last_qty
        if last_price is not None:
            price = last_price
        if quantity <= 0 or price <= 0:
            bad("quantity and price of a fill", (m.last_qty, m.last_price), "both above zero")
        exec_id, venue = m.exec_id, m.venue
        if type(exec_id) is not str or not exec_id:
            exec_id = maybe_text(exec_id) or identity
        fill = Fill(
            fill_id=exec_id, order_id=order_id, symbol=symbol, side=side, quantity=quantity, price=price,
            commission=commission or 0, commission_asset=m.commission_asset or "",
            timestamp=time if trade_time is None else trade_time, strategy_id=m.strategy_id or self._strategy,
            account_id=account, venue=VENUE if not venue or venue == VENUE else venue.lower(),
            realized_pnl=realized_pnl,
        )  # fmt: skip
        return [fill], numbers

    def _dashboard_report(self, m: ExecMessage, identity: str, time: int) -> ExecReport:
        fills, numbers = self._dashboard(m, identity, time)
        (quantity, price, last_qty, last_price, cum_qty, avg_price, commission, realized_pnl, unrealized_pnl,
         position_qty, trade_time) = numbers  # fmt: skip
        order_time = lenient_time(m.order_time)
        assert quantity is not None
        names: dict[str, Any] = {
            "order_id": need_text(m.order_id, "order_id"), "client_order_id": maybe_text(m.client_order_id),
            "symbol": m.symbol or "", "side": SIDES.need(m.side, "side"),
            "strategy_id": m.strategy_id or self._strategy, "account_id": m.account_id or "",
            "venue": (m.venue or VENUE).lower(),
        }  # fmt: skip
        status, order_type = STATUSES.need(m.order_status, "order_status"), _order_type(m.order_type)
        order = Order(
            **names, type=order_type, quantity=quantity, price=price, status=status, filled_quantity=cum_qty,
            remaining_quantity=quantity - cum_qty if cum_qty is not None and 0 <= cum_qty <= quantity else None,
            create_time=order_time,
            update_time=time,
        )  # fmt: skip
        return ExecReport(
            event_id=identity, timestamp=time, variant="dashboard", **names, orders=[order], fills=fills,
            order_type=order_type, order_status=status, exec_type=EXEC_TYPES.need(m.exec_type, "exec_type"),
            exec_id=maybe_text(m.exec_id), quantity=quantity, price=price, last_qty=last_qty, last_price=last_price,
            cum_qty=cum_qty, avg_price=avg_price, commission=commission,
            commission_asset=m.commission_asset or None, realized_pnl=realized_pnl, unrealized_pnl=unrealized_pnl,
            position_qty=position_qty, position_side=m.position_side or None, order_time=order_time,
            trade_time=trade_time,
        )  # fmt: skip

    # -- monitoring: one execution ------------------------------------------------------------------------------

    def _monitoring(
        self, m: ExecMessage, variant: int, identity: str, time: int
    ) -> tuple[list[Fill], tuple[int | None, ...]]:
        """Its fill, if it is one, and all its amounts."""
        amounts = self._amounts
        fees = m.commission if m.fees is None else m.fees
        try:
            numbers = (
                quantity := None if m.quantity is None else amounts[m.quantity],
                price := None if m.price is None else amounts[m.price],
                fill_qty := None if m.fill_qty is None else amounts[m.fill_qty],
                fill_price := None if m.fill_price is None else amounts[m.fill_price],
                commission := None if fees is None else amounts[fees],
            )
        except MalformedAmount:
            self._name_the_malformed(m)
        symbol, fill_id, venue = m.symbol, m.execution_id, m.venue
        if not symbol:
            missing("symbol")
        if type(fill_id) is not str or not fill_id:  # the typed producer may leave it empty
            fill_id = maybe_text(fill_id) or (identity if variant == RICH else missing("execution_id"))
        side = SIDES.get(m.side) or SIDES.need(m.side, "side")
        slippage, latency = m.slippage_bps, m.latency_ms
        if type(slippage) is not float:
            slippage = maybe_ratio(slippage, "slippage_bps")
        if type(latency) is not float:
            latency = maybe_ratio(latency, "latency_ms")
        if quantity is None or price is None:
            missing("quantity" if quantity is None else "price")
        if quantity < 0 or price < 0:
            bad("quantity and price", (m.quantity, m.price), "none below zero")
        if _monitoring_status(m.status, variant) not in EXECUTED:
            return [], numbers
        if fill_qty is not None:
            quantity = fill_qty
        if fill_price is not None:
            price = fill_price
        if quantity <= 0 or price <= 0:
            bad("quantity and price of a fill", (quantity, price), "both above zero")
        fill = Fill(
            fill_id=fill_id, symbol=symbol, side=side, quantity=quantity, price=price, commission=commission or 0,
            commission_asset=m.commission_asset or MONITORING_FEES, timestamp=time,
            strategy_id=m.strategy or self._strategy, account_id=self._account,
            venue=VENUE if not venue or venue == VENUE else venue.lower(), slippage_bps=slippage, latency_ms=latency,
        )  # fmt: skip
        return [fill], numbers

    def _monitoring_report(self, m: ExecMessage, variant: int, identity: str, time: int) -> ExecReport:
        fills, (quantity, price, fill_qty, fill_price, commission) = self._monitoring(m, variant, identity, time)
        quality = m.execution_quality
        return ExecReport(
            event_id=identity, timestamp=time, variant=VARIANTS[variant], strategy_id=m.strategy or self._strategy,
            account_id=self._account, venue=(m.venue or VENUE).lower(), fills=fills, symbol=m.symbol,
            side=SIDES.need(m.side, "side"), order_status=_monitoring_status(m.status, variant),
            order_type=_order_type(m.order_type or ("MARKET" if variant == RICH else None)),
            exec_id=maybe_text(m.execution_id), quantity=quantity, price=price, last_qty=fill_qty,
            last_price=fill_price, commission=commission,
            commission_asset=m.commission_asset or (None if commission is None else MONITORING_FEES),
            signal_id=maybe_text(m.signal_id), slippage_bps=maybe_ratio(m.slippage_bps, "slippage_bps"),
            latency_ms=maybe_ratio(m.latency_ms, "latency_ms"),
            venue_quality_score=quality and lenient_ratio(quality.venue_quality_score),
            session_id=maybe_text(m.session_id),
        )  # fmt: skip

    # -- api: orders, fills and totals --------------------------------------------------------------------------

    def _api(self, m: ExecMessage, identity: str, time: int) -> ExecReport:
        amounts = self._amounts
        names: dict[str, Any] = {
            "strategy_id": m.strategy_id or self._strategy, "account_id": need_text(m.account_id, "account_id"),
            "venue": (m.venue or VENUE).lower(),
        }  # fmt: skip
        return ExecReport(
            event_id=identity, timestamp=time, variant="api", **names,
            orders=each(m.orders, "orders", lambda order: _api_order(order, names, amounts)),
            fills=each(m.fills, "fills", lambda fill: _api_fill(fill, names, amounts)),
            total_realized_pnl=amounts.maybe(m.total_realized_pnl, "total_realized_pnl") or 0,
            total_unrealized_pnl=amounts.maybe(m.total_unrealized_pnl, "total_unrealized_pnl") or 0,
            total_commission=amounts.maybe(m.total_commission, "total_commission") or 0,
            total_cost=amounts.maybe(m.total_cost, "total_cost") or 0,
            slippage=amounts.maybe(m.slippage, "slippage") or 0,
            market_impact=amounts.maybe(m.market_impact, "market_impact") or 0,
            execution_time_ms=maybe_count(m.execution_time_ms, "execution_time_ms") or 0,
            metadata=json_text(m.metadata),
        )  # fmt: skip


def _order_type(value: Text) -> str | None:
    """Types that are not in the list are kept: they change no money."""
    return (ORDER_TYPES.get(value) or ORDER_TYPES.get(value.upper()) or value.upper()) if value else None


def _monitoring_status(value: Text, variant: int) -> str:
    if not value and variant == RICH:
        return "FILLED"
    return STATUSES.get(value) or STATUSES.need(value, "status")


def _api_order(order: ApiOrder, names: dict[str, Any], amounts: Amounts) -> Order:
    return Order(
        **names,
        order_id=need_text(order.order_id, "order_id"),
        client_order_id=maybe_text(order.client_order_id),
        symbol=need_text(order.symbol, "symbol"),
        side=SIDES.need(order.side, "side"),
        type=_order_type(order.type),
        quantity=amounts.over(1, order.quantity, "quantity"),
        price=amounts.maybe(order.price, "price"),
        stop_price=amounts.maybe(order.stop_price, "stop_price"),
        status=STATUSES.need(order.status, "status"),
        filled_quantity=amounts.over(
            0, 0 if order.filled_quantity is None else order.filled_quantity, "filled_quantity"
        ),
        remaining_quantity=amounts.over(
            0, 0 if order.remaining_quantity is None else order.remaining_quantity, "remaining_quantity"
        ),
        create_time=lenient_time(order.create_time),
        update_time=need_time(order.update_time, "update_time"),
    )


def _api_fill(fill: ApiFill, names: dict[str, Any], amounts: Amounts) -> Fill:
    return Fill(
        **names,
        fill_id=need_text(fill.fill_id, "fill_id"),
        trade_id=maybe_text(fill.trade_id),
        order_id=maybe_text(fill.order_id),
        symbol=need_text(fill.symbol, "symbol"),
        side=SIDES.need(fill.side, "side"),
        quantity=amounts.over(1, fill.quantity, "quantity"),
        price=amounts.over(1, fill.price, "price"),
        commission=amounts.over(0, 0 if fill.commission is None else fill.commission, "commission"),
        commission_asset=fill.commission_asset or "",
        timestamp=need_time(fill.timestamp, "timestamp"),
    )
