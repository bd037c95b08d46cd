"""What the configuration file may hold, as structs; `loading` reads and checks it.

The daemon's own tables are the structs below. The tables of the actors (`[feed]`, `[writer]`, `[front]`,
`[clickhouse]`, `[simulator]`) are the actors' own `Config` structs, less what follows from elsewhere in the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ..actors.feed.config import Channel as FeedChannel
from ..actors.feed.protocol import CHANNELS
from ..actors.topic.brokers import EMBEDDED
from ..codecs.desk.canonical import TOPICS
from ..codecs.desk.decoder import EXECUTION_REPORTS
from .kinds import KINDS
from .logs import Level, LogFormat

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Port = Annotated[int, Meta(ge=0, le=65_535)]
# A name that is not ours is looked for among the exchange's own, and those that others use.
OTHER_NAMES = {
    **{wire: name for name, wire in CHANNELS.items()},
    "openInterest": "open_interest", "depth_update": "book", "orderbook": "book", "order_book": "book",
    "best_bid_ask": "quote", "bbo": "quote", "candle": "kline", "candles": "kline", "ohlcv": "kline",
    "funding": "mark_price", "funding_rate": "mark_price", "index_price": "mark_price", "trades": "trade",
}  # fmt: skip
Channel = Annotated[FeedChannel, Meta(extra={"other_names": OTHER_NAMES})]
# a description takes the place of the pattern in messages
Symbol = Annotated[str, Meta(pattern=r"^[A-Z0-9]+-[A-Z0-9]+$", description='a pair such as "BTC-USDT"')]
Contract = Annotated[
    str,
    Meta(
        pattern=r"^[A-Z0-9]+-[A-Z0-9]+-(PERP|[0-9]{8})$",
        description='a contract such as "BTC-USDT-PERP" or "BTC-USDT-20261225"',
    ),
]
WebSocketUrl = Annotated[
    str, Meta(pattern=r"^wss?://[^/\s]+", description='a URL that begins with "wss://" or "ws://"')
]
HttpUrl = Annotated[
    str, Meta(pattern=r"^https?://[^/\s]+", description='a URL that begins with "https://" or "http://"')
]
ClickHouseUrl = Annotated[
    str,
    Meta(
        pattern=r"^(https?://[^/\s]+.*)?$",
        description='a URL such as "http://127.0.0.1:8123", or "" for the embedded engine',
    ),
]
DatabaseName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="letters, digits and underscores")]
InstanceName = Annotated[
    str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$", description="up to 32 of a-z, 0-9 and hyphens, the first no hyphen")
]
SHARDS_MAX = 32
Shards = Annotated[int, Meta(ge=1, le=SHARDS_MAX)]  # connections, and processes, which the symbols are spread over


class Instance(msgspec.Struct, kw_only=True, frozen=True):
    """One running daemon: several may run side by side under different names."""

    name: InstanceName = "default"
    folder: str = "/dev/shm"  # the instance's rings go to <folder>/tickring-<name>
    data: str = ""  # spool, journal, embedded engine; "" = $STATE_DIRECTORY, else ~/.local/share/tickring, then <name>
    group: str = ""  # group that may read the rings; "" = the owner's


class Log(msgspec.Struct, kw_only=True, frozen=True):
    level: Level = "INFO"
    format: LogFormat = "auto"


class SupervisorConfig(msgspec.Struct, kw_only=True, frozen=True):
    """When an actor counts as hung, and what happens to one that died."""

    heartbeat_timeout_s: Seconds = 10.0  # no beat for so long: killed and started again
    start_timeout_s: Seconds = 60.0  # the same until the actor first says that it runs
    restart_delay_s: Seconds = 0.1  # first delay; doubles up to the next
    restart_delay_max_s: Seconds = 10.0
    restart_stable_s: Seconds = 5.0  # having run for so long, an actor starts over at the first delay
    restarts_max: Annotated[int, Meta(ge=0, le=100_000)] = 20  # more within the window: the actor is given up
    restart_window_s: Seconds = 60.0
    on_fatal: Literal["keep", "exit"] = "keep"  # an actor was given up: keep the rest running, or end the daemon
    drain_timeout_s: Seconds = 10.0  # of the whole drain (see `drain`); who is late is killed
    wakeup_latency_us: Annotated[int, Meta(ge=0, le=10_000)] | None = None  # idle CPUs wake up within it (see `wakeup`)


class Spot(msgspec.Struct, kw_only=True, frozen=True):
    """Binance spot. Addresses: https://github.com/binance/binance-spot-api-docs (read 2026-11)."""

    symbols: list[Symbol]
    # `trade` rather than `agg_trade`: every match with its id, as fast as the aggregates, and history has the same ids.
    channels: list[Channel] = msgspec.field(default_factory=lambda: ["trade", "quote", "book"])
    symbol_channels: dict[str, list[Channel]] = {}  # symbols with other channels, in `symbols` or not; [] = none
    ws_url: WebSocketUrl = "wss://stream.binance.com:9443"
    rest_url: HttpUrl = "https://api.binance.com"
    shards: Shards = 1


class Usdm(msgspec.Struct, kw_only=True, frozen=True):
    """Binance USD-M futures, one connection for each routed tier (since 2026-04 a socket delivers only its own)."""

    symbols: list[Contract]
    # `agg_trade` rather than `trade`: the stream that is documented here, without holes in its ids (`trade` leaves out
    # the insurance fund and ADL), and the only one whose history REST gives without a key. It groups 100 ms.
    channels: list[Channel] = msgspec.field(default_factory=lambda: ["agg_trade", "quote", "book"])
    symbol_channels: dict[str, list[Channel]] = {}  # symbols with other channels, in `symbols` or not; [] = none
    ws_public_url: WebSocketUrl = "wss://fstream.binance.com/public"
    ws_market_url: WebSocketUrl = "wss://fstream.binance.com/market"
    rest_url: HttpUrl = "https://fapi.binance.com"
    shards: Shards = 1


class Binance(msgspec.Struct, kw_only=True, frozen=True):
    spot: Spot | None = None
    usdm: Usdm | None = None


class Exchanges(msgspec.Struct, kw_only=True, frozen=True):
    binance: Binance | None = None


class ClickHouse(msgspec.Struct, kw_only=True, frozen=True):
    """Where history is kept. The same table configures the embedded engine, which runs when `url` is empty."""

    url: ClickHouseUrl = ""  # "" = the embedded engine, as an actor of ours
    user: str = "default"
    password_file: str = ""  # mode 0600; "" = no password, or the one that the embedded engine makes for itself
    database: DatabaseName = "tickring"
    connect_timeout_s: Seconds = 2.0
    timeout_s: Seconds = 5.0  # of one request
    connections: Annotated[int, Meta(ge=1, le=1000)] = 8  # requests of one process at the same time
    compress: bool = False  # of answers; worth it only across a slow network


class Front(msgspec.Struct, kw_only=True, frozen=True):
    """What the daemon takes from `[front]`; the rest of the table is the front's own."""

    workers: Annotated[int, Meta(ge=1, le=64)] = 2  # processes on the one port


class Settings(msgspec.Struct, kw_only=True, frozen=True):
    """A checked configuration."""

    instance: Instance = Instance()
    log: Log = Log()
    supervisor: SupervisorConfig = SupervisorConfig()
    exchanges: Exchanges = Exchanges()
    clickhouse: ClickHouse = ClickHouse()
    cpus: dict[str, list[int]] = {}  # actor name or kind -> CPUs
    cpus_auto: bool = True
    front: Front = Front()
    simulate: bool = False  # a [simulator] table stands in the file: the feeds are pointed at it
    actors: dict[str, dict[str, Any]] = {}  # kind -> fields of its Config that the file sets

    @property
    def embedded(self) -> bool:
        """Whether the engine runs as an actor of ours."""
        return not self.clickhouse.url

    def runs(self, kind: str) -> bool:
        """Whether any process of this kind will run."""
        if KINDS[kind].on_request:
            return kind in self.actors
        if kind == "alerts":
            return self.runs("topic")
        if kind == "broker":
            return self.runs("topic") and self.actors["topic"].get("bootstrap_servers") == EMBEDDED
        if kind == "portfolio":
            return self.runs("topic") and EXECUTION_REPORTS in self.actors["topic"].get("topics", TOPICS)
        return {"simulator": self.simulate, "clickhouse": self.embedded}.get(kind, True)

    def settled(self, kind: str) -> dict[str, Any]:
        """The fields of an actor's struct as the file sets them, else as they are by default."""
        defaults = {field.name: field.default for field in msgspec.structs.fields(KINDS[kind].config_type)}
        return {**defaults, **self.actors.get(kind, {})}

    @property
    def folder(self) -> Path:
        return Path(self.instance.folder) / f"tickring-{self.instance.name}"

    @property
    def data(self) -> Path:
        return data_folder(self.instance)


def data_folder(instance: Instance) -> Path:
    """Where the instance keeps what must survive a reboot."""
    if instance.data:
        return Path(instance.data).expanduser()
    # systemd sets the variable for a service with StateDirectory=; with several directories the first is ours
    base = os.environ.get("STATE_DIRECTORY", "").partition(":")[0] or "~/.local/share/tickring"
    return Path(base).expanduser() / instance.name
