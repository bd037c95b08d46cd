"""What a campaign does to a daemon: each damage by name, with parameters drawn from the seed before anything runs."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tickring.actors.simulator.faults import FAULTS

from . import hostile
from .campaign import ACTORS, BOOKS, COINS, WEIGHTS_MAX, Campaign
from .deaths import (
    JOURNALS,
    NO_SHIM,
    hold_engine,
    kill,
    kill_at_mark,
    kill_at_replay,
    kill_daemon,
    kill_in_replay,
    reboot,
    restart_daemon,
    stop,
)
from .machine import filled

FEEDS = [name for name in ACTORS if name.startswith("feed")]
Do = Callable[..., str]


@dataclass(frozen=True)
class Step:
    """One damage with its parameters."""

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)

    def do(self, campaign: Campaign) -> str:
        return DAMAGES[self.name].do(campaign, **self.parameters)

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{k}={v}" for k, v in self.parameters.items())])


@dataclass(frozen=True)
class Damage:
    summary: str
    draw: Callable[[random.Random], dict[str, Any]]
    do: Do


# -- network


def cut(campaign: Campaign, seconds: float) -> str:
    campaign.network.cut()
    time.sleep(seconds)
    campaign.network.mend()
    return f"{campaign.network.accepted} connections so far"


def swallow(campaign: Campaign, seconds: float) -> str:
    campaign.network.swallow()
    time.sleep(seconds)
    campaign.network.mend()
    return f"{campaign.network.accepted} connections so far"


# -- room


def fill_disk(campaign: Campaign, seconds: float, actor: str) -> str:
    """No room under spool, journal and engine, and one of those who write there dies of something else."""
    if not campaign.own_disk:
        return campaign.skip("fill_disk", "mounting a file system needs root")
    with filled(campaign.tree.data) as taken:
        time.sleep(seconds / 2)
        campaign.signal(actor, signal.SIGKILL)
        time.sleep(seconds / 2)
    campaign.calm()
    return f"{taken >> 20} MiB taken"


def fill_memory(campaign: Campaign, seconds: float, actor: str) -> str:
    """No room in shared memory while an actor has to start again."""
    if not campaign.own_shm:
        return campaign.skip("fill_memory", "mounting a file system needs root")
    with filled(campaign.tree.shm) as taken:
        campaign.signal(actor, signal.SIGKILL)
        time.sleep(seconds)
    campaign.calm()  # an actor that cannot start waits longer each time
    return f"{taken >> 20} MiB taken"


def step_clock(campaign: Campaign, hours: int, seconds: float, actor: str) -> str:
    """The daemon's wall clock jumps, and jumps back; meanwhile an actor begins anew."""
    if not campaign.shim.works:
        return campaign.skip("step_clock", NO_SHIM)
    campaign.shim.step(3600 * hours)
    if actor:
        campaign.signal(actor, signal.SIGKILL)
    time.sleep(seconds)
    said = campaign.tree.get("/health").headers.get("Date")
    campaign.shim.step(0)
    time.sleep(1.0)
    return f"{said} for the front"


# -- clients


def slow_client(campaign: Campaign, seconds: float) -> str:
    names = [f"{kind}.binance.spot.{pair}" for kind in ("trades", "book") for pair in COINS.values()]
    return hostile.slow_reader(campaign.tree.front_port, names, seconds)


def storm(campaign: Campaign, connects: int, seconds: float) -> str:
    return hostile.storm(campaign.tree.front_port, connects, seconds)


def slowloris(campaign: Campaign, connections: int, seconds: float) -> str:
    return hostile.slowloris(campaign.tree.front_port, connections, seconds)


def oversized(campaign: Campaign) -> str:
    return hostile.oversized(campaign.tree.front_port)


# -- the exchange


def race(campaign: Campaign, seconds: float) -> str:
    """Four processes beside the daemon's take whatever request weight is left of this minute, and one is killed."""
    tree = campaign.tree
    command = [sys.executable, "-c", RACER, str(tree.folder), campaign.exchange.urls["spot_rest"]]
    racers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tree.disk, env={**os.environ, **tree.environment})
        for _ in range(4)
    ]
    time.sleep(seconds)
    for racer in racers:  # whatever they are in the middle of
        racer.kill()
    done = [racer.communicate()[0].count(b".") for racer in racers]
    used = tree.sim("status")["products"]["spot"]["weights"]["127.0.0.1"]["used"]
    return f"{done} requests, {used} of {WEIGHTS_MAX['spot']} used"


RACER = f"""
import asyncio, sys
from pathlib import Path
from tickring.actors.feed.rest import RestClient
from tickring.actors.ledger import Ledger

async def main(folder, url):
    client = RestClient(url, Ledger(Path(folder), "binance").budget("spot.weight", {WEIGHTS_MAX["spot"]}, 60.0), 30.0,
                        lambda status: None)
    while True:
        await client.get("/api/v3/trades?symbol=BTCUSDT&limit=1", 25)
        print(".", end="", flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


def exchange(campaign: Campaign, fault: str, seconds: float, **parameters: Any) -> str:
    """A fault of the exchange for some seconds; then all are lifted."""
    campaign.refused |= "weight_max" in parameters
    response = campaign.tree.sim_raw("faults", {"fault": fault, **parameters})
    if response.status != 200:
        campaign.trouble.append(f"the exchange refused the fault {fault} {parameters}: {response.body!r}")
    time.sleep(seconds)
    campaign.lift()
    return response.body.decode()[:100]


# Streams by product, trades first.
OTHER_STREAMS = {
    "spot": ("trade", "bookTicker", "kline_1m", "ticker"),
    "usdm": ("aggTrade", "bookTicker", "kline_1m", "ticker", "markPrice@1s", "forceOrder"),
}
LIMITS: tuple[dict[str, Any], ...] = (
    {"life_s": 1.0}, {"messages_per_s_max": 1}, {"streams_max": 3}, {"ping_interval_s": 0.2, "pong_timeout_s": 0.1},
    {"weight_max": 20, "ban_after": 3, "ban_s": 2},
)  # fmt: skip


def _draw_fault(name: str) -> Callable[[random.Random], dict[str, Any]]:
    def draw(rng: random.Random) -> dict[str, Any]:
        product = rng.choice(("spot", "usdm"))
        symbol = rng.choice(list(COINS))
        own = OTHER_STREAMS[product]
        channel = rng.choice((*own[:1] * len(own), *own))  # of trades half
        parameters: dict[str, Any] = {"fault": name, "seconds": round(rng.uniform(1, 3), 1)}
        takes = FAULTS[name].parameters
        if name in ("old_snapshot", "stale_snapshot"):
            return parameters | {"product": product, "symbol": rng.choice(BOOKS), "count": rng.randint(1, 3)}
        if name == "rest_status":
            status = rng.choice((403, 418, 429, 500, 503))
            return parameters | {"status": status, "count": rng.randint(1, 3), "retry_after_s": 1}
        if name == "limits":
            return parameters | {"product": product} | rng.choice(LIMITS)
        if name == "break_chain":
            return parameters | {"product": product, "symbol": rng.choice(BOOKS)}
        if "stream" in takes:  # a trade stream or the depth of a symbol
            what = {"stream": f"{symbol.lower()}@{channel}"} if rng.random() < 0.7 else {"symbol": symbol}
            more = {"count": rng.randint(1, 20)} if "count" in takes else {}
            return parameters | {"product": product} | what | more
        if name == "server_shutdown":
            return parameters | {"product": product, "close_after_s": 0.5}
        if name == "merged_rows":
            return parameters
        return parameters | {"product": product}

    return draw


def _seconds(low: float, high: float) -> Callable[[random.Random], dict[str, Any]]:
    return lambda rng: {"seconds": round(rng.uniform(low, high), 1)}


def _draw_kill(rng: random.Random) -> dict[str, Any]:
    count = rng.choices((1, 2, 3), (70, 20, 10))[0]
    actors = rng.choices(ACTORS, k=count)
    return {"actors": actors, "within_s": round(rng.uniform(0, 0.5), 2), "rest_s": round(rng.uniform(0, 1.5), 2)}


def _draw_mark(rng: random.Random) -> dict[str, Any]:
    stream = rng.choice(list(JOURNALS))
    return {"stream": stream, "table": JOURNALS[stream], "skip": rng.randint(0, 3), "forgotten": rng.random() < 0.5}


def _draw_reboot(rng: random.Random) -> dict[str, Any]:
    behind = rng.choice(((), ("writer",), ("clickhouse",)))
    away_s = round(rng.uniform(0, 3), 1)
    return {
        "without": list(behind), "within_s": round(rng.uniform(0, 4), 1), "away_s": away_s,
        "drained": rng.random() < 0.3,
    }  # fmt: skip


def _draw_room(actors: Iterable[str], low: float, high: float) -> Callable[[random.Random], dict[str, Any]]:
    return lambda rng: {**_seconds(low, high)(rng), "actor": rng.choice(list(actors))}


DAMAGES: dict[str, Damage] = {
    "kill": Damage("SIGKILL of up to three actors", _draw_kill, kill),
    "stop": Damage("SIGSTOP of an actor", lambda rng: {"actor": rng.choice(ACTORS), **_seconds(1, 5)(rng)}, stop),
    "stop_long": Damage("SIGSTOP for 30 s", lambda rng: {"actor": rng.choice(ACTORS), "seconds": 30.0}, stop),
    "hold_engine": Damage("no engine until the spool yields", _seconds(20, 40), hold_engine),
    "kill_in_replay": Damage(
        "SIGKILL of the writer while it replays its spool",
        lambda rng: {"away_s": round(rng.uniform(6, 9), 1), "after_s": round(rng.uniform(0, 0.5), 2)},
        kill_in_replay,
    ),
    "kill_at_mark": Damage(
        "SIGKILL of the writer between an insert and its mark in the journal", _draw_mark, kill_at_mark
    ),
    "kill_at_replay": Damage(
        "SIGKILL of the writer between an insert out of the spool and its mark there",
        lambda rng: {"away_s": round(rng.uniform(6, 9), 1), "skip": rng.randint(0, 2), "forgotten": rng.random() < 0.5},
        kill_at_replay,
    ),
    "reboot": Damage("shared memory emptied, as by a reboot", _draw_reboot, reboot),
    "kill_daemon": Damage("SIGKILL of the supervisor", lambda rng: {}, kill_daemon),
    "restart_daemon": Damage("drain and warm start", lambda rng: {}, restart_daemon),
    "cut": Damage("the network to the exchange cut", _seconds(0.2, 5), cut),
    "swallow": Damage("the network carries nothing", _seconds(0.5, 8), swallow),
    "fill_disk": Damage("no room on disk", _draw_room(("writer", "clickhouse", *FEEDS), 2, 6), fill_disk),
    "fill_memory": Damage("no room in shared memory", _draw_room(ACTORS, 2, 5), fill_memory),
    "step_clock": Damage(
        "the daemon's clock stepped by an hour",
        lambda rng: {"hours": rng.choice((-1, 1)), **_seconds(3, 6)(rng), "actor": rng.choice(("", *ACTORS))},
        step_clock,
    ),
    "race": Damage("four processes race for the last of the request weight", _seconds(3, 6), race),
    "slow_client": Damage("a client that reads nothing", _seconds(25, 40), slow_client),
    "storm": Damage("10,000 connects a second", lambda rng: {"connects": 10_000, "seconds": 1.0}, storm),
    "slowloris": Damage(
        "requests without end", lambda rng: {"connections": rng.randint(100, 400), **_seconds(2, 6)(rng)}, slowloris
    ),
    "oversized": Damage("frames, bodies, headers too large", lambda rng: {}, oversized),
    **{
        f"exchange:{name}": Damage(fault.summary, _draw_fault(name), exchange)
        for name, fault in FAULTS.items()
    },
}  # fmt: skip


def make_steps(seed: int, kills: int, rounds: int, names: Iterable[str] = DAMAGES) -> list[Step]:
    """The campaign of a seed: at least so many SIGKILLs, every other damage `rounds` times, in a shuffled order."""
    return draw_steps(seed, kills, rounds, names, DAMAGES, Step)


def draw_steps(
    seed: int, kills: int, rounds: int, names: Iterable[str], damages: Mapping[str, Damage], step: type[Step]
) -> list[Step]:
    """The same of any damages, among which is `kill`."""
    rng = random.Random(seed)
    steps: list[Step] = []
    drawn = 0
    while drawn < kills:
        steps.append(step("kill", damages["kill"].draw(rng)))
        drawn += len(steps[-1].parameters["actors"])
    for name in names:
        if name != "kill":
            steps += [step(name, damages[name].draw(rng)) for _ in range(rounds)]
    rng.shuffle(steps)
    return steps
