"""Execution reports as they lie on the wire: the members of all variants in one struct.

`ExecCore` has what decides about a report and what its fills say, and is all that the hot path decodes. `ExecMessage`
has the rest as well. Members that are not declared are skipped, and members that cannot be read are found by
`read_slowly`, so both take the same messages.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from msgspec import Raw, Struct

from ..errors import Undecidable
from .reading import DECODE_ERRORS, Ident, Moment, Number, Text, each, undecidable


class ApiOrder(Struct, gc=False):
    order_id: Ident = None
    client_order_id: Ident = None
    symbol: Text = None
    side: Text = None
    type: Text = None
    quantity: Number = None
    price: Number = None
    stop_price: Number = None
    status: Text = None
    filled_quantity: Number = None
    remaining_quantity: Number = None
    create_time: Moment = None
    update_time: Moment = None


class ApiFill(Struct, gc=False):
    fill_id: Ident = None
    trade_id: Ident = None
    order_id: Ident = None
    symbol: Text = None
    side: Text = None
    quantity: Number = None
    price: Number = None
    commission: Number = None
    commission_asset: Text = None
    timestamp: Moment = None


class ExecutionQuality(Struct, gc=False):
    venue_quality_score: Number = None


class ExecCore(Struct, gc=False):
    event_id: Ident = None
    timestamp: Moment = None
    topic: Any = None  # with `key`: the mark of mon-rich
    key: Any = None
    schema_version: Any = None  # with `producer_id`: the mark of mon-flat
    producer_id: Any = None
    order_id: Ident = None
    execution_id: Ident = None
    symbol: Text = None
    side: Text = None
    order_status: Text = None
    exec_type: Text = None
    exec_id: Ident = None
    quantity: Number = None
    price: Number = None
    last_qty: Number = None
    last_price: Number = None
    commission: Number = None
    commission_asset: Text = None
    realized_pnl: Number = None
    trade_time: Moment = None
    slippage_bps: Number = None
    latency_ms: Number = None
    strategy_id: Text = None
    account_id: Text = None
    venue: Text = None
    status: Text = None
    fill_qty: Number = None
    fill_price: Number = None
    fees: Number = None
    strategy: Text = None
    fills: list[ApiFill] | None = None


class ExecMessage(ExecCore, gc=False):
    version: Ident | float = None
    source: Text = None
    client_order_id: Ident = None
    signal_id: Ident = None
    order_type: Text = None
    cum_qty: Number = None
    avg_price: Number = None
    unrealized_pnl: Number = None
    position_qty: Number = None
    position_side: Text = None
    order_time: Moment = None
    session_id: Ident = None
    execution_quality: ExecutionQuality | None = None
    orders: list[ApiOrder] | None = None
    total_realized_pnl: Number = None
    total_unrealized_pnl: Number = None
    total_commission: Number = None
    total_cost: Number = None
    slippage: Number = None
    market_impact: Number = None
    execution_time_ms: Number = None
    metadata: Raw = Raw()


# Texts of other kinds are left out where they cannot be read. Numbers and times are for those who read them.
DECISIVE = frozenset({
    "event_id", "topic", "key", "schema_version", "producer_id", "order_id", "execution_id", "symbol", "side",
    "order_status", "exec_type", "exec_id", "commission_asset", "strategy_id", "account_id", "venue", "status",
    "strategy", "fill_id",
})  # fmt: skip
_decode_list = msgspec.json.Decoder(list[Raw]).decode


def read_slowly(value: bytes | Raw, struct: type[Any] = ExecMessage) -> tuple[Any, int]:
    """Read a message, or a part of it, of which a member is not of its type.

    A number or time that is something else becomes the text of it, which no reader of numbers takes. Other members
    become None, and so many are told.

    Raises:
        Undecidable: it is no JSON object, or one of `DECISIVE` is not of its type.
    """
    decode, members = _twin(struct)
    try:
        raws = decode(value)
    except DECODE_ERRORS as error:
        raise undecidable(error) from None
    found: dict[str, Any] = {}
    malformed = 0
    for name, kind, read in members:
        raw = getattr(raws, name)
        if not raw:
            continue
        try:
            found[name] = read(raw)
        except DECODE_ERRORS as error:
            if name == "fills":
                found[name], n = _items(raw, ApiFill, name)
                malformed += n
            elif name == "orders":
                found[name], n = _orders(raw)
                malformed += n
            elif name in DECISIVE and (name != "order_id" or struct is not ApiFill):
                told = undecidable(error)
                raise Undecidable(f"{name}: {told}", told.reason) from None
            elif kind == Number:
                found[name] = str(bytes(raw), "utf-8", "replace")
            else:
                malformed += 1
    return struct(**found), malformed


@cache
def _twin(struct: type[Struct]) -> tuple[Any, list[tuple[str, Any, Any]]]:
    """A decoder of the same members as they came, and what reads each."""
    fields = msgspec.structs.fields(struct)
    twin = msgspec.defstruct(f"Raw{struct.__name__}", [(f.name, Raw, Raw()) for f in fields])
    return msgspec.json.Decoder(twin).decode, [(f.name, f.type, msgspec.json.Decoder(f.type).decode) for f in fields]


def _items(raw: Raw, struct: type[Any], name: str) -> tuple[list[Any], int]:
    try:
        read = each(_decode_list(raw), name, lambda item: read_slowly(item, struct))
    except DECODE_ERRORS as error:
        told = undecidable(error)
        raise Undecidable(f"{name}: {told}", told.reason) from None
    return [item for item, _ in read], sum(n for _, n in read)


def _orders(raw: Raw) -> tuple[list[ApiOrder], int]:
    """Those that can be read: no fill is lost for an order."""
    orders: list[ApiOrder] = []
    malformed = 0
    try:
        raws = _decode_list(raw)
    except DECODE_ERRORS:
        return [], 1
    for item in raws:
        try:
            order, n = read_slowly(item, ApiOrder)
        except Undecidable:
            malformed += 1
        else:
            orders.append(order)
            malformed += n
    return orders, malformed
