"""Execution reports as producers nearly always write them: the decoder itself proves that a message is plain.

There is a struct for each kind of message. What decides about a fill is in it, needed and of the usual type; what would
make the message one of another variant must be missing. So a message that is decoded has few things left to look at.
Any other one is refused, and `Executions` reads it by all its rules. What is read here is what that would give:
`tests/codecs/test_desk_mutations.py` holds them against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from ..errors import MalformedAmount, MalformedTime
from .execution_message import DECISIVE, ExecCore
from .reading import DECODE_ERRORS, ITEMS_MAX, SIDES, Amounts, Defaults, Number, Text
from .times import time_ns
from .words import API, DASHBOARD, EXEC_TYPES, EXECUTED, FLAT, MONITORING_FEES, RICH, STATUSES, VENUE

Named = Annotated[str, Meta(min_length=1)]
Given = str | int | float  # amounts and times
# Words as they are usually written. The decoder gives its own text for each: no new one is made, and its hash is known.
Side, Status, ExecType = (Literal[tuple(words)] for words in (SIDES, STATUSES, EXEC_TYPES))  # type: ignore[valid-type]
_SIDE = dict(SIDES)  # a subclass of dict is looked into by a slower way
_EXECUTED = frozenset(word for word, meaning in STATUSES.items() if meaning in EXECUTED)
_TRADE = frozenset(word for word, meaning in EXEC_TYPES.items() if meaning == "TRADE")
HEAD_BYTES = 400  # of a message: within these it says of which kind it is
FillRow = tuple[Any, ...]  # the values of a `canonical.Fill`, in its order
Live = tuple[str, int, int, int, list[FillRow]]
PlainReader = Callable[[bytes], Live]


class _Fill(Struct, kw_only=True, gc=False):
    """An item of `fills`."""

    fill_id: Named
    trade_id: Named
    order_id: Named
    symbol: Named
    side: Side  # type: ignore[valid-type]
    quantity: Given
    price: Given
    commission: Number = None
    commission_asset: Text = None
    timestamp: Given


# In the order in which producers write them, which is the order that the decoder looks in.
_DASHBOARD: dict[str, Any] = {
    "event_id": Named, "timestamp": Given, "order_id": Named, "symbol": Named, "side": Side, "order_status": Status,
    "exec_type": ExecType, "exec_id": Named, "last_qty": Given, "last_price": Given, "commission": Number,
    "commission_asset": Text, "realized_pnl": Number, "trade_time": Number, "strategy_id": Text, "account_id": Named,
    "venue": Text, "topic": None, "execution_id": None, "schema_version": None,
}  # fmt: skip
_MONITORING: dict[str, Any] = {
    "event_id": Named, "timestamp": Given, "execution_id": Named, "symbol": Named, "side": Side, "quantity": Number,
    "price": Number, "slippage_bps": float | None, "latency_ms": float | None, "venue": Text, "status": Status,
    "fill_qty": Number, "fill_price": Number, "fees": Number, "strategy": Text, "commission": Number,
    "commission_asset": Text, "topic": Text, "key": Text,
}  # fmt: skip
_API: dict[str, Any] = {
    "event_id": Named, "timestamp": Given, "strategy_id": Text, "account_id": Named, "fills": list[_Fill] | None,
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

    No more than three values are assigned at once: for more the interpreter makes a tuple of them.

    Attributes:
        readers: of the kinds, in the order of `canonical.VARIANTS` from its second on. ``read(value)`` returns what
            `Executions.live` does, or raises one of `REFUSALS`.
    """

    def __init__(self, amounts: Amounts, defaults: Defaults) -> None:
        self._amounts, self._kept = amounts, amounts.kept
        self._account, self._strategy = defaults.account, defaults.strategy
        self._of_dashboard, self._of_monitoring, self._of_api = (
            msgspec.json.Decoder(_struct(kind, members)).decode
            for kind, members in (("Dashboard", _DASHBOARD), ("Monitoring", _MONITORING), ("Api", _API))
        )
        self.readers: tuple[PlainReader, ...] = self._api, self._dashboard, self._monitoring, self._monitoring

    def any(self, value: bytes) -> Live:
        """Read a message by the kind that it seems to be of: the name of a member tells it nearly for certain."""
        at = value.find(b'"exec', 0, HEAD_BYTES)  # `in` makes and drops an exception for each bytes object
        while at >= 0:
            name = value[at + 1 : at + 13]
            if name == b"execution_id":
                return self._monitoring(value)
            if name == b'exec_type":"' or name == b'exec_type": ':
                return self._dashboard(value)
            at = value.find(b'"exec', at + 1, HEAD_BYTES)
        return self._api(value)

    def _read(self, *values: Number) -> list[int]:
        """Amounts of which some are not known yet: quantity, price, and those that may be missing, which are 0 then."""
        size, at, *_ = values
        if size is None or at is None:
            raise NotPlain
        amounts = self._amounts
        amounts.rounded = 0
        units = [0 if value is None else amounts[value] for value in values]
        if amounts.rounded:
            raise NotPlain
        return units

    def _dashboard(self, value: bytes) -> Live:
        m: Any = self._of_dashboard(value)
        time = time_ns(m.timestamp)
        if m.exec_type not in _TRADE:
            return m.event_id, time, DASHBOARD, 0, []
        kept, fees, claimed = self._kept, m.commission, m.realized_pnl
        try:
            quantity, price, commission = kept[m.last_qty], kept[m.last_price], 0 if fees is None else kept[fees]
            if claimed is not None:
                claimed = kept[claimed]
        except KeyError:
            quantity, price, commission, pnl = self._read(m.last_qty, m.last_price, fees, claimed)
            if claimed is not None:
                claimed = pnl
        if quantity <= 0 or price <= 0:
            raise NotPlain
        moment, venue = m.trade_time, m.venue
        return m.event_id, time, DASHBOARD, 0, [(
            m.exec_id, None, m.order_id, m.symbol, _SIDE[m.side], quantity, price, commission, m.commission_asset or "",
            time if moment is None else time_ns(moment), m.strategy_id or self._strategy, m.account_id,
            VENUE if venue == VENUE or not venue else venue.lower(), claimed, None, None, None,
        )]  # fmt: skip

    def _monitoring(self, value: bytes) -> Live:
        m: Any = self._of_monitoring(value)
        variant = FLAT if m.topic is None or m.key is None else RICH
        time = time_ns(m.timestamp)
        if m.status not in _EXECUTED:
            return m.event_id, time, variant, 0, []
        size, at, fees = m.fill_qty, m.fill_price, m.fees
        if size is None:
            size = m.quantity
        if at is None:
            at = m.price
        if fees is None:
            fees = m.commission
        kept, venue = self._kept, m.venue
        try:
            quantity, price, commission = kept[size], kept[at], 0 if fees is None else kept[fees]
        except KeyError:
            quantity, price, commission = self._read(size, at, fees)
        if quantity <= 0 or price <= 0:
            raise NotPlain
        return m.event_id, time, variant, 0, [(
            m.execution_id, None, None, m.symbol, _SIDE[m.side], quantity, price, commission,
            m.commission_asset or MONITORING_FEES, time, m.strategy or self._strategy, self._account,
            VENUE if venue == VENUE or not venue else venue.lower(), None, m.slippage_bps, m.latency_ms, None,
        )]  # fmt: skip

    def _api(self, value: bytes) -> Live:
        m: Any = self._of_api(value)
        time, venue, kept = time_ns(m.timestamp), m.venue, self._kept
        account, strategy = m.account_id, m.strategy_id or self._strategy
        venue = VENUE if venue == VENUE or not venue else venue.lower()
        items, rows = m.fills or (), []  # an empty list by its type makes and drops an exception
        if len(items) > ITEMS_MAX:
            raise NotPlain
        for item in items:
            fees = item.commission
            try:
                quantity, price, commission = kept[item.quantity], kept[item.price], 0 if fees is None else kept[fees]
            except KeyError:
                quantity, price, commission = self._read(item.quantity, item.price, fees)
            if quantity <= 0 or price <= 0 or commission < 0:
                raise NotPlain
            rows.append((
                item.fill_id, item.trade_id, item.order_id, item.symbol, _SIDE[item.side], quantity, price, commission,
                item.commission_asset or "", time_ns(item.timestamp), strategy, account, venue, None, None, None, None,
            ))  # fmt: skip
        return m.event_id, time, API, 0, rows
