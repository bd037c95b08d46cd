"""Execution reports as producers nearly always write them: the decoder itself proves that a message is plain.

There is a struct for each kind of message. What decides about a fill is in it, needed and of the usual type; what would
make the message one of another variant must be missing. So a message that is decoded has few things left to look at.
Any other one is refused, and `Executions` reads it by all its rules. What is read here is what that would give:
`tests/codecs/test_desk_mutations.py` holds them against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from ..errors import MalformedAmount, MalformedTime
from .execution_message import DECISIVE, ApiFill, ExecCore
from .reading import DECODE_ERRORS, ITEMS_MAX, SIDES, Amounts, Defaults, Number, Text
from .times import time_ns
from .words import API, DASHBOARD, EXEC_TYPES, EXECUTED, FLAT, MONITORING_FEES, RICH, STATUSES, VENUE

Named = Annotated[str, Meta(min_length=1)]
Given = str | int | float  # amounts and times
FillRow = tuple[Any, ...]  # the values of a `canonical.Fill`, in its order
Live = tuple[str, int, int, int, list[FillRow]]

# In the order in which producers write them, which is the order that the decoder looks in.
_DASHBOARD: dict[str, Any] = {
    "event_id": Named, "timestamp": Given, "order_id": Named, "symbol": Named, "side": Named, "order_status": Named,
    "exec_type": Named, "exec_id": Named, "last_qty": Given, "last_price": Given, "commission": Number,
    "commission_asset": Text, "realized_pnl": Number, "trade_time": Number, "strategy_id": Text, "account_id": Named,
    "venue": Text, "topic": None, "execution_id": None, "schema_version": None,
}  # fmt: skip
_MONITORING: dict[str, Any] = {
    "event_id": Named, "timestamp": Given, "execution_id": Named, "symbol": Named, "side": Named, "quantity": Number,
    "price": Number, "slippage_bps": float | None, "latency_ms": float | None, "venue": Text, "status": Named,
    "fill_qty": Number, "fill_price": Number, "fees": Number, "strategy": Text, "commission": Number,
    "commission_asset": Text, "topic": Text, "key": Text,
}  # fmt: skip
_API: dict[str, Any] = {
    "event_id": Named, "timestamp": Given, "strategy_id": Text, "account_id": Named, "fills": list[ApiFill] | None,
    "venue": Text, "topic": None, "execution_id": None, "schema_version": None, "exec_type": None, "order_status": None,
}  # fmt: skip


def _struct(kind: str, members: dict[str, Any]) -> type[Struct]:
    """A struct of these members, and of those that make a message undecidable when they are of another type."""
    core = {field.name: field.type for field in msgspec.structs.fields(ExecCore)}
    others = {name: of for name, of in core.items() if name in DECISIVE | {"fills"} and name not in members}
    fields = [(name, of, None) if _takes_none(of) else (name, of) for name, of in (members | others).items()]
    return msgspec.defstruct(f"Plain{kind}", fields, kw_only=True, gc=False)


def _takes_none(kind: Any) -> bool:
    return kind is None or kind is Any or type(None) in getattr(kind, "__args__", ())


class NotPlain(Exception):
    """A message is to be read by all the rules."""


REFUSALS = (NotPlain, MalformedAmount, MalformedTime, *DECODE_ERRORS)


class Plain:
    """Reads plain messages.

    Attributes:
        readers: a member's name as it is written, which tells nearly for certain that a message is of a kind, and what
            reads that kind: ``read(value)`` returns what `Executions.live` does, or raises one of `REFUSALS`.
    """

    def __init__(self, amounts: Amounts, defaults: Defaults) -> None:
        self._amounts = amounts
        self._account, self._strategy = defaults.account, defaults.strategy
        self._of_dashboard, self._of_monitoring, self._of_api = (
            msgspec.json.Decoder(_struct(kind, members)).decode
            for kind, members in (("Dashboard", _DASHBOARD), ("Monitoring", _MONITORING), ("Api", _API))
        )
        self.readers: list[tuple[bytes, Callable[[bytes], Live]]] = [
            (b'"exec_type"', self._dashboard), (b'"execution_id"', self._monitoring), (b'"fills"', self._api),
        ]  # fmt: skip

    def _read(self, size: Number, at: Number, fees: Number) -> tuple[int, int, int]:
        """Quantity, price and commission that are not known yet."""
        if size is None or at is None:
            raise NotPlain
        amounts = self._amounts
        quantity, price, commission = amounts[size], amounts[at], 0 if fees is None else amounts[fees]
        if amounts.rounded:
            raise NotPlain
        return quantity, price, commission

    def _dashboard(self, value: bytes) -> Live:
        m: Any = self._of_dashboard(value)
        time, side, kept = time_ns(m.timestamp), SIDES.get(m.side), self._amounts.kept
        kind = EXEC_TYPES.get(m.exec_type)
        if side is None or kind is None or STATUSES.get(m.order_status) is None:
            raise NotPlain
        if kind != "TRADE":
            return m.event_id, time, DASHBOARD, 0, []
        fees, claimed, moment, venue = m.commission, m.realized_pnl, m.trade_time, m.venue
        try:
            quantity, price, commission = kept[m.last_qty], kept[m.last_price], 0 if fees is None else kept[fees]
        except KeyError:
            quantity, price, commission = self._read(m.last_qty, m.last_price, fees)
        if claimed is not None:
            claimed = self._amounts[claimed]
            if self._amounts.rounded:
                raise NotPlain
        if quantity <= 0 or price <= 0:
            raise NotPlain
        return m.event_id, time, DASHBOARD, 0, [(
            m.exec_id, None, m.order_id, m.symbol, side, quantity, price, commission, m.commission_asset or "",
            time if moment is None else time_ns(moment), m.strategy_id or self._strategy, m.account_id,
            VENUE if not venue or venue == VENUE else venue.lower(), claimed, None, None, None,
        )]  # fmt: skip

    def _monitoring(self, value: bytes) -> Live:
        m: Any = self._of_monitoring(value)
        variant = FLAT if m.topic is None or m.key is None else RICH
        time, side, status, kept = time_ns(m.timestamp), SIDES.get(m.side), STATUSES.get(m.status), self._amounts.kept
        if side is None or status is None:
            raise NotPlain
        if status not in EXECUTED:
            return m.event_id, time, variant, 0, []
        size, at, fees, venue = m.fill_qty, m.fill_price, m.fees, m.venue
        if size is None:
            size = m.quantity
        if at is None:
            at = m.price
        if fees is None:
            fees = m.commission
        try:
            quantity, price, commission = kept[size], kept[at], 0 if fees is None else kept[fees]
        except KeyError:
            quantity, price, commission = self._read(size, at, fees)
        if quantity <= 0 or price <= 0:
            raise NotPlain
        return m.event_id, time, variant, 0, [(
            m.execution_id, None, None, m.symbol, side, quantity, price, commission,
            m.commission_asset or MONITORING_FEES, time, m.strategy or self._strategy, self._account,
            VENUE if not venue or venue == VENUE else venue.lower(), None, m.slippage_bps, m.latency_ms, None,
        )]  # fmt: skip

    def _api(self, value: bytes) -> Live:
        m: Any = self._of_api(value)
        time, venue, kept, rows = time_ns(m.timestamp), m.venue, self._amounts.kept, list[FillRow]()
        account, strategy = m.account_id, m.strategy_id or self._strategy
        venue = VENUE if not venue or venue == VENUE else venue.lower()
        items = m.fills or ()
        if len(items) > ITEMS_MAX:
            raise NotPlain
        for item in items:
            fill_id, trade_id, order_id, symbol, side, size, at, fees, asset, moment = (
                item.fill_id, item.trade_id, item.order_id, item.symbol, SIDES.get(item.side), item.quantity,
                item.price, item.commission, item.commission_asset, item.timestamp,
            )  # fmt: skip
            if not (type(fill_id) is type(trade_id) is type(order_id) is str and fill_id and trade_id and order_id):
                raise NotPlain
            if not symbol or side is None or moment is None:
                raise NotPlain
            try:
                quantity, price, commission = kept[size], kept[at], 0 if fees is None else kept[fees]
            except KeyError:
                quantity, price, commission = self._read(size, at, fees)
            if quantity <= 0 or price <= 0 or commission < 0:
                raise NotPlain
            rows.append((
                fill_id, trade_id, order_id, symbol, side, quantity, price, commission, asset or "", time_ns(moment),
                strategy, account, venue, None, None, None, None,
            ))  # fmt: skip
        return m.event_id, time, API, 0, rows
