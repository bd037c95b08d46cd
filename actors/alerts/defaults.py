"""The rules that are there from the start. Thresholds are those that trading desks and collectors state; `[alerts]` and
REST change them."""

from __future__ import annotations

from ...codecs.desk.canonical import Severity
from .rules import Condition, Operator, Rule


def _rule(
    rule_id: str, name: str, severity: Severity, metric: str, operator: Operator, threshold: float, *,
    duration: float = 0.0, category: str = "system", description: str = "",
) -> Rule:  # fmt: skip
    return Rule(
        rule_id=rule_id, name=name, description=description, severity=severity, category=category, origin="builtin",
        conditions=[Condition(metric_name=metric, operator=operator, threshold=threshold, duration=duration)],
    )  # fmt: skip


DEFAULT_RULES: tuple[Rule, ...] = (
    _rule("data_gap", "No market data for over an hour", "CRITICAL", "stream_silent_seconds", ">", 3600,
          category="data", description="See the feed in `tickring top`."),
    _rule("feed_stale", "A feed is silent", "HIGH", "stream_silent_seconds", ">", 60, category="data",
          description="Its streams brought nothing for a minute."),
    _rule("feed_not_publishing", "A feed publishes nothing", "CRITICAL", "feed_records_per_minute", "<", 1,
          duration=120, category="data", description="For 3 minutes: see the feed in `tickring top`, and its log."),
    _rule("feed_streams_silent", "Streams of a feed are silent", "MEDIUM", "tickring_feed_streams_silent", ">", 0,
          category="data", description="Others of its connection go on: its log names them."),
    _rule("feed_disconnected", "A feed is not connected", "HIGH", "tickring_feed_connected", "<", 1, duration=30,
          category="connectivity"),
    _rule("actor_down", "A process does not answer", "CRITICAL", "actor_beat_age_seconds", ">", 10, duration=5,
          description="Its heartbeat is old: the supervisor restarts it; the log says why it died."),
    _rule("api_slow_request", "A request took over 5 s", "HIGH", "api_over_5s_per_minute", ">", 0,
          category="performance", description="`tickring_front_endpoint_seconds` in `/metrics` tells which endpoint."),
    _rule("api_p99", "Requests are slow", "MEDIUM", "api_p99_seconds", ">=", 0.2, duration=60, category="performance"),
    _rule("api_p99_critical", "Requests are very slow", "CRITICAL", "api_p99_seconds", ">=", 0.5, duration=60,
          category="performance"),
    _rule("storage_80", "The disk is 80 % full", "MEDIUM", "disk_used_percent", ">", 80, category="capacity",
          description="Make room, or shorten the retention: `tickring storage status`."),
    _rule("storage_90", "The disk is 90 % full", "CRITICAL", "disk_used_percent", ">", 90, category="capacity"),
    _rule("shared_memory_90", "Shared memory is 90 % full", "HIGH", "shared_memory_used_percent", ">", 90,
          category="capacity"),
    _rule("memory_80", "Memory is 80 % used", "MEDIUM", "memory_used_percent", ">", 80, duration=60,
          category="capacity"),
    _rule("memory_90", "Memory is 90 % used", "CRITICAL", "memory_used_percent", ">", 90, duration=60,
          category="capacity"),
    _rule("cpu_70", "The CPUs are busy", "MEDIUM", "cpu_used_percent", ">=", 70, duration=300, category="capacity"),
    _rule("cpu_90", "All CPUs are busy", "CRITICAL", "cpu_used_percent", ">", 90, duration=300, category="capacity"),
    _rule("rest_throttled", "An exchange refuses REST requests", "MEDIUM", "rest_refusals_per_minute", ">", 0,
          category="rate_limit", description="It answered 429 or 418: requests wait until it allows them again."),
    _rule("snapshots_failing", "Book snapshots fail", "MEDIUM", "snapshot_success_percent", "<", 95, duration=300,
          category="data"),
    _rule("snapshots_failing_critical", "Most book snapshots fail", "CRITICAL", "snapshot_success_percent", "<", 80,
          duration=180, category="data"),
    _rule("clickhouse_away", "ClickHouse does not take inserts", "CRITICAL", "tickring_storage_clickhouse_up", "<", 1,
          duration=30, category="storage", description="Rows wait on disk; nothing is lost while there is room."),
    _rule("insert_errors", "Inserts fail", "CRITICAL", "insert_errors_per_minute", ">", 0, duration=300,
          category="storage"),
    _rule("storage_errors", "More than 5 % of the inserts fail", "MEDIUM", "tickring_storage_error_rate_percent", ">",
          5, duration=300, category="storage"),
    # what arrives between two inserts waits at any time: a busy stream has tens of thousands of rows in it
    _rule("batch_queue", "Rows wait to be stored", "MEDIUM", "tickring_storage_batch_queue_size", ">", 200_000,
          duration=600, category="storage", description="Without interruption: ClickHouse takes less than arrives."),
    _rule("rows_lost", "Rows will not reach ClickHouse", "HIGH", "lost_rows_per_minute", ">", 0, category="storage",
          description="They are in the gap ledger: `/api/v1/health/data-integrity/{symbol}`."),
    _rule("kafka_away", "A topic cannot be read", "CRITICAL", "tickring_kafka_up", "<", 1, duration=30,
          category="kafka"),
    _rule("kafka_lag", "A topic is behind", "MEDIUM", "kafka_lag_events", ">=", 1000, duration=30, category="kafka"),
    _rule("kafka_lag_critical", "A topic is far behind", "CRITICAL", "kafka_lag_events", ">=", 5000, duration=30,
          category="kafka"),
    _rule("topic_silent", "A topic is silent", "MEDIUM", "topic_silent_seconds", ">", 300, category="kafka"),
    _rule("kafka_errors", "More than 5 % of a topic's events cannot be understood", "MEDIUM", "kafka_error_percent",
          ">", 5, category="kafka", description="`tickring deadletters list` shows them."),
    _rule("kafka_errors_high", "More than 10 % of a topic's events cannot be understood", "HIGH",
          "kafka_error_percent", ">", 10, category="kafka"),
    _rule("reconciliation", "Our PnL and the claimed one differ", "HIGH", "claim_difference", ">", 1.0, duration=10,
          category="risk", description="Ours follows from the fills; what producers claim does not agree with it."),
    _rule("slippage", "An execution slipped by more than 50 bps", "MEDIUM", "execution_slippage_bps", ">", 50,
          category="execution"),
    _rule("execution_latency", "An execution took over a second", "MEDIUM", "execution_latency_ms", ">", 1000,
          category="execution"),
    _rule("leverage", "Leverage above 3", "MEDIUM", "risk_leverage", ">", 3.0, category="risk"),
    _rule("var_95", "Value at risk (95 %) above 200,000", "CRITICAL", "risk_var_95", ">", 200_000, category="risk"),
    _rule("var_99", "Value at risk (99 %) above 300,000", "CRITICAL", "risk_var_99", ">", 300_000, category="risk"),
    _rule("drawdown", "A drawdown of more than 20 %", "CRITICAL", "drawdown", ">", 0.20, category="risk"),
)  # fmt: skip
