"""What the portfolio counts: `tickring_portfolio_*`."""

from __future__ import annotations

from ...ringbuf import MetricsPage

_P = "tickring_portfolio_"


class Metrics:
    def __init__(self, page: MetricsPage) -> None:
        counter, gauge = page.counter, page.gauge
        self.page = page
        self.fills = counter(_P + "fills_total", "Fills folded for the first time")
        self.repeated = counter(_P + "repeated_fills_total", "Tellings of fills that were known already")
        self.disagreements = counter(_P + "disagreements_total", "Tellings that say something else than the one kept")
        self.late = counter(_P + "late_fills_total", "Fills that came behind later ones of their key")
        self.refolded = counter(_P + "refolded_fills_total", "Fills folded anew because of late ones")
        self.unconverted = counter(_P + "unconverted_fees_total", "Fees of which no rate was known: counted as 0")
        self.assumed = counter(
            _P + "assumed_fees_total", "Fees that name no currency: taken as what their fill is settled in"
        )
        self.lost = counter(_P + "lost_rows_total", "Rows overwritten or unreadable; asked for in ClickHouse")
        self.skipped = counter(_P + "skipped_rows_total", "Rows of a flood that were left to ClickHouse")
        self.unreadable = counter(_P + "unreadable_statements_total", "Statements whose texts could not be read")
        self.past = counter(_P + "past_events_total", "Events read from ClickHouse")
        self.past_failures = counter(_P + "past_failures_total", "Requests to ClickHouse without an answer")
        self.clickhouse_up = gauge(_P + "clickhouse_up", "1 where ClickHouse answered when it was last asked")
        self.holes = gauge(_P + "holes", "Ranges of offsets that wait for ClickHouse: positions lack their fills")
        self.behind = gauge(_P + "unread_rows", "Rows of the fill rings that are not folded yet")
        self.positions = gauge(_P + "positions", "Positions, flat ones among them")
        self.open = gauge(_P + "open_positions", "Positions that are not flat")
        self.stale = gauge(_P + "stale_positions", "Open positions whose mark is no live quote")
        self.no_rate = gauge(
            _P + "unconverted_positions", "Positions in a currency of which no rate is known: sums leave them out"
        )
        self.unnamed = gauge(_P + "unpublished_keys", "Positions and groups without a row in the key directory")
        self.overflows = counter(_P + "overflows_total", "Amounts that do not fit 38 digits: published cut off")
        self.last_fill = gauge(_P + "last_fill_timestamp_seconds", "Event time of the newest fill")
        self.commits = counter(_P + "commits_total", "Transactions")
        self.file_bytes = gauge(_P + "log_bytes", "Size of the write-ahead log")

    def claim(self, figure: str, account: str, symbol: str, ours: float, claimed: float) -> None:
        """What a producer claims, and how far it is from ours."""
        labels = {"figure": figure, "account": account, "symbol": symbol}
        self.page.gauge(_P + "claimed", "Figure that a producer claims", **labels).set(claimed)
        self.page.gauge(_P + "claim_difference", "What a producer claims less ours", **labels).set(claimed - ours)
