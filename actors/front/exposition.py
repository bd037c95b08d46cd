"""Prometheus text of the whole tree: every actor's page, and what the streams themselves show.

https://prometheus.io/docs/instrumenting/exposition_formats/ (text format 0.0.4, read 2026-11)
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from ...ringbuf import LayoutMismatch, PageView, RingError, StreamReader
from ...ringbuf.page import Sample
from ...ringbuf.readers import ReaderFile
from .host import host_samples, process_samples
from .metric_aliases import Family, aliased
from .stamps import NS
from .state import FrontState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "tickring_"
# Names without the prefix that collectors of this kind have always had.
DOCUMENTED = (
    "messages_processed_total", "messages_published_total", "errors_total",
    "uptime_seconds", "exchange_connections_active",
)  # fmt: skip
# Where an actor does not count under a documented name itself: the metrics of its own that add up to it.
SOURCES: Mapping[str, tuple[str, ...]] = {
    "messages_processed_total": ("tickring_feed_frames_total",),
    "errors_total": (
        "tickring_feed_rejected_total", "tickring_storage_clickhouse_insert_errors_total",
        "tickring_front_errors_total",
    ),
    "exchange_connections_active": ("tickring_feed_connected",),
}  # fmt: skip

TEXT_KEPT_S = 0.5  # the pages are no newer: however often it is asked for, a scrape costs the worker no more


def exposition(state: FrontState) -> bytes:
    """The text of all metrics, at most `TEXT_KEPT_S` old."""
    scrapes, now_s = state.scrapes, time.monotonic()
    if now_s - scrapes.at_s >= TEXT_KEPT_S:
        scrapes.text, scrapes.at_s = _render(state), now_s
    return scrapes.text


def _render(state: FrontState) -> bytes:
    families: dict[str, Family] = {}
    pages = state.tree.pages()
    for page in pages:
        for sample in page.samples:
            add(families, sample, page.actor)
    for sample in (*derived(state, pages), *stream_samples(state.catalog.all_streams())):
        add(families, sample)
    if state.config.metrics_aliases:
        families |= aliased(families, state.catalog.all_streams())
    return "".join(_lines(families)).encode()


def add(families: dict[str, Family], sample: Sample, actor: str | None = None) -> None:
    name = sample.name if sample.name.startswith(PREFIX) or sample.name in DOCUMENTED else PREFIX + sample.name
    labels = dict(sample.labels)
    if actor is not None:
        # a metric about another actor keeps that one's name
        labels = {("reporter" if "actor" in labels else "actor"): actor, **labels}
    family = families.setdefault(name, (sample.kind, sample.help, []))
    if family[0] == sample.kind:
        family[2].append((labels, sample.values, sample.bounds))


def derived(state: FrontState, pages: Iterable[PageView]) -> Iterable[Sample]:
    """The documented names that no actor counts itself, and what a page says besides its metrics."""
    given = {sample.name for page in pages for sample in page.samples}
    totals = dict.fromkeys(SOURCES, 0.0)
    for page in pages:
        for sample in page.samples:
            for name, sources in SOURCES.items():
                if sample.name in sources:
                    totals[name] += sample.values[0]
    for name, total in totals.items():
        if name not in given:
            kind = "counter" if name.endswith("_total") else "gauge"
            yield Sample(kind, name, "Sum over all actors", {}, (total,))
    if "messages_published_total" not in given:
        published = sum(published_of(reader) for reader in state.catalog.all_streams())
        yield Sample("counter", "messages_published_total", "Records published to all streams", {}, (published,))
    now_ns = time.time_ns()
    started = state.tree.started_ns() or state.started_ns
    yield Sample("gauge", "uptime_seconds", "Seconds since the daemon started", {}, ((now_ns - started) / NS,))
    for actor in state.tree.actors():
        labels = {"actor": actor.name}
        yield Sample("gauge", "tickring_actor_up", "1 while the actor runs and beats", labels, (float(actor.healthy),))
        age_s = actor.beat_age_s
        yield Sample("gauge", "tickring_actor_beat_age_seconds", "Age of its last heartbeat", labels, (age_s,))
        up_s = max(0, now_ns - actor.started_ns) / NS
        yield Sample("gauge", "tickring_actor_uptime_seconds", "Seconds since the process started", labels, (up_s,))
        yield from process_samples(actor.name, actor.pid)
    if (root := state.tree.root()) is not None:
        yield from process_samples(root.name, root.pid)
    yield from host_samples(state.scrapes, state.ctx.folder, state.ctx.data)
    instruments = {
        (key.attributes.get("exchange"), key.attributes.get("instrument"))
        for reader in state.catalog.all_streams()
        for key in reader.keys
    }
    told = "Instruments that a stream has been made for"
    yield Sample("gauge", "tickring_active_instruments", told, {}, (len(instruments),))


def published_of(reader: StreamReader) -> int:
    """Records of a stream so far: its sequence, or for latest values the sum over its keys."""
    if reader.capacity:
        return reader.published()
    return sum(reader.count(key.key_id) for key in reader.keys)


def stream_samples(readers: Iterable[StreamReader]) -> Iterable[Sample]:
    """What the streams' own headers and reader lines show."""
    for reader in readers:
        labels = {"producer": reader.producer, "record": reader.record}
        published = published_of(reader)
        total = "Records published since the stream was made"
        yield Sample("counter", "tickring_stream_published_total", total, labels, (published,))
        yield Sample("gauge", "tickring_stream_keys", "Keys of the stream's producer", labels, (len(reader.keys),))
        if reader.capacity:
            yield Sample("gauge", "tickring_stream_capacity", "Slots of the ring", labels, (reader.capacity,))
        live = reader.live_since_ns / NS
        yield Sample(
            "gauge", "tickring_stream_live_since_seconds", "What was received before it may be stale", labels, (live,)
        )
        for line in reader_lines(reader) if reader.capacity else ():
            lag = max(0, published - int(line["cursor"]))
            named = {**labels, "reader": str(line["name"]), "kind": str(line["kind"])}
            yield Sample("gauge", "tickring_reader_lag_records", "Records a reader has not read yet", named, (lag,))


def reader_lines(reader: StreamReader) -> list[dict[str, Any]]:
    """Who reads a stream; empty where its reader file cannot be opened."""
    try:
        file = ReaderFile(reader.folder / reader.spec.readers_filename)
    except (RingError, LayoutMismatch, PermissionError):
        return []
    try:
        return file.lines()
    finally:
        file.close()


def _lines(families: Mapping[str, Family]) -> Iterable[str]:
    for name, (kind, help_text, series) in families.items():
        shown = help_text.replace("\\", "\\\\").replace("\n", "\\n")
        yield f"# HELP {name} {shown}\n# TYPE {name} {kind}\n"
        for labels, values, bounds in series:
            if kind != "histogram":
                yield f"{name}{_labels(labels)} {_number(values[0])}\n"
                continue
            count = 0
            for bound, in_bucket in zip((*bounds, float("inf")), values, strict=False):
                count += int(in_bucket)
                yield f"{name}_bucket{_labels({**labels, 'le': _number(bound)})} {count}\n"
            yield f"{name}_sum{_labels(labels)} {_number(values[len(bounds) + 1])}\n"
            yield f"{name}_count{_labels(labels)} {count}\n"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    escaped = (
        (name, str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n"))
        for name, value in sorted(labels.items())
    )
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
