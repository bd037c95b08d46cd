"""The desk's own streams as the alerts see them: alerts that arrive, stated risk, executions, PnL."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import msgspec

from ...codecs.desk.canonical import TOPICS, Alert, Fill, Risk
from ...codecs.desk.money import amount_number
from ...codecs.desk.records import FILL, PNL, STATEMENT, TEXTS
from ...codecs.record import RecordType
from ...ringbuf import ByteRingReader, MetricsPage, RingError, StreamReader, bytes_filename
from ..recent import PORTFOLIO_ACTOR, Item, Recent, topic_actor
from .rules import Labels
from .signals import ALERTS_TOPIC, Collected, labels_of

log = logging.getLogger(__name__)

RISK_TOPIC, EXECUTIONS_TOPIC = "risk.metrics.v1", "exec.reports.v1"
KEPT = 4096
MINUTE_NS = 60 * 10**9
RISK_FRESH_NS = 3600 * 10**9  # what was stated longer ago says nothing of now


class Follower:
    """One stream with texts, found when it is there and again when it was made anew."""

    def __init__(
        self, folder: Path, producer: str, record: RecordType, kind: type[Any], page: MetricsPage | None = None
    ) -> None:
        self._folder, self._producer, self._record, self._kind, self._page = folder, producer, record, kind, page
        self._inode = 0
        self.recent: Recent[Any] | None = None
        self.next = 0  # sequence of the first item that was not taken

    def items(self) -> list[Item[Any]]:
        """What has come since the last call."""
        self.look()
        if self.recent is None:
            return []
        found = self.recent.since(self.next)
        if found:
            self.next = found[-1].sequence + 1
        return found

    def look(self) -> None:
        """Attach the stream, if it is another than before."""
        path = self._folder / f"{self._producer}.{self._record.name}.ring"
        try:
            inode = path.stat().st_ino
        except FileNotFoundError:
            return
        if inode == self._inode:
            return
        try:
            reader = StreamReader(
                self._folder, self._producer, self._record.name, self._record.dtype, self._record.fingerprint
            )
            try:
                texts = ByteRingReader(self._folder / bytes_filename(self._producer, TEXTS))
            except BaseException:
                reader.close()
                raise
        except RingError:
            return  # it is being made: next time
        self.close()
        self._inode, self.next = inode, 0
        self.recent = Recent(reader, texts, self._kind, KEPT, self._page)

    @property
    def epoch(self) -> int:
        return self.recent.epoch if self.recent is not None else 0

    def close(self) -> None:
        if self.recent is not None:
            self.recent.close()
            self.recent = None


class Desk:
    """What the desk says, as signals; and the alerts on its topic."""

    def __init__(self, folder: Path, page: MetricsPage | None = None) -> None:
        self._folder = folder
        self.alerts = Follower(folder, topic_actor(ALERTS_TOPIC), STATEMENT, Alert, page)
        self._risk = Follower(folder, topic_actor(RISK_TOPIC), STATEMENT, Risk, page)
        self._fills = Follower(folder, topic_actor(EXECUTIONS_TOPIC), FILL, Fill, page)
        self._newest_risk: dict[tuple[str, str], tuple[int, Risk]] = {}  # by account and portfolio, with its time
        self._worst: dict[tuple[str, Labels], list[tuple[int, float]]] = {}
        self._pnl: tuple[int, StreamReader] | None = None
        assert TOPICS[ALERTS_TOPIC] is Alert and TOPICS[RISK_TOPIC] is Risk

    def collect(self, found: Collected) -> None:
        """Add the desk's signals."""
        self._collect_risk(found)
        self._collect_executions(found)
        self._collect_drawdown(found)

    def _collect_risk(self, found: Collected) -> None:
        for item in self._risk.items():
            risk: Risk = item.value
            place = risk.account_id, risk.portfolio_id or ""
            stated_ns = min(risk.timestamp, item.recv_ns)  # a producer's clock may be ahead
            if place not in self._newest_risk or stated_ns >= self._newest_risk[place][0]:
                self._newest_risk[place] = stated_ns, risk
        oldest = time.time_ns() - RISK_FRESH_NS
        for (account, portfolio), (stated_ns, risk) in list(self._newest_risk.items()):
            if stated_ns < oldest:
                del self._newest_risk[account, portfolio]
                continue
            labels = labels_of(account=account, portfolio=portfolio) if portfolio else labels_of(account=account)
            stated = {
                "risk_leverage": risk.leverage, "drawdown": risk.max_drawdown,
                "risk_var_95": None if risk.var_95 is None else amount_number(risk.var_95),
                "risk_var_99": None if risk.var_99 is None else amount_number(risk.var_99),
            }  # fmt: skip
            for name, value in stated.items():
                if value is not None:
                    found.setdefault(name, {})[labels] = value

    def _collect_executions(self, found: Collected) -> None:
        now = time.time_ns()
        for item in self._fills.items():
            fill: Fill = item.value
            labels = labels_of(symbol=fill.symbol)
            for name, value in (
                ("execution_slippage_bps", fill.slippage_bps),
                ("execution_latency_ms", fill.latency_ms),
            ):
                if value is not None:
                    self._worst.setdefault((name, labels), []).append((item.recv_ns, value))
        for (name, labels), values in list(self._worst.items()):
            values[:] = [one for one in values if one[0] > now - MINUTE_NS]
            # a symbol without executions in the last minute has none that slipped
            found.setdefault(name, {})[labels] = max((value for _, value in values), default=0.0)
            if not values and name in found:
                del self._worst[name, labels]

    def _collect_drawdown(self, found: Collected) -> None:
        path = self._folder / f"{PORTFOLIO_ACTOR}.{PNL.name}.ring"
        try:
            inode = path.stat().st_ino
            if self._pnl is None or self._pnl[0] != inode:
                reader = StreamReader(self._folder, PORTFOLIO_ACTOR, PNL.name, PNL.dtype, PNL.fingerprint)
                if self._pnl is not None:
                    self._pnl[1].close()
                self._pnl = inode, reader
        except (FileNotFoundError, RingError):
            return
        reader = self._pnl[1]
        reader.keys.refresh()
        for key in reader.keys:
            if key.attributes.get("strategy_id") == key.attributes.get("symbol") == "ALL" and reader.count(key.key_id):
                row = reader.latest(key.key_id)
                if row is not None:
                    labels = labels_of(account=str(key.attributes.get("account_id")), source="portfolio")
                    found.setdefault("drawdown", {})[labels] = float(row["max_drawdown"])

    def close(self) -> None:
        for follower in (self.alerts, self._risk, self._fills):
            follower.close()
        if self._pnl is not None:
            self._pnl[1].close()


def context_of(labels: Labels, value: float) -> str:
    """What belongs to an alert of ours, as JSON."""
    return msgspec.json.encode({**dict(labels), "value": value}).decode()
