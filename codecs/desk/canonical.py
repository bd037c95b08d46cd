"""The canonical events of the desk, declared once.

From one declaration follow the columns of a table, the members on REST and WebSocket, and their schema. What a
producer's variant does not carry is None.

Kinds of values: `Amount` is an integer in units of 1e-8 (see `money`), `Ratio` a float that nobody does sums with
(fractions, scores, percentages of a processor), `TimeNs` UNIX ns, `Json` a JSON text as it came.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Amount = Annotated[int, Meta(extra={"kind": "amount"})]
Ratio = Annotated[float, Meta(extra={"kind": "ratio"})]
TimeNs = Annotated[int, Meta(extra={"kind": "time"})]
Json = Annotated[str, Meta(extra={"kind": "json"})]
Word = Annotated[str, Meta(extra={"kind": "word"})]  # of few different ones

VARIANTS = ("", "api", "dashboard", "mon-rich", "mon-flat")
Severity = Literal["INFO", "LOW", "MEDIUM", "HIGH", "CRITICAL"]

ALL_SYMBOLS = "ALL"  # what belongs to no symbol
DEFAULT_ACCOUNT = "default"
DEFAULT_STRATEGY = "dipmaster"
DEFAULT_SOURCE = "dipmaster-monitoring"  # of mon-rich
DEFAULT_VERSION = "v1"  # of dashboard and mon-rich


class Event(Struct, kw_only=True, omit_defaults=True, gc=False):  # none refers to itself, and many are kept
    """What all events have. `event_id` is a hash of topic, partition and offset where the producer gave none."""

    event_id: str
    timestamp: TimeNs
    variant: Word
    source: Word | None = None
    version: Word | None = None
    rounded: int = 0  # amounts that came with more than 8 decimals
    malformed: int = 0  # members that could not be read and are left out: of execution reports only


class Order(Struct, kw_only=True, omit_defaults=True):
    """The state of an order, as one report tells it."""

    order_id: str
    client_order_id: str | None = None
    symbol: Word
    side: Word
    type: Word | None = None
    quantity: Amount
    price: Amount | None = None
    stop_price: Amount | None = None
    status: Word
    filled_quantity: Amount | None = None
    remaining_quantity: Amount | None = None
    create_time: TimeNs | None = None
    update_time: TimeNs
    strategy_id: Word
    account_id: Word
    venue: Word


class Fill(Struct, kw_only=True, array_like=True, gc=False):
    """A part of an order that was executed. As JSON it is an array in this order: no names to write and to look up."""

    fill_id: str
    trade_id: str | None = None
    order_id: str | None = None
    symbol: Word  # as the producer wrote it
    side: Word
    quantity: Amount
    price: Amount
    commission: Amount = 0
    commission_asset: Word = ""
    timestamp: TimeNs
    strategy_id: Word
    account_id: Word
    venue: Word
    realized_pnl: Amount | None = None  # what the producer claims
    slippage_bps: Ratio | None = None  # basis points; a cost in quote currency is `ExecReport.slippage`
    latency_ms: Ratio | None = None
    portfolio_id: Word | None = None


class ExecReport(Event, kw_only=True, omit_defaults=True):
    """An execution report: orders, fills and totals of the `api` variant, one order event of the others.

    A `dashboard` report is a state of its order as well; monitoring names no orders.
    """

    strategy_id: Word
    account_id: Word
    venue: Word
    orders: list[Order] = []
    fills: list[Fill] = []
    total_realized_pnl: Amount | None = None
    total_unrealized_pnl: Amount | None = None
    total_commission: Amount | None = None
    total_cost: Amount | None = None
    slippage: Amount | None = None  # quote currency
    market_impact: Amount | None = None
    execution_time_ms: int | None = None
    metadata: Json | None = None
    order_id: str | None = None
    client_order_id: str | None = None
    symbol: Word | None = None
    side: Word | None = None
    order_type: Word | None = None
    order_status: Word | None = None
    exec_type: Word | None = None
    exec_id: str | None = None
    quantity: Amount | None = None
    price: Amount | None = None
    last_qty: Amount | None = None
    last_price: Amount | None = None
    cum_qty: Amount | None = None
    avg_price: Amount | None = None
    commission: Amount | None = None
    commission_asset: Word | None = None
    realized_pnl: Amount | None = None
    unrealized_pnl: Amount | None = None
    position_qty: Amount | None = None
    position_side: Word | None = None
    order_time: TimeNs | None = None
    trade_time: TimeNs | None = None
    signal_id: str | None = None
    slippage_bps: Ratio | None = None
    latency_ms: Ratio | None = None
    venue_quality_score: Ratio | None = None
    session_id: str | None = None


class ClaimedPosition(Struct, kw_only=True, omit_defaults=True):
    """A position as a producer of risk events claims it. Ours is the portfolio's."""

    symbol: Word
    quantity: Amount  # negative where short
    avg_price: Amount | None = None
    market_value: Amount | None = None
    unrealized_pnl: Amount | None = None
    realized_pnl: Amount | None = None
    side: Word | None = None
    position_side: Word | None = None


class Risk(Event, kw_only=True, omit_defaults=True):
    """Figures of risk as a producer states them."""

    strategy_id: Word
    account_id: Word
    positions: list[ClaimedPosition] = []
    max_drawdown: Ratio | None = None  # a fraction
    current_drawdown: Ratio | None = None  # a fraction
    daily_pnl: Amount | None = None
    risk_score: Ratio | None = None  # 0 to 100
    total_exposure: Amount | None = None
    max_position_size: Amount | None = None
    var_1d: Amount | None = None
    var_5d: Amount | None = None
    sharpe_ratio: Ratio | None = None
    volatility: Ratio | None = None
    daily_loss_limit: Amount | None = None
    max_positions: int | None = None
    current_positions: int | None = None
    position_concentration: Json | None = None
    risk_metrics_detail: Json | None = None
    correlation_matrix: Json | None = None
    metadata: Json | None = None
    portfolio_value: Amount | None = None
    cash_balance: Amount | None = None
    margin_balance: Amount | None = None
    total_pnl: Amount | None = None
    realized_pnl: Amount | None = None
    unrealized_pnl: Amount | None = None
    leverage: Ratio | None = None
    num_positions: int | None = None
    position_limit: Amount | None = None
    loss_limit: Amount | None = None
    market_exposure: Amount | None = None
    currency_exposure: Json | None = None
    portfolio_id: Word | None = None
    var_95: Amount | None = None
    var_99: Amount | None = None
    expected_shortfall: Amount | None = None
    correlation_stability: Ratio | None = None
    beta: Ratio | None = None
    risk_utilization: Ratio | None = None
    risk_level: Word | None = None
    breach_alerts: Json | None = None


class Alert(Event, kw_only=True, omit_defaults=True):
    """An alert as its producer raised it, or as one of our own rules did."""

    alert_id: str
    severity: Word
    severity_raw: Word = ""  # as it was written
    emergency: bool = False
    code: Word = ""  # of `api`; elsewhere the class: alert_type or category
    alert_type: Word | None = None
    category: Word | None = None
    title: str = ""
    message: str = ""
    description: str | None = None
    strategy_id: Word | None = None
    account_id: Word | None = None
    symbol: Word | None = None
    order_id: str | None = None
    auto_resolved: bool = False
    resolution_action: str | None = None
    status: Word = "ACTIVE"
    acknowledged: bool = False
    resolved: bool = False
    resolution_time: TimeNs | None = None
    threshold_value: Amount | None = None
    current_value: Amount | None = None
    context: Json | None = None
    metrics: Json | None = None
    metadata: Json | None = None
    affected_systems: Json | None = None
    recommended_action: str | None = None
    auto_remediation: bool | None = None
    tags: Json | None = None
    rule_id: Word | None = None  # of our own rules


class Component(Struct, kw_only=True, omit_defaults=True):
    """A part of a system, in a health event."""

    name: str
    status: Word
    uptime_seconds: int | None = None
    last_heartbeat: TimeNs | None = None
    cpu_usage: Ratio | None = None
    memory_usage: Ratio | None = None
    error_rate: Ratio | None = None
    response_time_ms: Ratio | None = None


class SystemHealth(Event, kw_only=True, omit_defaults=True):
    """Health of a whole system (`api`), or of one component (monitoring)."""

    overall_status: Word  # healthy, degraded, unhealthy, unknown
    component: Word | None = None
    health_score: Ratio | None = None
    strategy_id: Word | None = None
    total_cpu_usage: Ratio | None = None  # percent
    total_memory_usage: Ratio | None = None  # percent
    disk_usage: Ratio | None = None  # percent
    active_connections: int | None = None
    total_positions: int | None = None
    daily_trades: int | None = None
    daily_pnl: Amount | None = None
    market_data_delay_ms: int | None = None
    execution_delay_ms: int | None = None
    network_latency_ms: Ratio | None = None
    api_response_time_ms: Ratio | None = None
    error_rate: Ratio | None = None  # percent
    uptime_seconds: Ratio | None = None
    components: list[Component] = []
    websocket_connections: Json | None = None
    metadata: Json | None = None


class Performance(Event, kw_only=True, omit_defaults=True):
    """Performance of a strategy as its producer states it."""

    strategy_id: Word
    strategy_name: Word
    account_id: Word
    time_window: Word | None = None
    total_trades: int
    winning_trades: int
    losing_trades: int
    win_rate: Ratio  # a fraction
    total_pnl: Amount
    gross_profit: Amount | None = None
    gross_loss: Amount | None = None
    profit_factor: Ratio | None = None
    avg_win: Amount | None = None
    avg_loss: Amount | None = None
    largest_win: Amount | None = None
    largest_loss: Amount | None = None
    sharpe_ratio: Ratio | None = None
    sortino_ratio: Ratio | None = None
    calmar_ratio: Ratio | None = None
    max_drawdown: Ratio | None = None  # a fraction
    max_drawdown_duration: Ratio | None = None  # days
    avg_hold_time: Ratio | None = None  # minutes
    avg_win_time: Ratio | None = None
    avg_loss_time: Ratio | None = None
    daily_returns: Json | None = None
    monthly_returns: Json | None = None
    symbol_distribution: Json | None = None
    time_distribution: Json | None = None
    max_capital_used: Amount | None = None
    avg_capital_used: Amount | None = None
    capital_efficiency: Ratio | None = None
    active_positions: int | None = None
    signals_generated: int | None = None
    signals_executed: int | None = None
    execution_rate: Ratio | None = None
    performance_score: Ratio | None = None
    performance_grade: Word | None = None


class Signal(Event, kw_only=True, omit_defaults=True):
    """A trading signal."""

    signal_id: str
    strategy: Word
    symbol: Word
    signal_type: Word  # BUY, SELL, HOLD
    confidence: Ratio
    price: Amount
    technical_indicators: Json | None = None
    market_conditions: Json | None = None
    expected_entry: Amount | None = None
    expected_exit: Amount | None = None
    expected_holding_minutes: int | None = None
    risk_metrics: Json | None = None
    risk_score: Ratio | None = None
    strength_score: Ratio | None = None
    quality_grade: Word | None = None
    correlation_id: str | None = None


class PositionUpdate(Event, kw_only=True, omit_defaults=True):
    """A position as a strategy reports it. Ours is the portfolio's."""

    position_id: str
    signal_id: str | None = None
    symbol: Word
    side: Word
    quantity: Amount
    entry_price: Amount
    current_price: Amount | None = None
    unrealized_pnl: Amount | None = None
    realized_pnl: Amount | None = None
    holding_time_minutes: int | None = None
    status: Word  # OPEN, CLOSED, PARTIAL
    strategy: Word
    risk_metrics: Json | None = None
    pnl_percentage: Ratio | None = None
    holding_efficiency: Ratio | None = None
    exit_timing_score: Ratio | None = None
    correlation_id: str | None = None


class MarketData(Event, kw_only=True, omit_defaults=True):
    """A picture of the market as the desk's own pipeline sees it."""

    symbol: Word
    price: Amount
    volume: Amount | None = None
    bid: Amount | None = None
    ask: Amount | None = None
    spread_bps: Ratio | None = None
    volatility: Ratio | None = None
    technical_indicators: Json | None = None
    market_depth: Json | None = None
    quality_score: Ratio | None = None


# Topic -> what its events become; None: kept as raw events only.
TOPICS: dict[str, type[Event] | None] = {
    "exec.reports.v1": ExecReport,
    "risk.metrics.v1": Risk,
    "alerts.v1": Alert,
    "system.health.v1": SystemHealth,
    "strategy.performance.v1": Performance,
    "trade.signals.v1": Signal,
    "position.updates.v1": PositionUpdate,
    "market.data.v1": MarketData,
    "market.data.quality.v1": None,
}
