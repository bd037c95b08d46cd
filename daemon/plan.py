"""From a checked configuration to the processes and streams of an instance."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ..actors.recent import topic_actor
from ..actors.topic.brokers import Brokers
from ..codecs.desk.canonical import TOPICS
from ..ringbuf.bytering import BYTES_AT
from ..ringbuf.layout import StreamSpec
from ..storage.client import Server
from ..storage.engine import create_password, lock_store
from .checking import build
from .config import Log, Settings, SupervisorConfig
from .cpus import assign
from .errors import ConfigError, Mistake
from .kinds import KINDS, Kind
from .listeners import open_listeners
from .markets import feed_shards, keys_numbered, rest_urls

DOORBELLS_MIN = (
    64  # made before the first spawn and inherited by all; those beyond the actors are lent to outside readers
)
DOORBELLS_SPARE_MIN = 16

STORE_PASSWORD = "password"  # in the embedded engine's folder; it makes the file at its first start

ActorMain = Callable[[Any], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Address:
    """Where an actor listens; actors of one group share the port, each with a socket of its own."""

    group: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class ActorPlan:
    """One process to run."""

    name: str
    kind: str
    load: Callable[
        [], ActorMain
    ]  # called in the supervisor before the fork, so that all actors share the modules' memory
    config: Any = None
    prepare: Callable[[], None] | None = None  # called once, before anything is started
    doorbell: int = 0  # index of its eventfd
    cpus: tuple[int, ...] = ()  # () = wherever the supervisor may run
    drain_rank: int = 0
    nice: int = 0  # added to the supervisor's own
    address: Address | None = None
    after: tuple[str, ...] = ()  # actors that should run before this one is first started
    streams: tuple[StreamSpec, ...] = ()
    byte_rings: tuple[tuple[str, int], ...] = ()  # name and capacity
    stream_keys: tuple[int, ...] = ()  # of each stream: keys that will have records in it
    keys: int = 0  # keys it will number

    @property
    def memory_bytes(self) -> int:
        """What its streams together take in shared memory once every configured key has been added."""
        keys = self.stream_keys or (self.keys,) * len(self.streams)
        rings = sum(spec.bytes_needed(min(n, spec.keys_max)) for spec, n in zip(self.streams, keys, strict=True))
        return rings + sum(BYTES_AT + capacity for _, capacity in self.byte_rings)


@dataclass(frozen=True)
class Plan:
    """Everything the supervisor needs to run an instance."""

    name: str
    folder: Path
    data: Path
    actors: tuple[ActorPlan, ...]
    supervisor: SupervisorConfig = field(default_factory=SupervisorConfig)
    log: Log = field(default_factory=Log)
    group: str = ""
    deferred: tuple[str, ...] = ()  # settings of the file that only a new daemon can carry out
    adopt: Callable[[], None] | None = field(default=None, compare=False)  # called when a running daemon takes it over

    @property
    def streams(self) -> list[StreamSpec]:
        return [spec for actor in self.actors for spec in actor.streams]

    @property
    def doorbells(self) -> int:
        return max(DOORBELLS_MIN, len(self.actors) + DOORBELLS_SPARE_MIN)

    @property
    def memory_bytes(self) -> int:
        """What all streams together take in shared memory."""
        return sum(actor.memory_bytes for actor in self.actors)


def by_group(plan: Plan) -> Iterator[tuple[Address, list[ActorPlan]]]:
    """Each address that actors listen on, with those actors."""
    groups: dict[Address, list[ActorPlan]] = {}
    for actor in plan.actors:
        if actor.address is not None:
            groups.setdefault(actor.address, []).append(actor)
    yield from groups.items()


@dataclass
class _Draft:
    """An actor before doorbells and CPUs are handed out."""

    name: str
    kind: Kind
    fields: dict[str, Any] = field(default_factory=dict)  # set by the plan; the file's own fields come before
    after: tuple[str, ...] = ()


def _drafts(settings: Settings) -> list[_Draft]:
    drafts = []
    history = {"clickhouse": clickhouse_server(settings)}
    if settings.simulate:
        drafts.append(_Draft("simulator", KINDS["simulator"]))
    if settings.embedded:
        drafts.append(_Draft("clickhouse", KINDS["clickhouse"]))
    # The simulator binds its own ports, so a feed that starts before it would be refused and come back later. Of the
    # engine the supervisor holds port and password, so whoever comes early only waits a moment for its answer.
    after = ("simulator",) if settings.simulate else ()
    drafts += [_Draft(name, KINDS["feed"], fields, after) for name, fields in feed_shards(settings)]
    if urls := rest_urls(settings):
        asked = {"rest_urls": urls, "weight_limit": settings.settled("feed")["weight_limit"]}
        drafts.append(_Draft("keeper", KINDS["keeper"], {**history, **asked}, after))
    if settings.runs("topic"):
        drafts += _desk(settings, history)
    drafts.append(_Draft("writer", KINDS["writer"], history))
    drafts += [_Draft(f"front-{index}", KINDS["front"], history) for index in range(settings.front.workers)]
    return drafts


def _desk(settings: Settings, history: dict[str, Any]) -> list[_Draft]:
    """The actors of the desk's own events."""
    kafka = settings.settled("topic")
    account, strategy = kafka["default_account"], kafka["default_strategy"]
    table = settings.actors["topic"]
    topics = table.get("topics", list(TOPICS))
    drafts = []
    if settings.runs("broker"):
        drafts.append(_Draft("broker", KINDS["broker"], {**history, "topics": topics}))
    drafts += [_Draft(topic_actor(topic), KINDS["topic"], {**history, "topic": topic}) for topic in topics]
    if settings.runs("portfolio"):
        defaults = {"default_account": account, "default_strategy": strategy}
        drafts.append(_Draft("portfolio", KINDS["portfolio"], {**history, **defaults}))
    reached = {name: table[name] for name in Brokers.__struct_fields__ if name in table}
    told = {"kafka": Brokers(**reached) if "bootstrap_servers" in reached else None, "default_account": account}
    drafts.append(_Draft("alerts", KINDS["alerts"], {**history, **told}))
    if settings.runs("strategy"):
        drafts.append(_Draft("strategy", KINDS["strategy"], {"account": account, "strategy": strategy}))
    return drafts


def clickhouse_server(settings: Settings) -> Server:
    """Where history is kept: the configured server, or the embedded engine on loopback with the password it makes."""
    config = settings.clickhouse
    password_file = config.password_file
    url = config.url
    if settings.embedded:
        engine = settings.settled("clickhouse")
        url = f"http://{engine['host']}:{engine['port']}"
        password_file = str(settings.data / engine["folder"] / STORE_PASSWORD)
    password_file = str(Path(password_file).expanduser()) if password_file else ""
    return Server(**{**msgspec.structs.asdict(config), "url": url, "password_file": password_file})


def actor_names(settings: Settings) -> list[str]:
    return [draft.name for draft in _drafts(settings)]


def refused_configs(settings: Settings) -> list[Mistake]:
    """What the actors' own structs refuse although each field is right by itself."""
    mistakes: list[Mistake] = []
    for draft in _drafts(settings):
        _config(draft, settings, mistakes)
    return list(dict.fromkeys(mistakes))  # all actors of a kind refuse the same


def _config(draft: _Draft, settings: Settings, mistakes: list[Mistake]) -> msgspec.Struct | None:
    """The actor's struct: the file's fields and the planned ones."""
    fields = {**settings.actors.get(draft.kind.name, {}), **draft.fields}
    return build(draft.kind.config_type, fields, draft.kind.table, mistakes)


def make_plan(settings: Settings, source: str = "configuration") -> Plan:
    """The processes and streams of a configuration.

    Raises:
        ConfigError: an actor's own struct refuses the fields that it gets.
    """
    drafts = _drafts(settings)
    cpus = assign(
        [(draft.name, draft.kind.name) for draft in drafts],
        sorted(os.sched_getaffinity(0)),
        settings.cpus,
        auto=settings.cpus_auto,
    )
    mistakes: list[Mistake] = []
    actors = []
    for doorbell, draft in enumerate(drafts):
        module = draft.kind.load()
        config: Any = _config(draft, settings, mistakes)
        if config is None:
            continue
        streams = module.streams(draft.name, config) if hasattr(module, "streams") else []
        is_feed = draft.kind.name == "feed"
        numbered = keys_numbered if is_feed else getattr(module, "keys_numbered", None)
        byte_rings = module.byte_rings(draft.name, config) if hasattr(module, "byte_rings") else {}
        actors.append(
            ActorPlan(
                name=draft.name,
                kind=draft.kind.name,
                load=lambda kind=draft.kind: kind.main,
                config=config,
                prepare=_preparation(draft.kind, config, settings),
                doorbell=doorbell,
                cpus=cpus[draft.name],
                drain_rank=draft.kind.drain_rank,
                nice=draft.kind.nice,
                address=_address(draft.kind, config),
                after=draft.after,
                streams=tuple(streams),
                byte_rings=tuple(byte_rings.items()),
                stream_keys=tuple(numbered(config, spec.record) for spec in streams) if numbered else (),
                keys=keys_numbered(config) if is_feed else 0,
            )
        )
    if mistakes:
        raise ConfigError(source, mistakes)
    return Plan(
        name=settings.instance.name,
        folder=settings.folder,
        data=settings.data,
        actors=tuple(actors),
        supervisor=settings.supervisor,
        log=settings.log,
        group=settings.instance.group,
    )


def _preparation(kind: Kind, config: Any, settings: Settings) -> Callable[[], None] | None:
    """What must hold before any process is started; whoever starts the daemon is told in one line why it cannot."""
    if kind.name == "clickhouse":
        return functools.partial(prepare_store, settings.data / config.folder)
    if kind.name == "simulator":
        return functools.partial(check_ports_free, kind.name, config)
    if kind.name == "topic":
        return load_kafka_client
    return None


def load_kafka_client() -> None:
    """Import the client, which is optional, once for all topics: before the fork, so that they share its memory."""
    importlib.import_module("..actors.topic.link", __package__)


def check_ports_free(what: str, config: msgspec.Struct) -> None:
    """See that nobody listens on the ports which an actor opens itself. Raises PortTaken or FolderUnusable."""
    for name in config.__struct_fields__:
        if name.endswith("_port") and (port := getattr(config, name)):
            open_listeners(f"{what}.{name}", getattr(config, "host", "127.0.0.1"), port, 0)


def prepare_store(folder: Path) -> None:
    """See that nobody else has the embedded engine's store, and make its password, which others read at their start.

    Raises:
        StoreLocked, StoreUnusable
    """
    lock = lock_store(folder)
    try:
        create_password(folder)
    finally:
        os.close(lock)


def _address(kind: Kind, config: msgspec.Struct) -> Address | None:
    if not kind.listens:
        return None
    return Address(kind.name, getattr(config, "host", "127.0.0.1"), getattr(config, "port", 0))
