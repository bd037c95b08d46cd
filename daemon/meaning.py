"""What a configuration's values mean together and on this machine: the second half of the check."""

from __future__ import annotations

import errno
import grp
import importlib.util
import ipaddress
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from ..actors.alerts.defaults import DEFAULT_RULES
from ..actors.topic.brokers import EMBEDDED
from .checking import check_value, join, shown, unknown
from .config import Contract, Settings, Spot, Symbol
from .errors import Mistake
from .kinds import KINDS
from .markets import check_feeds
from .plan import actor_names
from .rights import owner_of, user_name

PASSWORD_MODE_FORBIDDEN = 0o077
NO_FILE = "is no file that this user can see: make it, or name another"


def check_meaning(settings: Settings) -> list[Mistake]:
    """Every mistake that only shows when fields are seen together, or beside the machine."""
    return [
        *_exchanges(settings),
        *check_feeds(settings),
        *_rings(settings),
        *_cpus(settings),
        *_instance(settings),
        *_ports(settings),
        *_hosts(settings),
        *_remote_ports(settings),
        *_kafka(settings),
        *_alerts(settings),
        *_clickhouse(settings),
        *_supervisor(settings),
    ]


def _exchanges(settings: Settings) -> Iterator[Mistake]:
    binance = settings.exchanges.binance
    markets = {
        "exchanges.binance.spot": binance and binance.spot,
        "exchanges.binance.usdm": binance and binance.usdm,
    }
    if not any(markets.values()) and not settings.runs("topic"):
        yield Mistake(
            "exchanges", "names no market; add [exchanges.binance.spot] or [exchanges.binance.usdm] with symbols"
        )
    for path, market in markets.items():
        if market is None:
            continue
        for name in ("symbols", "channels"):
            items = getattr(market, name)
            if not items:
                yield Mistake(f"{path}.{name}", "is empty; expected at least one", "[]")
            for item, count in Counter(items).items():
                if count > 1:
                    yield Mistake(f"{path}.{name}", f"{item!r} stands there {count} times: leave it once", shown(items))
        kind = Symbol if isinstance(market, Spot) else Contract
        wrong: list[Mistake] = []
        places = {f"{path}.channels": market.channels}
        for symbol, channels in market.symbol_channels.items():
            place = join(f"{path}.symbol_channels", symbol)
            check_value(kind, symbol, place, wrong)
            places[place] = channels
        yield from wrong
        for place, channels in places.items():
            if {"trade", "agg_trade"} <= set(channels):
                yield Mistake(place, 'either "trade" or "agg_trade": both tell of the same trades', shown(channels))
        if market.shards > max(1, len(market.symbols)):
            yield Mistake(
                f"{path}.shards",
                f"more shards than the {len(market.symbols)} symbols: set at most so many",
                str(market.shards),
            )


def _rings(settings: Settings) -> Iterator[Mistake]:
    """Sizes of rings must be powers of two, so that a sequence becomes a slot by one mask."""
    for kind, fields in settings.actors.items():
        for name, value in fields.items():
            if name.endswith("_capacity") and isinstance(value, int) and (value <= 0 or value & (value - 1)):
                below = 1 << max(0, value.bit_length() - 1)
                path = join(KINDS[kind].table, name)
                yield Mistake(path, f"expected a power of two, such as {below} or {below * 2}", str(value))


def _cpus(settings: Settings) -> Iterator[Mistake]:
    available = sorted(os.sched_getaffinity(0))
    names = {*KINDS, *actor_names(settings)}
    for name, cpus in settings.cpus.items():
        path = join("cpus", name)
        if name not in names:
            yield unknown(path, "actor or kind", name, names)
        if not cpus:
            yield Mistake(path, "is empty; expected at least one CPU, or leave the line out", "[]")
        if unusable := [cpu for cpu in cpus if cpu not in available]:
            listing = ", ".join(map(str, available))
            yield Mistake(path, f"this process may use the CPUs {listing}", shown(unusable))


def _instance(settings: Settings) -> Iterator[Mistake]:
    folder = Path(settings.instance.folder)
    if not folder.is_absolute() or not os.path.isdir(folder):
        yield Mistake("instance.folder", "expected the absolute path of an existing folder", shown(str(folder)))
    elif reason := _not_writable(folder):
        yield Mistake("instance.folder", f"cannot be written by this user ({reason}): name another", shown(str(folder)))
    value = shown(settings.instance.data or str(settings.data))
    place = next(one for one in (settings.data, *settings.data.absolute().parents) if os.path.exists(one))
    if not place.is_dir():
        yield Mistake("instance.data", f"expected a folder, but {place} is none: name another", value)
    elif reason := _not_writable(place):
        problem = (
            f"cannot be written by this user ({place}: {reason}): name another, or make it and give it to this user"
        )
        yield Mistake("instance.data", problem, value)
    if settings.instance.group:
        try:
            grp.getgrnam(settings.instance.group)
        except KeyError:
            groups = [group.gr_name for group in grp.getgrall()]
            yield unknown("instance.group", f"group {settings.instance.group!r}", settings.instance.group, groups)


def _not_writable(folder: Path) -> str:
    """Why nothing can be made in a folder, or "". Rights alone do not tell: it may be no real one.

    One that is full is none of the configuration's mistakes.
    """
    try:
        Path(tempfile.mkdtemp(prefix=".tickring-check-", dir=folder)).rmdir()
    except OSError as error:
        return "" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
    return ""


def _ports(settings: Settings) -> Iterator[Mistake]:
    """Every port that something of ours will listen on: in range, and each used once."""
    seen: dict[int, str] = {}
    for kind in ("front", "clickhouse", "simulator"):
        if not settings.runs(kind):
            continue
        for name, port in settings.settled(kind).items():
            if name != "port" and not name.endswith("_port"):
                continue
            path = join(kind, name)
            if not 0 <= port <= 65_535:
                yield Mistake(path, "expected an integer from 0 to 65535", str(port))
            elif port == 0 and kind != "front":
                yield Mistake(
                    path, "expected a port that the other processes can be told; only front.port may be 0", "0"
                )
            elif port and port in seen:
                yield Mistake(path, f"is the port of {seen[port]} too: set one of them to another", str(port))
            seen[port] = path


HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")


def _hosts(settings: Settings) -> Iterator[Mistake]:
    """Addresses that something of ours will listen at."""
    for kind in ("front", "clickhouse", "simulator"):
        host = settings.settled(kind).get("host", "")
        if not settings.runs(kind) or _is_address(host):
            continue
        digits = host.rpartition(".")[2].isdigit()
        if digits or not HOST_NAME.fullmatch(host):
            allowed = 'expected an address of this machine such as "127.0.0.1", "::1" or "0.0.0.0" for all, or a name'
            yield Mistake(join(kind, "host"), allowed, shown(host))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _remote_ports(settings: Settings) -> Iterator[Mistake]:
    """Ports inside the addresses of others."""
    urls = {"clickhouse.url": settings.clickhouse.url}
    binance = settings.exchanges.binance
    for product in ("spot", "usdm"):
        market = getattr(binance, product, None)
        for name in market.__struct_fields__ if market else ():
            if name.endswith("_url"):
                urls[f"exchanges.binance.{product}.{name}"] = getattr(market, name)
    brokers = settings.actors.get("topic", {}).get("bootstrap_servers", EMBEDDED)
    urls |= {f"kafka.bootstrap_servers[{i}]": f"//{one}" for i, one in enumerate(brokers.split(",")) if ":" in one}
    for path, url in urls.items():
        try:
            right = urlsplit(url).port != 0
        except ValueError:
            right = False
        if not right:
            yield Mistake(path, "expected a port from 1 to 65535 behind the host's name", shown(url.lstrip("/")))


def _kafka(settings: Settings) -> Iterator[Mistake]:
    if settings.runs("strategy") and not settings.runs("broker"):
        own = f'[kafka] bootstrap_servers = "{EMBEDDED}"'
        yield Mistake("strategy", f"what it makes up belongs into no topic of others: it needs {own}")
    if not settings.runs("topic"):
        return
    table = settings.actors["topic"]
    if settings.runs("broker") and importlib.util.find_spec("confluent_kafka") is None:
        needs = "the embedded broker needs the library 'confluent_kafka': pip install 'tickring[demo]'"
        yield Mistake("kafka.bootstrap_servers", needs, shown(EMBEDDED))
    if importlib.util.find_spec("aiokafka") is None:
        yield Mistake("kafka", "needs the library 'aiokafka': pip install 'tickring[kafka]'")
    topics = table.get("topics", ["all"])
    if not topics:
        yield Mistake("kafka.topics", "is empty; expected at least one, or leave the line out for all", "[]")
    for topic, count in Counter(topics).items():
        if count > 1:
            yield Mistake("kafka.topics", f"{topic!r} stands there {count} times: leave it once", shown(topics))
    for name in ("sasl_password_file", "ssl_ca_file", "ssl_cert_file", "ssl_key_file"):
        if table.get(name):
            yield from _file(join("kafka", name), table[name], secret=name in ("sasl_password_file", "ssl_key_file"))


def _file(path: str, name: str, *, secret: bool) -> Iterator[Mistake]:
    """A file that this user must be able to read, and of a secret one nobody else."""
    file = Path(name).expanduser()
    if not os.path.isfile(file):
        yield Mistake(path, NO_FILE, shown(name))
    elif not os.access(file, os.R_OK):
        mend = f"sudo chown {user_name(os.geteuid())} {file}"
        whose = f"cannot be read by this user: it belongs to user {owner_of(file)[1]}; run: {mend}"
        yield Mistake(path, whose, shown(name))
    elif secret and file.stat().st_mode & PASSWORD_MODE_FORBIDDEN:
        yield Mistake(path, f"others may read it; run: chmod 600 {file}", shown(name))


def _alerts(settings: Settings) -> Iterator[Mistake]:
    table = settings.actors.get("alerts", {})
    known = {rule.rule_id for rule in DEFAULT_RULES}
    for index, rule_id in enumerate(table.get("disabled", [])):
        if rule_id not in known:
            yield unknown(f"alerts.disabled[{index}]", f"built-in rule {rule_id!r}", rule_id, known)
    if table.get("produce") and "bootstrap_servers" not in settings.actors.get("topic", {}):
        yield Mistake("alerts.produce", "needs [kafka] bootstrap_servers: there is no topic to produce to", "true")


def _clickhouse(settings: Settings) -> Iterator[Mistake]:
    if settings.embedded and importlib.util.find_spec("chdb") is None:
        needs = "the embedded engine needs the library 'chdb': pip install 'tickring[embedded]', or name a server"
        yield Mistake("clickhouse.url", needs, shown(""))
    name = settings.clickhouse.password_file
    if not name:
        return
    if settings.embedded:
        yield Mistake(
            "clickhouse.password_file", "needs clickhouse.url: the embedded engine has a file of its own", shown(name)
        )
    else:
        yield from _file("clickhouse.password_file", name, secret=True)


def _supervisor(settings: Settings) -> Iterator[Mistake]:
    config = settings.supervisor
    if config.restart_delay_s > config.restart_delay_max_s:
        yield Mistake(
            "supervisor.restart_delay_s",
            f"is above supervisor.restart_delay_max_s ({config.restart_delay_max_s}): lower it, or raise that",
            str(config.restart_delay_s),
        )
    if config.heartbeat_timeout_s < 1:
        yield Mistake(
            "supervisor.heartbeat_timeout_s",
            "expected at least 1: actors beat once a second",
            str(config.heartbeat_timeout_s),
        )
