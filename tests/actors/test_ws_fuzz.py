"""Frames that no well-behaved client sends: each gets an answer or the close it deserves, and disturbs nobody."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from typing import NamedTuple

import msgspec

from .ws_harness import DEADLINE_S, Client, client, desk, eventually

TRADES = "trades.binance.spot.BTC-USDT"
SEED = int(os.environ.get("TICKRING_FUZZ_SEED", "20261121"))
CASES = int(os.environ.get("TICKRING_FUZZ_CASES", "10000"))
CLIENTS = 8
PROTOCOL_ERROR, BAD_TEXT, TOO_BIG = 1002, 1007, 1009
INBOUND_MAX = 64 << 10
ANSWERS = frozenset(
    ("error", "subscribed", "unsubscribed", "filter_set", "subscriptions", "pong", "auth_success", "snapshot")
)
GOOD = [
    {"op": "subscribe", "id": 1, "channels": [TRADES, {"channel": "book", "exchange": "okx", "symbol": "BTC-USDT"}]},
    {"op": "subscribe", "channels": [{"channel": TRADES, "from_seq": 3, "epoch": "x", "conflate": True, "depth": 20}]},
    {
        "op": "subscribe",
        "channels": [{"channel": "kline", "symbol": "BTC-USDT", "interval": "1m", "filters": {"a": 1}}],
    },
    {"op": "unsubscribe", "channels": ["quote.*.*.*"]},
    {"op": "filter", "filters": {"side": ["buy", "sell"]}},
    {"type": "list", "id": "a"},
    {"op": "snapshot", "channel": TRADES},
    {"op": "ping", "ts": 1.5},
    {"op": "auth", "token": "t"},
]
HANDSHAKE = (
    b"GET /ws/v1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Case(NamedTuple):
    """What is sent, and what must come of it."""

    kind: str
    data: bytes
    closes: frozenset[int] = frozenset()  # one of these codes; empty = the connection stays
    answered: bool = False  # by a frame
    pongs: int = 0
    torn: bool = False  # the client hangs up in the middle


def frame(opcode: int, payload: bytes, *, fin: bool = True, masked: bool = True, reserved: int = 0) -> bytes:
    first = opcode | (0x80 if fin else 0) | reserved
    size, bit = len(payload), 0x80 if masked else 0
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 65536:
        head = bytes((first, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, bit | 127)) + size.to_bytes(8, "big")
    return head + (b"\0\0\0\0" if masked else b"") + payload  # a mask of zeros changes nothing


def mutated(rng: random.Random) -> bytes:
    """The content of a client's frame, with something wrong about it."""
    kind = rng.randrange(6)
    if kind == 0:
        return rng.randbytes(rng.randrange(1, 80))
    content = json.loads(json.dumps(rng.choice(GOOD)))
    if kind == 1:  # a member of a wrong type
        junk = [None, [], {}, -1, 2**70, 1e308, "\ud800", True, [[[]]], "*" * 200]
        content[rng.choice(list(content))] = rng.choice(junk)
    if kind == 2 and isinstance(content.get("channels"), list):
        junk = [None, 5, [], {}, {"channel": 3}, "", "trades", "....", "trades.x.y.z", {"channel": "book", "depth": ""}]
        content["channels"] = [rng.choice(junk) for _ in range(rng.randrange(4))]
    encode = msgspec.msgpack.encode if rng.randrange(2) else lambda one: json.dumps(one).encode()
    try:
        data = bytearray(encode(content))
    except (UnicodeEncodeError, OverflowError):
        data = bytearray(json.dumps(content).encode())
    if kind >= 3:
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(data))
            if rng.randrange(2):
                data[at] = rng.randrange(256)
            else:
                del data[at]
            data = data or bytearray(b"[")
    if kind == 5:
        data = data[: rng.randrange(len(data) + 1)] or bytearray(b"{" * 5000)
    return bytes(data)


def violation(rng: random.Random) -> Case:
    """A frame that breaks the protocol itself."""
    text = json.dumps(rng.choice(GOOD)).encode()
    some = rng.randbytes(rng.randrange(1, 60))
    cases = [
        ("unmasked", frame(rng.choice((TEXT, BINARY, PING)), text[:120], masked=False), PROTOCOL_ERROR),
        ("unmasked rest", frame(TEXT, text, fin=False) + frame(0, some, masked=False), PROTOCOL_ERROR),
        ("opcode", frame(rng.choice((3, 4, 5, 6, 7, 11, 12, 13, 14, 15)), some), PROTOCOL_ERROR),
        ("reserved bits", frame(TEXT, text, reserved=rng.choice((0x10, 0x20, 0x40, 0x70))), PROTOCOL_ERROR),
        ("fragmented control", frame(rng.choice((CLOSE, PING, PONG)), some, fin=False), PROTOCOL_ERROR),
        ("long control", frame(rng.choice((CLOSE, PING, PONG)), rng.randbytes(126)), PROTOCOL_ERROR),
        ("rest of nothing", frame(0, some, fin=bool(rng.randrange(2))), PROTOCOL_ERROR),
        ("message in a message", frame(TEXT, b"", fin=False) + frame(TEXT, text), PROTOCOL_ERROR),
        ("short close", frame(CLOSE, b"\x03"), PROTOCOL_ERROR),
        ("close code", frame(CLOSE, rng.choice((0, 999, 1005, 1016, 2999)).to_bytes(2, "big")), PROTOCOL_ERROR),
        ("close reason", frame(CLOSE, b"\x03\xe8\xff\xfe"), BAD_TEXT),
        ("declared size", bytes((0x80 | TEXT, 0xFF)) + (2 ** rng.randrange(17, 64) - 1).to_bytes(8, "big"), TOO_BIG),
        ("fragments", b"".join(frame(TEXT if not i else 0, b" " * 20_000, fin=False) for i in range(4)), TOO_BIG),
    ]
    kind, data, code = rng.choice(cases)
    return Case(kind, data, frozenset((code,)))


def case(rng: random.Random) -> Case:
    kind = rng.randrange(10)
    if kind < 5:
        return Case("content", frame(rng.choice((TEXT, BINARY)), mutated(rng)), answered=True)
    if kind == 5:  # in fragments, with control frames between them
        content, parts, pings = mutated(rng), b"", 0
        opcode = rng.choice((TEXT, BINARY))
        while content:
            size = rng.randrange(0, len(content) + 1)
            parts += frame(opcode, content[:size], fin=False)
            content, opcode = content[size:], 0
            if rng.randrange(2):
                pings += 1
                parts += frame(PING, rng.randbytes(rng.randrange(126)))
        return Case("fragments of content", parts + frame(opcode, b""), answered=True, pongs=pings)
    if kind == 6:
        data = frame(PONG, rng.randbytes(5)) + frame(PING, rng.randbytes(rng.randrange(126)))
        return Case("control", data, pongs=1)
    if kind == 7:
        code = rng.choice((1000, 1001, 1003, 3000, 4321))
        return Case("close", frame(CLOSE, code.to_bytes(2, "big") + b"bye"), frozenset((1000, code)))
    if kind == 8:
        whole = bytearray(frame(TEXT, mutated(rng)) + frame(PING, b"abc") + frame(TEXT, mutated(rng)))
        for _ in range(rng.randrange(4)):
            whole[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        return Case("torn", bytes(whole[: rng.randrange(1, len(whole) + 1)]), torn=True)
    return violation(rng)


class RawClient:
    """Writes bytes and reads frames; connects again after each close."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.marks = 0
        self.writer: asyncio.StreamWriter | None = None

    async def connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writer.write(HANDSHAKE)
        assert b" 101 " in await self.reader.readuntil(b"\r\n\r\n")
        opcode, payload = await self.read()
        assert opcode == TEXT and json.loads(payload)["type"] == "welcome"

    async def read(self) -> tuple[int, bytes]:
        """The next frame; the server sends them whole and without a mask."""
        first, size = await self.reader.readexactly(2)
        if size >= 126:
            size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
        return first & 0x0F, await self.reader.readexactly(size)

    async def play(self, one: Case) -> None:
        if self.writer is None:
            await self.connect()
        assert self.writer is not None
        if one.torn:
            self.writer.write(one.data)
            await self.hang_up()
            return
        self.marks += 1
        mark = f"mark {self.marks}"
        self.writer.write(one.data)
        if not one.closes:
            self.writer.write(frame(TEXT, json.dumps({"op": "ping", "id": mark}).encode()))
        answers = pongs = 0
        while True:
            opcode, payload = await self.read()
            if opcode == CLOSE:
                code = int.from_bytes(payload[:2], "big")
                assert code in one.closes, (one, code, payload)
                await self.hang_up()
                return
            if opcode == PONG:
                pongs += 1
                continue
            assert opcode == TEXT
            said = json.loads(payload)
            if said.get("id") == mark:
                break
            answers += said["type"] in ANSWERS
        assert not one.closes, (one, "was not closed")
        assert pongs == one.pongs, one
        assert answers or not one.answered, one

    async def hang_up(self) -> None:
        assert self.writer is not None
        self.writer.transport.abort()
        self.writer = None


def test_any_frame_gets_an_answer_or_its_close_and_disturbs_nobody(shm):
    async def fuzz(port: int, seed: str, cases: int, played: Counter[str]) -> None:
        rng = random.Random(seed)
        raw = RawClient(port)
        for number in range(cases):
            one = case(rng)
            try:
                async with asyncio.timeout(DEADLINE_S):
                    await raw.play(one)
            except Exception as error:
                error.add_note(f"seed {seed!r}, case {number}: {one}")
                raise
            played[one.kind] += 1
        if raw.writer is not None:
            await raw.hang_up()

    async def produce(d, stop):
        number = 0
        while not stop.is_set():
            d.producer.trade(0, number)
            number += 1
            await asyncio.sleep(0.005)
        return number

    async def follow(one: Client, goal: asyncio.Future[int]) -> None:
        while not (goal.done() and one.seqs[TRADES] >= goal.result()):
            await one.next()

    async def run(d):
        stop = asyncio.Event()
        goal: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        played: Counter[str] = Counter()
        async with client(d.front) as neighbour, client(d.front, "/ws/v1?encoding=msgpack") as other:
            for one in (neighbour, other):
                await one.subscribe({"channel": TRADES, "from_seq": 0})
            producing = asyncio.create_task(produce(d, stop))
            # All the while, or they are slow consumers when the fuzzing takes long.
            following = [asyncio.create_task(follow(one, goal)) for one in (neighbour, other)]
            async with asyncio.TaskGroup() as group:
                for i in range(CLIENTS):
                    group.create_task(fuzz(d.front.port, f"{SEED}.{i}", CASES // CLIENTS, played))
            stop.set()
            last = await producing + 1
            goal.set_result(last)
            d.producer.trade(0, last - 1)  # so that the next frame comes after the goal is known
            await asyncio.gather(*following)
            for one in (neighbour, other):
                assert sorted(one.records[TRADES]) == list(range(1, last + 1)) and not one.gaps
        assert played.total() >= CASES - CLIENTS and len(played) > 15
        await eventually(lambda: d.front.metric("tickring_ws_connections") == 0, "every connection is gone")
        assert d.front.metric("tickring_ws_failures_total") == 0

    with desk(shm, errors_max=100_000, inbound_per_s=100_000, close_grace_s=1.0) as d:
        asyncio.run(run(d))


def test_violation_that_comes_with_the_handshake_is_closed_with_1002(shm):
    async def run(d):
        reader, writer = await asyncio.open_connection("127.0.0.1", d.front.port)
        writer.write(HANDSHAKE + frame(TEXT, b'{"op":"ping"}', masked=False))
        await reader.readuntil(b"\r\n\r\n")
        data = await asyncio.wait_for(reader.read(), DEADLINE_S)
        assert b"\x03\xea" in data and b"pong" not in data  # 1002
        writer.close()

    with desk(shm, close_grace_s=0.5) as d:
        asyncio.run(run(d))


def test_flood_of_control_frames_counts_like_any_other(shm):
    async def run(d):
        raw = RawClient(d.front.port)
        since = time.monotonic()
        await raw.connect()
        assert raw.writer is not None
        raw.writer.write(frame(PING, b"x") * 200)
        kinds: Counter[int] = Counter()
        async with asyncio.timeout(DEADLINE_S):
            while not kinds[CLOSE]:
                opcode, payload = await raw.read()
                kinds[opcode] += 1
        assert payload[:2] == (1008).to_bytes(2, "big")
        assert 5 <= kinds[PONG] <= 5 + 5 * (time.monotonic() - since) and kinds[TEXT] == 10
        await raw.hang_up()

    with desk(shm, inbound_per_s=5) as d:
        asyncio.run(run(d))
