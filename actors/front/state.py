"""What the endpoints of one worker share."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from ...codecs.record import RecordType
from ..catalog import Catalog, Source
from ..runtime import ActorContext
from .config import Config
from .desk.desk import Desk
from .history import History
from .host import Scrapes
from .kept import Keeper
from .missed import Missed
from .resolve import resolve
from .rows import Alias, Options, RowCache, RowRenderer
from .tree import Tree

KEPT_BYTES_MAX = 32 << 20  # of answers that prepared calls keep, together


@dataclass
class FrontState:
    """One worker's streams, process tree, history and caches."""

    ctx: ActorContext
    config: Config
    catalog: Catalog
    tree: Tree
    history: History
    started_ns: int = field(default_factory=time.time_ns)
    kept_bytes: int = 0  # of answers kept by prepared calls
    scrapes: Scrapes = field(default_factory=Scrapes)
    aggregates: Keeper[Any] = field(init=False)  # statistics over ranges; not those that ClickHouse did not answer
    desk: Desk = field(init=False)
    missed: Missed = field(init=False)
    covered: tuple[int, dict[str, Any]] | None = None  # freshness of all types and when it was looked at, UNIX ns
    _caches: dict[tuple[str, int, int, Options], RowCache] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.missed = Missed(self.ctx.data)
        self.desk = Desk(self.ctx.folder, self.ctx.page, self.config.desk, self.config.history_timeout_s, self.ctx.data)
        self.aggregates = Keeper(self.config.aggregate_keep_s, self.config.aggregates_max, attrgetter("answered"))

    @staticmethod
    def cache_headers(age_s: float) -> dict[str, str]:
        """Headers of an answer from `aggregates`."""
        return {"X-Cache": "HIT" if age_s else "MISS", "Age": str(int(age_s))}

    @property
    def folder_name(self) -> str:
        """Name of the instance's folder."""
        return self.ctx.folder.name

    def source(self, record: RecordType, arguments: Mapping[str, Any]) -> Source:
        """The source a request means. Raises NotFound."""
        return resolve(self.catalog, record.name, self.config.default_exchange, arguments)

    def row_cache(
        self, record: RecordType, source: Source, options: Options, aliases: Mapping[str, Alias] | None = None
    ) -> RowCache:
        """The texts of a key's newest records in one form."""
        reader = source.reader
        identity = (reader.path.name, reader.epoch, source.key_id, options)
        cache = self._caches.get(identity)
        if cache is None or cache.source is not source:
            if len(self._caches) >= self.config.row_caches_max:
                self._caches.pop(next(iter(self._caches)))
            renderer = RowRenderer(record, source.key.attributes, options, aliases)
            cache = self._caches[identity] = RowCache(source, renderer)
        return cache

    def forget(self) -> None:
        """Drop every kept text: the catalog changed."""
        self._caches.clear()
        self.kept_bytes = 0
        self.covered = None


class Kept:
    """The last answer of a prepared call, kept while it holds and as long as the worker's memory for that lasts."""

    __slots__ = ("_state", "_text", "_version")

    def __init__(self, state: FrontState) -> None:
        self._state = state
        self._text = b""
        self._version: object = None

    def get(self, version: object) -> bytes | None:
        """The answer, if it is of this version."""
        return self._text if version == self._version else None

    def put(self, version: object, text: bytes) -> bytes:
        """Keep an answer instead of the one before; returns it."""
        grown = len(text) - len(self._text)
        if self._state.kept_bytes + grown <= KEPT_BYTES_MAX:
            self._state.kept_bytes += grown
            self._text, self._version = text, version
        return text
