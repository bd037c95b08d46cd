"""What a campaign does to a daemon: each damage by name, with parameters drawn from the seed before anything runs."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tickring.actors.simulator.faults import FAULTS

from ..system.tree import alive, until
from . import hostile
from .campaign import ACTORS, BOOKS, COINS, Campaign
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


# -- processes


def kill(campaign: Campaign, actors: list[str], within_s: float, rest_s: float) -> str:
    """SIGKILL, one after the other within a time; the last of them may hit an actor that is just starting."""
    for name in actors:
        campaign.signal(name, signal.SIGKILL)
        time.sleep(within_s / len(actors))
    time.sleep(rest_s)
    return f"{campaign.kills} kills so far"


def stop(campaign: Campaign, actor: str, seconds: float) -> str:
    pid = campaign.signal(actor, signal.SIGSTOP)
    time.sleep(seconds)
    if alive(pid):
        os.kill(pid, signal.SIGCONT)
        return "went on"
    return "was replaced by the supervisor"


def kill_in_replay(campaign: Campaign, away_s: float, after_s: float) -> str:
    """The engine stands still until batches go to the spool; while they are replayed the writer is killed."""
    pid = campaign.signal("clickhouse", signal.SIGSTOP)
    time.sleep(away_s)
    spooled = campaign.tree.metric("tickring_storage_spool_batches")
    if alive(pid):
        os.kill(pid, signal.SIGCONT)
    time.sleep(after_s)
    campaign.signal("writer", signal.SIGKILL)
    return f"{spooled:.0f} batches were in the spool"


def kill_daemon(campaign: Campaign) -> str:
    """SIGKILL the supervisor; a new one goes on with the rings."""
    tree = campaign.tree
    pids = tree.pids()
    assert tree.process is not None
    tree.process.kill()
    tree.process.wait()
    until("all processes to end", lambda: not any(map(alive, pids)))
    began = time.monotonic()
    tree.start().ready()
    return f"ready again after {time.monotonic() - began:.1f} s"


def restart_daemon(campaign: Campaign) -> str:
    """SIGTERM: a drain, and a start on the same rings."""
    tree = campaign.tree
    code = tree.stop()
    if code:
        campaign.trouble.append(f"a drain ended with {code}: {tree.logged(5)}")
    tree.start().ready()
    return f"exit code {code}"


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
        return _skip(campaign, "fill_disk", "mounting a file system needs root")
    with filled(campaign.tree.data) as taken:
        time.sleep(seconds / 2)
        campaign.signal(actor, signal.SIGKILL)
        time.sleep(seconds / 2)
    campaign.calm()
    return f"{taken >> 20} MiB taken"


def fill_memory(campaign: Campaign, seconds: float, actor: str) -> str:
    """No room in shared memory while an actor has to start again."""
    if not campaign.own_shm:
        return _skip(campaign, "fill_memory", "mounting a file system needs root")
    with filled(campaign.tree.shm) as taken:
        campaign.signal(actor, signal.SIGKILL)
        time.sleep(seconds)
    campaign.calm()  # an actor that cannot start waits longer each time
    return f"{taken >> 20} MiB taken"


def step_clock(campaign: Campaign, hours: int, seconds: float) -> str:
    """The daemon's wall clock jumps, and jumps back."""
    if not campaign.clock.works:
        return _skip(campaign, "step_clock", "without a C compiler the daemon cannot be given a clock of its own")
    campaign.clock.step(3600 * hours)
    time.sleep(seconds)
    said = campaign.tree.get("/health").headers.get("Date")
    campaign.clock.step(0)
    time.sleep(1.0)
    return f"{said} for the front"


def _skip(campaign: Campaign, name: str, why: str) -> str:
    if (line := f"{name}: {why}") not in campaign.skipped:
        campaign.skipped.append(line)
    return f"SKIPPED: {why}"


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


def exchange(campaign: Campaign, fault: str, seconds: float, **parameters: Any) -> str:
    """A fault of the exchange for some seconds; then all are lifted."""
    response = campaign.tree.sim_raw("faults", {"fault": fault, **parameters})
    if response.status != 200:
        campaign.trouble.append(f"the exchange refused the fault {fault} {parameters}: {response.body!r}")
    time.sleep(seconds)
    campaign.lift()
    return response.body.decode()[:100]


def _draw_fault(name: str) -> Callable[[random.Random], dict[str, Any]]:
    def draw(rng: random.Random) -> dict[str, Any]:
        product = rng.choice(("spot", "usdm"))
        symbol = rng.choice(list(COINS))
        trades = f"{symbol.lower()}@{'trade' if product == 'spot' else 'aggTrade'}"
        parameters: dict[str, Any] = {"fault": name, "seconds": round(rng.uniform(1, 3), 1)}
        takes = FAULTS[name].parameters
        if name in ("old_snapshot", "stale_snapshot"):
            return parameters | {"product": product, "symbol": rng.choice(BOOKS), "count": rng.randint(1, 3)}
        if name == "rest_status":
            status = rng.choice((403, 418, 429, 500, 503))
            return parameters | {"status": status, "count": rng.randint(1, 3), "retry_after_s": 1}
        if name == "limits":
            return parameters | {"product": product, "life_s": 1.0}
        if name == "break_chain":
            return parameters | {"product": product, "symbol": rng.choice(BOOKS)}
        if "stream" in takes:  # a trade stream or the depth of a symbol
            what = {"stream": trades} if rng.random() < 0.7 else {"symbol": symbol}
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


def _draw_room(actors: Iterable[str], low: float, high: float) -> Callable[[random.Random], dict[str, Any]]:
    return lambda rng: {**_seconds(low, high)(rng), "actor": rng.choice(list(actors))}


DAMAGES: dict[str, Damage] = {
    "kill": Damage("SIGKILL of up to three actors", _draw_kill, kill),
    "stop": Damage("SIGSTOP of an actor", lambda rng: {"actor": rng.choice(ACTORS), **_seconds(1, 5)(rng)}, stop),
    "stop_long": Damage("SIGSTOP for 30 s", lambda rng: {"actor": rng.choice(ACTORS), "seconds": 30.0}, stop),
    "kill_in_replay": Damage(
        "SIGKILL of the writer while it replays its spool",
        lambda rng: {"away_s": round(rng.uniform(6, 9), 1), "after_s": round(rng.uniform(0, 0.5), 2)},
        kill_in_replay,
    ),
    "kill_daemon": Damage("SIGKILL of the supervisor", lambda rng: {}, kill_daemon),
    "restart_daemon": Damage("drain and warm start", lambda rng: {}, restart_daemon),
    "cut": Damage("the network to the exchange cut", _seconds(0.2, 5), cut),
    "swallow": Damage("the network carries nothing", _seconds(0.5, 8), swallow),
    "fill_disk": Damage("no room on disk", _draw_room(("writer", "clickhouse", *FEEDS), 2, 6), fill_disk),
    "fill_memory": Damage("no room in shared memory", _draw_room(ACTORS, 2, 5), fill_memory),
    "step_clock": Damage(
        "the daemon's clock stepped by an hour", lambda rng: {"hours": rng.choice((-1, 1)), **_seconds(3, 6)(rng)},
        step_clock,
    ),
    "slow_client": Damage("a client that reads nothing", _seconds(15, 40), slow_client),
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
