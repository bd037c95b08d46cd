"""The channels of the desk, one declaration each, and where an instance has them.

There is one of each for every account; their names end with it: ``fills.acct-7``. `fills` alone stands for all that a
client may see, those that come later among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from ....codecs.desk.canonical import ALL_SYMBOLS, Alert, Fill, Performance, Risk, SystemHealth
from ....codecs.desk.records import ALERT_STATE, EVENT, FILL, PNL, POSITION, STATEMENT
from ....codecs.record import RecordType
from ....ringbuf import Key, StreamReader
from ...catalog import ANY
from ...recent import ALERTS_ACTOR, PORTFOLIO_ACTOR, topic_actor
from .channels import CHANNELS, Channel
from .epochs import epoch_text
from .outbox import Delivery

if TYPE_CHECKING:
    from ..desk.desk import Desk

SYSTEM = "system"
SUPERVISOR = "supervisor"  # its page
ALERTS, FILLS, PNL_KIND, POSITIONS, RISK, HEALTH = "alerts", "fills", "pnl", "positions", "risk", "health"


@dataclass(frozen=True)
class DeskChannel(Channel):
    """A kind of channel of the desk.

    Attributes:
        producer: whose stream it is.
        struct: what the texts of its records are; None for a state, which is worked out now and then.
        keyed_by: the record whose keys say which accounts there are; None: as its own.
        of_account: False where it belongs to nobody, so that whoever may read may have it.
    """

    producer: str = ""
    struct: type[msgspec.Struct] | None = None
    keyed_by: RecordType | None = None
    of_account: bool = True


DESK_CHANNELS: dict[str, DeskChannel] = {
    channel.kind: channel
    for channel in (
        DeskChannel(ALERTS, ALERT_STATE, Delivery.PROTECTED, producer=ALERTS_ACTOR, struct=Alert),
        DeskChannel(
            FILLS, FILL, Delivery.PROTECTED, snapshot_rows=50, producer=topic_actor("exec.reports.v1"), struct=Fill
        ),
        DeskChannel(
            "performance", STATEMENT, Delivery.PROTECTED, producer=topic_actor("strategy.performance.v1"),
            struct=Performance,
        ),
        DeskChannel(RISK, STATEMENT, Delivery.CONFLATING, producer=topic_actor("risk.metrics.v1"), struct=Risk),
        DeskChannel(
            HEALTH, STATEMENT, Delivery.CONFLATING, producer=topic_actor("system.health.v1"), struct=SystemHealth,
            of_account=False,
        ),
        DeskChannel(PNL_KIND, PNL, Delivery.CONFLATING, producer=PORTFOLIO_ACTOR, keyed_by=PNL),
        DeskChannel(POSITIONS, POSITION, Delivery.CONFLATING, producer=PORTFOLIO_ACTOR, keyed_by=PNL),
        # no record of ours: what the supervisor's page tells
        DeskChannel(SYSTEM, EVENT, Delivery.ORDERED, snapshot_rows=0, producer=SUPERVISOR, of_account=False),
    )
}  # fmt: skip
ALL_CHANNELS: dict[str, Channel] = {**CHANNELS, **DESK_CHANNELS}
STATES = frozenset((PNL_KIND, POSITIONS))
PATHS = frozenset(DESK_CHANNELS)  # those with a path of their own


@dataclass(frozen=True)
class DeskSource:
    """Where the records of one account are; or, of a state, of several accounts together."""

    account: str  # empty for what belongs to none
    reader: StreamReader | None = None
    key_id: int = 0
    key: Key | None = None
    accounts: frozenset[str] | None = None  # of several together; None = all
    exchange: str = "desk"  # in the labels of latencies

    @property
    def epoch(self) -> int:
        return self.reader.epoch if self.reader is not None else 0


class DeskPlaces:
    """Finds accounts in the desk's streams."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def sources(self, kind: str, account: str = ANY) -> list[DeskSource]:
        """The accounts that have records of a kind, by name; of one account, or all."""
        if kind == SYSTEM:
            return [DeskSource("")] if account == ANY else []
        found = [source for source in self._iterate(DESK_CHANNELS[kind]) if account in (ANY, source.account)]
        return sorted(found, key=lambda source: source.account)

    def counts(self, kind: str) -> dict[str, tuple[int, str]]:
        """How many records each account has had, and in which epoch."""
        found = self.sources(kind)
        return {
            one.account: (one.reader.count(one.key_id), epoch_text(one.reader))
            for one in found
            if one.reader is not None
        }

    def _iterate(self, channel: DeskChannel) -> Iterator[DeskSource]:
        reader = self.desk.streams.reader(channel.producer, channel.keyed_by or channel.record)
        if reader is None:
            return
        reader.keys.refresh()
        for key in reader.keys:
            attributes = key.attributes
            account = attributes.get("account_id")
            whole = attributes.get("symbol") == attributes.get("strategy_id") == ALL_SYMBOLS
            if account and (whole or channel.keyed_by is None) and reader.count(key.key_id):
                yield DeskSource(account, reader, key.key_id, key)

    def version(self) -> object:
        """Changes when an account or a stream came or went."""
        self.desk.refresh()
        seen = []
        for channel in DESK_CHANNELS.values():
            reader = self.desk.streams.reader(channel.producer, channel.keyed_by or channel.record)
            if reader is not None:
                reader.keys.refresh()
                seen.append((channel.kind, reader.epoch, sum(reader.count(key.key_id) > 0 for key in reader.keys)))
        return tuple(seen)
