"""A whole daemon on a real broker of the desk's events, and what a campaign does to the two."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tickring.actors.alerts.defaults import DEFAULT_RULES
from tickring.actors.recent import ALERTS_ACTOR, PORTFOLIO_ACTOR, topic_actor
from tickring.actors.writer.writer import BY_NAME, RING_SUFFIX
from tickring.codecs.record import Store
from tickring.ringbuf import RingError, page_filename, read_page

from ..desk.broker import Broker, renew_topics
from ..system.tree import SHM, Tree, alive, merged, until
from . import damage
from .campaign import CALM_S, Campaign
from .damage import Damage, Step
from .desk_load import ALL_TOPICS, PARTITIONS, Load
from .proxy import Network

RATE = 150.0  # messages a second
BNB = "600"  # USDT for one
RULE = "leverage"  # the one rule that looks at what the load says
TOPIC_ACTORS = tuple(map(topic_actor, ALL_TOPICS))
KILLED = (*TOPIC_ACTORS, PORTFOLIO_ACTOR, ALERTS_ACTOR, "writer", "clickhouse", "front-0", "front-1")
# A topic's actor is one of nine, and each of the others is as much worth a kill as all of them.
WEIGHTS = (*(1,) * len(TOPIC_ACTORS), *(4,) * (len(KILLED) - len(TOPIC_ACTORS)))


class Desk(Tree):
    """A daemon that follows all topics of a broker, and no exchange."""

    def __init__(self, name: str, shm: Path, disk: Path, bootstrap: str) -> None:
        super().__init__(name, shm, disk)
        for table in ("simulator", "feed"):
            del self.config[table]
        others = [rule.rule_id for rule in DEFAULT_RULES if rule.rule_id != RULE]
        self.config = merged(
            self.config,
            {
                "kafka": {
                    "bootstrap_servers": bootstrap, "topics": list(ALL_TOPICS), "retry_delay_max_s": 1.0,
                    "event_capacity": 1 << 13, "texts_capacity": 1 << 22, "fill_texts_capacity": 1 << 23,
                },
                "portfolio": {"rates": {"BNB-USDT": BNB}},
                "alerts": {"disabled": others, "interval_s": 0.2},  # what else is wrong here is the campaign's doing
                "supervisor": {"restart_delay_max_s": 0.5, "restarts_max": 100_000, "heartbeat_timeout_s": 30.0},
            },
        )  # fmt: skip


class DeskCampaign(Campaign):
    """Holds broker, network, daemon and load.

    Args:
        broker: a running one; else one is made and taken away again.
    """

    actors = KILLED
    load: Load

    def __init__(
        self, seed: int, folder: Path, say: Callable[[str], None] = print, *, broker: Broker | None = None,
        rate: float = RATE,
    ) -> None:  # fmt: skip
        super().__init__(seed, folder, say, 0)
        self._given, self._rate = broker, rate

    def _begin(self) -> None:
        stack = self._stack
        shm = Path(tempfile.mkdtemp(prefix="tickring-faults-", dir=SHM))
        stack.callback(shutil.rmtree, shm, ignore_errors=True)
        if self._given is None:
            self.broker = Broker(self.folder / "broker")
            stack.callback(self.broker.stop)
            self.broker.start()
        else:
            self.broker = self._given
        renew_topics(self.broker.bootstrap, ALL_TOPICS, PARTITIONS)
        routes = {"broker": self.broker.through_port}
        self.network = stack.enter_context(Network(routes, {"broker": self.broker.proxy_port}))
        name = shm.name.removeprefix("tickring-").replace("_", "-").lower()
        self.tree = Desk(name, shm, self.folder, self.broker.through)
        stack.callback(self.tree.clean_up)
        self.tree.start().ready()
        self.load = Load(self.broker.bootstrap, self.seed, self._rate)
        self.load.start()
        stack.callback(self._end_load)
        self.calm()

    def _end_load(self) -> None:
        with contextlib.suppress(AssertionError):  # of which the verdict has told
            self.load.finish()

    def calm(self) -> None:
        """Wait until every actor runs, all partitions are read and the writer follows every ring that it stores."""
        until("all actors to run", self._all_run, CALM_S)
        until("all topics to be read", self._all_read, CALM_S)
        until("the writer to follow every ring", self._all_followed, CALM_S)

    def _all_read(self) -> bool:
        with contextlib.suppress(OSError, AssertionError, KeyError):
            return self.tree.metric("tickring_kafka_up") == len(ALL_TOPICS)
        return False

    def _all_followed(self) -> bool:
        rings = [path.stem.rpartition(".")[2] for path in self.tree.folder.glob(f"*{RING_SUFFIX}")]
        with contextlib.suppress(OSError, RingError):
            followed = read_page(self.tree.folder / page_filename("writer")).detail.get("streams", 0)
            return followed == sum(BY_NAME[record].store is not Store.OFF for record in rings)
        return False


# -- damage


def restart_broker(campaign: DeskCampaign, away_s: float) -> str:
    """SIGKILL, and a start on the same folder."""
    campaign.broker.kill()
    time.sleep(away_s)
    began = time.monotonic()
    campaign.broker.start()
    return f"it answered after {time.monotonic() - began:.1f} s"


def stop_broker(campaign: DeskCampaign, seconds: float) -> str:
    process = campaign.broker.process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    process.send_signal(signal.SIGCONT)
    return f"{len(campaign.load.produced)} produced so far"


def wipe(campaign: DeskCampaign, without: Sequence[str], within_s: float) -> str:
    """What a reboot leaves: everything is killed, shared memory is empty, the disk is as it was.

    Args:
        without: actors that are killed a while before the others, and whose work is therefore behind.
    """
    tree = campaign.tree
    for name in without:
        campaign.signal(name, signal.SIGSTOP)
    time.sleep(within_s)
    pids = tree.pids()
    assert tree.process is not None
    for pid in (tree.process.pid, *pids):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    tree.process.wait()
    until("all processes to end", lambda: not any(map(alive, pids)), CALM_S)
    shutil.rmtree(tree.folder)
    began = time.monotonic()
    tree.start().ready()
    return f"ready again after {time.monotonic() - began:.1f} s"


def _draw_kill(rng: random.Random) -> dict[str, Any]:
    count = rng.choices((1, 2, 3), (60, 25, 15))[0]
    actors = rng.choices(KILLED, WEIGHTS, k=count)
    return {"actors": actors, "within_s": round(rng.uniform(0, 0.5), 2), "rest_s": round(rng.uniform(0, 2), 2)}


def _draw_stop(rng: random.Random) -> dict[str, Any]:
    return {"actor": rng.choices(KILLED, WEIGHTS)[0], "seconds": round(rng.uniform(1, 5), 1)}


def _draw_wipe(rng: random.Random) -> dict[str, Any]:
    behind = rng.choice(((), (ALERTS_ACTOR,), (PORTFOLIO_ACTOR,), ("writer",), ("clickhouse",)))
    return {"without": list(behind), "within_s": round(rng.uniform(0, 4), 1)}


def _seconds(low: float, high: float, name: str = "seconds") -> Callable[[random.Random], dict[str, Any]]:
    return lambda rng: {name: round(rng.uniform(low, high), 1)}


DAMAGES: Mapping[str, Damage] = {
    "kill": Damage("SIGKILL of up to three actors", _draw_kill, damage.kill),
    "stop": Damage("SIGSTOP of an actor", _draw_stop, damage.stop),
    "kill_in_replay": damage.DAMAGES["kill_in_replay"],
    "kill_daemon": damage.DAMAGES["kill_daemon"],
    "restart_daemon": damage.DAMAGES["restart_daemon"],
    "wipe": Damage("shared memory emptied, as by a reboot", _draw_wipe, wipe),
    "restart_broker": Damage("SIGKILL of the broker", _seconds(0, 3, "away_s"), restart_broker),
    "stop_broker": Damage("SIGSTOP of the broker", _seconds(1, 15), stop_broker),
    "cut": Damage("the connection to the broker cut", _seconds(1, 5), damage.cut),
    "cut_long": Damage("the same for 30 s", lambda rng: {"seconds": 30.0}, damage.cut),
    "swallow": Damage("the connection carries nothing", _seconds(1, 12), damage.swallow),
}


class DeskStep(Step):
    """One damage with its parameters."""

    def do(self, campaign: Campaign) -> str:
        return DAMAGES[self.name].do(campaign, **self.parameters)


def make_steps(seed: int, kills: int, rounds: int, names: Iterable[str] = DAMAGES) -> list[Step]:
    """The campaign of a seed: at least so many SIGKILLs, every other damage `rounds` times, in a shuffled order."""
    return damage.draw_steps(seed, kills, rounds, names, DAMAGES, DeskStep)
