"""A whole daemon on an exchange of its own, under load, and everything that a campaign holds on to."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tickring.daemon.control import ask
from tickring.daemon.errors import NotRunning

from ..system.tree import SHM, Response, Tree, fetch, merged, until
from .client import MarketClient, market_channels
from .machine import Shim, small_disk
from .proxy import Network

COINS = {"BTCUSDT": "BTC-USDT", "ETHUSDT": "ETH-USDT", "SOLUSDT": "SOL-USDT", "XRPUSDT": "XRP-USDT"}
BOOKS = list(COINS)[:2]  # books are what costs most
RATE = 300.0  # market events a second
LIQUIDATIONS = 0.1  # share of the market orders on USD-M
WEIGHTS_MAX = {"spot": 6000, "usdm": 2400}
DAY_S = 86_400
SHM_MB, DISK_MB = 256, 512
NO_LIMIT = {"connections_max": 0}  # thousands of connections in minutes are ours, not the daemon's
ACTORS = ("clickhouse", "feed-binance-spot-0", "feed-binance-usdm-public-0", "feed-binance-usdm-market-0", "keeper",
          "writer", "front-0", "front-1")  # fmt: skip
LIVE = ("trade", "quote", "book_level", "kline_open", "ticker", "mark_price")  # rings that never rest for long
CALM_S = 90.0  # within this the daemon is whole again after any damage


class Daemon(Tree):
    """The daemon of a campaign: its exchange is not an actor of it, and its wall clock is its own."""

    shim: Shim

    def __init__(self, name: str, shm: Path, disk: Path, exchange: Exchange, network: Network) -> None:
        super().__init__(name, shm, disk)
        del self.config["simulator"]
        self.exchange = exchange
        rest = f"http://127.0.0.1:{network.ports['rest']}"
        spot, usdm = (f"ws://127.0.0.1:{network.ports[product]}" for product in ("spot", "usdm"))
        self.config = merged(
            self.config,
            {
                "exchanges": {
                    "binance": {
                        "spot": {
                            "symbols": list(COINS.values()), "channels": ["trade", "quote", "book", "kline", "ticker"],
                            "ws_url": spot, "rest_url": rest,
                        },
                        "usdm": {
                            "symbols": [f"{pair}-PERP" for pair in COINS.values()],
                            "channels": ["agg_trade", "quote", "book", "kline", "ticker", "mark_price",
                                         "open_interest", "liquidation"],
                            "ws_public_url": f"{usdm}/public", "ws_market_url": f"{usdm}/market", "rest_url": rest,
                        },
                    }
                },
                "feed": {
                    "trade_capacity": 1 << 16, "quote_capacity": 1 << 14, "level_capacity": 1 << 12,
                    "watchdog_s": 20.0, "watchdog_max_s": 30.0, "connection_attempts_max": 1_000_000,
                    "rest_timeout_s": 3.0, "open_interest_interval_s": 2.0, "kline_preload": 200,
                },
                "keeper": {"funding_history_days": 7, "funding_delay_s": 5.0, "funding_look_s": 20.0,
                           "rest_timeout_s": 3.0},
                "supervisor": {"restart_delay_max_s": 0.5, "restarts_max": 100_000, "heartbeat_timeout_s": 10.0},
                # Quotes and the tops of books are sampled, as they are by default. Spool and ring of levels are so
                # small that a campaign fills them: what is lost then must be in the ledger.
                "writer": {
                    "spool_max_bytes": 1 << 20,
                    "store": {"ticker": "all", "mark_price": "all", "book_level": "all"},
                },
            },
        )  # fmt: skip

    @property
    def environment(self) -> Mapping[str, str]:
        return self.shim.environment

    def sim_raw(self, path: str, body: Any = None) -> Response:
        encoded = None if body is None else json.dumps(body).encode()
        return fetch(f"{self.exchange.urls['control']}/{path}", encoded, {"Content-Type": "application/json"}, 60.0)


class Exchange:
    """The process of `exchange.py`.

    Args:
        environment: variables for it beside those of this process.
    """

    def __init__(self, seed: int, folder: Path, environment: Mapping[str, str]) -> None:
        config = {
            "spot_ws_port": 0, "usdm_ws_port": 0, "rest_port": 0, "symbols": list(COINS), "seed": seed, "rate": RATE,
            "liquidations": LIQUIDATIONS, "ledger_frames_max": 5_000_000, "ledger_answers_max": 1_000_000,
            "start": "command",
            "spot": {"messages_per_s_max": 5, "streams_max": 1024, "ping_interval_s": 20.0, "pong_timeout_s": 60.0,
                     "weight_max": WEIGHTS_MAX["spot"], **NO_LIMIT},
            "usdm": {"messages_per_s_max": 10, "streams_max": 200, "ping_interval_s": 180.0, "pong_timeout_s": 600.0,
                     "weight_max": WEIGHTS_MAX["usdm"], **NO_LIMIT},
        }  # fmt: skip
        command = [sys.executable, str(Path(__file__).with_name("exchange.py")), json.dumps(config)]
        self._log = (folder / "exchange.log").open("wb")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, cwd=folder, text=True,
            env={**os.environ, **environment},
        )  # fmt: skip
        assert self.process.stdout is not None
        self.urls: dict[str, str] = json.loads(self.process.stdout.readline())

    def port(self, name: str) -> int:
        return int(self.urls[name].rpartition(":")[2])

    def freeze(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("freeze\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "frozen\n", "the exchange ended by itself: see exchange.log"

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait(30)
        self._log.close()


class Campaign:
    """Holds exchange, network, daemon and clients. A context manager: what it began it takes away.

    Args:
        say: prints one line.
        folder: for logs and data; kept.
        midnight_s: exchange and daemon live so long before the end of a day in UTC when they begin: on it funding is
            paid, bars of all lengths end and tables begin another partition.
    """

    tree: Tree
    network: Network
    actors: Sequence[str] = ACTORS  # that the daemon has

    def __init__(
        self, seed: int, folder: Path, say: Callable[[str], None] = print, clients: int = 2, midnight_s: float = 120.0
    ) -> None:
        self.seed, self.folder, self.say, self._clients, self._midnight_s = seed, folder, say, clients, midnight_s
        self.skipped: list[str] = []
        self.trouble: list[str] = []  # what a damage saw go wrong
        self.clients: list[MarketClient] = []
        self.kills = 0
        self.refused = False  # the exchange was told to refuse requests for their weight
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Campaign:
        try:
            self._begin()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _begin(self) -> None:
        stack = self._stack
        shm = Path(tempfile.mkdtemp(prefix="tickring-faults-", dir=SHM))
        stack.callback(shutil.rmtree, shm, ignore_errors=True)
        self.own_shm = stack.enter_context(small_disk(shm, SHM_MB))
        ahead_s = round(DAY_S - time.time() % DAY_S - self._midnight_s)
        self.shim = Shim(self.folder, ahead_s)
        theirs = Shim(self.folder, ahead_s, "exchange.shim")
        self.exchange = Exchange(self.seed, self.folder, theirs.environment)
        stack.callback(self.exchange.close)
        routes = {"spot": "spot_ws", "rest": "spot_rest", "usdm": "usdm_unrouted_ws"}
        self.network = stack.enter_context(Network({k: self.exchange.port(v) for k, v in routes.items()}))
        self.tree = Daemon(shm.name.removeprefix("tickring-").replace("_", "-").lower(), shm, self.folder,
                           self.exchange, self.network)  # fmt: skip
        self.own_disk = stack.enter_context(small_disk(self.tree.data, DISK_MB))
        self.tree.shim = self.shim
        stack.callback(self.tree.clean_up)
        self.tree.start().ready()
        self.tree.sim("start", {})
        for _ in range(self._clients):
            self.clients.append(MarketClient(self.tree.front_port, market_channels(COINS.values())))
            self.clients[-1].start()
        stack.callback(self._end_clients)
        self.calm()

    def _end_clients(self) -> None:
        for client in self.clients:
            client.ending.set()
        for client in self.clients:
            client.join(10)

    def signal(self, actor: str, number: int) -> int:
        """Send a signal to an actor as soon as it has a process; that process."""

        def sent() -> int:
            try:
                found = self.tree.actor(actor)
                pid = found["pid"] or 0
                if pid > 0:
                    os.kill(pid, number)
                elif found["state"] == "fatal":
                    self._revive(found)
            except (ProcessLookupError, NotRunning):
                return 0
            return pid

        pid = until(f"{actor} to have a process", sent, CALM_S)
        self.kills += number == signal.SIGKILL
        return pid

    def skip(self, damage: str, why: str) -> str:
        """A damage cannot be done here."""
        if (line := f"{damage}: {why}") not in self.skipped:
            self.skipped.append(line)
        return f"SKIPPED: {why}"

    # -- between damages ----------------------------------------------------------------------------------------

    def calm(self) -> None:
        """Wait until every actor runs and every ring gets records; the daemon says itself that it is healthy."""
        tree = self.tree
        until("all actors to run", self._all_run, CALM_S)
        before = until("an answer", self._published, CALM_S)
        until(
            f"records in every ring, of {before}",
            lambda: all(now > before.get(ring, 0) for ring, now in self._published().items()) and self._published(),
            CALM_S,
        )
        until("a healthy daemon", tree.healthy, CALM_S)

    def _revive(self, actor: dict[str, Any]) -> None:
        """An actor that was given up is a finding; the campaign goes on with it all the same."""
        self.trouble.append(f"{actor['name']} was given up: {actor['reason']}")
        ask(self.tree.folder / "control.sock", "restart", actor=actor["name"])
        time.sleep(1.0)

    def _all_run(self) -> bool:
        try:
            actors = self.tree.status()["actors"]
        except (NotRunning, OSError):
            return False
        for actor in actors:
            if actor["state"] == "fatal":
                self._revive(actor)
        return len(actors) == len(self.actors) and all(actor["state"] == "running" for actor in actors)

    def _published(self) -> dict[str, int]:
        try:
            published = self.tree.published()
            return {ring: count for ring, count in published.items() if ring.rpartition(".")[2] in LIVE}
        except Exception:  # noqa: BLE001 - a front is on its way back
            return {}

    def market_ms(self) -> int:
        """The exchange's own time, UNIX ms: it ends when the market does."""
        return self.tree.sim("status")["progress"]["time_ns"] // 1_000_000

    def settle(self) -> None:
        """Bring the market to a stand when everything is whole and every last trade has arrived."""
        self.network.mend()
        self.lift()
        self.calm()
        self.await_trades()  # of the last that a feed missed the next ones tell
        time.sleep(2.0)
        self.exchange.freeze()

    def lift(self) -> None:
        """End all faults of the exchange."""
        urllib.request.urlopen(
            urllib.request.Request(f"{self.exchange.urls['control']}/faults", method="DELETE"), timeout=30
        ).close()

    def await_trades(self, count: int = 3) -> None:
        """Wait until each client has so many new records on each channel."""
        for client in self.clients:
            before = client.seen()
            until(
                "new records on every channel",
                lambda client=client, before=before: (
                    client.errors or all(now >= before[name] + count for name, now in client.seen().items())
                ),
                CALM_S,
            )


def run(campaign: Campaign, steps: Sequence[Any], until_s: float) -> int:
    """Do the steps in order, as far as the time goes; how many were done."""
    began = time.monotonic()
    for number, step in enumerate(steps):
        spent = time.monotonic() - began
        if spent > until_s:
            campaign.say(f"time is up after {number} of {len(steps)} steps")
            return number
        try:
            result = step.do(campaign)
        except Exception as error:  # noqa: BLE001 - the campaign goes on, and the verdict tells
            result = f"TROUBLE: {type(error).__name__}: {error}"
            campaign.trouble.append(f"step {number + 1}, {step}: {result}")
        campaign.say(f"[{number + 1:4}/{len(steps)}] {int(spent) // 60:02}:{int(spent) % 60:02} {step}: {result}")
    return len(steps)
