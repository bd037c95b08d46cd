"""Configuration of the exchange simulator: where it listens, what it plays, which limits it enforces."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

SPOT = "spot"
USDM = "usdm"

SourceName = Literal["model", "paced", "flood", "capture"]
Port = Annotated[int, Meta(ge=0, le=65_535)]
Count = Annotated[int, Meta(ge=0)]
StartRule = Literal["at_once", "subscribed", "command"]


class Limits(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Limits of one product's servers. 0 switches a limit off. Times are seconds.

    Source: Binance spot "General WSS information" and USD-M "WebSocket market streams" pages, read 2026-11.
    """

    messages_per_s_max: int  # client frames (ping, pong, JSON) in one second; one more closes the connection
    streams_max: int  # streams on one connection
    connections_max: int = 300  # connection attempts in `connections_window_s`; everything on loopback is one address
    connections_window_s: float = 300.0
    life_s: float = 86_400.0  # a connection is closed at this age
    ping_interval_s: float
    pong_timeout_s: float  # a ping unanswered for so long closes the connection
    weight_max: int  # request weight in `weight_window_s`
    weight_window_s: float = 60.0  # windows are aligned to the UNIX epoch, as the exchange's minutes are
    ban_after: int = 10  # refused requests (429) in one window after which the address is banned (418)
    ban_s: float = 120.0  # first ban; each further one lasts twice as long, three days at most


def spot_limits() -> Limits:
    return Limits(messages_per_s_max=5, streams_max=1024, ping_interval_s=20.0, pong_timeout_s=60.0, weight_max=6000)


def usdm_limits() -> Limits:
    return Limits(messages_per_s_max=10, streams_max=200, ping_interval_s=180.0, pong_timeout_s=600.0, weight_max=2400)


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One simulator process.

    Sources:
    - ``model``: a seeded market model in real time, event times on the model's clock.
    - ``paced``: the same markets, one message at a time at exactly `rate` messages per second over all subscribed
      streams; event times are the real send time. For latency measurements.
    - ``flood``: frames encoded beforehand, as fast as each socket takes them. For throughput measurements.
    - ``capture``: recorded frames, unchanged and in their order.
    """

    host: str = "127.0.0.1"
    spot_ws_port: Port = 19443  # 0 = any free port
    usdm_ws_port: Port = 19444
    rest_port: Port = 19445  # both products and the control endpoints under /sim
    products: list[Literal["spot", "usdm"]] = msgspec.field(default_factory=lambda: [SPOT, USDM])

    source: SourceName = "model"
    start: StartRule | None = None  # None = at_once for the model, subscribed for everything else
    start_streams: list[str] = msgspec.field(default_factory=list)  # `product:stream` that must be subscribed first
    start_settle_s: float = 1.0  # without start_streams: start so long after the newest subscription

    seed: int = 1
    symbols: Annotated[int, Meta(ge=1, le=2000)] | list[str] = (
        20  # how many coins, or which (`BTCUSDT`); each is listed on every product
    )
    rate: Annotated[float, Meta(gt=0, le=1_000_000)] = (
        350.0  # model: market events per second over all symbols; paced: messages per second
    )
    activity_exponent: float = 1.0  # Zipf: the n-th coin has 1 / n ** exponent of the first one's events
    levels: Annotated[int, Meta(ge=20, le=5000)] = 200  # price levels kept on each side of a book
    tick_ms: Annotated[float, Meta(gt=0, le=1000)] = 20.0  # model: frames leave in steps of this length
    speed: Annotated[float, Meta(ge=0)] = (
        1.0  # model and capture: how much faster than real; capture: 0 = as fast as the sockets take it
    )
    epoch_ns: int = 0  # model: UNIX time of its first moment; 0 = the wall clock at the start
    off_book_trades: Annotated[float, Meta(ge=0, le=1)] = (
        0.0  # share of USD-M market orders that also print a trade outside the book
    )

    liquidations: Annotated[float, Meta(ge=0, le=1)] = 0.005  # share of USD-M market orders that are liquidations

    messages: Count = 0  # paced and flood: how many to send in all (flood: on each connection), 0 = without end
    flood_distinct: Annotated[int, Meta(ge=1)] = (
        100_000  # flood: frames encoded beforehand; more come from these with their ids moved on
    )

    captures: list[str] = msgspec.field(default_factory=list)  # files in order; `usdm:PATH` where the folder is silent
    hold_snapshot_s: float = 3.0  # capture at full speed: wait so long for the depth request at a recorded snapshot
    loop: bool = False  # capture: after the end close every connection and begin again

    # Faults to start with, each as for `POST /sim/faults`: {"fault": "drop", "symbol": "BTCUSDT", "every_s": 10}.
    faults: list[dict[str, Any]] = msgspec.field(default_factory=list)

    backlog_bytes_max: Count = 16 << 20  # unsent bytes after which a slow connection is cut (live sources)
    ledger_frames_max: Count = 0  # sent payloads kept for each stream for comparison
    ledger_answers_max: Count = 0  # REST answers kept for each path and symbol, for the same
    history_trades: Count = 1000  # trades and aggregate trades kept for each symbol for REST

    spot: Limits = msgspec.field(default_factory=spot_limits)
    usdm: Limits = msgspec.field(default_factory=usdm_limits)

    @property
    def start_rule(self) -> StartRule:
        return self.start or ("at_once" if self.source == "model" else "subscribed")

    def limits(self, product: str) -> Limits:
        return self.spot if product == SPOT else self.usdm
