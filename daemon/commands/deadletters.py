"""The commands `deadletters list` and `deadletters replay`: events that could not be understood.

A replay produces the event's bytes to its own topic once more, with a header that says which offset it was. So it takes
the same way as every other event, is stored once and counted once, and a second replay finds that it has been done.
What is refused again is one more letter of the same event: the next replay tries that event again, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ...actors.recent import topic_actor
from ...actors.topic import Config
from ...codecs.desk.canonical import TOPICS
from ...codecs.desk.decoder import Decoder, Defaults, decoder
from ...codecs.desk.records import BY_NAME, DEAD_LETTER, EVENT, NO_KEY, TEXTS
from ...codecs.errors import Undecidable
from ...codecs.record import Flag
from ...ringbuf import ByteRingReader, RingError, StreamReader, bytes_filename, page_filename, read_page
from ...storage.client import Client, Server, quote_name
from ...storage.errors import Refused, StorageError
from ..errors import EXIT_OK, EXIT_UNAVAILABLE, InputMissing
from .output import print_json, print_table
from .storing import WRITER, server_of

REPLAY_HEADER = "tickring-replay"
PREVIEW_MAX = 500
REPLAYED_MAX = 10_000  # letters that one replay looks at
TIMEOUT_S = 10.0

Place = tuple[str, int, int]  # topic, partition, offset
Header = tuple[str, bytes | None]


@dataclass
class Letter:
    """A dead letter, with its event's bytes where they are still held."""

    topic: str
    partition: int
    offset: int
    ts_recv_ns: int
    reason: str
    explanation: str
    value: bytes | None = None
    key: bytes | None = None
    headers: list[Header] = field(default_factory=list)

    @property
    def place(self) -> Place:
        return self.topic, self.partition, self.offset

    @property
    def origin(self) -> Place:
        """Where the event came first: a replay that was refused is a letter too."""
        return _origin(self.headers) or self.place

    def shown(self) -> dict[str, Any]:
        preview = (self.value or b"")[: 4 * PREVIEW_MAX].decode("utf-8", "replace")[:PREVIEW_MAX]
        return {
            "topic": self.topic, "partition": self.partition, "offset": self.offset, "ts_recv_ns": self.ts_recv_ns,
            "reason": self.reason, "explanation": self.explanation, "preview": preview,
        }  # fmt: skip


def show(folder: Path, config_file: Path | None, topic: str | None, count: int, *, as_json: bool) -> int:
    """Print the newest dead letters; returns 69 when ClickHouse does not answer, whose part is then missing."""
    letters, _, complaint = asyncio.run(_find(folder, _server(folder, config_file), topic, count))
    newest = letters[-count:]
    if as_json:
        print_json([letter.shown() for letter in newest])
    elif newest:
        rows = [letter.shown() for letter in newest]
        for row in rows:
            row["received"] = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(row.pop("ts_recv_ns") / 1e9))
            row["preview"] = row.pop("preview")[:80]
        print_table(list(rows[0]), [list(row.values()) for row in rows], "dead letters")
    else:
        print("no dead letters")
    return _code(complaint)


def replay(folder: Path, config_file: Path, topic: str | None, reason: str | None, *, dry_run: bool) -> int:
    """Produce those dead letters again that can be understood by now; prints what became of each kind.

    Raises:
        InputMissing: the configuration follows no topics.
    """
    from ..loading import load

    settings = load(config_file)
    if not settings.runs("topic"):
        raise InputMissing(f"configuration {config_file} has no table [kafka]: there is nowhere to replay to")
    config = Config(**settings.actors["topic"])
    outcome = asyncio.run(_replay(folder, config, _server(folder, config_file), topic, reason, dry_run=dry_run))
    complaint = outcome.pop("complaint")
    for what, n in outcome.items():
        print(f"{what}: {n}")
    return _code(complaint)


def _code(complaint: str) -> int:
    if complaint:
        print(f"tickring: of history nothing is known: {complaint}", file=sys.stderr)
    return EXIT_UNAVAILABLE if complaint else EXIT_OK


def _server(folder: Path, config_file: Path | None) -> Server | None:
    try:
        return server_of(dict(read_page(folder / page_filename(WRITER)).detail.get("clickhouse", {})), config_file)
    except (RingError, OSError):
        return server_of({}, config_file) if config_file is not None else None


async def _replay(
    folder: Path, config: Config, server: Server | None, topic: str | None, reason: str | None, *, dry_run: bool
) -> dict[str, Any]:
    letters, replayed, complaint = await _find(folder, server, topic, REPLAYED_MAX)
    outcome: dict[str, Any] = {"replayed": 0, "replayed before": 0, "not understood yet": 0, "bytes not whole": 0}
    chosen: list[Letter] = []
    defaults = Defaults(account=config.default_account, strategy=config.default_strategy)
    decoders = {name: decoder(name, defaults) for name in TOPICS}
    by_event: dict[Place, list[Letter]] = {}
    for letter in letters:
        if reason is None or letter.reason == reason:
            by_event.setdefault(letter.origin, []).append(letter)
    for origin, of_event in by_event.items():
        whole = [letter for letter in of_event if letter.value is not None and letter.reason != "too_large"]
        if origin in replayed:
            outcome["replayed before"] += 1
        elif not whole:
            outcome["bytes not whole"] += 1
        elif _understood(decoders[whole[0].topic], whole[0]):
            chosen.append(whole[0])
        else:
            outcome["not understood yet"] += 1
    if not dry_run:
        await _produce(folder, config, chosen)
    outcome["would be replayed" if dry_run else "replayed"] = len(chosen)
    return {**outcome, "complaint": complaint}


def _understood(decode: Decoder, letter: Letter) -> bool:
    try:
        decode(letter.value or b"", letter.partition, letter.offset, 0)
    except Undecidable:
        return False
    except Exception as error:  # noqa: BLE001 - our own mistake is still there: the other letters are replayed all the same
        print(f"tickring: {letter.place} not decoded: {type(error).__name__}: {error}", file=sys.stderr)
        return False
    return True


async def _produce(folder: Path, config: Config, letters: list[Letter]) -> None:
    from aiokafka import AIOKafkaProducer

    if not letters:
        return
    producer = AIOKafkaProducer(**config.connection(folder), client_id="tickring-replay", enable_idempotence=True)
    await producer.start()
    try:
        for one in letters:
            topic, partition, offset = one.origin
            own = [(name, value) for name, value in one.headers if name != REPLAY_HEADER]
            header = (REPLAY_HEADER, f"{topic}/{partition}/{offset}".encode())
            await producer.send_and_wait(one.topic, one.value, one.key, partition=one.partition, headers=[*own, header])
    finally:
        await producer.stop()


# -- where they are found ---------------------------------------------------------------------------------------------


async def _find(
    folder: Path, server: Server | None, topic: str | None, count: int
) -> tuple[list[Letter], set[Place], str]:
    """Dead letters by time of receipt, the places whose replay was understood, and why history could not be asked."""
    letters: dict[Place, Letter] = {}
    replayed: set[Place] = set()
    complaint = "" if server is not None else "the writer does not run, and no configuration is named (-c)"
    if server is not None:
        client = Client(msgspec.structs.replace(server, timeout_s=TIMEOUT_S))
        try:
            stored, replayed = await _stored(client, server.database, topic, count)
            letters |= {letter.place: letter for letter in stored}
        except StorageError as error:
            complaint = str(error)
        finally:
            await client.close()
    copies: dict[Place, Place] = {}  # of events that were replayed -> where they came first
    for name in TOPICS if topic is None else [topic]:
        for held in _held(folder, name):
            if not isinstance(held, Letter):
                copies[held[0]] = held[1]
                continue
            known = letters.setdefault(held.place, held)
            if held.reason:  # the topic knows why it refused it; the tables tell what they make of what is left of it
                known.reason, known.explanation = held.reason, held.explanation
    replayed |= {origin for place, origin in copies.items() if place not in letters}
    return sorted(letters.values(), key=lambda letter: letter.ts_recv_ns), replayed, complaint


async def _stored(client: Client, database: str, topic: str | None, count: int) -> tuple[list[Letter], set[Place]]:
    """From the tables."""
    where = "topic = {topic:String}" if topic else "1"
    parameters = {"topic": topic} if topic else {}
    newest = f"ORDER BY ts_recv_ns DESC, topic, partition, offset LIMIT {count}"
    raw, dead = f"{quote_name(database)}.raw_events", f"{quote_name(database)}.dead_letters"
    try:
        rows = await client.rows(
            f"SELECT topic, partition, offset, toUnixTimestamp64Nano(ts_recv_ns), reason, explanation FROM {dead} "
            f"WHERE {where} {newest}", parameters,
        )  # fmt: skip
        letters = {(row[0], int(row[1]), int(row[2])): Letter(*row) for row in rows}
        events = await client.rows(
            f"SELECT topic, partition, offset, hex(ifNull(key, '')), isNull(key), hex(value), "
            f"arrayMap(h -> (h.1, hex(ifNull(h.2, '')), isNull(h.2)), headers) FROM {raw} "
            f"WHERE {where} AND (topic, partition, offset) IN (SELECT topic, partition, offset FROM {dead} "
            f"WHERE {where} {newest})", parameters,
        )  # fmt: skip
        done = await client.rows(
            f"SELECT arrayFirst(h -> h.1 = '{REPLAY_HEADER}', headers).2 FROM {raw} "
            f"WHERE {where} AND event_id != '' AND arrayExists(h -> h.1 = '{REPLAY_HEADER}', headers)", parameters,
        )  # fmt: skip
    except Refused:
        return [], set()  # no such tables yet
    for topic_name, partition, offset, key, no_key, value, headers in events:
        letter = letters.get((topic_name, int(partition), int(offset)))
        if letter is None:
            continue  # stored since the first of the two questions
        letter.key, letter.value = None if no_key else bytes.fromhex(key), bytes.fromhex(value)
        letter.headers = [(str(name), None if none else bytes.fromhex(text)) for name, text, none in headers]
    return list(letters.values()), {place for (text,) in done if (place := _place(str(text))) is not None}


def _place(text: str) -> Place | None:
    topic, partition, offset = [*text.split("/"), "", ""][:3]
    return (topic, int(partition), int(offset)) if partition.isdigit() and offset.isdigit() else None


def _origin(headers: Iterable[Header]) -> Place | None:
    """Of an event that was replayed: where it came first."""
    for name, value in headers:
        if name == REPLAY_HEADER:
            return _place((value or b"").decode("utf-8", "replace"))
    return None


def _held(folder: Path, topic: str) -> Iterator[Letter | tuple[Place, Place]]:
    """From shared memory: dead letters, and where understood events lie that were replayed, and came first."""
    actor = topic_actor(topic)
    with contextlib.ExitStack() as stack:
        try:
            readers = {
                record.name: stack.enter_context(
                    contextlib.closing(StreamReader(folder, actor, record.name, BY_NAME[record.name].dtype))
                )
                for record in (EVENT, DEAD_LETTER)
            }
            texts = stack.enter_context(contextlib.closing(ByteRingReader(folder / bytes_filename(actor, TEXTS))))
        except RingError:
            return
        events: dict[tuple[int, int], tuple[list[Header], bytes | None, bytes]] = {}
        cut: set[tuple[int, int]] = set()
        rows, _, _ = readers["event"].read(readers["event"].oldest(), readers["event"].capacity)
        for row in rows[(rows["flags"] & (Flag.DEAD | Flag.HEADERS)) != 0]:
            event = _event(texts, row)
            if event is None:
                continue
            place = int(row["partition"]), int(row["offset"])
            if row["flags"] & Flag.CUT:
                cut.add(place)
            if row["flags"] & Flag.DEAD:
                events[place] = event
            elif (origin := _origin(event[0])) is not None:
                yield (topic, *place), origin
        rows, _, _ = readers["dead_letter"].read(readers["dead_letter"].oldest(), readers["dead_letter"].capacity)
        for row in rows:
            partition, offset = int(row["partition"]), int(row["offset"])
            text = texts.read(int(row["text_at"]), int(row["text_size"]))
            if text:
                reason, explanation = msgspec.json.decode(text)
            else:
                reason = "too_large" if (partition, offset) in cut else ""
                explanation = "its text is not held any more"
            headers, key, value = events.get((partition, offset), ([], None, None))
            ts_recv_ns = int(row["ts_recv_ns"])
            yield Letter(topic, partition, offset, ts_recv_ns, reason, explanation, value, key, headers)


def _event(texts: ByteRingReader, row: Any) -> tuple[list[Header], bytes | None, bytes] | None:
    """Headers, key and value of an event; None where they are overwritten."""
    at, headers, key = int(row["text_at"]), [], None
    if row["flags"] & Flag.HEADERS:
        size = texts.read(at, 4)
        body = texts.read(at + 4, int.from_bytes(size, "little")) if size else None
        if body is None:
            return None
        headers, at = msgspec.msgpack.decode(body, type=list[Header]), at + 4 + len(body)
    if row["key_size"] != NO_KEY:
        key = texts.read(at, int(row["key_size"]))
        at += int(row["key_size"])
    value = texts.read(at, int(row["value_size"]))
    return None if value is None else (headers, key, value)
