"""Execution reports as they lie on the wire: the members of all variants in one struct."""

from __future__ import annotations

from msgspec import Raw, Struct

from .reading import Ident, Message, Moment, Number, Text


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


class ExecMessage(Message, gc=False):
    order_id: Ident = None
    client_order_id: Ident = None
    execution_id: Ident = None
    signal_id: Ident = None
    symbol: Text = None
    side: Text = None
    order_type: Text = None
    order_status: Text = None
    exec_type: Text = None
    exec_id: Ident = None
    quantity: Number = None
    price: Number = None
    last_qty: Number = None
    last_price: Number = None
    cum_qty: Number = None
    avg_price: Number = None
    commission: Number = None
    commission_asset: Text = None
    realized_pnl: Number = None
    unrealized_pnl: Number = None
    position_qty: Number = None
    position_side: Text = None
    order_time: Moment = None
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
    session_id: Ident = None
    execution_quality: ExecutionQuality | None = None
    orders: list[ApiOrder] | None = None
    fills: list[ApiFill] | None = None
    total_realized_pnl: Number = None
    total_unrealized_pnl: Number = None
    total_commission: Number = None
    total_cost: Number = None
    slippage: Number = None
    market_impact: Number = None
    execution_time_ms: Number = None
    metadata: Raw = Raw()
