"""Read the configuration file, TOML, and check it whole: every mistake at once, each with what is allowed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from .checking import INVALID, build, check_fields, check_struct, check_value, join, shown, unknown
from .config import ClickHouse, Exchanges, Front, Instance, Log, Settings, SupervisorConfig
from .errors import ConfigError, InputMissing, Mistake
from .kinds import KINDS
from .meaning import check_meaning
from .plan import refused_configs

# Tables that the daemon and an actor share: the daemon's fields, which win over equally named ones of the actor.
_EXTRA_FIELDS: Mapping[str, type[msgspec.Struct]] = {"front": Front, "clickhouse": ClickHouse}

# Fields of the actors' structs that follow from elsewhere, with what to write instead.
_FROM_EXCHANGES = "follows from [exchanges]: set it there"
_FROM_CLICKHOUSE = "follows from [clickhouse]: set it there"
_FROM_KAFKA = "follows from [kafka]: set it there"
RESERVED: Mapping[str, Mapping[str, str]] = {
    "feed": dict.fromkeys(
        ("exchange", "product", "tier", "symbols", "channels", "ws_url", "rest_url"), _FROM_EXCHANGES
    ),
    "topic": {"clickhouse": _FROM_CLICKHOUSE, "topic": "each of the topics has an actor: set topics"},
    "portfolio": {
        "clickhouse": _FROM_CLICKHOUSE,
        **dict.fromkeys(("default_account", "default_strategy"), _FROM_KAFKA),
    },
    "alerts": {
        "clickhouse": _FROM_CLICKHOUSE,
        **dict.fromkeys(("kafka", "default_account"), _FROM_KAFKA),
    },
    "broker": {"clickhouse": _FROM_CLICKHOUSE, "topics": _FROM_KAFKA},
    "strategy": dict.fromkeys(("account", "strategy"), "follows from [kafka]: set default_account, default_strategy"),
    "writer": {"clickhouse": _FROM_CLICKHOUSE},
    "keeper": {"clickhouse": _FROM_CLICKHOUSE, "rest_urls": _FROM_EXCHANGES, "weight_limit": "set feed.weight_limit"},
    "front": {"clickhouse": _FROM_CLICKHOUSE},
}


def load(path: Path) -> Settings:
    """Read and check a file. Raises InputMissing or ConfigError (with every mistake)."""
    try:
        text = path.read_text("utf-8-sig")  # Windows editors begin a file with a mark, which TOML does not know
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputMissing(f"configuration {path} cannot be read: {reason}. Name another file with -c.") from None
    return parse(text, str(path))


def parse(text: str, source: str) -> Settings:
    """Check a TOML text. Raises ConfigError with every mistake."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, [Mistake("document", f"is not TOML: {error}")]) from None
    try:
        return check(raw, source)
    except ConfigError as error:
        found = _lines(text)
        mistakes = [replace(mistake, line=_line_of(mistake.path, found)) for mistake in error.mistakes]
        raise ConfigError(source, mistakes) from None


_HEADER = re.compile(r"\s*\[\[?([^\[\]]+)\]")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""", re.ASCII)
_UNQUOTED = str.maketrans("", "", "\"' \t")


def _lines(text: str) -> dict[str, int]:
    """Key paths of a TOML text, without quotes, to the lines where they begin."""
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = header[1].translate(_UNQUOTED)
            found.setdefault(table, number)
        elif key := _KEY.match(line):
            found.setdefault(f"{table}.{key[1]}".lstrip(".").translate(_UNQUOTED), number)
    return found


def _line_of(path: str, lines: Mapping[str, int]) -> int:
    """The line of the longest part of a mistake's path that stands in the file."""
    place = path.partition("[")[0].translate(_UNQUOTED)
    while place and place not in lines:
        place = place.rpartition(".")[0]
    return lines.get(place, 0)


def check(raw: Mapping[str, Any], source: str) -> Settings:
    """Check a decoded document: types and names first, then what the values mean together."""
    mistakes: list[Mistake] = []
    own = {"instance": Instance, "log": Log, "supervisor": SupervisorConfig, "exchanges": Exchanges}
    tables = [kind.table for kind in KINDS.values()]
    known = [*own, "cpus", *tables]
    values: dict[str, Any] = {}
    for key, table in raw.items():
        if key in own:
            values[key] = check_struct(own[key], table, key, mistakes)
        elif key == "cpus":
            values["cpus_auto"], values["cpus"] = _check_cpus(table, mistakes)
        elif key not in tables:
            mistakes.append(unknown(key, "table", key, known))
    values |= _check_actors(raw, mistakes)
    found = {name: value for name, value in values.items() if value is not None}
    settings = build(Settings, found, "", mistakes)
    if settings is not None:
        # a wrong value was replaced by its default: what that means together with the rest is no mistake of the file's
        wrong = [mistake.path for mistake in mistakes]
        later = [*check_meaning(settings), *refused_configs(settings)]
        mistakes += [mistake for mistake in later if not _follows(mistake.path, wrong)]
    if mistakes or settings is None:
        raise ConfigError(source, mistakes)
    return settings


def check_together(settings: Settings, source: str) -> None:
    """Check settings that were changed after they had been read. Raises ConfigError with every mistake."""
    if mistakes := [*check_meaning(settings), *refused_configs(settings)]:
        raise ConfigError(source, mistakes)


def _follows(path: str, wrong: Sequence[str]) -> bool:
    """Whether a mistake at `path` only follows from another one, at the same place or inside the same table."""
    return any(path.startswith(other) or other.startswith(f"{path}.") for other in wrong)


def _check_actors(raw: Mapping[str, Any], mistakes: list[Mistake]) -> dict[str, Any]:
    """The actors' tables, and what the daemon itself takes from them."""
    actors: dict[str, dict[str, Any]] = {}
    taken: dict[str, Any] = {"simulate": isinstance(raw.get("simulator"), dict)}
    for kind in KINDS.values():
        if kind.on_request and kind.table not in raw:
            continue
        table = raw.get(kind.table, {})
        extra = _EXTRA_FIELDS.get(kind.name)
        if extra is not None and isinstance(table, dict):
            names = extra.__struct_fields__
            own = {name: value for name, value in table.items() if name in names}
            table = {name: value for name, value in table.items() if name not in names}
            taken[kind.name] = check_struct(extra, own, kind.name, mistakes)
        also = extra.__struct_fields__ if extra else ()
        reserved = RESERVED.get(kind.name)
        fields = check_fields(kind.config_type, table, kind.table, mistakes, reserved=reserved, also=also)
        actors[kind.name] = fields
    return {**taken, "actors": actors}


def _check_cpus(table: object, mistakes: list[Mistake]) -> tuple[bool, dict[str, list[int]]]:
    if not isinstance(table, dict):
        mistakes.append(Mistake("cpus", "expected a table", shown(table)))
        return True, {}
    auto = check_value(bool, table.get("auto", True), "cpus.auto", mistakes)
    cpu = Annotated[int, Meta(ge=0)]
    lists = {
        name: check_value(list[cpu], value, join("cpus", name), mistakes)
        for name, value in table.items()
        if name != "auto"
    }
    return auto is not False, {name: value for name, value in lists.items() if value is not INVALID}
