"""Rows of any record type: the newest of a key from memory, and ranges merged with history."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...codecs.record import RecordType
from ...codecs.records import TRADE
from ..catalog import Source
from .endpoints import Answer, Answerer, Arguments
from .envelope import encode, joined_rows, members
from .merge import Seam, merge
from .paging import DAY_NS, Window, pagination, window_of
from .rows import Alias, Options, RowRenderer, row_schema
from .shapes import KEY_SCHEMA, key_metadata, key_text, options_of
from .stamps import rfc3339
from .state import FrontState, Kept


@dataclass(frozen=True)
class Form:
    """How rows of a record type look, and how far back a range reaches where no start is given."""

    record: RecordType
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    span_ns: int = DAY_NS

    def schema(self) -> dict[str, Any]:
        return row_schema(self.record, self.aliases, **KEY_SCHEMA)

    def renderer(self, source: Source, options: Options, key: Mapping[str, Any] | None = None) -> RowRenderer:
        return RowRenderer(self.record, source.key.attributes if key is None else key, options, self.aliases)


def shown_time(options: Options) -> Callable[[int], Any]:
    """UNIX ns to the JSON value of a time."""
    return (lambda ns: ns // 1_000_000) if options.time == "ms" else rfc3339


class NewestText:
    """Envelope members with the newest rows of one key in one form.

    While no record came, the same bytes again; else one join of kept texts.
    """

    def __init__(
        self, state: FrontState, form: Form, source: Source, arguments: Arguments, *, paged: bool = False
    ) -> None:
        self.source = source
        self._cache = state.row_cache(form.record, source, options_of(arguments), form.aliases)
        self._constant = key_text(source, arguments["symbol"])
        self._metadata = key_metadata(source, arguments["symbol"])
        self._paged = paged
        self._kept = Kept(state)
        self._rows = 0
        self._missed = state.missed if form.record is TRADE else None

    def members(self, limit: int) -> tuple[bytes, int]:
        """`(members, rows)`."""
        gaps = self._missed.version if self._missed is not None else 0
        kept = self._kept.get((self.source.reader.count(self.source.key_id), gaps))
        if kept is not None:
            return kept, self._rows
        texts = self._cache.newest(limit)
        self._rows = rows = len(texts)
        metadata = {**self._metadata, "count": rows, "data_source": "memory", "completeness": 100}
        if self._missed is not None and rows:
            share, note = self._missed.judge(self.source, self._cache.oldest(rows)[2], self._cache.oldest(1)[2], rows)
            metadata |= {"completeness": share, "note": note} if note else {}
        text = b'"data":%b,"metadata":%b,"count":%d' % (joined_rows(self._constant, texts), encode(metadata), rows)
        if self._paged and rows:
            nth, _, received_ns = self._cache.oldest(rows)
            cursor = Seam(self.source.epoch, nth, received_ns)
            text += b',"pagination":' + encode(pagination(limit, has_next=nth > 0, next_cursor=cursor))
        return self._kept.put((self._cache.count, gaps), text), rows

    def reaches(self, start_ns: int) -> bool:
        """Whether all rows of the last answer are of this time or later."""
        return bool(self._rows) and self._cache.oldest(self._rows)[1] >= start_ns


def newest_rows(state: FrontState, form: Form, arguments: Arguments) -> Answerer:
    """The newest `limit` rows, from memory alone."""
    text = NewestText(state, form, state.source(form.record, arguments), arguments)

    def answer() -> Answer:
        return text.members(arguments["limit"])[0]

    return answer


def rows_in_range(state: FrontState, form: Form, arguments: Arguments) -> Answerer:
    """Rows of a range, a page, or what follows a cursor."""
    source = state.source(form.record, arguments)
    window = window_of(arguments, form.span_ns)
    newest = NewestText(state, form, source, arguments, paged=True) if window.is_newest else None

    def answer() -> Answer | Awaitable[Answer]:
        if newest is not None:
            # the usual request: the newest rows, as long as all of them are of the default range
            kept, rows = newest.members(window.size)
            if rows == window.size and newest.reaches(time.time_ns() - window.span_ns):
                return kept
        return merged_rows(state, form, source, arguments, window)

    return answer


async def merged_rows(state: FrontState, form: Form, source: Source, arguments: Arguments, window: Window) -> Answer:
    options = options_of(arguments)
    start, end = window.bounds()
    fetch = state.history.fetcher(form.record, source, hint=window.is_newest)
    paged = window.page is not None
    count = state.history.counter(form.record, source, (window.start, window.end)) if paged else None
    # one row more than the page holds says whether there is another page
    wanted = window.offset + window.size + 1
    found = await merge(source.reader, source.key_id, start, end, wanted, fetch, count, window.before)
    shown = slice(window.offset, window.offset + window.size)
    rows, epochs = found.rows[shown], found.epochs[shown]
    texts = form.renderer(source, options).rows(rows)
    completeness, note = found.completeness, found.note
    if form.record is TRADE and len(rows):
        received = rows["ts_recv_ns"]
        completeness, note = state.missed.judge(
            source, int(received.min()), int(received.max()), len(rows), completeness, note
        )
    show = shown_time(options)
    metadata: dict[str, Any] = {
        **key_metadata(source, arguments["symbol"]), "count": len(texts), "start_time": show(start),
        "end_time": show(end), "data_source": found.data_source, "completeness": completeness,
        **({"note": note} if note else {}),
    }  # fmt: skip
    told = pagination(
        window.size, page=window.page, total=found.total, has_next=len(found.rows) > shown.stop,
        has_prev=(window.page or 1) > 1 or window.before is not None,
        next_cursor=Seam(int(epochs[-1]), int(rows["nth"][-1]), int(rows["ts_recv_ns"][-1])) if len(rows) else None,
    )  # fmt: skip
    data = joined_rows(key_text(source, arguments["symbol"]), texts)
    return members(data, metadata=metadata, count=found.total if paged else len(texts), pagination=told)
