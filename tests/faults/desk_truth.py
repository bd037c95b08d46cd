"""What must follow from what was produced: read from the messages as JSON and `Message.fills`, without the codecs.

Every row is a tuple of texts, so that it can be compared with what a database says and shown as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Context, Decimal, localcontext
from typing import Any, NamedTuple

from ..desk.messages import VARIANTS, TrueFill
from .desk import BNB
from .desk_load import ALERTS, DEAD, EXECUTIONS, Produced

Row = tuple[Any, ...]
NUMBERS = {name: number for number, name in enumerate(("", "api", "dashboard", "mon-rich", "mon-flat"))}
VARIANT_SHIFT, FLAG_DEAD, FLAG_HEADERS = 28, 1 << 16, 1 << 17
DEFAULT_ACCOUNT, DEFAULT_STRATEGY = "default", "dipmaster"
SCALE = Decimal("1e-8")
EXACT = Context(prec=100)


def amount(value: Any) -> str | None:
    """An amount with eight decimals."""
    if value is None:
        return None
    rounded = Decimal(str(value)).quantize(SCALE, context=EXACT)
    return format(rounded if rounded else abs(rounded), "f")  # a table has no minus before zero


def ratio(value: Any) -> float | None:
    return None if value is None else float(value)


def time_ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


# -- raw events


def raw_row(one: Produced) -> Row:
    """A row of `raw_events` without the times of receipt; the id of an event that has none of its own is None."""
    message = one.message
    known = not one.dead and bool(message.variant)
    at = time_ms(json.loads(message.value)["timestamp"]) if known else one.timestamp_ms
    flags = NUMBERS[message.variant] << VARIANT_SHIFT
    flags |= (FLAG_DEAD if one.dead else 0) | (FLAG_HEADERS if message.headers else 0)
    return (
        *one.where, one.timestamp_ms, message.key and message.key.hex(), message.value.hex(),
        [[name, value.hex()] for name, value in message.headers],
        message.event_id if known else "" if one.dead else None, message.variant, flags, at * 1_000_000,
    )  # fmt: skip


# -- derived tables


@dataclass(frozen=True)
class Table:
    """Columns of a derived table that are looked at, and what they are of a message's JSON.

    `items` gives the objects that are a row each.
    """

    name: str
    topic: str
    columns: Mapping[str, Callable[[Any], Any]]  # column -> how its value is read
    items: Callable[[Produced, dict[str, Any]], Iterable[Mapping[str, Any]]] = lambda one, members: (members,)

    def rows(self, one: Produced) -> Iterator[Row]:
        """(topic, partition, offset, item, variant, columns)."""
        members = {"account_id": DEFAULT_ACCOUNT, **json.loads(one.message.value)}
        for number, item in enumerate(self.items(one, members)):
            values = (read(item.get(name)) for name, read in self.columns.items())
            yield (*one.where, number, one.message.variant, *values)


def _same(value: Any) -> Any:
    return value


def _execution(one: Produced, members: dict[str, Any]) -> Iterable[Mapping[str, Any]]:
    strategy = members.get("strategy_id", members.get("strategy"))
    orders = {"api": len(members.get("orders", ())), "dashboard": 1}.get(one.message.variant, 0)
    counts = {"order_count": orders, "fill_count": len(one.message.fills)}
    return ({**members, "strategy_id": strategy, **counts},)


def _fills(one: Produced, _: dict[str, Any]) -> Iterable[Mapping[str, Any]]:
    names_order = one.message.variant in ("api", "dashboard")
    for fill in one.message.fills:
        yield {
            **vars(fill), "account_id": fill.account, "strategy_id": fill.strategy, "timestamp": fill.time_ms,
            "order_id": fill.order_id if names_order else None,
        }  # fmt: skip


def _claims(one: Produced, members: dict[str, Any]) -> Iterable[Mapping[str, Any]]:
    about = {"account_id": members["account_id"], "timestamp": members["timestamp"]}
    return [{**about, **position} for position in members.get("positions", ())]


def _health(one: Produced, members: dict[str, Any]) -> Iterable[Mapping[str, Any]]:
    status = str(members.get("overall_status", members.get("status"))).lower()
    component = members.get("component_name", members.get("component"))
    return ({**members, "overall_status": status, "component": component},)


_EVENT = {"event_id": _same, "timestamp": time_ms}
TABLES: tuple[Table, ...] = (
    Table("exec_reports", EXECUTIONS, {
        **_EVENT, "account_id": _same, "strategy_id": _same, "order_count": _same, "fill_count": _same,
    }, _execution),
    Table("fills", EXECUTIONS, {
        "timestamp": _same, "account_id": _same, "strategy_id": _same, "venue": _same, "fill_id": _same,
        "order_id": _same, "symbol": _same, "side": _same, "quantity": amount, "price": amount, "commission": amount,
        "commission_asset": _same,
    }, _fills),
    Table("risk_metrics", "risk.metrics.v1", {
        **_EVENT, "account_id": _same, "daily_pnl": amount, "leverage": ratio, "var_95": amount, "total_pnl": amount,
    }),
    Table("claimed_positions", "risk.metrics.v1", {
        "timestamp": time_ms, "account_id": _same, "symbol": _same, "quantity": amount, "avg_price": amount,
        "market_value": amount, "unrealized_pnl": amount,
    }, _claims),
    Table("system_health", "system.health.v1", {
        **_EVENT, "overall_status": _same, "component": _same, "health_score": ratio, "daily_pnl": amount,
    }, _health),
    Table("strategy_performance", "strategy.performance.v1", {
        **_EVENT, "total_trades": _same, "winning_trades": _same, "losing_trades": _same, "total_pnl": amount,
    }),
    Table("trade_signals", "trade.signals.v1", {
        **_EVENT, "signal_id": _same, "symbol": _same, "signal_type": _same, "price": amount, "confidence": ratio,
    }),
    Table("position_updates", "position.updates.v1", {
        **_EVENT, "position_id": _same, "symbol": _same, "side": _same, "quantity": amount, "entry_price": amount,
        "unrealized_pnl": amount, "status": str.upper,
    }),
    Table("market_data", "market.data.v1", {
        **_EVENT, "symbol": _same, "price": amount, "volume": amount, "bid": amount, "spread_bps": ratio,
    }),
)  # fmt: skip


def newest_orders(produced: Iterable[Produced]) -> dict[Row, set[Row]]:
    """By account, venue and order id: (update time, status, quantity) of an order as the newest tellings have it.

    Several may be of the same time, and then any of them is the newest.
    """
    found: dict[Row, set[Row]] = {}
    for one in produced:
        if one.message.topic == EXECUTIONS and not one.dead:
            members = json.loads(one.message.value)
            for order in {"api": members.get("orders"), "dashboard": [members]}.get(one.message.variant) or ():
                told = (
                    time_ms(order.get("update_time") or members["timestamp"]),
                    order.get("status") or order["order_status"], amount(order["quantity"]),
                )  # fmt: skip
                newest = found.setdefault((members["account_id"], members["venue"], order["order_id"]), set())
                if all(told[0] > known[0] for known in newest):
                    newest.clear()
                if all(told[0] >= known[0] for known in newest):
                    newest.add(told)
    return found


# -- alerts


@dataclass
class TrueAlert:
    """An alert as its newest telling has it."""

    time_ms: int = 0
    resolved: bool = False
    severity: str = ""


def true_alerts(produced: Iterable[Produced]) -> dict[str, TrueAlert]:
    found: dict[str, TrueAlert] = {}
    for one in produced:
        if one.message.topic == ALERTS and not one.dead:
            members = json.loads(one.message.value)
            known, at = found.setdefault(members["alert_id"], TrueAlert()), time_ms(members["timestamp"])
            if at > known.time_ms:
                known.time_ms, known.severity = at, members["severity"]
                known.resolved = bool(members.get("resolved"))
    return found


# -- positions


def distinct_fills(produced: Iterable[Produced]) -> dict[tuple[str, str, str], TrueFill]:
    """Each fill once, whichever messages told of it; they agree."""
    found: dict[tuple[str, str, str], TrueFill] = {}
    for one in produced:
        for fill in one.message.fills:
            known = found.setdefault(fill.key, fill)
            alike = (known.symbol, known.side, known.quantity, known.price, known.commission, known.time_ms)
            assert alike == (fill.symbol, fill.side, fill.quantity, fill.price, fill.commission, fill.time_ms), fill
    return found


class Sums(NamedTuple):
    """What a position or a group is worth; amounts rounded to eight decimals."""

    quantity: Decimal = Decimal(0)
    realized: Decimal = Decimal(0)
    unrealized: Decimal = Decimal(0)
    fees: Decimal = Decimal(0)
    fills: int = 0
    wins: int = 0
    losses: int = 0


@dataclass
class Held:
    """A position by average price, in plain decimals."""

    quantity: Decimal = Decimal(0)
    average: Decimal = Decimal(0)
    realized: Decimal = Decimal(0)
    fees: Decimal = Decimal(0)
    price: Decimal = Decimal(0)  # of the last fill, which the position is valued at
    trip: Decimal = Decimal(0)  # of the open round trip, after fees
    trips: list[Decimal] = field(default_factory=list)
    fills: int = 0

    def add(self, fill: TrueFill) -> None:
        """Take a fill in; fills come in order."""
        signed = fill.quantity if fill.side == "BUY" else -fill.quantity
        fee = fill.commission * (Decimal(BNB) if fill.commission_asset == "BNB" else 1)
        self.fills, self.fees, self.price = self.fills + 1, self.fees + fee, fill.price
        closing = min(fill.quantity, abs(self.quantity)) if self.quantity * signed < 0 else Decimal(0)
        if closing:
            gain = closing * (fill.price - self.average) * (1 if self.quantity > 0 else -1)
            closing_fee = fee * closing / fill.quantity
            self.realized += gain
            self.trip += gain - closing_fee
            fee -= closing_fee
        left = fill.quantity - closing
        before = self.quantity
        self.quantity += signed
        if not self.quantity or before * self.quantity < 0:  # flat, if only for a moment
            self.trips.append(self.trip)
            self.trip = self.average = before = Decimal(0)
        if left:
            held = abs(before)
            self.average = (self.average * held + fill.price * left) / (held + left)
            self.trip -= fee

    @property
    def sums(self) -> Sums:
        unrealized = self.quantity * (self.price - self.average)
        wins, losses = (sum(trip * sign > SCALE**2 for trip in self.trips) for sign in (1, -1))
        return Sums(self.quantity, self.realized, unrealized, self.fees, self.fills, wins, losses)


def true_positions(fills: Iterable[TrueFill]) -> dict[tuple[str, str, str, str], Held]:
    """By account, strategy, venue and symbol."""
    found: dict[tuple[str, str, str, str], Held] = {}
    with localcontext(EXACT):
        for fill in sorted(fills, key=lambda fill: (fill.time_ms, fill.fill_id)):
            found.setdefault((fill.account, fill.strategy, fill.venue, fill.symbol), Held()).add(fill)
    return found


def live(produced: Sequence[Produced]) -> list[Produced]:
    """Those that can be understood."""
    return [one for one in produced if DEAD not in one.message.notes]


assert set(NUMBERS) == {"", *(variant for variants in VARIANTS.values() for variant in variants)}
