"""Execution reports as producers nearly always write them: the decoder itself proves that a message is plain.

`PlainMessage` has the members of `ExecCore`, those that decide of the type that they usually have; so a message that is
decoded has few things left to look at. Any other one is refused, and `Executions` reads it by all its rules. What is
read here is what that would give: `tests/codecs/test_desk_mutations.py` holds them against each other.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from ..errors import MalformedAmount, MalformedTime
from .execution_message import ApiFill, ExecCore
from .reading import DECODE_ERRORS, ITEMS_MAX, SIDES, Amounts, Defaults, Number, Text
from .times import time_ns
from .words import API, DASHBOARD, EXEC_TYPES, EXECUTED, FLAT, MONITORING_FEES, RICH, STATUSES, VENUE

Named = Annotated[str, Meta(min_length=1)]
Given = str | int | float  # amounts and times
# Words as they are usually written. The decoder gives its own text for each: no new one is made, and its hash is known.
Side: Any = Literal[tuple(SIDES)]
Status: Any = Literal[tuple(STATUSES)]
ExecType: Any = Literal[tuple(EXEC_TYPES)]
_SIDE = dict(SIDES)  # a subclass of dict is looked into by a slower way
_EXECUTED = {word: meaning in EXECUTED for word, meaning in STATUSES.items()}
_TRADED = {word: meaning == "TRADE" for word, meaning in EXEC_TYPES.items()}

FillRow = tuple[Any, ...]  # the values of a `canonical.Fill`, in its order
Live = tuple[str, int, int, int, list[FillRow]]


def _stricter(base: type[Struct], needed: dict[str, Any], **types: Any) -> Any:
    """A struct with the members of another one, in their order, some of them needed, some of narrower types."""
    fields = [
        (one.name, needed[one.name]) if one.name in needed else (one.name, types.get(one.name, one.type), None)
        for one in msgspec.structs.fields(base)
    ]
    return msgspec.defstruct(f"Plain{base.__name__}", fields, kw_only=True, gc=False)


PlainFill = _stricter(ApiFill, {
    "fill_id": Named, "trade_id": Named, "order_id": Named, "symbol": Named, "side": Side, "quantity": Given,
    "price": Given, "timestamp": Given,
})  # fmt: skip
PlainMessage = _stricter(
    ExecCore, {"event_id": Named, "timestamp": Given}, topic=Text, key=Text, order_id=Named | None,
    execution_id=Named | None, symbol=Named | None, side=Side | None, order_status=Status | None,
    exec_type=ExecType | None, exec_id=Named | None, slippage_bps=float | None,
    latency_ms=float | None, account_id=Named | None, status=Status | None, fills=list[PlainFill] | None,
)  # fmt: skip


class NotPlain(Exception):
    """A message is to be read by all the rules."""


# KeyError: a member that must be there is none, and the tables of words have no None
REFUSALS = (NotPlain, KeyError, MalformedAmount, MalformedTime, *DECODE_ERRORS)


class Plain:
    """Reads plain messages.

    No more than three values are assigned at once: for more the interpreter makes a tuple of them.
    """

    def __init__(self, amounts: Amounts, defaults: Defaults) -> None:
        self._amounts, self._kept = amounts, amounts.kept
        self._account, self._strategy = defaults.account, defaults.strategy
        self._decode = msgspec.json.Decoder(PlainMessage).decode

    def read(self, value: bytes) -> Live:
        """What `Executions.live` returns.

        Raises:
            One of `REFUSALS`.
        """
        m = self._decode(value)
        if m.topic is not None and m.key is not None:
            return self._monitoring(m, RICH)
        if m.execution_id is not None or (m.schema_version is not None and m.producer_id is not None):
            return self._monitoring(m, FLAT)
        if m.exec_type is not None or m.order_status is not None:
            return self._dashboard(m)
        return self._api(m)

    def _units(self, *values: Number) -> list[int]:
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

    def _dashboard(self, m: Any) -> Live:
        time, order_id, exec_id = time_ns(m.timestamp), m.order_id, m.exec_id
        symbol, account = m.symbol, m.account_id
        if symbol is None or account is None or order_id is None or m.order_status is None:
            raise NotPlain
        side = _SIDE[m.side]
        if not _TRADED[m.exec_type]:
            return m.event_id, time, DASHBOARD, 0, []
        kept, fees, claimed = self._kept, m.commission, m.realized_pnl
        try:
            quantity, price, commission = kept[m.last_qty], kept[m.last_price], 0 if fees is None else kept[fees]
            if claimed is not None:
                claimed = kept[claimed]
        except KeyError:
            quantity, price, commission, units = self._units(m.last_qty, m.last_price, fees, claimed)
            if claimed is not None:
                claimed = units
        if quantity <= 0 or price <= 0 or exec_id is None:
            raise NotPlain
        moment, venue = m.trade_time, m.venue
        return m.event_id, time, DASHBOARD, 0, [(
            exec_id, None, order_id, symbol, side, quantity, price, commission, m.commission_asset or "",
            time if moment is None else time_ns(moment), m.strategy_id or self._strategy, account,
            VENUE if venue == VENUE or not venue else venue.lower(), claimed, None, None, None,
        )]  # fmt: skip

    def _monitoring(self, m: Any, variant: int) -> Live:
        time, fill_id, symbol = time_ns(m.timestamp), m.execution_id, m.symbol
        if fill_id is None or symbol is None:
            raise NotPlain
        side = _SIDE[m.side]
        if not _EXECUTED[m.status]:
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
            quantity, price, commission = self._units(size, at, fees)
        if quantity <= 0 or price <= 0:
            raise NotPlain
        return m.event_id, time, variant, 0, [(
            fill_id, None, None, symbol, side, quantity, price, commission, m.commission_asset or MONITORING_FEES, time,
            m.strategy or self._strategy, self._account, VENUE if venue == VENUE or not venue else venue.lower(), None,
            m.slippage_bps, m.latency_ms, None,
        )]  # fmt: skip

    def _api(self, m: Any) -> Live:
        time, venue, kept = time_ns(m.timestamp), m.venue, self._kept
        account, strategy = m.account_id, m.strategy_id or self._strategy
        venue = VENUE if venue == VENUE or not venue else venue.lower()
        items, rows = m.fills or (), []  # an empty list by its type makes and drops an exception
        if account is None or len(items) > ITEMS_MAX:
            raise NotPlain
        for item in items:
            fees = item.commission
            try:
                quantity, price, commission = kept[item.quantity], kept[item.price], 0 if fees is None else kept[fees]
            except KeyError:
                quantity, price, commission = self._units(item.quantity, item.price, fees)
            if quantity <= 0 or price <= 0 or commission < 0:
                raise NotPlain
            rows.append((
                item.fill_id, item.trade_id, item.order_id, item.symbol, _SIDE[item.side], quantity, price, commission,
                item.commission_asset or "", time_ns(item.timestamp), strategy, account, venue, None, None, None, None,
            ))  # fmt: skip
        return m.event_id, time, API, 0, rows
