"""Commands that run a daemon: run, demo."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from ...actors.feed.protocol import CHANNELS, tier_of_channel
from ...actors.topic.brokers import EMBEDDED
from ...codecs.binance.wire import PRODUCTS
from ...ringbuf.segment import free_bytes
from .. import logs
from ..config import Log
from ..instance import memory_needed, remove_dead
from ..loading import check, load
from ..markets import fewest_shards
from ..plan import Plan, make_plan
from ..reload import keep_instance
from ..subscriptions import Subscriptions
from ..supervisor import Supervisor
from ..takeover import Predecessor, telling_why

SHARED_MEMORY = Path("/dev/shm")
TAKE_OVER = "--take-over"
DEMO_PORT = 8000
DEMO_PREFIX = "demo-"
DEMO_SPOT = ("trade", "quote", "book", "kline", "ticker")
DEMO_TOPICS = (
    "exec.reports.v1", "risk.metrics.v1", "alerts.v1", "system.health.v1", "strategy.performance.v1",
    "trade.signals.v1", "position.updates.v1",
)  # fmt: skip
DEMO_TRADED = 5  # coins that the strategy trades
DEMO_LIMITS = {
    "max_positions": 20, "max_position_size": 20_000.0, "daily_loss_limit": 5000.0, "var_1d_limit": 5000.0,
    "total_exposure_limit": 100_000.0,
}  # fmt: skip
DEMO_LIBRARIES = ("aiokafka", "confluent_kafka")  # of its desk
DEMO_USDM = ("agg_trade", "quote", "book", "kline", "ticker", "mark_price", "open_interest", "liquidation")


def run(config_file: Path, log_options: dict[str, str], *, purge: bool, take_over: bool = False) -> None:
    """Run the daemon of a configuration file until it is asked to stop, in place of the one that runs it now."""
    with telling_why():
        _run(config_file, log_options, purge=purge, take_over=take_over)


def _run(config_file: Path, log_options: dict[str, str], *, purge: bool, take_over: bool) -> None:
    settings = load(config_file)
    predecessor = Predecessor(settings.folder) if take_over else None  # before what it may change is read
    subscriptions = Subscriptions(settings, lambda new: _with_log(make_plan(new, str(config_file)), log_options))
    plan = subscriptions.plan()

    def replan() -> Plan:
        new, deferred = keep_instance(load(config_file), settings)
        return dataclasses.replace(subscriptions.plan(new), deferred=deferred)

    logs.setup(plan.log.level, plan.log.format)
    supervisor = Supervisor(
        plan, leave_nothing=purge, replan=replan, subscriptions=subscriptions, predecessor=predecessor,
        successor=_successor(),
    )  # fmt: skip
    asyncio.run(supervisor.run())


def _successor() -> list[str]:
    """The command line of this daemon, for one that takes over from it."""
    arguments = sys.orig_argv[1:]
    return [sys.executable, *arguments, *([] if TAKE_OVER in arguments else [TAKE_OVER])]


def demo(
    log_options: dict[str, str], *, port: int | None, symbols: int, duration_s: float | None, name: str | None
) -> None:
    """Run simulator, feeds, embedded ClickHouse, writer and fronts; leave no process and no file behind.

    With the extra `demo` installed there is a desk too: an embedded broker, a strategy that trades on the simulated
    market, its topics, portfolio and alerts.
    """
    remove_dead(SHARED_MEMORY, DEMO_PREFIX)
    data = Path(tempfile.mkdtemp(prefix="tickring-demo-"))
    try:
        instance = name or f"{DEMO_PREFIX}{os.getpid()}"
        raw = demo_settings(port, symbols, instance, data, desk=True)
        if lacking := _lacking(raw):
            raw = demo_settings(port, symbols, instance, data, desk=False)
        quiet: dict[str, str] = {"level": "WARNING"} if sys.stderr.isatty() else {}
        subscriptions = Subscriptions(
            check(raw, "demo"), lambda new: _with_log(make_plan(new, "demo"), quiet | log_options)
        )
        plan = subscriptions.plan()
        logs.setup(plan.log.level, plan.log.format)
        print(f"starting {len(plan.actors)} processes on simulated markets ...", flush=True)
        if lacking:
            print(f"without fills, positions and alerts: {lacking}", flush=True)
        supervisor = Supervisor(
            plan, leave_nothing=True, facts={"temporary": True}, on_ready=_announce(duration_s, desk=not lacking),
            subscriptions=subscriptions,
        )  # fmt: skip
        asyncio.run(supervisor.run())
        print("stopped, nothing left behind", flush=True)
    finally:
        shutil.rmtree(data, ignore_errors=True)


def _lacking(raw: dict[str, Any]) -> str:
    """What the desk of a demo's configuration lacks on this machine, and what to do; "" where it can run."""
    missing = [library for library in DEMO_LIBRARIES if importlib.util.find_spec(library) is None]
    if missing:
        return f"{' and '.join(missing)} not installed: pip install 'tickring[demo]'"
    needed, _ = memory_needed(make_plan(check(raw, "demo"), "demo"))
    free = free_bytes(SHARED_MEMORY)
    if needed > free:
        mb = 1_000_000
        return f"they need {needed // mb} MB in {SHARED_MEMORY}, which has {free // mb}: docker run --shm-size=256m"
    return ""


def demo_settings(port: int | None, symbols: int, name: str, data: Path, *, desk: bool = False) -> dict[str, Any]:
    """The demo's configuration as a file would have it. Rings are small: a container's /dev/shm has 64 MB."""
    from ...actors.simulator.instruments import make_instruments

    coins = [
        (instrument.native, f"{instrument.base}-{instrument.quote}")
        for instrument in make_instruments(symbols, ["spot"], 1)
    ]
    spot_port, usdm_port, rest_port, clickhouse_port = _free_ports(4)
    if port is None:
        port = DEMO_PORT if _is_free(DEMO_PORT) else 0
    return {
        "instance": {"name": name, "folder": str(SHARED_MEMORY), "data": str(data)},
        "exchanges": {
            "binance": {
                "spot": _demo_market("spot", [symbol for _, symbol in coins], DEMO_SPOT),
                "usdm": _demo_market("usdm", [f"{symbol}-PERP" for _, symbol in coins], DEMO_USDM),
            }
        },
        "simulator": {
            "symbols": [native for native, _ in coins],
            "spot_ws_port": spot_port,
            "usdm_ws_port": usdm_port,
            "rest_port": rest_port,
        },
        "clickhouse": {"port": clickhouse_port},
        "front": {"port": port, **({"desk": {"limits": DEMO_LIMITS}} if desk else {})},
        "feed": {
            "trade_capacity": 1 << 14,
            "quote_capacity": 1 << 15,
            "level_capacity": 1 << 16,
            "kline_capacity": 1 << 14,
            "kline_preload": 300,
            "other_capacity": 1 << 12,
            "kline_rollups": ["5m"],
            "keys_max": max(64, 4 * symbols),
        },
        **(_demo_desk([native for native, _ in coins[:DEMO_TRADED]]) if desk else {}),
    }


def _demo_desk(natives: list[str]) -> dict[str, Any]:
    return {
        "kafka": {
            "bootstrap_servers": EMBEDDED,
            "topics": list(DEMO_TOPICS),
            "event_capacity": 1 << 12,
            "live_capacity": 1 << 12,
            "texts_capacity": 1 << 20,
            "fill_texts_capacity": 1 << 21,
            "accounts_max": 1,
        },
        "portfolio": {
            "position_capacity": 1 << 12,
            "pnl_capacity": 1 << 12,
            "keys_max": 256,
            "capital": {"default": "100000"},
        },
        "alerts": {"capacity": 1 << 10, "texts_capacity": 1 << 19, "accounts_max": 1},
        "strategy": {"symbols": natives},
    }


def _demo_market(product: str, symbols: list[str], channels: tuple[str, ...]) -> dict[str, Any]:
    tiers = Counter(tier_of_channel(product, channel) for channel in channels if channel in (*CHANNELS, "kline"))
    shards = fewest_shards(symbols, max(tiers.values()), PRODUCTS[product].streams_max)
    return {"symbols": symbols, "channels": list(channels), "shards": shards or 1}


def _with_log(plan: Plan, options: dict[str, str]) -> Plan:
    chosen = msgspec.convert({**msgspec.structs.asdict(plan.log), **options}, Log)
    return dataclasses.replace(plan, log=chosen)


def _announce(duration_s: float | None, *, desk: bool) -> Callable[[Supervisor], None]:
    def ready(supervisor: Supervisor) -> None:
        base = f"http://127.0.0.1:{supervisor.port('front')}"
        print(f"open {base}/    (Ctrl-C ends the demo)")
        print(f"     {base}/docs    what there is to ask for")
        if desk:
            print(f"curl '{base}/api/v1/positions'    pnl/summary, fills and alerts/active are its neighbours")
        sys.stdout.flush()
        if duration_s is not None:
            asyncio.get_running_loop().call_later(duration_s, supervisor.request_stop, f"{duration_s:g} s are over")

    return ready


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [opened.getsockname()[1] for opened in sockets]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True
